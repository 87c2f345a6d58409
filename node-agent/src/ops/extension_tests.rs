//! Extending pools on the fake kernel: what is refused, what a repeated call does, what is left.

use goldleaf_types::{Bytes, Incarnation, PoolId};

use super::rig::{Rig, volume};
use super::*;
use crate::catalogue::read_label;

const POOL: PoolId = PoolId::from_bytes([1; 16]);
const STORE: Option<Incarnation> = Some(Incarnation::from_bytes([2; 16]));
const MIB: u64 = 1 << 20;

fn rig() -> Rig {
    let rig = Rig::new();
    rig.agent.create_pool(STORE, rig.pool()).unwrap();
    rig
}

fn nothing() -> ExtendPool {
    ExtendPool {
        id: POOL,
        devices: vec![],
        metadata_devices: vec![],
        spares: vec![],
        grow: vec![],
        metadata: Bytes(0),
    }
}

fn loaded(rig: &Rig) -> (u64, u64) {
    let world = rig.kernel.world();
    let pool = &world.pools[&POOL];
    (pool.data_len * 512 / MIB, pool.metadata_len * 512 / MIB)
}

fn grow(rig: &Rig, mib: u64) -> ExtendPool {
    ExtendPool {
        grow: vec![GrowDevice {
            path: rig.pool().devices[0].path.clone(),
            size: Some(Bytes(mib * MIB)),
        }],
        ..nothing()
    }
}

fn add(rig: &Rig, name: &str, mib: u64, metadata: u64) -> ExtendPool {
    ExtendPool {
        devices: vec![DeviceRequest {
            path: rig.dir.path().join("pools").join(name),
            create: Some(Bytes(mib * MIB)),
        }],
        metadata: Bytes(metadata * MIB),
        ..nothing()
    }
}

#[test]
fn a_pool_grows_by_files_that_grow_and_by_new_ones_and_again_after_a_restart() {
    let mut rig = rig();
    let (data, metadata) = loaded(&rig);
    rig.agent.extend_pool(STORE, &grow(&rig, 512)).unwrap();
    assert_eq!(loaded(&rig), (data + 256, metadata));
    rig.agent.extend_pool(STORE, &grow(&rig, 512)).unwrap();
    let request = add(&rig, "more.pool", 256, 32);
    for _ in 0..2 {
        // 1 MiB of labels; the catalogue's twin is on the first device.
        let view = rig.agent.extend_pool(STORE, &request).unwrap();
        assert_eq!(view.devices.len(), 2);
        assert_eq!(loaded(&rig), (data + 256 + 256 - 1 - 32, metadata + 32));
    }
    let before = loaded(&rig);
    rig.kernel.reboot();
    rig.restart();
    assert!(rig.agent.pools.open(POOL).is_some());
    assert_eq!(loaded(&rig), before);
    rig.agent
        .create_thin(STORE, rig.thin(volume(11), false, true))
        .unwrap();
    rig.agent.extend_pool(STORE, &grow(&rig, 600)).unwrap();
    assert_eq!(loaded(&rig), (before.0 + 88, before.1));
}

#[test]
fn what_cannot_serve_is_refused_and_leaves_nothing() {
    let rig = rig();
    let before = loaded(&rig);
    let elsewhere = ExtendPool {
        grow: vec![GrowDevice {
            path: "/dev/null".into(),
            size: None,
        }],
        ..nothing()
    };
    let mut odd = grow(&rig, 300);
    odd.grow[0].size = Some(Bytes(300 * MIB + 512));
    let requests = [
        (elsewhere, "grow[0].path"),
        (odd, "multiple of 1 MiB"),
        (add(&rig, "small.pool", 1, 0), "needs at least"),
        (add(&rig, "more.pool", 64, 100), "were asked for"),
    ];
    for (request, words) in requests {
        let refused = rig.agent.extend_pool(STORE, &request).unwrap_err();
        assert!(refused.to_string().contains(words), "{words}: {refused}");
    }
    let stranger = rig.agent.extend_pool(None, &grow(&rig, 512));
    assert!(
        matches!(stranger, Err(PoolError::OtherIncarnation { .. })),
        "{stranger:?}"
    );
    assert_eq!(loaded(&rig), before);
    let folder = rig.dir.path().join("pools");
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1);
}

/// A copy of a device that an array made, or another path to it.
#[test]
fn a_copy_of_a_device_of_the_pool_is_named_and_left_as_it_is() {
    let rig = rig();
    let copy = rig.dir.path().join("pools/copy.pool");
    std::fs::copy(&rig.pool().devices[0].path, &copy).unwrap();
    let before = std::fs::read(&copy).unwrap();
    let onto_it = ExtendPool {
        devices: vec![DeviceRequest {
            path: copy.clone(),
            create: None,
        }],
        ..nothing()
    };
    for request in [add(&rig, "more.pool", 64, 0), onto_it] {
        let refused = rig.agent.extend_pool(STORE, &request).unwrap_err();
        assert!(
            refused
                .to_string()
                .contains("copy.pool says that it is data device 0"),
            "{refused}"
        );
        assert!(std::fs::read(&copy).unwrap() == before, "it was written to");
    }
    std::fs::remove_file(&copy).unwrap();
    rig.agent
        .extend_pool(STORE, &add(&rig, "more.pool", 64, 0))
        .unwrap();
}

#[test]
fn a_device_of_an_extension_that_was_cut_short_is_none_of_the_pool_and_another_can_take_its_place()
{
    let mut rig = rig();
    let request = add(&rig, "lost.pool", 256, 0);
    rig.agent.extend_pool(STORE, &request).unwrap();
    // As a crash before the label of data device 0 leaves it.
    let path = rig.pool().devices[0].path.clone();
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let after = read_label(&file).unwrap().unwrap();
    let before = crate::catalogue::Label {
        layout_generation: 1,
        data_count: 1,
        ..after
    };
    crate::catalogue::write_label(&file, &before).unwrap();
    {
        let mut world = rig.kernel.world();
        let pool = world.pools.get_mut(&POOL).unwrap();
        (pool.data_len, pool.metadata_len, pool.live) = (0, 0, false);
    }
    rig.restart();
    assert_eq!(rig.agent.pools.open(POOL).unwrap().devices().len(), 1);
    rig.kernel.world().disks_used = true;
    let used = rig.agent.extend_pool(STORE, &grow(&rig, 512)).unwrap_err();
    assert!(matches!(used, PoolError::DeviceInUse { .. }), "{used:?}");
    rig.kernel.world().disks_used = false;
    let view = rig
        .agent
        .extend_pool(STORE, &add(&rig, "other.pool", 128, 0))
        .unwrap();
    assert_eq!(view.devices.len(), 2);
    let lost = std::fs::File::open(rig.dir.path().join("pools/lost.pool")).unwrap();
    assert!(read_label(&lost).unwrap().is_none());
    rig.kernel.reboot();
    rig.restart();
    assert_eq!(rig.agent.pools.open(POOL).unwrap().devices().len(), 2);
}
