//! Images on a real kernel through the public API: which nodes hold them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
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
    assert_eq!((needed.code(), reason(&needed).as_str()), (Code::FailedPrecondition, "IN_USE"));
    assert!(needed.message().contains("volume v"), "{needed:?}");
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
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "IMAGE_FAILED"));
        let shown = host.get_image("golden").unwrap();
        assert_eq!(shown.phase(), api::Phase::Ready);
        assert_eq!(phases(&shown), [api::Phase::Ready, api::Phase::Failed]);
        let told = shown.conditions.iter().find(|c| c.r#type == "CopyPresent").unwrap();
        assert_eq!((told.status, told.reason.as_str()), (false, "ImportFailed"));
        let word = if other.is_none() { "cannot be read" } else { "digest" };
        assert!(told.message.contains(word), "{told:?}");
    }
    std::fs::write(&source, &bytes).unwrap();
    let placed = host.place("golden", &["n2"]).unwrap();
    assert_eq!(phases(&placed), [api::Phase::Ready; 2]);
    host.deactivate("v").unwrap();
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
    assert_eq!(phases(&host.evict("far", NODE).unwrap()), []);
    assert!(!copy_in(&host.dir().join("agent"), &image).exists());
    let early = host.create_thin(over("v", 4 * MIB, "far")).unwrap_err();
    assert_eq!((early.code(), reason(&early).as_str()), (Code::Unavailable, "IMAGE_ON_ITS_WAY"));
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
