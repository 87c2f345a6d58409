//! One name, one folder, one link: what fights over a name is refused before anything is written.
//! On the fake kernel.

use goldleaf_types::{Bytes, Incarnation, PoolId};

use super::rig::{HOST, Rig, snap, snapshot, volume};
use super::*;
use crate::catalogue::read_label;

const POOL: PoolId = PoolId::from_bytes([1; 16]);
const OTHER: PoolId = PoolId::from_bytes([7; 16]);
const STORE: Option<Incarnation> = Some(Incarnation::from_bytes([2; 16]));

/// A pool with a live volume 11.
fn rig() -> Rig {
    let rig = Rig::new();
    rig.agent.create_pool(STORE, rig.pool()).unwrap();
    let request = rig.thin(volume(11), false, true);
    rig.agent.create_thin(STORE, request).unwrap();
    rig
}

/// Another pool of the same name, on a device of its own.
fn namesake(rig: &Rig) -> CreatePool {
    let path = rig.dir.path().join("pools/namesake.pool");
    let create = Some(Bytes(256 << 20));
    CreatePool {
        id: OTHER,
        devices: vec![DeviceRequest { path, create }],
        ..rig.pool()
    }
}

#[test]
fn a_second_volume_of_a_name_is_refused_and_a_snapshot_may_have_it() {
    let rig = rig();
    let name = rig.agent.thin(volume(11)).unwrap().record.name;
    let same_name = CreateThin {
        name: name.clone(),
        ..rig.thin(volume(12), false, false)
    };
    let copy = |owner| CreateSnapshot {
        name: name.clone(),
        ..snap(owner, volume(11), false)
    };
    for refused in [
        rig.agent.create_thin(STORE, same_name.clone()),
        rig.agent.create_snapshot(STORE, copy(volume(12))),
    ] {
        assert!(
            matches!(refused, Err(ThinError::NameTaken { other, .. }) if other == volume(11)),
            "{refused:?}"
        );
    }
    let pool = rig.agent.pools.open(POOL).unwrap();
    assert_eq!(pool.catalogue.all().len(), 1, "a wish was written");
    rig.agent
        .create_snapshot(STORE, copy(snapshot(21)))
        .unwrap();
    rig.agent.deactivate(volume(11), 1).unwrap();
    rig.agent.delete_thin(STORE, volume(11), None, 1).unwrap();
    rig.agent.create_thin(STORE, same_name).unwrap();
    rig.agent.activate(volume(12), HOST, 1).unwrap();
}

#[test]
fn a_pool_of_a_name_that_an_open_one_has_is_neither_made_nor_opened_nor_claimed() {
    let rig = rig();
    let taken = |refused: Result<PoolView, PoolError>, by| {
        assert!(
            matches!(refused, Err(PoolError::NameTaken { other, .. }) if other == by),
            "{refused:?}"
        );
    };
    taken(rig.agent.create_pool(STORE, namesake(&rig)), POOL);
    let path = namesake(&rig).devices.remove(0).path;
    assert!(!path.exists(), "a file was made");
    // Made while the first was away.
    rig.agent.deactivate(volume(11), 1).unwrap();
    rig.agent.close_pool(POOL, STORE).unwrap();
    rig.agent.create_pool(STORE, namesake(&rig)).unwrap();
    let request = CreateThin {
        pool: OTHER,
        ..rig.thin(volume(12), false, true)
    };
    let link = rig.agent.create_thin(STORE, request).unwrap().path.unwrap();
    taken(rig.agent.open_pool(POOL, STORE), OTHER);
    let first = rig.pool().devices.remove(0).path;
    let import = ImportPool {
        devices: vec![first.clone()],
        force_from: None,
    };
    taken(rig.agent.import_pool(&import), OTHER);
    let label = read_label(&std::fs::File::open(first).unwrap());
    assert!(label.unwrap().unwrap().clean, "it was claimed");
    assert!(!rig.kernel.world().pools[&POOL].live, "a table was built");
    assert!(link.is_symlink(), "the other's link is gone");
    // With the name free it opens.
    rig.agent.deactivate(volume(12), 1).unwrap();
    rig.agent.close_pool(OTHER, STORE).unwrap();
    rig.agent.open_pool(POOL, STORE).unwrap();
}

/// Volumes of a pool that does not open go on, and so do their links.
#[test]
fn a_fresh_pool_clears_no_link_of_a_pool_of_its_name_that_did_not_open() {
    let mut rig = rig();
    let link = rig.agent.thin(volume(11)).unwrap().path.unwrap();
    let path = rig.pool().devices.remove(0).path;
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_len(64 << 20).unwrap();
    rig.restart();
    assert!(rig.agent.pools.open(POOL).is_none(), "it shrank");
    rig.agent.create_pool(STORE, namesake(&rig)).unwrap();
    rig.agent.close_pool(OTHER, STORE).unwrap();
    assert!(link.is_symlink(), "a running volume's link is gone");
}

#[test]
fn of_two_pools_of_one_name_that_a_start_finds_one_opens_whichever_is_first() {
    let mut rig = rig();
    rig.agent.deactivate(volume(11), 1).unwrap();
    let path = rig.pool().devices.remove(0).path;
    let file = std::fs::File::options().write(true).open(path).unwrap();
    let size = file.metadata().unwrap().len();
    file.set_len(64 << 20).unwrap();
    rig.restart();
    rig.agent.create_pool(STORE, namesake(&rig)).unwrap();
    file.set_len(size).unwrap();
    for _ in 0..10 {
        rig.restart();
        let open = [POOL, OTHER].map(|id| rig.agent.pools.open(id).is_some());
        assert!(open[0] != open[1], "{open:?}");
    }
}
