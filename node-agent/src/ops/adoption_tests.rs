//! Whose changes a pool takes, and what is kept on it for the day when the store is lost.

use goldleaf_types::{Incarnation, PoolId};

use super::rig::{Rig, volume};
use super::*;

const POOL: PoolId = PoolId::from_bytes([1; 16]);
const STORE: Incarnation = Incarnation::from_bytes([2; 16]);

fn rig() -> Rig {
    let rig = Rig::new();
    rig.agent.create_pool(Some(STORE), rig.pool()).unwrap();
    rig
}

fn create(rig: &Rig, n: u8) -> Result<ThinView, ThinError> {
    let thin = rig.thin(volume(n), false, false);
    rig.agent.create_thin(Some(STORE), thin)
}

/// Law: a pool takes the changes of one store, and of another once that has adopted it.
#[test]
fn law_an_adopted_pool_takes_changes_from_its_new_store_alone() {
    let rig = rig();
    create(&rig, 11).unwrap();
    let other = Incarnation::from_bytes([3; 16]);
    // A caller that says that it is another store is none that is local.
    for refused in [
        rig.agent.admit_if_said(Some(other), volume(11)),
        rig.agent.admit_if_said(Some(STORE), volume(12)),
    ] {
        assert!(refused.is_err(), "{refused:?}");
    }
    rig.agent.admit_if_said(None, volume(11)).unwrap();
    rig.agent.admit_if_said(Some(STORE), volume(11)).unwrap();
    rig.agent.adopt_pool(other, POOL, Some(STORE)).unwrap();
    let refused = rig.agent.delete_thin(Some(STORE), volume(11), None, 1);
    assert!(
        matches!(refused, Err(ThinError::OtherIncarnation { .. })),
        "the former store deletes still: {refused:?}"
    );
    let next = rig.thin(volume(12), false, false);
    rig.agent.create_thin(Some(other), next).unwrap();
    let nowhere = PoolId::from_bytes([7; 16]);
    let refused = rig.agent.adopt_pool(other, nowhere, None).unwrap_err();
    assert!(matches!(refused, PoolError::NotOpen(_)), "{refused}");
}

#[test]
fn marks_are_kept_with_the_row_across_restarts_and_refused_where_a_change_is() {
    let mut rig = rig();
    create(&rig, 11).unwrap();
    let mark = |rig: &Rig, caller, owner, text: &str, epoch| {
        rig.agent.mark_thin(caller, owner, text.to_owned(), epoch)
    };
    for text in ["one", "two", "two"] {
        mark(&rig, Some(STORE), volume(11), text, 1).unwrap();
    }
    rig.restart();
    assert_eq!(rig.agent.thin(volume(11)).unwrap().record.marks, "two");
    let other = Some(Incarnation::from_bytes([3; 16]));
    for (caller, owner, epoch) in [(other, 11, 1), (None, 11, 1), (Some(STORE), 12, 1)] {
        assert!(mark(&rig, caller, volume(owner), "three", epoch).is_err());
    }
    // The same call again, of a volume that is made already, changes none of it.
    create(&rig, 11).unwrap();
    assert_eq!(rig.agent.thin(volume(11)).unwrap().record.marks, "two");
}
