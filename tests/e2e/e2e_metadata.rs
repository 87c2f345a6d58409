//! A pool's metadata as a power cut may leave it, opened again through the public API alone.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use goldleaf_dm::{Control, DmName, PoolMessage};
use goldleaf_proto::v1 as api;
use goldleaf_tests::host::{Host, over};
use goldleaf_tests::model::{self, GOLDEN, IMAGE, golden_bytes};
use goldleaf_tests::support::{Pattern, check_metadata, held_root, metadata_region};

const MIB: u64 = 1 << 20;

/// Names a root in the superblock, as the kernel does before it counts the root's blocks.
fn name_root(device: &Path, root: u64) {
    let [at, _] = metadata_region(device).unwrap().unwrap();
    let file = File::options().read(true).write(true).open(device).unwrap();
    let mut block = [0; 4096];
    file.read_exact_at(&mut block, at).unwrap();
    block[56..64].copy_from_slice(&root.to_le_bytes());
    let sum = !crc32c::crc32c(&block[4..]) ^ 160_774;
    block[..4].copy_from_slice(&sum.to_le_bytes());
    file.write_all_at(&block, at).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn a_metadata_snapshot_that_a_power_cut_left_half_made_is_undone_and_frees_nothing_in_use() {
    let host = Host::start("held-root");
    host.image("golden", &golden_bytes());
    host.pool("p", 256 * MIB);
    host.create_thin(over("v", 2 * MIB, "golden")).unwrap();
    let written = Pattern(9).bytes(0, 65_536);
    model::device(&host, "volume/v").write(MIB, &written);
    host.deactivate("v").unwrap();
    let (close, open) = (
        api::ClosePoolRequest {
            pool: "p".into(),
            wait: true,
        },
        api::OpenPoolRequest {
            pool: "p".into(),
            wait: true,
            ..Default::default()
        },
    );
    host.close_pool(close.clone()).unwrap();
    let device = host.dir().join("agent/pools/p.pool");
    assert_eq!(check_metadata(&device).unwrap(), None);
    for root in [2, 3000] {
        name_root(&device, root);
        assert_eq!(held_root(&device).unwrap(), root);
        assert!(check_metadata(&device).unwrap().is_some(), "root {root}");
        let pool = host.open_pool(open.clone()).unwrap();
        assert!(pool.conditions.iter().all(|c| c.status), "{pool:?}");
        // Work that would reuse what was freed wrongly.
        host.create_thin(over("w", 2 * MIB, "golden")).unwrap();
        let other = model::device(&host, "volume/w");
        other.write(0, &Pattern(10).bytes(0, 65_536));
        host.deactivate("w").unwrap();
        host.delete_volume("w").unwrap();
        host.activate("v").unwrap();
        let node = model::device(&host, "volume/v");
        assert_eq!(node.read(MIB, written.len()), written);
        let image = usize::try_from(IMAGE).unwrap().min(65_536);
        assert_eq!(node.read(0, image), GOLDEN.bytes(0, image));
        host.deactivate("v").unwrap();
        host.close_pool(close.clone()).unwrap();
        assert_eq!(check_metadata(&device).unwrap(), None, "root {root}");
        assert_eq!(held_root(&device).unwrap(), 0);
    }
    host.open_pool(open).unwrap();
    host.end_after(&["a power cut left a metadata snapshot half made"]);
}

/// The mirror of it: the superblock names the root no more, and the counts still have its blocks.
#[test]
fn a_metadata_snapshot_that_a_power_cut_left_half_released_is_released_by_the_opening() {
    half_released("released-root", 0);
    // A crash in the middle of finding it out leaves one that was tried, here no root at all.
    half_released("tried-root", 3000);
}

fn half_released(test: &str, named: u64) {
    let mut host = Host::start(test);
    host.image("golden", &golden_bytes());
    let id = host.pool("p", 256 * MIB).id;
    host.create_thin(over("v", 2 * MIB, "golden")).unwrap();
    let written = Pattern(9).bytes(0, 65_536);
    model::device(&host, "volume/v").write(MIB, &written);
    host.deactivate("v").unwrap();
    host.agent.take().unwrap().kill();
    let name = DmName::new(&format!("goldleaf-{id}-pool")).unwrap();
    Control::open()
        .unwrap()
        .pool_message(&name, &PoolMessage::ReserveMetadataSnap)
        .unwrap();
    host.lose_devices();
    let device = host.dir().join("agent/pools/p.pool");
    let root = held_root(&device).unwrap();
    assert_ne!(root, 0);
    assert_eq!(check_metadata(&device).unwrap(), None);
    name_root(&device, named);
    let found = check_metadata(&device).unwrap().unwrap();
    let counted = format!("block {root}, expected 0, but got 1");
    assert!(named != 0 || found.contains(&counted), "{found}");
    host.start_agent(&[]);
    host.await_node();
    let pool = host.get_pool("p").unwrap();
    assert!(pool.conditions.iter().all(|c| c.status), "{pool:?}");
    host.activate("v").unwrap();
    assert_eq!(
        model::device(&host, "volume/v").read(MIB, written.len()),
        written
    );
    host.deactivate("v").unwrap();
    host.close_pool(api::ClosePoolRequest {
        pool: "p".into(),
        wait: true,
    })
    .unwrap();
    assert_eq!(check_metadata(&device).unwrap(), None);
    assert_eq!(held_root(&device).unwrap(), 0);
    host.open_pool(api::OpenPoolRequest {
        pool: "p".into(),
        wait: true,
        ..Default::default()
    })
    .unwrap();
    host.end_after(&[
        "a power cut left a metadata snapshot half released",
        "a metadata snapshot was left held; released",
    ]);
}

/// Metadata that is damaged where no superblock shows it: all after the first block.
fn spoil(device: &Path) -> Vec<u8> {
    let [at, _] = metadata_region(device).unwrap().unwrap();
    let file = File::options().read(true).write(true).open(device).unwrap();
    let mut before = vec![0; 256 << 10];
    file.read_exact_at(&mut before, at + 4096).unwrap();
    file.write_all_at(&vec![0x5a; before.len()], at + 4096)
        .unwrap();
    file.sync_all().unwrap();
    before
}

#[test]
fn damaged_metadata_of_a_pool_that_was_not_closed_is_refused_and_keeps_no_other_pool_back() {
    let mut host = Host::start("unclean");
    host.pool("bad", 256 * MIB);
    host.pool("good", 256 * MIB);
    for pool in ["bad", "good"] {
        host.create_thin(api::CreateThinRequest {
            pool: pool.into(),
            ..goldleaf_tests::host::blank(&format!("in-{pool}"), MIB)
        })
        .unwrap();
    }
    host.agent.take().unwrap().kill();
    host.lose_devices();
    let device = host.dir().join("agent/pools/bad.pool");
    let before = spoil(&device);
    host.start_agent(&[]);
    host.await_node();
    host.activate("in-good").unwrap();
    host.deactivate("in-good").unwrap();
    let says = |pool: &str| {
        let pool = host.get_pool(pool).unwrap();
        let open = pool.conditions.into_iter().find(|c| c.r#type == "PoolOpen");
        open.map(|c| c.message)
    };
    assert_eq!(says("good"), None);
    let why = says("bad").unwrap();
    assert!(why.contains("thin_check finds errors"), "{why}");
    // Nothing was written: put right, it opens.
    let [at, _] = metadata_region(&device).unwrap().unwrap();
    let file = File::options().write(true).open(&device).unwrap();
    file.write_all_at(&before, at + 4096).unwrap();
    drop(file);
    host.open_pool(api::OpenPoolRequest {
        pool: "bad".into(),
        wait: true,
        ..Default::default()
    })
    .unwrap();
    host.activate("in-bad").unwrap();
    host.deactivate("in-bad").unwrap();
    host.end_after(&["did not open"]);
}
