//! Pools in bad moments: half deleted, given up by the kernel, refused, raced. On the fake kernel.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use goldleaf_dm::PoolMode;
use goldleaf_types::{Bytes, Incarnation, PoolId, ThinId};

use super::rig::{Rig, volume};
use super::*;
use crate::catalogue::{Label, read_label, write_label};

const POOL: PoolId = PoolId::from_bytes([1; 16]);
const STORE: Option<Incarnation> = Some(Incarnation::from_bytes([2; 16]));

fn rig() -> Rig {
    let rig = Rig::new();
    rig.agent.create_pool(STORE, rig.pool()).unwrap();
    rig
}

fn create(rig: &Rig, n: u8, active: bool) -> Result<ThinView, ThinError> {
    rig.agent
        .create_thin(STORE, rig.thin(volume(n), false, active))
}

fn doubt(rig: &Rig) -> Option<Doubt> {
    match rig.agent.pools(Look::Everywhere).remove(0).state {
        PoolState::Open { doubt, .. } => doubt,
        other @ (PoolState::Closed | PoolState::Opening { .. } | PoolState::Unopenable(_)) => {
            panic!("{other:?}")
        }
    }
}

fn open(path: &std::path::Path) -> std::fs::File {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).open(path).unwrap()
}

/// What of the pool's folder is there.
fn files(rig: &Rig) -> Vec<String> {
    let folder = std::fs::read_dir(rig.dir.path().join("pools"));
    let names = folder
        .into_iter()
        .flatten()
        .map(|f| f.unwrap().file_name().into_string().unwrap());
    names.collect()
}

#[test]
fn a_pool_that_the_kernel_made_read_only_opens_again_and_can_be_closed() {
    for reboot in [false, true] {
        let mut rig = rig();
        create(&rig, 11, true).unwrap();
        rig.kernel.world().pools.get_mut(&POOL).unwrap().mode = Some(PoolMode::ReadOnly);
        if reboot {
            rig.kernel.reboot();
        }
        rig.restart();
        assert!(
            matches!(doubt(&rig), Some(Doubt::NotWritable { .. })),
            "reboot {reboot}: {:?}",
            doubt(&rig)
        );
        assert!(rig.agent.thin(volume(11)).unwrap().live.is_some());
        let refused = create(&rig, 12, false);
        assert!(
            matches!(refused, Err(ThinError::PoolReadOnly { .. })),
            "{refused:?}"
        );
        rig.agent.deactivate(volume(11), 1).unwrap();
        rig.agent.close_pool(POOL, STORE).unwrap();
        assert!(!rig.kernel.world().pools[&POOL].live);
        // Mended meanwhile.
        rig.kernel.world().pools.get_mut(&POOL).unwrap().mode = None;
        rig.agent.open_pool(POOL, STORE).unwrap();
        assert_eq!(doubt(&rig), None);
        create(&rig, 12, false).unwrap();
    }
}

#[test]
fn closing_a_pool_that_did_not_open_leaves_no_tables() {
    let mut rig = rig();
    let path = rig.pool().devices.remove(0).path;
    open(&path).set_len(64 << 20).unwrap();
    rig.restart();
    assert!(rig.agent.pools.open(POOL).is_none(), "it shrank");
    assert!(rig.kernel.world().pools[&POOL].live);
    rig.agent.close_pool(POOL, STORE).unwrap();
    assert!(!rig.kernel.world().pools[&POOL].live, "tables stayed");
}

#[test]
fn a_rolled_back_pool_is_loaded_read_only_and_so_are_its_volumes() {
    let mut rig = rig();
    create(&rig, 11, true).unwrap();
    rig.kernel.reboot();
    rig.kernel.world().pools.get_mut(&POOL).unwrap().transaction += 7;
    for _ in 0..2 {
        rig.restart();
        let found = doubt(&rig);
        assert!(matches!(found, Some(Doubt::RolledBack { .. })), "{found:?}");
        let world = rig.kernel.world();
        assert!(world.pools[&POOL].read_only, "the pool takes writes");
        assert!(world.live[&volume(11)].read_only, "the volume takes writes");
    }
}

#[test]
fn a_volume_made_while_its_pool_is_deleted_keeps_the_pool() {
    let rig = rig();
    let agent = Arc::clone(&rig.agent);
    let request = rig.thin(volume(11), false, false);
    rig.kernel.before_no_pool(move || {
        agent.create_thin(STORE, request).unwrap();
    });
    let refused = rig.agent.delete_pool(POOL, STORE, Which::Empty);
    assert!(
        matches!(refused, Err(PoolError::NotEmpty { count: 1, .. })),
        "{refused:?}"
    );
    rig.agent.thin(volume(11)).unwrap();
    create(&rig, 12, true).unwrap();
}

#[test]
fn a_reader_of_the_pool_does_not_stop_its_deletion() {
    let rig = rig();
    let reader = rig.agent.pools.open(POOL).unwrap();
    rig.agent.delete_pool(POOL, STORE, Which::Empty).unwrap();
    assert_eq!(files(&rig), [""; 0]);
    assert!(reader.catalogue.all().is_empty());
}

#[test]
fn a_half_deleted_pool_is_not_opened_and_not_wiped_while_a_device_is_away() {
    let mut rig = Rig::new();
    let mut request = rig.pool_of_two();
    request.devices.push(DeviceRequest {
        path: rig.dir.path().join("pools/third.pool"),
        create: Some(Bytes(64 << 20)),
    });
    let path = |n: usize| request.devices[n].path.clone();
    rig.agent.create_pool(STORE, request.clone()).unwrap();
    rig.agent.close_pool(POOL, STORE).unwrap();
    let first = open(&path(0));
    let half = Label {
        layout_generation: 0,
        clean: false,
        ..read_label(&first).unwrap().unwrap()
    };
    write_label(&first, &half).unwrap();
    drop(first);
    rig.restart();
    match rig.agent.pools(Look::Everywhere).remove(0).state {
        PoolState::Unopenable(why) => assert!(why.contains("cut short"), "{why}"),
        other @ (PoolState::Closed | PoolState::Opening { .. } | PoolState::Open { .. }) => {
            panic!("{other:?}")
        }
    }
    let away = rig.dir.path().join("away");
    std::fs::rename(path(2), &away).unwrap();
    match rig.agent.delete_pool(POOL, STORE, Which::Empty) {
        Err(PoolError::MissingDevice { missing, .. }) => assert_eq!(missing, "data device 2"),
        other => panic!("{other:?}"),
    }
    std::fs::rename(&away, path(2)).unwrap();
    // Without the device that says so, nobody knows that it is half.
    std::fs::rename(path(0), &away).unwrap();
    let refused = rig.agent.delete_pool(POOL, STORE, Which::Empty);
    assert!(
        matches!(refused, Err(PoolError::Mismatch { .. })),
        "{refused:?}"
    );
    std::fs::rename(&away, path(0)).unwrap();
    rig.agent.delete_pool(POOL, STORE, Which::Empty).unwrap();
    assert_eq!(files(&rig), [""; 0]);
}

#[test]
fn a_refused_pool_leaves_no_file_and_the_corrected_call_succeeds() {
    let rig = Rig::new();
    let small = |n: usize| {
        let mut request = rig.pool_of_two();
        request.devices[n].create = Some(Bytes(1 << 20));
        request
    };
    for n in 0..2 {
        let refused = rig.agent.create_pool(STORE, small(n));
        assert!(matches!(refused, Err(PoolError::Layout(_))), "{refused:?}");
        assert_eq!(files(&rig), [""; 0], "device {n} too small");
    }
    // The second is only refused when the first was made already.
    rig.kernel.world().disks_used = true;
    let refused = rig.agent.create_pool(STORE, rig.pool_of_two());
    assert!(
        matches!(refused, Err(PoolError::DeviceInUse { .. })),
        "{refused:?}"
    );
    assert_eq!(files(&rig), [""; 0]);
    rig.kernel.world().disks_used = false;
    rig.agent.create_pool(STORE, rig.pool_of_two()).unwrap();
    assert_eq!(files(&rig).len(), 2);
}

#[test]
fn a_disk_that_somebody_uses_is_refused_before_anything_is_written() {
    let rig = Rig::new();
    let mut request = rig.pool();
    let path = request.devices[0].path.clone();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::File::create(&path)
        .unwrap()
        .set_len(256 << 20)
        .unwrap();
    request.devices[0].create = None;
    rig.kernel.world().disks_used = true;
    match rig.agent.create_pool(STORE, request.clone()) {
        Err(PoolError::DeviceInUse { by, .. }) => assert!(by.contains("dm-9"), "{by}"),
        other => panic!("{other:?}"),
    }
    let file = std::fs::File::open(&path).unwrap();
    assert!(read_label(&file).unwrap().is_none(), "it was labelled");
    drop(file);
    rig.kernel.world().disks_used = false;
    rig.agent.create_pool(STORE, request.clone()).unwrap();
    // Its own tables use it now: asking again is no refusal.
    rig.agent.close_pool(POOL, STORE).unwrap();
    rig.kernel.world().disks_used = true;
    rig.agent.create_pool(STORE, request).unwrap();
}

#[test]
fn pool_files_are_for_root_alone() {
    let rig = rig();
    let path = rig.pool().devices.remove(0).path;
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
}

/// A start looks at everything; the sweep after it looks at what is new, also while a pool does
/// not open.
#[test]
fn a_start_looks_everywhere_and_the_sweep_only_at_what_is_new() {
    let mut rig = rig();
    let path = rig.pool().devices.remove(0).path;
    rig.restart();
    let generation = |rig: &Rig| {
        let found = rig.agent.pools.scanner.scan(Look::AtNew);
        found[&POOL][0].label.layout_generation
    };
    let lost = Rig::new();
    let other = rig.dir.path().join("pools/other.pool");
    lost.agent.create_pool(STORE, lost.pool()).unwrap();
    std::fs::copy(lost.pool().devices.remove(0).path, &other).unwrap();
    let file = open(&other);
    // Another pool of this host, of two devices, one of which is not there.
    let whole = Label {
        pool: PoolId::from_bytes([7; 16]),
        data_count: 2,
        ..read_label(&file).unwrap().unwrap()
    };
    write_label(&file, &whole).unwrap();
    rig.agent.sweep();
    assert!(
        rig.agent.pools(Look::AtNew).iter().any(
            |p| matches!(&p.state, PoolState::Unopenable(why) if why.contains("data device 1"))
        ),
        "a new one was not tried"
    );
    let before = generation(&rig);
    let file = open(&path);
    let label = read_label(&file).unwrap().unwrap();
    let newer = Label {
        layout_generation: before + 1,
        ..label
    };
    write_label(&file, &newer).unwrap();
    rig.agent.sweep();
    assert_eq!(generation(&rig), before, "the sweep looked at a known one");
    rig.agent.start();
    assert_eq!(generation(&rig), before + 1, "the start did not look");
}

#[test]
fn lost_data_is_no_longer_told_of_when_its_row_is_deleted() {
    let mut rig = rig();
    let thin = create(&rig, 11, false).unwrap().record.thin;
    let lost = |rig: &Rig| match rig.agent.pools(Look::AtNew).remove(0).state {
        PoolState::Open { missing, .. } => missing,
        other @ (PoolState::Closed | PoolState::Opening { .. } | PoolState::Unopenable(_)) => {
            panic!("{other:?}")
        }
    };
    let forget = |thin: ThinId| {
        rig.kernel
            .world()
            .pools
            .get_mut(&POOL)
            .unwrap()
            .thins
            .remove(&thin)
    };
    assert!(forget(thin).is_some());
    rig.restart();
    assert_eq!(lost(&rig), [volume(11)]);
    rig.agent.delete_thin(STORE, volume(11), None, 1).unwrap();
    assert_eq!(lost(&rig), []);
    create(&rig, 12, true).unwrap();
}

/// Which thins a closed pool has is not known, and another store's deletions count for nothing.
#[test]
fn a_thin_is_called_absent_without_a_pool_only_while_every_pool_of_the_host_is_open() {
    let rig = rig();
    let delete = |caller| rig.agent.delete_thin(caller, volume(11), None, 1);
    let refused = delete(Some(Incarnation::from_bytes([3; 16])));
    assert!(
        matches!(refused, Err(ThinError::OtherIncarnation(_))),
        "{refused:?}"
    );
    rig.agent.close_pool(POOL, STORE).unwrap();
    let refused = delete(STORE);
    assert!(
        matches!(refused, Err(ThinError::NoPool(POOL))),
        "{refused:?}"
    );
    rig.agent.open_pool(POOL, STORE).unwrap();
    // Neither of the refused ones called it deleted.
    create(&rig, 11, false).unwrap();
    delete(STORE).unwrap();
    delete(STORE).unwrap();
    let late = create(&rig, 11, false);
    assert!(matches!(late, Err(ThinError::Deleted(_))), "{late:?}");
}

#[test]
fn a_pool_goes_with_all_in_it_open_or_closed_but_not_while_active_or_anothers() {
    let rig = rig();
    create(&rig, 11, true).unwrap();
    let all = |rig: &Rig| rig.agent.delete_pool(POOL, STORE, Which::WithAllInIt);
    let refused = all(&rig);
    assert!(
        matches!(refused, Err(PoolError::Active { count: 1, .. })),
        "{refused:?}"
    );
    rig.agent.thin(volume(11)).unwrap();
    rig.agent.deactivate(volume(11), 1).unwrap();
    rig.agent.close_pool(POOL, STORE).unwrap();
    let refused = rig.agent.delete_pool(POOL, STORE, Which::Empty);
    assert!(
        matches!(refused, Err(PoolError::Mismatch { .. })),
        "{refused:?}"
    );
    let path = rig.pool().devices.remove(0).path;
    let ours = read_label(&open(&path)).unwrap().unwrap();
    let anothers = Label {
        owner_host: [8; 16],
        clean: false,
        ..ours.clone()
    };
    write_label(&open(&path), &anothers).unwrap();
    rig.agent.pools.scanner.forget();
    let refused = all(&rig);
    assert!(
        matches!(refused, Err(PoolError::ForeignHost { .. })),
        "{refused:?}"
    );
    write_label(&open(&path), &ours).unwrap();
    rig.agent.pools.scanner.forget();
    let refused = rig.agent.delete_pool(POOL, None, Which::WithAllInIt);
    assert!(
        matches!(refused, Err(PoolError::OtherIncarnation(_))),
        "{refused:?}"
    );
    all(&rig).unwrap();
    assert_eq!(files(&rig), [""; 0]);
}

#[test]
fn another_name_is_on_the_label_also_when_a_crash_left_the_former_one_there() {
    let mut rig = rig();
    create(&rig, 11, true).unwrap();
    let path = rig.pool().devices.remove(0).path;
    let label = || read_label(&open(&path)).unwrap().unwrap();
    let former = label();
    let name = "slow".parse().unwrap();
    let refused = rig.agent.rename_pool(POOL, STORE, &name);
    assert!(
        matches!(refused, Err(PoolError::Active { .. })),
        "{refused:?}"
    );
    assert_eq!(label().pool_name, "fast");
    rig.agent.deactivate(volume(11), 1).unwrap();
    let view = rig.agent.rename_pool(POOL, STORE, &name).unwrap();
    assert_eq!((view.name, label().pool_name), (name, "slow".to_owned()));
    write_label(&open(&path), &former).unwrap();
    rig.restart();
    assert_eq!(label().pool_name, "slow");
    rig.agent.close_pool(POOL, STORE).unwrap();
    assert_eq!(label().pool_name, "slow");
}

/// What fails after the tables are gone leaves a pool that is closed and not half open.
#[test]
fn a_close_that_fails_in_the_middle_leaves_a_pool_that_opens_again() {
    let rig = rig();
    create(&rig, 11, false).unwrap();
    let row = rig.agent.thin(volume(11)).unwrap().record;
    let link = rig.agent.links.path(&"fast".parse().unwrap(), &row.name);
    std::fs::create_dir_all(link.join("in the way")).unwrap();
    let error = rig.agent.close_pool(POOL, STORE).unwrap_err();
    assert!(error.to_string().contains("links"), "{error}");
    let refused = create(&rig, 12, false).unwrap_err();
    assert!(matches!(refused, ThinError::NoPool(_)), "{refused}");
    std::fs::remove_dir_all(&link).unwrap();
    rig.agent.open_pool(POOL, STORE).unwrap();
    create(&rig, 12, false).unwrap();
    rig.check("opened again");
    rig.agent.close_pool(POOL, STORE).unwrap();
}

/// Somebody looks at the pool, as a watch or an event does, while it is closed or deleted.
#[test]
fn devices_are_free_once_a_pool_is_closed_or_deleted_whoever_looks_at_it() {
    let rig = rig();
    let looking = rig.agent.pools.open(POOL).unwrap();
    rig.agent.close_pool(POOL, STORE).unwrap();
    rig.agent.open_pool(POOL, STORE).unwrap();
    drop(looking);
    // The lock is the new opening's: who looked at the old one does not take it away.
    let path = rig.dir.path().join("pools/fast.pool");
    let device = open(&path);
    let lock = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    rustix::fs::flock(&device, lock).unwrap_err();
    drop(device);
    let looking = rig.agent.pools.open(POOL).unwrap();
    rig.agent.delete_pool(POOL, STORE, Which::Empty).unwrap();
    rig.agent.create_pool(STORE, rig.pool()).unwrap();
    drop(looking);
}

/// Whoever asks again for a pool that is made and closed must mean that one.
#[test]
fn a_closed_pool_is_made_again_by_the_same_request_alone() {
    let rig = Rig::new();
    let request = rig.pool_of_two();
    rig.agent.create_pool(STORE, request.clone()).unwrap();
    let close = || rig.agent.close_pool(POOL, STORE).unwrap();
    close();
    let [first, second] = [0, 1].map(|n| DeviceRequest {
        create: None,
        ..request.devices[n].clone()
    });
    let blank = DeviceRequest {
        path: rig.dir.path().join("pools/blank.pool"),
        create: Some(Bytes(256 << 20)),
    };
    let labels = || [&first, &second].map(|d| read_label(&open(&d.path)).unwrap().unwrap());
    let before = labels();
    for devices in [
        vec![blank.clone(), second.clone()],
        vec![first.clone(), blank],
        vec![second.clone(), first.clone()],
    ] {
        let other = CreatePool {
            devices,
            ..request.clone()
        };
        let refused = rig.agent.create_pool(STORE, other).unwrap_err();
        assert!(matches!(refused, PoolError::Mismatch { .. }), "{refused:?}");
        assert_eq!(labels(), before);
        assert!(rig.agent.pools.open(POOL).is_none());
    }
    let renamed = CreatePool {
        name: "slow".parse().unwrap(),
        ..request.clone()
    };
    let refused = rig.agent.create_pool(STORE, renamed).unwrap_err();
    assert!(
        matches!(refused, PoolError::Conflict { field: "name", .. }),
        "{refused:?}"
    );
    close();
    let stranger = rig.agent.create_pool(None, request.clone()).unwrap_err();
    assert!(
        matches!(stranger, PoolError::OtherIncarnation { .. }),
        "{stranger:?}"
    );
    close();
    rig.agent.create_pool(STORE, request).unwrap();
}
