//! A repair and what goes on beside it: the other pools of the node never wait for it, and the pool
//! itself is touched by nobody else.

use std::sync::mpsc;
use std::time::Duration;

use goldleaf_types::{Bytes, PoolId};

use super::repair_tests::{STORE, ask, broken, damage, rig};
use super::rig::{POOL, Rig, volume};
use super::*;
use crate::kernel::fake::Damage;

const OTHER: PoolId = PoolId::from_bytes([4; 16]);

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

fn other(rig: &Rig) -> CreatePool {
    CreatePool {
        id: OTHER,
        name: "slow".parse().unwrap(),
        devices: vec![DeviceRequest {
            path: rig.dir.path().join("pools/slow.pool"),
            create: Some(Bytes(128 << 20)),
        }],
        ..rig.pool()
    }
}

/// Has the pool repaired, and calls `meanwhile` while that takes; what comes of the repair.
fn beside(rig: &Rig, meanwhile: impl FnOnce() + Send) -> Result<RepairReport, PoolError> {
    let (begun, has_begun) = mpsc::channel();
    let (ended, has_ended) = mpsc::channel();
    let (go, may_go) = mpsc::channel();
    rig.kernel.while_repairing(move || {
        begun.send(()).unwrap();
        may_go.recv_timeout(2 * LONG).unwrap();
    });
    std::thread::scope(|scope| {
        let repair = scope.spawn(|| ask(rig, true, false));
        has_begun.recv_timeout(LONG).expect("it does not begin");
        let other = scope.spawn(move || {
            meanwhile();
            ended.send(()).unwrap();
        });
        let in_time = has_ended.recv_timeout(LONG);
        go.send(()).unwrap();
        let repaired = repair.join().unwrap();
        other.join().unwrap();
        in_time.expect("it waited for the repair");
        repaired
    })
}

fn state(rig: &Rig, id: PoolId) -> PoolState {
    let views = rig.agent.pools(Look::Everywhere);
    views.into_iter().find(|view| view.id == id).unwrap().state
}

#[test]
fn other_pools_are_made_opened_closed_and_deleted_while_one_is_repaired() {
    let mut rig = rig();
    damage(&rig, broken());
    rig.kernel.reboot();
    rig.restart(); // it did not close, and does not open
    let report = beside(&rig, || {
        let agent = &rig.agent;
        agent.create_pool(Some(STORE), other(&rig)).unwrap();
        let thin = CreateThin {
            pool: OTHER,
            ..rig.thin(volume(41), false, false)
        };
        agent.create_thin(Some(STORE), thin).unwrap();
        agent.close_pool(OTHER, Some(STORE)).unwrap();
        agent.open_pool(OTHER, Some(STORE)).unwrap();
        agent.sweep();
        assert!(matches!(state(&rig, OTHER), PoolState::Open { .. }));
        let repaired = state(&rig, POOL);
        assert!(
            matches!(
                repaired,
                PoolState::Opening {
                    at: Opening::Repair,
                    ..
                }
            ),
            "{repaired:?}"
        );
        agent
            .delete_pool(OTHER, Some(STORE), Which::WithAllInIt)
            .unwrap();
    });
    assert_eq!(report.unwrap().outcome, RepairOutcome::Done);
    rig.check("repaired");
    assert!(matches!(state(&rig, POOL), PoolState::Open { .. }));
}

#[test]
fn every_other_verb_on_the_pool_that_is_repaired_is_told_so() {
    let rig = rig();
    rig.agent.close_pool(POOL, Some(STORE)).unwrap();
    damage(&rig, broken());
    let report = beside(&rig, || {
        let (agent, store) = (&rig.agent, Some(STORE));
        let name = "other".parse().unwrap();
        let import = ImportPool {
            devices: vec![rig.dir.path().join("pools/fast.pool")],
            force_from: None,
        };
        let policy = SetPolicy {
            id: POOL,
            no_space: None,
            wait_seconds: Some(1),
            overcommit_percent: None,
        };
        let refused = [
            agent.open_pool(POOL, store).err(),
            agent.close_pool(POOL, store).err(),
            agent.delete_pool(POOL, store, Which::WithAllInIt).err(),
            agent.create_pool(store, rig.pool()).err(),
            agent.import_pool(&import).err(),
            agent.rename_pool(POOL, store, &name).err(),
            agent.set_policy(store, policy).err(),
            agent.extend_pool(store, &ExtendPool::nothing(POOL)).err(),
        ];
        for (at, error) in refused.into_iter().enumerate() {
            let told = matches!(error, Some(PoolError::BeingRepaired(POOL)));
            assert!(told, "{at}: {error:?}");
        }
        // Nor does another take its name.
        let taken = agent.create_pool(
            store,
            CreatePool {
                name: "fast".parse().unwrap(),
                ..other(&rig)
            },
        );
        assert!(
            matches!(taken, Err(PoolError::NameTaken { .. })),
            "{taken:?}"
        );
    });
    assert_eq!(report.unwrap().outcome, RepairOutcome::Done);
    rig.check("repaired");
    rig.agent.close_pool(POOL, Some(STORE)).unwrap();
}

/// One that is open for reading is so until its repair is put in place, and what somebody activates
/// meanwhile is not taken away: the repair is refused then.
#[test]
fn an_open_pool_that_is_repaired_is_shown_open_and_a_volume_that_comes_up_keeps_it() {
    let rig = rig();
    let check = Damage {
        needs_check: true,
        ..Damage::default()
    };
    damage(&rig, check.clone());
    let report = beside(&rig, || {
        assert!(matches!(state(&rig, POOL), PoolState::Open { .. }));
        rig.agent.sweep();
        let how = Activation {
            read_only: true,
            ..super::rig::HOST
        };
        rig.agent.activate(volume(11), how, 1).unwrap();
        let closed = rig.agent.close_pool(POOL, Some(STORE));
        assert!(
            matches!(closed, Err(PoolError::BeingRepaired(POOL))),
            "{closed:?}"
        );
    });
    let refused = report.unwrap_err();
    assert!(matches!(refused, PoolError::Active { .. }), "{refused}");
    assert!(rig.agent.pools.open(POOL).is_some());
    assert_eq!(rig.kernel.world().pools[&POOL].damage, check);
    rig.agent.deactivate(volume(11), 1).unwrap();
    assert_eq!(ask(&rig, true, false).unwrap().outcome, RepairOutcome::Done);
    rig.check("repaired");
}
