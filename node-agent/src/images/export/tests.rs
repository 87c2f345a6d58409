use std::io::{Seek, Write};
use std::os::unix::fs::symlink;

use super::super::qcow2;
use super::*;

/// Content with holes, ending within a cluster.
fn source() -> (File, Vec<u8>) {
    let mut bytes = vec![0; 40 * CLUSTER + 1536];
    for (at, len, byte) in [
        (0, 512, 1),
        (3 * CLUSTER + 7, CLUSTER, 2),
        (40 * CLUSTER, 1536, 3),
    ] {
        bytes[at..at + len].fill(byte);
    }
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    file.rewind().unwrap();
    (file, bytes)
}

fn target(file: &str, format: Format, replace: bool) -> ExportTarget {
    ExportTarget {
        file: file.into(),
        format,
        replace,
    }
}

fn export(folder: &ExportFolder, target: &ExportTarget) -> Result<Exported, ImageError> {
    let (file, bytes) = source();
    let out = Outgoing {
        file: &file,
        size: Bytes(bytes.len() as u64),
        source: "a test".into(),
        past: None,
    };
    folder.write(&out, target, &Meter::silent())
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

fn parts(folder: &ExportFolder) -> usize {
    fs::read_dir(folder.parts()).unwrap().count()
}

#[test]
fn what_is_exported_reads_as_the_content_and_keeps_its_holes() {
    let dir = tempfile::tempdir().unwrap();
    let folder = ExportFolder::open(dir.path().into()).unwrap();
    let (_, bytes) = source();
    fs::create_dir(dir.path().join("sub")).unwrap();
    let raw = export(&folder, &target("sub/a.raw", Format::Raw, false)).unwrap();
    assert_eq!(fs::read(&raw.path).unwrap(), bytes);
    assert_eq!(
        (raw.digest, raw.file_digest),
        (digest(&bytes), digest(&bytes))
    );
    assert_eq!(
        (raw.size, raw.file_size),
        (Bytes(bytes.len() as u64), Bytes(bytes.len() as u64))
    );
    assert!(
        raw.stored.0 < 8 * CLUSTER as u64,
        "{} for five clusters",
        raw.stored
    );

    let stored = export(&folder, &target("a.qcow2", Format::Qcow2, false)).unwrap();
    let file = fs::read(&stored.path).unwrap();
    assert_eq!(
        (stored.digest, stored.file_digest),
        (digest(&bytes), digest(&file))
    );
    assert!(
        file.len() < bytes.len() / 2,
        "{} of {}",
        file.len(),
        bytes.len()
    );
    // Our own reader of images, which believes nothing, takes it and finds the content in it.
    let room = Budget::new(Bytes(u64::MAX)).reserve();
    let mut writer = RawWriter::create(dir.path(), room).unwrap();
    let file = File::open(&stored.path).unwrap();
    qcow2::convert(&file, "file", &mut writer, &Meter::silent()).unwrap();
    assert_eq!(writer.digest(), digest(&bytes));
    assert_eq!(parts(&folder), 0);
}

#[test]
fn no_name_leads_out_of_the_folder_and_none_is_taken_from_anybody() {
    let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folder = ExportFolder::open(dir.path().into()).unwrap();
    symlink(outside.path(), dir.path().join("link")).unwrap();
    symlink(outside.path().join("x"), dir.path().join("dangling")).unwrap();
    fs::create_dir(dir.path().join("folder")).unwrap();
    let absolute = outside.path().join("x").display().to_string();
    for bad in [
        "",
        ".",
        "..",
        "../x",
        "folder/../../x",
        "/",
        &absolute,
        "link/x",
        "none/x",
        PARTS,
        ".goldleaf-parts/x",
        "./x/..",
    ] {
        for replace in [false, true] {
            let refused = export(&folder, &target(bad, Format::Raw, replace)).unwrap_err();
            assert!(
                matches!(refused, ImageError::Source { field: "file", .. }),
                "{bad:?}: {refused}"
            );
        }
    }
    for there in ["link", "dangling", "folder"] {
        let kept = export(&folder, &target(there, Format::Raw, false)).unwrap_err();
        assert!(matches!(kept, ImageError::Exists { .. }), "{there}: {kept}");
        assert!(
            export(&folder, &target(there, Format::Raw, true)).is_err(),
            "{there}"
        );
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    let first = target("x", Format::Raw, false);
    let made = export(&folder, &first).unwrap();
    let again = export(&folder, &first).unwrap_err();
    assert!(matches!(again, ImageError::Exists { .. }), "{again}");
    let replaced = export(&folder, &target("x", Format::Raw, true)).unwrap();
    assert_eq!(replaced, made);
    assert_eq!(parts(&folder), 0, "a refusal leaves no part");
}

#[test]
fn what_a_crash_left_is_removed_and_a_stopped_export_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let folder = ExportFolder::open(dir.path().into()).unwrap();
    fs::write(folder.parts().join("left.part"), b"half").unwrap();
    fs::write(dir.path().join("mine.part"), b"a user's").unwrap();
    let folder = ExportFolder::open(dir.path().into()).unwrap();
    assert_eq!(parts(&folder), 0);
    let meter = Meter::silent();
    drop(meter.stop_on_drop());
    let (file, bytes) = source();
    let out = Outgoing {
        file: &file,
        size: Bytes(bytes.len() as u64),
        source: "a test".into(),
        past: None,
    };
    for format in [Format::Raw, Format::Qcow2] {
        let stopped = folder
            .write(&out, &target("x", format, false), &meter)
            .unwrap_err();
        assert!(matches!(stopped, ImageError::Stopped), "{stopped}");
    }
    assert_eq!(parts(&folder), 0);
    let names = fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name());
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert_eq!(names, [PARTS, "mine.part"]);
}

/// As the kernel reads a pool that is read-only: what lies past the image's end fails there.
#[test]
fn past_its_image_a_thin_is_read_without_it_and_the_page_between_is_put_together() {
    let file = |content: &[u8]| {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, content).unwrap();
        file
    };
    let image: Vec<u8> = (0..5632_u32)
        .map(|n| u8::try_from(n % 251).unwrap() + 1)
        .collect();
    let bare = [vec![0; 8192], vec![0x77; 4096]].concat();
    let whole = [&image[..], &vec![0; 8192 - 5632], &bare[8192..]].concat();
    let first = file(&image[..4096]);
    let out = Outgoing {
        file: &first,
        size: Bytes(12_288),
        source: "a thin".into(),
        past: Some(Past {
            bare: file(&bare),
            image: file(&image),
            size: Bytes(5632),
        }),
    };
    for at in (0..12_288).step_by(512) {
        for end in (at + 512..=12_288).step_by(512) {
            let mut read = vec![0xee; end - at];
            out.read(&mut read, at as u64).unwrap();
            assert_eq!(read, whole[at..end], "{at} to {end}");
        }
    }
}
