//! Deletion of large thins, on the fake kernel.

use std::panic::{AssertUnwindSafe, catch_unwind};

use goldleaf_types::{Bytes, Incarnation, PoolId, ThinId, VolumeSize};

use super::rig::{Rig, quiet, snap, snapshot, volume};
use super::*;
use crate::catalogue::Phase;
use crate::failpoint::Point;
use crate::failpoint::test::die_at;

const POOL: PoolId = PoolId::from_bytes([1; 16]);
const STORE: Incarnation = Incarnation::from_bytes([2; 16]);
const BLOCK: u64 = 65_536;
/// More blocks than one message is to free.
const BLOCKS: u64 = 10_000;

/// A pool with a volume that maps as much as it can.
fn rig() -> (Rig, ThinId) {
    let rig = Rig::new();
    let mut roomy = rig.pool();
    roomy.devices[0].create = Some(Bytes(1 << 30)); // the file is sparse
    rig.agent.create_pool(Some(STORE), roomy).unwrap();
    let request = CreateThin {
        size: VolumeSize::new(BLOCKS * BLOCK).unwrap(),
        ..rig.thin(volume(11), false, true)
    };
    let thin = rig.agent.create_thin(Some(STORE), request).unwrap();
    let thin = thin.record.thin;
    maps(&rig, thin, BLOCKS);
    rig.agent.deactivate(volume(11), 1).unwrap();
    (rig, thin)
}

fn maps(rig: &Rig, thin: ThinId, blocks: u64) {
    let mut world = rig.kernel.world();
    let pool = world.pools.get_mut(&POOL).unwrap();
    pool.thins.insert(thin, blocks);
}

fn is_there(rig: &Rig, thin: ThinId) -> bool {
    rig.kernel.world().pools[&POOL].thins.contains_key(&thin)
}

fn phase(rig: &Rig) -> Option<Phase> {
    let pool = rig.agent.pools.open(POOL).unwrap();
    pool.catalogue.find(volume(11)).map(|row| row.phase)
}

fn delete(rig: &Rig) -> Result<(), ThinError> {
    rig.agent.delete_thin(Some(STORE), volume(11), None, 1)
}

/// The wish alone, as a caller leaves it that goes away at once.
fn wish(rig: &Rig) -> bool {
    let pool = rig.agent.pools.open(POOL).unwrap();
    rig.agent.wish_deleted(&pool, volume(11), 1).unwrap()
}

#[test]
fn a_large_thin_is_given_up_in_steps_before_the_message() {
    let (rig, thin) = rig();
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| rig.agent.work(Lane::Deletions));
        let deleted = delete(&rig);
        rig.agent.stop_work();
        worker.join().unwrap();
        deleted.unwrap();
    });
    assert!(!is_there(&rig, thin) && phase(&rig).is_none());
    let discards = std::mem::take(&mut rig.kernel.world().discards);
    let mut next = 0;
    for (of, start, len) in discards {
        assert_eq!((of, start), (thin, Bytes(next)));
        assert!(len.0 <= 1024 * BLOCK, "a step of {len}");
        next += len.0;
    }
    assert_eq!(next, BLOCKS * BLOCK, "not all of it was given up");
}

#[test]
fn a_deletion_that_a_crash_cut_short_goes_on_at_the_next_start_and_not_in_the_sweep() {
    for (point, gone) in [
        (Point::DeletionWished, false),
        (Point::DeletionStepped, false),
        (Point::DeletionDone, true),
    ] {
        let (mut rig, thin) = rig();
        die_at(Some(point));
        let died = catch_unwind(AssertUnwindSafe(|| {
            wish(&rig);
            rig.agent.work_once(Lane::Deletions);
        }));
        assert!(died.is_err(), "{point:?} was not reached");
        rig.restart(); // with a sweep
        if gone {
            assert_eq!(phase(&rig), None, "{point:?}");
        } else {
            assert_eq!(phase(&rig), Some(Phase::Deleting), "{point:?}");
            assert!(is_there(&rig, thin), "the sweep stalled the pool");
        }
        rig.agent.work_once(Lane::Deletions);
        assert!(!is_there(&rig, thin) && phase(&rig).is_none(), "{point:?}");
        delete(&rig).unwrap();
    }
}

#[test]
fn what_is_small_or_shared_is_deleted_by_the_message_alone() {
    let (rig, thin) = rig();
    let frozen = snap(snapshot(21), volume(11), false);
    rig.agent.create_snapshot(Some(STORE), frozen).unwrap();
    assert!(wish(&rig), "nobody works: it would wait in vain");
    assert!(!is_there(&rig, thin));
    let request = CreateThin {
        size: VolumeSize::new(BLOCKS * BLOCK).unwrap(),
        ..rig.thin(volume(12), false, true)
    };
    let small = rig.agent.create_thin(Some(STORE), request).unwrap();
    maps(&rig, small.record.thin, 4000);
    rig.agent.deactivate(volume(12), 1).unwrap();
    rig.agent
        .delete_thin(Some(STORE), volume(12), None, 1)
        .unwrap();
    assert!(rig.kernel.world().discards.is_empty());
}

#[test]
fn after_a_restart_the_metadata_says_what_is_large() {
    let (mut rig, thin) = rig();
    rig.restart();
    assert!(!wish(&rig), "deleted in one message");
    maps(&rig, thin, 4000);
    rig.restart(); // the sweep finds it small now
    assert!(!is_there(&rig, thin) && phase(&rig).is_none());
}

#[test]
fn closing_a_pool_ends_the_steps_and_opening_it_goes_on() {
    let (rig, thin) = rig();
    assert!(!wish(&rig));
    // As if a step took long: the close comes between two of them.
    let pool = rig.agent.pools.open(POOL).unwrap();
    let barred = rig.agent.work.bar(POOL);
    rig.agent.work_once(Lane::Deletions);
    assert!(is_there(&rig, thin), "it began in a pool that closes");
    drop((barred, pool));
    rig.agent.close_pool(POOL, Some(STORE)).unwrap();
    rig.agent.open_pool(POOL, Some(STORE)).unwrap();
    assert_eq!(phase(&rig), Some(Phase::Deleting));
    rig.agent.work_once(Lane::Deletions);
    assert!(!is_there(&rig, thin) && phase(&rig).is_none());
}

/// The thread is the only one of its lane.
#[test]
fn work_goes_on_after_a_panic() {
    let (rig, thin) = rig();
    assert!(!wish(&rig));
    quiet();
    let agent = Arc::clone(&rig.agent);
    let lane = std::thread::spawn(move || {
        die_at(Some(Point::DeletionStepped));
        agent.work(Lane::Deletions);
    });
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while phase(&rig).is_some() && !lane.is_finished() && std::time::Instant::now() < until {
        rig.agent.work.ring();
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
    rig.agent.stop_work();
    lane.join().unwrap();
    assert!(!is_there(&rig, thin) && phase(&rig).is_none());
}
