//! The rules of groups of snapshots, on the fake kernel.

use goldleaf_dm::PoolMode;
use goldleaf_types::{GroupId, Incarnation, PoolId};

use super::crash_tests::{Rig, group_of_two, snap, snapshot, volume};
use super::*;
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
