//! Volumes made independent of their image, through the public API on a real kernel's dm-thin.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use goldleaf_dm::block;
use goldleaf_proto::v1 as api;
use goldleaf_tests::host::{Host, blank, over};
use goldleaf_tests::support::{Node, Pattern};
use tonic::Code;

const MIB: u64 = 1 << 20;
const GOLDEN: Pattern = Pattern(1);
/// Ends inside a block.
const IMAGE: u64 = 40 * MIB + 3 * 512;
/// Zeroes in the image: they take no room.
const HOLE: std::ops::Range<u64> = 8 * MIB..16 * MIB;
const WRITTEN: u64 = 3 * MIB + 512;

fn rig(test: &str) -> Host {
    let host = Host::start(test);
    host.pool("p", 512 * MIB);
    host.image("golden", &untouched(0, usize::try_from(IMAGE).unwrap()));
    host
}

fn device(volume: &api::Volume) -> Node {
    let path = &volume.activation.as_ref().unwrap().device_path;
    Node::of(block::number(&std::fs::File::open(path).unwrap()).unwrap())
}

fn untouched(offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = GOLDEN.bytes(offset, len);
    for (byte, place) in bytes.iter_mut().zip(offset..) {
        if HOLE.contains(&place) || place >= IMAGE {
            *byte = 0;
        }
    }
    bytes
}

/// The image with a write over it, which differs from the image by more than a block's edge.
fn expected(offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = untouched(offset, len);
    for (byte, place) in bytes.iter_mut().zip(offset..) {
        if (WRITTEN..WRITTEN + 4096).contains(&place) {
            *byte = 0x33;
        }
    }
    bytes
}

/// A volume over the image with a write, inactive, and a snapshot of it.
fn written(host: &Host, size: u64) {
    let volume = host.create_thin(over("v", size, "golden")).unwrap();
    device(&volume).write(WRITTEN, &[0x33; 4096]);
    host.snapshot("s", "volume/v").unwrap();
    host.deactivate("v").unwrap();
}

#[test]
fn a_decoupled_volume_reads_the_same_without_its_image_and_its_snapshot_still_needs_it() {
    let host = rig("decouple");
    written(&host, 48 * MIB);
    let done = host.decouple("v").unwrap();
    assert_eq!(done.image_digest, "");
    assert_eq!(host.decouple("v").unwrap().id, done.id);
    let volume = host.activate("v").unwrap();
    device(&volume).assert_reads(expected);
    // 33 MiB of the image that are no zeroes, whole blocks of them.
    let owned = volume.owned_bytes.unwrap();
    assert!((32 * MIB..34 * MIB).contains(&owned), "{owned}");
    let origin = host.thins().unwrap();
    let origin = origin.iter().find(|thin| thin.name == "v").unwrap();
    assert_eq!(origin.image_digest, "");
    let clone = host.active_clone("c", "snapshot/s", 0).unwrap();
    assert_ne!(clone.image_digest, "");
    device(&clone).assert_reads(expected);
    let refused = host.delete_image("golden").unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    host.deactivate("c").unwrap();
    host.delete_volume("c").unwrap();
    host.delete_snapshot("s").unwrap();
    // Nothing needs the image now, and a discarded block reads zero.
    host.delete_image("golden").unwrap();
    device(&volume).assert_reads(expected);
    host.end();
}

/// Steps of the copy end where blocks do, whatever the size of a block: of neighbours that are written
/// in, each one between them still reads through, and is copied.
#[test]
fn a_volume_is_decoupled_block_by_block_also_where_a_block_is_no_power_of_two() {
    let host = Host::start("odd-blocks");
    let block = 192 << 10;
    host.create_pool(api::CreatePoolRequest {
        name: "p".into(),
        devices: vec![host.pool_file("p.pool", 256)],
        block_size_bytes: block,
        ..Default::default()
    })
    .unwrap();
    host.image("golden", &untouched(0, usize::try_from(IMAGE).unwrap()));
    let volume = host.create_thin(over("v", 48 * MIB, "golden")).unwrap();
    let node = device(&volume);
    // Every other block, at both of its ends.
    let written = |at: u64| (at / block) % 2 == 1 && !(4096..block - 4096).contains(&(at % block));
    for start in (block..48 * MIB - block).step_by(usize::try_from(2 * block).unwrap()) {
        node.write(start, &[0x33; 4096]);
        node.write(start + block - 4096, &[0x33; 4096]);
    }
    drop(node);
    let end = 48 * MIB - block;
    let expected = |offset: u64, len: usize| {
        let mut bytes = untouched(offset, len);
        for (byte, at) in bytes.iter_mut().zip(offset..) {
            if written(at) && at < end {
                *byte = 0x33;
            }
        }
        bytes
    };
    device(&volume).assert_reads(expected);
    host.deactivate("v").unwrap();
    assert_eq!(host.decouple("v").unwrap().image_digest, "");
    device(&host.activate("v").unwrap()).assert_reads(expected);
    host.end();
}

#[test]
fn an_active_volume_is_not_decoupled_and_one_that_is_cannot_be_activated_meanwhile() {
    let host = rig("meanwhile");
    let volume = host.create_thin(over("v", 44 * MIB, "golden")).unwrap();
    let refused = host.decouple("v").unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    device(&volume).write(WRITTEN, &[0x33; 4096]);
    host.deactivate("v").unwrap();
    // 40 MiB at 4 MiB a second: the refusals below come within those ten.
    let slow = api::DecoupleRequest {
        volume: "v".into(),
        rate_bytes_per_second: 4 * MIB,
        wait: false,
    };
    let began = std::time::Instant::now();
    host.decouple_volume(slow.clone()).unwrap();
    host.soon("progress", || {
        let progress = host.volume("v").unwrap().progress?;
        (progress.done_bytes > 0 && progress.total_bytes == IMAGE).then_some(())
    });
    for refused in [
        host.activate("v").map(drop),
        host.resize("v", 64 * MIB).map(drop),
        host.snapshot("s", "volume/v").map(drop),
        host.active_clone("c", "volume/v", 0).map(drop),
    ] {
        assert_eq!(refused.unwrap_err().code(), Code::Aborted);
    }
    let done = host
        .decouple_volume(api::DecoupleRequest { wait: true, ..slow })
        .unwrap();
    assert_eq!(done.image_digest, "");
    assert!(
        began.elapsed().as_secs() >= 8,
        "faster than the cap: {:?}",
        began.elapsed()
    );
    device(&host.activate("v").unwrap()).assert_reads(expected);
    host.end();
}

#[test]
fn a_copy_that_does_not_fit_is_refused_with_the_figures_and_a_deletion_ends_one() {
    let host = Host::start("room");
    host.pool("p", 192 * MIB);
    let total = host.get_pool("p").unwrap().usage.unwrap().data_total_bytes;
    host.image("golden", &untouched(0, usize::try_from(IMAGE).unwrap()));
    let volume = host.create_thin(over("v", 44 * MIB, "golden")).unwrap();
    let filler = host.create_thin(api::CreateThinRequest {
        activate: Some(api::ActivateOptions::default()),
        ..blank("filler", 192 * MIB)
    });
    let filler = filler.unwrap();
    let most = usize::try_from(total - 30 * MIB).unwrap();
    device(&filler).write(0, &vec![7; most]);
    host.deactivate("v").unwrap();
    let refused = host.decouple("v").unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    // 641 blocks of the image, the last of them in part.
    let needed = format!("the copy may take {}", goldleaf_types::Bytes(641 * 65_536));
    assert!(refused.message().contains(&needed), "{refused:?}");
    let still = host.volume("v").unwrap();
    assert_eq!(still.image_digest, volume.image_digest);
    host.deactivate("filler").unwrap();
    host.delete_volume("filler").unwrap();
    // Slow enough that it is under way when the deletion comes: a minute for all of it.
    host.decouple_volume(api::DecoupleRequest {
        volume: "v".into(),
        rate_bytes_per_second: MIB,
        wait: false,
    })
    .unwrap();
    host.soon("progress", || {
        let progress = host.volume("v").unwrap().progress?;
        (progress.done_bytes > 0).then_some(())
    });
    // One more would fit alone, and does not beside the first.
    host.create_thin(over("w", 44 * MIB, "golden")).unwrap();
    host.deactivate("w").unwrap();
    let filler = host.create_thin(api::CreateThinRequest {
        activate: Some(api::ActivateOptions::default()),
        ..blank("filler", 192 * MIB)
    });
    let most = usize::try_from(total - 70 * MIB).unwrap();
    device(&filler.unwrap()).write(0, &vec![7; most]);
    let refused = host.decouple_volume(api::DecoupleRequest {
        volume: "w".into(),
        ..Default::default()
    });
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    let began = std::time::Instant::now();
    host.delete_volume("v").unwrap();
    assert!(began.elapsed().as_secs() < 15, "it waited for the copying");
    host.end();
}

#[test]
fn a_decoupling_goes_on_by_itself_after_kills_of_both() {
    let mut host = rig("kills");
    written(&host, 48 * MIB);
    host.decouple_volume(api::DecoupleRequest {
        volume: "v".into(),
        rate_bytes_per_second: 10 * MIB,
        wait: false,
    })
    .unwrap();
    host.soon("some progress", || {
        let progress = host.volume("v").unwrap().progress?;
        (progress.done_bytes > 8 * MIB).then_some(())
    });
    host.agent.take().unwrap().kill();
    host.server.take().unwrap().kill();
    host.start_server(&[]);
    host.start_agent(&[]);
    host.await_node();
    host.soon("the end", || {
        host.volume("v")
            .unwrap()
            .image_digest
            .is_empty()
            .then_some(())
    });
    device(&host.activate("v").unwrap()).assert_reads(expected);
    host.end();
}
