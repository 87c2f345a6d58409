//! What a pool does when it fills, on the fake kernel: its limit, and writers that wait.

use std::time::{Duration, Instant};

use goldleaf_dm::PoolMode;
use goldleaf_types::{Incarnation, PoolId, VolumeSize};

use super::rig::{Rig, snap, snapshot, volume};
use super::*;
use crate::catalogue::NoSpace;

const POOL: PoolId = PoolId::from_bytes([1; 16]);
const STORE: Option<Incarnation> = Some(Incarnation::from_bytes([2; 16]));

fn rig() -> Rig {
    let rig = Rig::new();
    rig.agent.create_pool(STORE, rig.pool()).unwrap();
    rig
}

fn unchanged() -> SetPolicy {
    SetPolicy {
        id: POOL,
        no_space: None,
        wait_seconds: None,
        overcommit_percent: None,
    }
}

fn set(rig: &Rig, wanted: SetPolicy) {
    rig.agent.set_policy(STORE, wanted).unwrap();
}

/// How the pool is loaded, and how often it was resumed for its writers.
fn loaded(rig: &Rig) -> (bool, u32) {
    let world = rig.kernel.world();
    let pool = &world.pools[&POOL];
    (pool.queues, pool.renewed)
}

fn fill(rig: &Rig, mode: PoolMode) {
    rig.kernel.world().pools.get_mut(&POOL).unwrap().mode = Some(mode);
}

/// So much later.
fn pass(rig: &Rig, seconds: u64) {
    let pool = rig.agent.pools.open(POOL).unwrap();
    let earlier = |at: Instant| at.checked_sub(Duration::from_secs(seconds)).unwrap();
    let waiting = pool.waiting().map(|w| super::waiting::Waiting {
        since: earlier(w.since),
        renewed: earlier(w.renewed),
        due: earlier(w.due),
    });
    pool.set_waiting(waiting);
    rig.agent.mind_waiting();
}

fn queue(wait: u32) -> SetPolicy {
    SetPolicy {
        no_space: Some(NoSpace::Queue),
        wait_seconds: Some(wait),
        ..unchanged()
    }
}

#[test]
fn writers_wait_for_the_pools_own_time_then_fail_and_wait_again_when_there_is_room() {
    let mut rig = rig();
    rig.kernel.world().wait_limit = Some(Duration::from_secs(60));
    set(&rig, queue(100));
    assert_eq!(loaded(&rig), (true, 0));
    fill(&rig, PoolMode::OutOfDataSpace);
    let pool = rig.agent.pools.open(POOL).unwrap();
    rig.agent.mind_space(&pool);
    assert!(pool.waiting().is_some());
    pass(&rig, 29);
    assert_eq!(loaded(&rig), (true, 0));
    pass(&rig, 1);
    assert_eq!(loaded(&rig), (true, 1));
    pass(&rig, 30);
    assert_eq!(loaded(&rig), (true, 2));
    pass(&rig, 40);
    assert_eq!(loaded(&rig), (false, 2));
    rig.agent.mind_space(&pool);
    assert_eq!(loaded(&rig), (false, 2), "they waited again in a full pool");
    drop(pool);
    // An agent that starts lets them wait for the whole time.
    rig.restart();
    assert!(loaded(&rig).0);
    pass(&rig, 100);
    assert!(!loaded(&rig).0);
    fill(&rig, PoolMode::ReadWrite);
    rig.agent.sweep();
    assert!(loaded(&rig).0);
}

#[test]
fn a_pool_without_a_time_is_left_to_the_kernel_and_a_policy_is_loaded_at_once() {
    let rig = rig();
    rig.kernel.world().wait_limit = Some(Duration::from_secs(60));
    set(&rig, queue(0));
    fill(&rig, PoolMode::OutOfDataSpace);
    rig.agent.sweep();
    assert!(rig.agent.pools.open(POOL).unwrap().waiting().is_none());
    assert_eq!(loaded(&rig), (true, 0));
    let refuse = SetPolicy {
        no_space: Some(NoSpace::Error),
        ..unchanged()
    };
    set(&rig, refuse);
    assert!(!loaded(&rig).0);
    set(&rig, queue(5));
    assert!(loaded(&rig).0, "those who come now wait");
    // Nothing is said: nothing changes.
    set(&rig, unchanged());
    assert!(loaded(&rig).0);
}

#[test]
fn what_passes_the_limit_is_refused_with_the_figures_and_leaves_nothing() {
    let rig = rig();
    let data = rig.agent.pools.open(POOL).unwrap().data_bytes();
    let percent = |bytes: u64| u32::try_from(bytes * 100 / data.0).unwrap();
    let mib = |mib: u64| VolumeSize::new(mib << 20).unwrap();
    let create = |n: u8, size| {
        let mut thin = rig.thin(volume(n), false, false);
        thin.size = size;
        rig.agent.create_thin(STORE, thin)
    };
    create(11, mib(100)).unwrap();
    // Room for 150 MiB in all, roughly.
    let limit = SetPolicy {
        overcommit_percent: Some(percent(150 << 20)),
        ..unchanged()
    };
    set(&rig, limit);
    let refused = create(12, mib(60)).unwrap_err();
    let ThinError::Overcommitted {
        provisioned, asked, ..
    } = &refused
    else {
        panic!("{refused}");
    };
    assert_eq!((provisioned.0, asked.0), (100 << 20, 60 << 20));
    assert!(rig.agent.thin(volume(12)).is_err());
    create(12, mib(40)).unwrap();
    create(12, mib(40)).unwrap();
    let grown = rig.agent.resize(STORE, volume(12), mib(60), 1);
    assert!(
        matches!(grown, Err(ThinError::Overcommitted { .. })),
        "{grown:?}"
    );
    rig.agent.resize(STORE, volume(12), mib(41), 1).unwrap();
    let mut copy = snap(volume(13), volume(11), false);
    let clone = rig.agent.create_snapshot(STORE, copy.clone());
    assert!(
        matches!(clone, Err(ThinError::Overcommitted { .. })),
        "{clone:?}"
    );
    // A snapshot is never written.
    copy.owner = snapshot(21);
    rig.agent.create_snapshot(STORE, copy).unwrap();
    let none = SetPolicy {
        overcommit_percent: Some(0),
        ..unchanged()
    };
    set(&rig, none);
    create(14, mib(1 << 20)).unwrap();
}
