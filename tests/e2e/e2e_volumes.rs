//! What volumes are, through the public API alone, on a real kernel's dm-thin.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use std::collections::BTreeSet;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use goldleaf_dm::{Control, DmName, Flush, Table, block, swap_table};
use goldleaf_proto::v1 as api;
use goldleaf_tests::command::output;
use goldleaf_tests::host::{Host, blank, over};
use goldleaf_tests::support::{Node, Pattern};
use goldleaf_types::Bytes;
use rustix::fs::inotify;

const MIB: u64 = 1 << 20;
const GOLDEN: Pattern = Pattern(1);

/// The golden image's content: no multiple of the pool's block, so that its end is inside one.
const IMAGE: u64 = 5 * MIB + 3 * 512;

fn golden() -> Vec<u8> {
    GOLDEN.bytes(0, usize::try_from(IMAGE).unwrap())
}

fn rig(test: &str) -> Host {
    let host = Host::start(test);
    host.pool("p", 1024 * MIB);
    host.image("golden", &golden());
    host
}

fn device(volume: &api::Volume) -> Node {
    let activation = volume.activation.as_ref().expect("an activation");
    assert!(activation.active, "{volume:?}");
    node(&activation.device_path)
}

fn node(path: &str) -> Node {
    let file = std::fs::File::open(path).expect("the device");
    Node::of(block::number(&file).expect("its number"))
}

/// What a volume over the golden image reads where nobody wrote: the image, then zeroes.
fn untouched(offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = GOLDEN.bytes(offset, len);
    let image = usize::try_from(IMAGE.saturating_sub(offset))
        .unwrap()
        .min(len);
    bytes[image..].fill(0);
    bytes
}

/// The same, with a stretch of `written` over it.
fn with(written: Pattern, at: u64, size: u64) -> impl Fn(u64, usize) -> Vec<u8> {
    move |offset, len| {
        let mut bytes = untouched(offset, len);
        for (i, byte) in bytes.iter_mut().enumerate() {
            let place = offset + u64::try_from(i).unwrap();
            if (at..at + size).contains(&place) {
                *byte = written.bytes(place - at, 1)[0];
            }
        }
        bytes
    }
}

#[test]
fn a_volume_reads_as_its_image_and_writes_leave_the_image_and_the_siblings_untouched() {
    let host = rig("image");
    let [one, two] = ["one", "two"]
        .map(|name| device(&host.create_thin(over(name, 8 * MIB, "golden")).unwrap()));
    one.assert_reads(untouched);
    // Across a block's edge, across the image's end, and past it.
    let writes = [(65_536 - 512, 1024), (IMAGE - 512, 1024), (7 * MIB, 4096)];
    for (at, len) in writes {
        one.write(at, &Pattern(at).bytes(0, len));
        let expected = with(Pattern(at), at, u64::try_from(len).unwrap());
        assert_eq!(one.read(at, len), expected(at, len), "at {at}");
    }
    // Around each write the image still shows, to the byte.
    for (at, _) in writes {
        let before = at - 4096;
        assert_eq!(
            one.read(before, 4096),
            untouched(before, 4096),
            "before {at}"
        );
    }
    two.assert_reads(untouched);
    let image = host
        .verify_image(api::VerifyImageRequest {
            image: "golden".into(),
        })
        .unwrap();
    assert!(image.conditions.iter().all(|c| c.status), "{image:?}");
    let owned = host.volume("one").unwrap().owned_bytes.unwrap();
    assert!((65_536..=5 * 65_536).contains(&owned), "{owned}");
    assert_eq!(host.volume("two").unwrap().owned_bytes, Some(0));
    host.end();
}

#[test]
fn a_snapshot_of_a_snapshot_still_reads_through_to_the_image() {
    let host = rig("snapshots");
    let volume = device(&host.create_thin(over("v", 8 * MIB, "golden")).unwrap());
    volume.write(MIB, &Pattern(2).bytes(0, 65_536));
    let first = host.snapshot("s1", "volume/v").unwrap();
    volume.write(MIB, &Pattern(3).bytes(0, 65_536));
    let second = host.snapshot("s2", "snapshot/s1").unwrap();
    assert_eq!(second.image_digest, first.image_digest);
    assert_eq!(second.source, first.id);
    let clone = device(&host.active_clone("c", "snapshot/s2", 0).unwrap());
    clone.assert_reads(with(Pattern(2), MIB, 65_536));
    volume.assert_reads(with(Pattern(3), MIB, 65_536));
    // They live on without what they came from.
    host.deactivate("v").unwrap();
    host.delete_volume("v").unwrap();
    host.delete_snapshot("s1").unwrap();
    clone.assert_reads(with(Pattern(2), MIB, 65_536));
    host.end();
}

#[test]
fn a_volume_larger_than_its_image_reads_zeroes_past_its_end_also_after_growing() {
    let host = rig("larger");
    let volume = host.create_thin(over("v", 6 * MIB, "golden")).unwrap();
    device(&volume).assert_reads(untouched);
    let grown = host.resize("v", 12 * MIB + 512).unwrap();
    assert_eq!(grown.size_bytes, 12 * MIB + 512);
    assert_eq!(device(&grown).size().0, 12 * MIB + 512);
    device(&grown).assert_reads(untouched);
    // A write into the block in which the image ends leaves the rest of that block as it was.
    let at = IMAGE + 512;
    device(&grown).write(at, &Pattern(4).bytes(0, 512));
    device(&grown).assert_reads(with(Pattern(4), at, 512));
    host.end();
}

#[test]
fn a_volume_smaller_than_its_image_shows_the_beginning_and_the_rest_when_it_grows() {
    let host = rig("smaller");
    let volume = host.create_thin(over("v", MIB + 512, "golden")).unwrap();
    assert_eq!(device(&volume).size().0, MIB + 512);
    device(&volume).assert_reads(untouched);
    let grown = host.resize("v", 6 * MIB).unwrap();
    device(&grown).assert_reads(untouched);
    host.end();
}

#[test]
fn sizes_that_are_no_multiple_of_the_pools_block_are_right_to_the_last_byte() {
    let host = rig("odd");
    for sectors in [1, 127, 128, 129, 1000, 10_243] {
        let size = sectors * 512;
        let name = format!("v{sectors}");
        let node = device(&host.create_thin(over(&name, size, "golden")).unwrap());
        assert_eq!(node.size().0, size);
        node.assert_reads(untouched);
        node.write(size - 512, &Pattern(5).bytes(0, 512));
        assert_eq!(node.read(size - 512, 512), Pattern(5).bytes(0, 512));
        assert!(
            node.try_read(size, 512).is_err(),
            "{sectors}: it reads past its end"
        );
    }
    let blank = host.create_thin(api::CreateThinRequest {
        activate: Some(api::ActivateOptions::default()),
        ..blank("blank", 777 * 512)
    });
    device(&blank.unwrap()).assert_reads(|_, len| vec![0; len]);
    host.end();
}

/// The golden image's, in hex.
fn digest(host: &Host) -> String {
    let digest = host.get_image("golden").unwrap().digest;
    digest.trim_start_matches("sha256:").to_owned()
}

/// The image's own device, whatever stands over it, takes no write: not even by root.
#[test]
fn writing_to_an_origin_fails() {
    let host = rig("origin");
    host.create_thin(over("v", 8 * MIB, "golden")).unwrap();
    let name = format!("goldleaf-image-{}", digest(&host));
    let control = Control::open().unwrap();
    let origin = control
        .find(&DmName::new(&name).unwrap())
        .unwrap()
        .expect("the origin");
    assert!(origin.read_only);
    let refused = Node::of(origin.dev).try_write(0, &[7; 512]).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(1), "EPERM, and not {refused}");
    // The content, and the zeroes after it, of which there are more than anybody reads.
    let len = usize::try_from(IMAGE + 4096).unwrap();
    assert!(Node::of(origin.dev).read(0, len) == untouched(0, len));
    assert!(Node::of(origin.dev).size() > Bytes(IMAGE));
    host.end();
}

/// An agent of before made it without the zeroes after the content; whoever uses it goes on.
#[test]
fn an_image_s_device_without_zeroes_after_it_is_used_while_it_is_in_use() {
    let mut host = rig("before");
    host.create_thin(over("v", 8 * MIB, "golden")).unwrap();
    let name = format!("goldleaf-image-{}", digest(&host));
    let (control, name) = (Control::open().unwrap(), DmName::new(&name).unwrap());
    let targets = || control.table(&name).unwrap().parsed().unwrap();
    let mut before = targets();
    assert_eq!(before.len(), 2, "{before:?}");
    before.truncate(1);
    let table = Table {
        targets: before.clone(),
        read_only: true,
    };
    swap_table(&control, &name, &table, Flush::Yes).unwrap();
    host.agent = None;
    host.start_agent(&[]);
    host.await_node();
    let second = host.create_thin(over("w", 8 * MIB, "golden")).unwrap();
    // The kernel takes an origin's length as it is when a thin is resumed.
    host.deactivate("v").unwrap();
    let first = host.activate("v").unwrap();
    for volume in [&first, &second] {
        device(volume).assert_reads(untouched);
    }
    assert_eq!(targets(), before, "it was in use");
    for name in ["v", "w"] {
        host.deactivate(name).unwrap();
    }
    host.soon("the idle device goes", || {
        control.find(&name).unwrap().is_none().then_some(())
    });
    let again = host.activate("v").unwrap();
    assert_eq!(targets().len(), 2);
    device(&again).assert_reads(untouched);
    host.end();
}

/// As in the kernel's documentation of external origins: the image is a device of its own.
#[test]
fn a_volume_over_an_image_on_another_device_reads_through_to_it_in_place() {
    // Without a copy of the same content, which would be used and not the device.
    let host = Host::start("device");
    host.pool("p", 1024 * MIB);
    let path = host.import("disk.raw", &golden());
    let (reserved, content) = (host.dir().join("elsewhere.raw"), path);
    std::fs::copy(&content, &reserved).unwrap();
    let disk = output("losetup", &["-f", "--show", reserved.to_str().unwrap()]).unwrap();
    let disk = disk.trim().to_owned();
    let import = || {
        host.create_image(api::CreateImageRequest {
            name: "in-place".into(),
            source: Some(api::create_image_request::Source::Device(disk.clone())),
            wait: true,
            ..Default::default()
        })
    };
    let copies = || {
        let kept = std::fs::read_dir(host.dir().join("agent/images")).unwrap();
        let paths = kept.map(|entry| entry.unwrap().path());
        paths
            .filter(|p| p.extension().is_some_and(|e| e == "raw"))
            .count()
    };
    let image = import().unwrap();
    assert_eq!(image.size_bytes, IMAGE);
    assert_eq!(copies(), 0, "the device was copied");
    let volume = host.create_thin(over("v", 8 * MIB, "in-place")).unwrap();
    device(&volume).assert_reads(untouched);
    device(&volume).write(0, &Pattern(6).bytes(0, 4096));
    node(&disk).assert_reads(|offset, len| GOLDEN.bytes(offset, len));
    host.deactivate("v").unwrap();

    // Somebody writes to the device: it is no image until it is what it was, and is imported again.
    node(&disk).write(MIB, &[0; 512]);
    let refused = host.activate("v").unwrap_err();
    assert_eq!(
        refused.code(),
        tonic::Code::FailedPrecondition,
        "{refused:?}"
    );
    node(&disk).write(MIB, &GOLDEN.bytes(MIB, 512));
    assert_eq!(import().unwrap().digest, image.digest);
    let active = host.activate("v").unwrap();
    assert_eq!(device(&active).read(MIB, 512), GOLDEN.bytes(MIB, 512));
    host.deactivate("v").unwrap();
    host.delete_volume("v").unwrap();
    host.delete_image("in-place").unwrap();
    output("losetup", &["-d", &disk]).unwrap();
    std::fs::remove_file(reserved).unwrap();
    host.end_after(&["an image's content changed"]);
}

#[test]
fn two_hundred_volumes_share_one_image() {
    let host = rig("many");
    let mut nodes = Vec::new();
    for n in 0..200 {
        let volume = host
            .create_thin(over(&format!("v{n}"), 8 * MIB, "golden"))
            .unwrap();
        nodes.push(device(&volume));
    }
    for (n, node) in (0_u64..).zip(&nodes) {
        node.write(n * 4096, &Pattern(n).bytes(0, 512));
    }
    for (n, node) in (0_u64..).zip(&nodes) {
        assert_eq!(node.read(n * 4096, 512), Pattern(n).bytes(0, 512));
        let other = (n + 1) * 4096;
        assert_eq!(
            node.read(other, 512),
            untouched(other, 512),
            "volume {n} sees another's write"
        );
    }
    let origins = Control::open().unwrap().list().unwrap();
    assert_eq!(
        origins
            .iter()
            .filter(|d| d.name.starts_with("goldleaf-image-"))
            .count(),
        1
    );
    assert_eq!(host.volume_names().unwrap().len(), 200);
    let usage = host.get_pool("p").unwrap().usage.unwrap();
    assert_eq!(
        (usage.thin_count, usage.data_used_bytes),
        (200, 200 * 65_536)
    );
    host.end();
}

/// Where the agent keeps the golden image.
fn stored(host: &Host) -> PathBuf {
    let digest = host.get_image("golden").unwrap().digest;
    let hex = digest.trim_start_matches("sha256:").to_owned();
    host.dir().join("agent/images").join(format!("{hex}.raw"))
}

/// Nothing is activated over a wrong, missing or shrunk origin, and what is right goes on.
#[test]
fn activation_over_a_wrong_missing_or_shrunk_origin_is_refused() {
    type Spoil = fn(&std::path::Path);
    let spoils: [(&str, Spoil); 3] = [
        ("wrong", |path| {
            use std::os::unix::fs::FileExt;
            let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            file.write_all_at(b"something else", MIB).unwrap();
        }),
        ("missing", |path| std::fs::remove_file(path).unwrap()),
        ("shrunk", |path| {
            let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(IMAGE - 512).unwrap();
        }),
    ];
    for (what, spoil) in spoils {
        let host = rig(what);
        host.create_thin(blank("other", MIB)).unwrap();
        host.create_thin(api::CreateThinRequest {
            activate: None,
            ..over("v", 8 * MIB, "golden")
        })
        .unwrap();
        let path = stored(&host);
        let kept = std::fs::read(&path).unwrap();
        spoil(&path);
        let refused = host.activate("v").expect_err(what);
        assert!(
            matches!(
                refused.code(),
                tonic::Code::FailedPrecondition | tonic::Code::Unavailable
            ),
            "{what}: {refused:?}"
        );
        assert!(refused.message().contains("image"), "{what}: {refused:?}");
        let devices = Control::open().unwrap().list().unwrap();
        assert!(
            !devices.iter().any(|d| d.name.contains("-vol-")),
            "{what}: {devices:?}"
        );
        device(&host.activate("other").unwrap()).assert_reads(|_, len| vec![0; len]);
        // Put right, it serves again.
        let _ = std::fs::remove_file(&path);
        std::fs::write(&path, kept).unwrap();
        device(&host.activate("v").unwrap()).assert_reads(untouched);
        host.end_after(&["an image's content changed"]);
    }
}

#[test]
fn a_snapshot_that_goes_leaves_the_device_of_the_volume_of_its_name() {
    let host = rig("namesakes");
    let volume = host.create_thin(over("same", 8 * MIB, "golden")).unwrap();
    host.snapshot("same", "volume/same").unwrap();
    host.delete_snapshot("same").unwrap();
    let path = volume.activation.unwrap().device_path;
    node(&path).assert_reads(untouched);
    host.end();
}

/// Names of the files of a folder that were opened since the last call.
fn opened(watch: &OwnedFd) -> BTreeSet<String> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(watch, &mut buffer);
    let mut names = BTreeSet::new();
    loop {
        match reader.next() {
            Ok(event) => {
                let lost = event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW);
                assert!(!lost, "more was opened than the kernel keeps");
                names.extend(event.file_name().map(|n| n.to_string_lossy().into_owned()));
            }
            Err(error) if io::Error::from(error).kind() == io::ErrorKind::WouldBlock => {
                return names;
            }
            Err(error) => panic!("what was opened is not known: {error}"),
        }
    }
}

/// Whoever opens a device, however briefly, can make its removal fail. The agent looks for labels at
/// each change, and a device can be opened before sysfs says whose it is.
#[test]
fn a_volumes_device_is_opened_by_its_users_alone() {
    let host = rig("opened");
    host.pool("q", 128 * MIB);
    let closing = api::ClosePoolRequest {
        pool: "q".into(),
        ..Default::default()
    };
    let opening = api::OpenPoolRequest {
        pool: "q".into(),
        ..Default::default()
    };
    let names: Vec<String> = (0..8).map(|i| format!("v{i}")).collect();
    for name in &names {
        host.create_thin(over(name, 8 * MIB, "golden")).unwrap();
    }
    let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
    let watch = inotify::init(flags).unwrap();
    inotify::add_watch(&watch, "/dev", inotify::WatchFlags::OPEN).unwrap();
    for _ in 0..5 {
        host.close_pool(closing.clone()).unwrap();
        opened(&watch);
        let mut devices = BTreeSet::new();
        std::thread::scope(|scope| {
            // What was seen of devices counts no more once labels are written, as by this.
            let looking = scope.spawn(|| host.open_pool(opening.clone()));
            for name in &names {
                let volume = host.activate(name).unwrap();
                let path = std::fs::read_link(volume.activation.unwrap().device_path).unwrap();
                devices.extend(path.file_name().map(|n| n.to_string_lossy().into_owned()));
            }
            looking.join().unwrap().unwrap();
        });
        let opened = opened(&watch);
        let wrongly: Vec<_> = opened.intersection(&devices).collect();
        assert!(wrongly.is_empty(), "{wrongly:?} of {devices:?}");
        for name in &names {
            host.deactivate(name).unwrap();
        }
    }
    // The watch does see what is opened there.
    let volume = host.activate("v0").unwrap();
    let name = device(&volume).path().to_owned();
    let name = name.file_name().unwrap().to_string_lossy().into_owned();
    assert!(opened(&watch).contains(&name), "{name}");
    host.end();
}
