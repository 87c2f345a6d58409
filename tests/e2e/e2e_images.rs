//! Images on a real kernel through the public API: which nodes hold them, channels, images of volumes,
//! and volumes as files.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use goldleaf_proto::v1 as api;
use goldleaf_tests::host::{Host, NODE, over};
use goldleaf_tests::support::Pattern;
use sha2::{Digest, Sha256};
use tonic::{Code, Status};
use tonic_types::StatusExt;

const MIB: u64 = 1 << 20;

fn content(seed: u64, len: u64) -> Vec<u8> {
    Pattern(seed).bytes(0, usize::try_from(len).unwrap())
}

fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.map(|info| info.reason).unwrap_or_default()
}

/// Where the agent with this state folder keeps an image's content.
fn copy_in(folder: &Path, image: &api::Image) -> PathBuf {
    let hex = image.digest.trim_start_matches("sha256:");
    folder.join(format!("images/{hex}.raw"))
}

fn phases(image: &api::Image) -> Vec<api::Phase> {
    image.copies.iter().map(api::ImageCopy::phase).collect()
}

/// Serves one content over http until the test ends; its url.
fn serve(content: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/image.raw", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            lines.map_while(Result::ok).find(|line| line.is_empty());
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                content.len()
            );
            // A client that has seen enough is no error.
            let _ = stream.write_all(head.as_bytes());
            let _ = stream.write_all(&content);
        }
    });
    url
}

#[test]
fn an_image_is_placed_on_another_node_and_evicted_but_never_from_under_a_volume() {
    let host = Host::start("places");
    host.pool("p", 256 * MIB);
    let bytes = content(1, 5 * MIB + 512);
    let golden = host.image("golden", &bytes);
    host.create_thin(over("v", 8 * MIB, "golden")).unwrap();
    let second = host.second_node("n2");
    let agents = [host.dir().join("agent"), second.dir().join("agent")];
    for _ in 0..2 {
        let placed = host.place("golden", &[NODE, "n2"]).unwrap();
        assert_eq!(phases(&placed), [api::Phase::Ready; 2]);
    }
    for agent in &agents {
        assert!(std::fs::read(copy_in(agent, &golden)).unwrap() == bytes);
    }
    let needed = host.evict("golden", NODE).unwrap_err();
    assert_eq!(
        (needed.code(), reason(&needed).as_str()),
        (Code::FailedPrecondition, "IN_USE")
    );
    assert!(needed.message().contains("volume v"), "{needed:?}");
    // Two agents on one kernel have one device for an image; the volume needs it without one too.
    host.deactivate("v").unwrap();
    for _ in 0..2 {
        let evicted = host.evict("golden", "n2").unwrap();
        assert_eq!(phases(&evicted), [api::Phase::Ready]);
    }
    assert!(!copy_in(&agents[1], &golden).exists());

    // A source that is not there any more, or another one, is said on that copy alone.
    let source = host.dir().join("import/golden.raw");
    for other in [None, Some(content(2, MIB))] {
        match &other {
            None => std::fs::remove_file(&source).unwrap(),
            Some(other) => std::fs::write(&source, other).unwrap(),
        }
        let refused = host.place("golden", &["n2"]).unwrap_err();
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::InvalidArgument, "IMAGE_FAILED")
        );
        let shown = host.get_image("golden").unwrap();
        assert_eq!(shown.phase(), api::Phase::Ready);
        assert_eq!(phases(&shown), [api::Phase::Ready, api::Phase::Failed]);
        let told = shown
            .conditions
            .iter()
            .find(|c| c.r#type == "CopyPresent")
            .unwrap();
        assert_eq!((told.status, told.reason.as_str()), (false, "ImportFailed"));
        let word = if other.is_none() {
            "cannot be read"
        } else {
            "digest"
        };
        assert!(told.message.contains(word), "{told:?}");
    }
    std::fs::write(&source, &bytes).unwrap();
    let placed = host.place("golden", &["n2"]).unwrap();
    assert_eq!(phases(&placed), [api::Phase::Ready; 2]);
    host.delete_volume("v").unwrap();
    host.delete_image("golden").unwrap();
    second.end();
    host.end();
}

#[test]
fn a_volume_waits_for_an_image_that_its_node_does_not_hold_yet() {
    let host = Host::start("fetched");
    host.pool("p", 256 * MIB);
    let bytes = content(3, 3 * MIB);
    let sum: [u8; 32] = Sha256::digest(&bytes).into();
    let image = host.create_image(api::CreateImageRequest {
        name: "far".into(),
        source: Some(api::create_image_request::Source::Url(serve(bytes.clone()))),
        source_sha256: hex::encode(sum),
        wait: true,
        ..Default::default()
    });
    let image = image.unwrap();
    assert!(host.evict("far", NODE).unwrap().copies.is_empty());
    assert!(!copy_in(&host.dir().join("agent"), &image).exists());
    let early = host.create_thin(over("v", 4 * MIB, "far")).unwrap_err();
    assert_eq!(
        (early.code(), reason(&early).as_str()),
        (Code::Unavailable, "IMAGE_ON_ITS_WAY")
    );
    let wanted = api::CreateThinRequest {
        wait: true,
        ..over("v", 4 * MIB, "far")
    };
    let volume = host.create_thin(wanted).unwrap();
    let path = volume.activation.unwrap().device_path;
    let shown = std::fs::read(path).unwrap();
    assert!(shown[..bytes.len()] == bytes && shown[bytes.len()..].iter().all(|b| *b == 0));
    host.end();
}

#[test]
fn a_channel_that_moves_leaves_what_was_made_through_it_as_it_is() {
    let host = Host::start("channels");
    host.pool("p", 256 * MIB);
    let (old, new) = (content(4, MIB), content(5, 2 * MIB));
    host.image("old", &old);
    host.image("new", &new);
    let shows = |volume: &api::Volume, bytes: &[u8]| {
        let activation = volume.activation.as_ref().unwrap();
        std::fs::read(&activation.device_path).unwrap()[..bytes.len()] == *bytes
    };
    host.point("debian/stable", "old").unwrap();
    let first = host
        .create_thin(over("v1", 4 * MIB, "debian/stable"))
        .unwrap();
    assert!(shows(&first, &old));
    let used = host.delete_image("old").unwrap_err();
    assert_eq!(reason(&used), "IN_USE");
    host.point("debian/stable", "new").unwrap();
    let again = host
        .create_thin(over("v1", 4 * MIB, "debian/stable"))
        .unwrap();
    assert_eq!(
        (&again.id, &again.image_digest),
        (&first.id, &first.image_digest)
    );
    assert!(shows(&again, &old));
    let second = host
        .create_thin(over("v2", 4 * MIB, "debian/stable"))
        .unwrap();
    assert!(shows(&second, &new));
    let clone = host.active_clone("c", "image/debian/stable", 0).unwrap();
    assert_eq!((clone.size_bytes, shows(&clone, &new)), (2 * MIB, true));
    host.delete_channel(api::DeleteRequest {
        target: "debian/stable".into(),
        ..Default::default()
    })
    .unwrap();
    host.end();
}

/// An image of a volume or snapshot.
fn promoted(host: &Host, name: &str, source: &str) -> Result<api::Image, Status> {
    host.create_image(api::CreateImageRequest {
        name: name.into(),
        source: Some(api::create_image_request::Source::Volume(source.into())),
        wait: true,
        ..Default::default()
    })
}

fn digest_of(bytes: &[u8]) -> String {
    let sum: [u8; 32] = Sha256::digest(bytes).into();
    format!("sha256:{}", hex::encode(sum))
}

#[test]
fn an_image_of_a_volume_or_snapshot_is_what_its_device_reads_over_its_image() {
    let host = Host::start("promote");
    host.pool("p", 256 * MIB);
    host.image("golden", &content(6, 3 * MIB + 512));
    let volume = host.create_thin(over("v", 8 * MIB, "golden")).unwrap();
    let path = volume.activation.unwrap().device_path;
    let write = |at: u64, bytes: &[u8]| {
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(bytes, at)
            .and_then(|()| file.sync_all())
            .unwrap();
    };
    // Within the image, across its end, and far behind it.
    write(MIB, &content(7, 65_536));
    write(3 * MIB, &content(8, 4096));
    write(7 * MIB, &content(9, 512));
    let whole = std::fs::read(&path).unwrap();
    host.snapshot("s", "volume/v").unwrap();
    write(MIB, &content(10, 65_536));
    let later = std::fs::read(&path).unwrap();

    let active = promoted(&host, "none", "volume/v").unwrap_err();
    assert_eq!(
        (active.code(), reason(&active).as_str()),
        (Code::FailedPrecondition, "NOT_READY")
    );
    // The volume goes on while its snapshot is read.
    let of_snapshot = promoted(&host, "built", "snapshot/s").unwrap();
    assert_eq!(
        (&of_snapshot.digest, of_snapshot.size_bytes),
        (&digest_of(&whole), 8 * MIB)
    );
    host.deactivate("v").unwrap();
    let of_volume = promoted(&host, "built-later", "volume/v").unwrap();
    assert_eq!(of_volume.digest, digest_of(&later));
    // Known content is stored once, whatever it is made of.
    let again = promoted(&host, "built-again", "snapshot/s").unwrap();
    assert_eq!(again.digest, of_snapshot.digest);
    let agent = host.dir().join("agent");
    assert!(std::fs::read(copy_in(&agent, &of_snapshot)).unwrap() == whole);
    assert_eq!(
        std::fs::read_dir(agent.join("images")).unwrap().count(),
        3 * 2
    );
    // And it is an image like any other, long after its source.
    host.delete_volume("v").unwrap();
    host.delete_snapshot("s").unwrap();
    let vm = host.create_thin(over("vm", 8 * MIB, "built")).unwrap();
    assert!(std::fs::read(vm.activation.unwrap().device_path).unwrap() == whole);
    host.end();
}

fn export(host: &Host, source: &str, file: &str, qcow2: bool) -> Result<api::ExportedFile, Status> {
    let format = if qcow2 {
        api::ExportFormat::Qcow2
    } else {
        api::ExportFormat::Raw
    };
    let request = api::ExportRequest {
        source: source.into(),
        file: file.into(),
        format: format.into(),
        replace: false,
        ..Default::default()
    };
    let (told, exported) = host.export(request)?;
    assert!(told.is_sorted() || qcow2, "{told:?}"); // a qcow2 file is hashed once more at its end
    assert!(told.contains(&exported.size_bytes), "{told:?}");
    Ok(exported)
}

#[test]
fn an_exported_file_is_what_the_device_reads_and_comes_back_as_the_same_image() {
    let host = Host::start("export");
    host.pool("p", 256 * MIB);
    host.image("golden", &content(11, 3 * MIB + 512));
    let volume = host.create_thin(over("v", 64 * MIB, "golden")).unwrap();
    let path = volume.activation.unwrap().device_path;
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&content(12, 65_536), 40 * MIB).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let whole = std::fs::read(&path).unwrap();
    let active = export(&host, "volume/v", "v.raw", false).unwrap_err();
    assert_eq!(
        (active.code(), reason(&active).as_str()),
        (Code::FailedPrecondition, "ACTIVE")
    );
    host.snapshot("s", "volume/v").unwrap();
    let folder = host.dir().join("import/exported");
    std::fs::create_dir(folder.join("sub")).unwrap();

    for (source, name, qcow2) in [
        ("snapshot/s", "s.raw", false),
        ("snapshot/s", "sub/s.qcow2", true),
        ("volume/v", "v.raw", false),
    ] {
        if source == "volume/v" {
            host.deactivate("v").unwrap();
        }
        let exported = export(&host, source, name, qcow2).unwrap();
        let path = folder.join(name);
        assert_eq!(exported.path, path.display().to_string());
        let stored = std::fs::read(&path).unwrap();
        let sums = (
            exported.digest.as_str(),
            format!("sha256:{}", exported.file_sha256),
        );
        assert_eq!(sums, (digest_of(&whole).as_str(), digest_of(&stored)));
        assert_eq!(exported.file_size_bytes, stored.len() as u64);
        assert!(
            exported.stored_bytes < 8 * MIB,
            "{exported:?} of 64 MiB, most of it zeroes"
        );
        if !qcow2 {
            assert!(stored == whole, "{name} is not what the device reads");
        }
        // The other way round, under another name.
        let image = host.image_of(&name.replace('/', "-"), &path);
        assert_eq!(
            (image.digest, image.size_bytes),
            (exported.digest, 64 * MIB)
        );
        let there = export(&host, source, name, qcow2).unwrap_err();
        assert_eq!(
            (there.code(), reason(&there).as_str()),
            (Code::AlreadyExists, "FILE_EXISTS")
        );
    }
    for outside in ["../x.raw", "/tmp/x.raw", "sub/../../x.raw", "none/x.raw"] {
        let refused = export(&host, "snapshot/s", outside, false).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    }
    assert!(!host.dir().join("import/x.raw").exists());
    // Nothing of the reading is left: the volume is as it was.
    let again = host.activate("v").unwrap();
    assert!(std::fs::read(again.activation.unwrap().device_path).unwrap() == whole);
    host.end();
}
