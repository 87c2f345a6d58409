//! Two hosts and one pool's devices: whose it is, by force or not, and what comes with it.

use goldleaf_types::{Incarnation, NodeId, PoolId};

use super::rig::{Rig, volume};
use super::*;
use crate::failpoint::{Point, test::die_at};

const POOL: PoolId = PoolId::from_bytes([1; 16]);
const STORE: Option<Incarnation> = Some(Incarnation::from_bytes([2; 16]));
const OTHER_STORE: Option<Incarnation> = Some(Incarnation::from_bytes([3; 16]));

fn rig() -> Rig {
    let rig = Rig::new();
    rig.agent.create_pool(STORE, rig.pool()).unwrap();
    let thin = rig.thin(volume(11), false, false);
    rig.agent.create_thin(STORE, thin).unwrap();
    rig
}

/// The pool's devices.
fn devices(rig: &Rig) -> Vec<std::path::PathBuf> {
    let view = rig.agent.pools(Look::Everywhere).remove(0);
    view.devices
}

/// The rig's agent is of another host from now on, to which the same disks are plugged.
fn move_to_another_host(rig: &mut Rig) -> NodeId {
    let former = rig.host.node;
    rig.kernel.reboot();
    rig.host = crate::host::Host::find(Some("another"), Some("n2".parse().unwrap())).unwrap();
    rig.restart();
    former
}

fn import(
    rig: &Rig,
    paths: &[std::path::PathBuf],
    force: Option<NodeId>,
) -> Result<PoolView, PoolError> {
    let request = ImportPool {
        devices: paths.to_vec(),
        force_from: force,
    };
    rig.agent.import_pool(&request)
}

#[test]
fn a_released_pool_is_imported_with_its_volumes_and_adopted_only_from_the_store_that_has_it() {
    let mut rig = rig();
    let devices = devices(&rig);
    rig.agent.close_pool(POOL, STORE).unwrap();
    move_to_another_host(&mut rig);
    for _ in 0..2 {
        let view = import(&rig, &devices, None).unwrap();
        assert!(
            matches!(view.state, PoolState::Open { thins: 1, .. }),
            "{view:?}"
        );
    }
    assert_eq!(rig.agent.thin(volume(11)).unwrap().record.owner, volume(11));
    // Whose store has it does not change by that alone.
    let other = OTHER_STORE.unwrap();
    for stranger in [None, OTHER_STORE, Some(Incarnation::from_bytes([9; 16]))] {
        let refused = rig.agent.adopt_pool(other, POOL, stranger).unwrap_err();
        assert!(
            matches!(refused, PoolError::OtherIncarnation { .. }),
            "{refused}"
        );
    }
    for _ in 0..2 {
        rig.agent.adopt_pool(other, POOL, STORE).unwrap();
    }
    let next = rig.thin(volume(12), false, false);
    let stale = rig.agent.create_thin(STORE, next.clone()).unwrap_err();
    assert!(matches!(stale, ThinError::OtherIncarnation(_)), "{stale}");
    rig.agent.create_thin(OTHER_STORE, next).unwrap();
}

/// The law: what another host did not release is taken only by naming that host, and then that host
/// refuses it.
#[test]
fn law_foreign_host_by_force() {
    let mut rig = rig();
    let devices = devices(&rig);
    let home = rig.host.clone();
    let former = move_to_another_host(&mut rig);
    for force in [None, Some(NodeId::from_bytes([8; 16])), Some(rig.host.node)] {
        let refused = import(&rig, &devices, force).unwrap_err();
        let text = refused.to_string();
        assert!(matches!(refused, PoolError::ForeignHost { .. }), "{text}");
        assert!(
            text.contains(&former.to_string()) && text.contains("20"),
            "{text}"
        );
        assert!(!rig.kernel.world().pools[&POOL].live, "a table was built");
    }
    import(&rig, &devices, Some(former)).unwrap();
    assert!(rig.agent.thin(volume(11)).is_ok());
    // A call that was meant for it there comes too late here.
    let how = rig::HOST;
    for late in [
        rig.agent.activate(volume(11), how, 1).map(drop),
        rig.agent.delete_thin(STORE, volume(11), None, 1),
    ] {
        let stale = matches!(late, Err(ThinError::StaleEpoch { now: 2, .. }));
        assert!(stale, "{late:?}");
    }
    rig.agent.activate(volume(11), how, 2).unwrap();
    rig.restart();
    assert_eq!(rig.agent.thin(volume(11)).unwrap().record.epoch, 2);
    rig.agent.deactivate(volume(11), 2).unwrap();
    // The former host is back.
    rig.host = home;
    rig.kernel.reboot();
    rig.restart();
    assert!(rig.agent.pools.open(POOL).is_none(), "two hosts have it");
    let refused = rig.agent.open_pool(POOL, OTHER_STORE).unwrap_err();
    assert!(
        matches!(refused, PoolError::ForeignHost { .. }),
        "{refused}"
    );
}

#[test]
fn an_import_that_dies_anywhere_is_finished_by_the_next_or_left_to_the_former_host() {
    let points = [
        Point::PoolClaimed,
        Point::PoolSettledIn,
        Point::PoolLive,
        Point::PoolTransactionWished,
        Point::PoolTransactionSet,
    ];
    for point in points {
        let mut rig = rig();
        let devices = devices(&rig);
        let former = move_to_another_host(&mut rig);
        die_at(Some(point));
        let request = ImportPool {
            devices: devices.clone(),
            force_from: Some(former),
        };
        let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            rig.agent.import_pool(&request)
        }));
        assert!(died.is_err(), "{point:?} was not reached");
        rig.kernel.reboot();
        rig.restart();
        import(&rig, &devices, Some(former)).unwrap();
        let epoch = rig.agent.thin(volume(11)).unwrap().record.epoch;
        assert_eq!(epoch, 2, "{point:?}: raised never, or twice");
    }
}

#[test]
fn a_missing_or_a_wrong_device_is_named_before_any_table() {
    let mut rig = rig();
    let paths = devices(&rig);
    rig.agent.close_pool(POOL, STORE).unwrap();
    move_to_another_host(&mut rig);
    let blank = rig.dir.path().join("pools/blank");
    let file = std::fs::File::create(&blank).unwrap();
    file.set_len(64 << 20).unwrap();
    let with_blank = [paths.clone(), vec![blank.clone()]].concat();
    let refused = import(&rig, &with_blank, None).unwrap_err();
    assert!(refused.to_string().contains("carries no pool"), "{refused}");
    let twice = [paths.clone(), paths.clone()].concat();
    assert!(import(&rig, &twice, None).is_err());
    assert!(import(&rig, &[], None).is_err());
    assert!(!rig.kernel.world().pools[&POOL].live);
    import(&rig, &paths, None).unwrap();
}

/// The law: a volume whose image is not on the host says so, is not activated over anything else,
/// and is as any other once the image is there.
#[test]
fn law_waiting_for_image() {
    let rig = Rig::new();
    rig.agent.create_pool(STORE, rig.pool()).unwrap();
    let thin = rig.thin(volume(11), true, false);
    rig.agent.create_thin(STORE, thin).unwrap();
    let image = rig.agent.thin(volume(11)).unwrap().record.image.unwrap();
    assert!(!rig.agent.thin(volume(11)).unwrap().waiting);
    let hex = image.digest.to_string().replace("sha256:", "");
    let content = rig.dir.path().join(format!("images/{hex}.raw"));
    let away = rig.dir.path().join("away.raw");
    std::fs::rename(&content, &away).unwrap();
    assert!(rig.agent.thin(volume(11)).unwrap().waiting);
    let how = Activation {
        holder: crate::catalogue::Holder::Host,
        read_only: false,
    };
    let refused = rig.agent.activate(volume(11), how, 0).unwrap_err();
    assert!(
        matches!(refused, ThinError::Image(_) | ThinError::ImageMissing(_)),
        "{refused}"
    );
    assert!(rig.agent.thin(volume(11)).unwrap().live.is_none());
    std::fs::rename(&away, &content).unwrap();
    assert!(!rig.agent.thin(volume(11)).unwrap().waiting);
    rig.agent.activate(volume(11), how, 0).unwrap();
}
