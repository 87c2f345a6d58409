//! The rules of groups of snapshots, on the fake kernel.

use std::panic::{AssertUnwindSafe, catch_unwind};

use goldleaf_dm::PoolMode;
use goldleaf_types::{GroupId, Incarnation, PoolId};

use super::rig::{Rig, group_of_two, quiet, snap, snapshot, volume};
use super::*;
use crate::failpoint::{Point, test::die_at};
use crate::kernel::KernelError;

const POOL: PoolId = PoolId::from_bytes([1; 16]);
const STORE: Incarnation = Incarnation::from_bytes([2; 16]);

/// A pool with an active blank volume and one over the image.
fn rig() -> Rig {
    let rig = Rig::new();
    rig.agent.create_pool(Some(STORE), rig.pool()).unwrap();
    for (n, image) in [(11, false), (12, true)] {
        let request = rig.thin(volume(n), image, true);
        rig.agent.create_thin(Some(STORE), request).unwrap();
    }
    rig
}

fn rows(rig: &Rig) -> usize {
    rig.agent.pools.open(POOL).unwrap().catalogue.all().len()
}

fn thins(rig: &Rig) -> usize {
    rig.kernel.world().pools[&POOL].thins.len()
}

#[test]
fn the_same_group_again_is_the_same_and_another_is_a_conflict() {
    let rig = rig();
    let first = rig.agent.create_group(Some(STORE), group_of_two()).unwrap();
    let again = rig.agent.create_group(Some(STORE), group_of_two()).unwrap();
    let records = |views: &[ThinView]| views.iter().map(|v| v.record.clone()).collect::<Vec<_>>();
    assert_eq!(records(&first), records(&again));
    let instants: std::collections::BTreeSet<_> = first.iter().map(|v| v.record.created).collect();
    assert_eq!(instants.len(), 1, "of several instants");
    let conflict = |request| match rig.agent.create_group(Some(STORE), request) {
        Err(ThinError::Conflict { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    let mut other = group_of_two();
    other.group = GroupId::from_bytes([4; 16]);
    assert_eq!(conflict(other), "group");
    let mut more = group_of_two();
    more.members.push(snap(snapshot(33), volume(12), false));
    assert_eq!(conflict(more), "members");
    let mut swapped = group_of_two();
    swapped.members[0].source = volume(12);
    assert_eq!(conflict(swapped), "source");
}

#[test]
fn a_refused_group_leaves_no_row_and_no_thin() {
    let rig = rig();
    let refused = |rig: &Rig, request| {
        let refused = rig.agent.create_group(Some(STORE), request).unwrap_err();
        assert_eq!(
            (rows(rig), thins(rig)),
            (2, 2),
            "{refused:?} left something"
        );
        refused
    };
    let mut unknown = group_of_two();
    unknown.members[1].source = volume(19);
    assert!(matches!(refused(&rig, unknown), ThinError::NotFound(_)));
    rig.kernel.world().too_slow = true;
    assert!(matches!(
        refused(&rig, group_of_two()),
        ThinError::Kernel(KernelError::TooSlow { .. })
    ));
    for mode in [PoolMode::ReadOnly, PoolMode::OutOfDataSpace] {
        rig.kernel.world().pools.get_mut(&POOL).unwrap().mode = Some(mode);
        assert!(matches!(
            refused(&rig, group_of_two()),
            ThinError::PoolReadOnly { .. }
        ));
    }
    rig.kernel.world().pools.get_mut(&POOL).unwrap().mode = None;
    rig.agent.create_group(Some(STORE), group_of_two()).unwrap();
    assert_eq!((rows(&rig), thins(&rig)), (4, 4));
}

/// A thin that is there already is somebody's: it is quarantined and never taken for a part.
#[test]
fn a_group_never_takes_a_thin_that_nobody_owns() {
    let rig = rig();
    let next = rig.agent.pools.open(POOL).unwrap().record().next_thin + 1;
    let foreign = goldleaf_types::ThinId::new(next).unwrap();
    let mut world = rig.kernel.world();
    world.pools.get_mut(&POOL).unwrap().thins.insert(foreign, 7);
    drop(world);
    let views = rig.agent.create_group(Some(STORE), group_of_two()).unwrap();
    assert_eq!(thins(&rig), 5, "a part of the first try is left");
    assert!(views.iter().all(|view| view.record.thin != foreign));
    assert_eq!(rig.kernel.world().pools[&POOL].thins[&foreign], 7);
    let quarantined = rig.agent.pools.open(POOL).unwrap().record().quarantined;
    assert_eq!(quarantined, [foreign.get()]);
}

#[test]
fn a_group_that_comes_after_its_deletion_makes_nothing() {
    let rig = rig();
    let given_up = group_of_two().members[1].owner;
    let pool = Some(POOL);
    rig.agent
        .delete_thin(Some(STORE), given_up, pool, 1)
        .unwrap();
    let late = rig.agent.create_group(Some(STORE), group_of_two());
    assert!(
        matches!(late, Err(ThinError::Deleted(owner)) if owner == given_up),
        "{late:?}"
    );
    assert_eq!((rows(&rig), thins(&rig)), (2, 2), "it left something");
}

/// What the kernel may still have keeps its rows, whose numbers nobody else gets meanwhile.
#[test]
fn a_part_that_cannot_be_taken_back_keeps_the_wish_until_somebody_can() {
    for repeated in [true, false] {
        let rig = rig();
        rig.kernel.world().part_stays = true;
        let refused = rig.agent.create_group(Some(STORE), group_of_two());
        assert!(
            matches!(
                refused,
                Err(ThinError::Kernel(KernelError::PartsLeft { .. }))
            ),
            "{refused:?}"
        );
        assert_eq!((rows(&rig), thins(&rig)), (4, 3), "its rows are gone");
        if !repeated {
            rig.agent.sweep();
            assert_eq!((rows(&rig), thins(&rig)), (2, 2), "it was not taken back");
        }
        rig.agent.create_group(Some(STORE), group_of_two()).unwrap();
        assert_eq!((rows(&rig), thins(&rig)), (4, 4));
    }
}

#[test]
fn a_group_that_is_recorded_stays_though_nobody_could_be_told_of_it() {
    let rig = rig();
    rig.kernel.world().silent_after_group = true;
    let untold = rig.agent.create_group(Some(STORE), group_of_two());
    assert!(untold.is_err(), "{untold:?}");
    rig.kernel.world().silent = false;
    assert_eq!((rows(&rig), thins(&rig)), (4, 4), "it was taken back");
    let again = rig.agent.create_group(Some(STORE), group_of_two()).unwrap();
    let ready = |view: &ThinView| view.record.phase == crate::catalogue::Phase::Ready;
    assert!(again.iter().all(ready), "{again:?}");
}

/// Only its caller knows how long writers may wait, so the sweep makes none.
#[test]
fn a_group_that_a_crash_cut_short_is_taken_back_and_watchers_hear_of_it() {
    quiet();
    for point in [Point::GroupWished, Point::GroupBegun, Point::GroupMade] {
        let rig = rig();
        die_at(Some(point));
        let call = || rig.agent.create_group(Some(STORE), group_of_two());
        assert!(catch_unwind(AssertUnwindSafe(call)).is_err());
        let mut news = rig.agent.thin_news();
        rig.agent.sweep();
        assert_eq!((rows(&rig), thins(&rig)), (2, 2), "{point:?}");
        let mut told = || std::iter::from_fn(|| news.try_recv().ok()).collect::<Vec<_>>();
        let gone = told();
        assert!(gone.contains(&snapshot(31)), "{point:?}: {gone:?}");
        rig.agent.create_group(Some(STORE), group_of_two()).unwrap();
        let made = told();
        assert!(made.contains(&snapshot(32)), "{point:?}: {made:?}");
    }
}
