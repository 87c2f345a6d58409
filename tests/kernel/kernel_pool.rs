//! Pools and thins against the real kernel: tables, messages, snapshots, sizes.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by a panic, also in what it calls"
)]

use goldleaf_dm::{
    DiscardPolicy, Flush, LockFs, NoSpacePolicy, PoolFeatures, PoolMessage, PoolMode, ThinStatus,
    swap_table,
};
use goldleaf_tests::support::{Node, Pattern, Pool, PoolPlan, Scratch};
use goldleaf_types::{BlockSize, Bytes, ThinId};
use rustix::io::Errno;

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 64 << 10;

fn id(raw: u32) -> ThinId {
    ThinId::new(raw).unwrap()
}

/// A pool of `blocks` blocks of 64 KiB.
fn small(scratch: &Scratch, blocks: u64, features: PoolFeatures) -> Pool {
    let plan = PoolPlan {
        data: Bytes(blocks * BLOCK),
        features,
        ..PoolPlan::default()
    };
    scratch.add_pool("pool", plan)
}

fn erring() -> PoolFeatures {
    PoolFeatures {
        error_if_no_space: true,
        ..PoolFeatures::default()
    }
}

#[test]
fn the_kernel_says_back_every_feature_that_was_asked_for() {
    let scratch = Scratch::new();
    let pool = scratch.add_pool("pool", PoolPlan::default());
    scratch.remove("pool");
    for bits in 0..16u8 {
        let has = |bit: u8| bits & (1 << bit) != 0;
        let features = PoolFeatures {
            error_if_no_space: has(0),
            ignore_discard: has(1),
            no_discard_passdown: has(2),
            read_only: has(3),
        };
        let plan = PoolPlan {
            features,
            low_water_blocks: 77,
            ..PoolPlan::default()
        };
        let table = pool.table(plan);
        let _node = scratch.device("pool", &table);
        let found = scratch
            .control()
            .table(&pool.name())
            .unwrap()
            .parsed()
            .unwrap();
        assert_eq!(found, table.targets, "{features:?}");
        let status = pool.working();
        let no_space = if has(0) {
            NoSpacePolicy::Error
        } else {
            NoSpacePolicy::Queue
        };
        let mode = if has(3) {
            PoolMode::ReadOnly
        } else {
            PoolMode::ReadWrite
        };
        let discard = match (has(1), has(2)) {
            (true, _) => DiscardPolicy::Ignore,
            (false, true) => DiscardPolicy::NoPassdown,
            (false, false) => DiscardPolicy::Passdown,
        };
        assert_eq!(
            (status.no_space, status.mode, status.discard),
            (no_space, mode, discard)
        );
        scratch.remove("pool");
    }
}

#[test]
fn a_pool_s_status_counts_its_blocks() {
    let scratch = Scratch::new();
    let plan = PoolPlan {
        block: BlockSize::new(128 << 10).unwrap(),
        ..PoolPlan::default()
    };
    let pool = scratch.add_pool("pool", plan);
    let thin = pool.thin(1);
    thin.write(0, &[1; 512]);
    thin.write(MIB, &[1; 512]);
    let status = pool.working();
    assert_eq!(
        (status.used_data_blocks, status.total_data_blocks),
        (2, 512)
    );
    assert_eq!(
        (status.total_metadata_blocks, status.transaction_id),
        (1024, 0)
    );
    assert!(status.used_metadata_blocks > 0 && !status.needs_check);
    assert_eq!(status.held_root, None);
    let expected = ThinStatus::Mapped {
        sectors: 512,
        highest: Some(2048 + 255),
    };
    assert_eq!(pool.thin_status(1), expected);
}

#[test]
fn a_thin_s_table_is_said_back_with_and_without_an_origin() {
    let pool = Scratch::pool(1);
    let image = pool.scratch().image("image", Bytes(MIB), Pattern(1));
    let _plain = pool.thin(1);
    let _over = pool.thin_over(2, Bytes(2 * MIB), Some(&image));
    for (raw, size, origin) in [(1, 16 * MIB, None), (2, 2 * MIB, Some(&image))] {
        let found = pool
            .scratch()
            .control()
            .table(&pool.thin_name(raw))
            .unwrap();
        assert_eq!(
            found.parsed().unwrap(),
            pool.thin_table(raw, Bytes(size), origin).targets
        );
        let deps = pool.scratch().control().deps(&pool.thin_name(raw)).unwrap();
        assert!(deps.contains(&pool.dev()));
        assert_eq!(deps.contains(&image.dev()), origin.is_some());
    }
    assert_eq!(
        pool.thin_status(1),
        ThinStatus::Mapped {
            sectors: 0,
            highest: None
        }
    );
}

#[test]
fn messages_say_what_is_there_already_and_what_is_not() {
    let pool = Scratch::pool(1);
    pool.send(&PoolMessage::CreateThin(id(1))).unwrap();
    assert!(
        pool.send(&PoolMessage::CreateThin(id(1)))
            .unwrap_err()
            .exists()
    );
    assert!(
        pool.send(&PoolMessage::Delete(id(2)))
            .unwrap_err()
            .is_no_data()
    );
    let snap = |new, origin| PoolMessage::CreateSnap {
        id: id(new),
        origin: id(origin),
    };
    assert!(pool.send(&snap(3, 2)).unwrap_err().is_no_data());
    pool.send(&snap(3, 1)).unwrap();
    assert!(pool.send(&snap(3, 1)).unwrap_err().exists());
    pool.send(&PoolMessage::Delete(id(3))).unwrap();
    pool.send(&PoolMessage::Delete(id(1))).unwrap();
    assert!(
        pool.send(&PoolMessage::Delete(id(1)))
            .unwrap_err()
            .is_no_data()
    );
}

#[test]
fn thin_ids_are_24_bits_wide() {
    let pool = Scratch::pool(1);
    for raw in [0, ThinId::MAX] {
        pool.send(&PoolMessage::CreateThin(id(raw))).unwrap();
    }
    for text in [
        "create_thin 16777216",
        "create_thin -1",
        "create_thin x",
        "create_thin",
    ] {
        let refused = pool
            .scratch()
            .control()
            .message(&pool.name(), text)
            .unwrap_err();
        assert_eq!(refused.errno, Errno::INVAL, "{text}");
    }
}

#[test]
fn a_live_thin_is_not_deleted_and_a_missing_one_does_not_come_to_life() {
    let pool = Scratch::pool(1);
    let _thin = pool.thin(1);
    assert!(
        pool.send(&PoolMessage::Delete(id(1)))
            .unwrap_err()
            .is_busy()
    );
    pool.deactivate(1);
    pool.send(&PoolMessage::Delete(id(1))).unwrap();
    let table = pool.thin_table(1, Bytes(MIB), None);
    assert!(
        pool.scratch()
            .try_device("pool-thin1", &table)
            .unwrap_err()
            .is_no_data()
    );
}

#[test]
fn a_pool_with_live_thins_is_not_removed() {
    let pool = Scratch::pool(1);
    let _thins = (pool.thin(1), pool.thin(2));
    let control = pool.scratch().control();
    assert_eq!(control.find(&pool.name()).unwrap().unwrap().open_count, 2);
    assert!(
        control
            .remove(&pool.name(), goldleaf_dm::Removal::Now)
            .unwrap_err()
            .is_busy()
    );
}

#[test]
fn a_suspended_pool_takes_messages_but_brings_no_thin_to_life() {
    let pool = Scratch::pool(1);
    let control = pool.scratch().control();
    control
        .suspend(&pool.name(), Flush::Yes, LockFs::Yes)
        .unwrap();
    pool.send(&PoolMessage::CreateThin(id(1))).unwrap();
    let table = pool.thin_table(1, Bytes(MIB), None);
    let refused = pool.scratch().try_device("pool-thin1", &table).unwrap_err();
    assert_eq!(refused.errno, Errno::INVAL);
    control.resume(&pool.name()).unwrap();
    let _thin = pool.activate(1, Bytes(MIB), None);
}

/// Why one dm UUID per thin id matters: the kernel itself allows two devices.
#[test]
fn the_kernel_lets_one_thin_live_under_two_names() {
    let pool = Scratch::pool(1);
    let thin = pool.thin(1);
    let twin = pool
        .scratch()
        .device("twin", &pool.thin_table(1, Bytes(16 * MIB), None));
    thin.write(0, &[7; 512]);
    assert_eq!(twin.read(0, 512), [7; 512]);
}

#[test]
fn the_transaction_id_changes_only_from_what_it_is() {
    let pool = Scratch::pool(1);
    let set = |old, new| pool.send(&PoolMessage::SetTransactionId { old, new });
    set(0, 5).unwrap();
    assert_eq!(set(0, 6).unwrap_err().errno, Errno::INVAL);
    assert_eq!(pool.working().transaction_id, 5);
    set(5, u64::MAX).unwrap();
    assert_eq!(pool.working().transaction_id, u64::MAX);
}

#[test]
fn a_metadata_snapshot_is_held_once_and_survives_a_reopening() {
    let pool = Scratch::pool(1);
    pool.send(&PoolMessage::ReserveMetadataSnap).unwrap();
    assert!(pool.working().held_root.is_some());
    assert!(
        pool.send(&PoolMessage::ReserveMetadataSnap)
            .unwrap_err()
            .is_busy()
    );
    pool.scratch().remove("pool");
    let _again = pool.scratch().device("pool", &pool.table(pool.plan()));
    assert!(pool.working().held_root.is_some());
    pool.send(&PoolMessage::ReleaseMetadataSnap).unwrap();
    assert_eq!(pool.working().held_root, None);
    assert_eq!(
        pool.send(&PoolMessage::ReleaseMetadataSnap)
            .unwrap_err()
            .errno,
        Errno::INVAL
    );
}

#[test]
fn a_snapshot_of_a_snapshot_is_frozen_in_time() {
    let pool = Scratch::pool(1);
    let size = Bytes(16 * MIB);
    let origin = pool.thin(1);
    origin.write(0, b"first");
    pool.snap(1, 2);
    let snap = pool.activate(2, size, None);
    origin.write(0, b"after");
    pool.snap(2, 3);
    let second = pool.activate(3, size, None);
    snap.write(0, b"snap!");
    let read = |node: &Node| node.read(0, 5);
    assert_eq!(
        (read(&origin), read(&snap)),
        (b"after".to_vec(), b"snap!".to_vec())
    );
    assert_eq!(read(&second), b"first");
}

#[test]
fn a_thin_grows_and_shrinks_and_keeps_what_lies_beyond_its_end() {
    let pool = Scratch::pool(1);
    let thin = pool.thin(1);
    thin.write(8 * MIB, &[8; 512]);
    let control = pool.scratch().control();
    for size in [4 * MIB, 32 * MIB] {
        let table = pool.thin_table(1, Bytes(size), None);
        swap_table(control, &pool.thin_name(1), &table, Flush::Yes).unwrap();
        assert_eq!(thin.size(), Bytes(size));
    }
    assert_eq!(thin.read(8 * MIB, 512), [8; 512]);
    assert_eq!(thin.read(31 * MIB, 512), [0; 512]);
}

/// The law of the failed resume: the bad table is live and the device stopped until the previous
/// one is put back.
#[test]
fn a_pool_table_that_is_too_small_fails_at_the_resume_and_the_previous_one_is_put_back() {
    let scratch = Scratch::new();
    let pool = small(&scratch, 64, erring());
    let thin = pool.thin(1);
    thin.write(0, &[1; 512]);
    let smaller = pool.table(PoolPlan {
        data: Bytes(32 * BLOCK),
        ..pool.plan()
    });

    let control = scratch.control();
    control.load(&pool.name(), &smaller).unwrap();
    control
        .suspend(&pool.name(), Flush::No, LockFs::No)
        .unwrap();
    assert_eq!(
        control.resume(&pool.name()).unwrap_err().errno,
        Errno::INVAL
    );
    assert!(
        control.find(&pool.name()).unwrap().unwrap().suspended,
        "the kernel leaves it so"
    );
    control
        .load(&pool.name(), &pool.table(pool.plan()))
        .unwrap();
    control.resume(&pool.name()).unwrap();

    let refused = swap_table(control, &pool.name(), &smaller, Flush::No).unwrap_err();
    assert_eq!(refused.errno, Errno::INVAL);
    let device = control.find(&pool.name()).unwrap().unwrap();
    assert!(!device.suspended && !device.has_inactive_table);
    let live = control.table(&pool.name()).unwrap().parsed().unwrap();
    assert_eq!(live, pool.table(pool.plan()).targets);
    thin.write(MIB, &[2; 512]);
    assert_eq!(thin.read(0, 512), [1; 512]);
}

#[test]
fn a_reload_drops_the_features_that_it_does_not_name() {
    let scratch = Scratch::new();
    let pool = small(&scratch, 16, erring());
    assert_eq!(pool.working().no_space, NoSpacePolicy::Error);
    let plain = PoolPlan {
        features: PoolFeatures::default(),
        ..pool.plan()
    };
    swap_table(
        scratch.control(),
        &pool.name(),
        &pool.table(plain),
        Flush::No,
    )
    .unwrap();
    assert_eq!(pool.working().no_space, NoSpacePolicy::Queue);
}
