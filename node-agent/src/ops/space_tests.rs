//! A pool's room on the fake kernel: the brake, its release, what is admitted meanwhile.

use goldleaf_dm::METADATA_BLOCKS_MAX;
use goldleaf_types::{Bytes, Incarnation, PoolId, Sectors};

use super::rig::{HOST, Rig, snap, snapshot, volume};
use super::*;
use crate::catalogue::{read_label, write_label};

const POOL: PoolId = PoolId::from_bytes([1; 16]);
const STORE: Option<Incarnation> = Some(Incarnation::from_bytes([2; 16]));

/// Metadata blocks of the rig's pool.
const TOTAL: u64 = 8192;

fn rig() -> Rig {
    let rig = Rig::new();
    rig.agent.create_pool(STORE, rig.pool()).unwrap();
    rig
}

fn use_metadata(rig: &Rig, blocks: u64) {
    let mut world = rig.kernel.world();
    world.pools.get_mut(&POOL).unwrap().metadata_used = blocks;
}

fn mind(rig: &Rig) {
    rig.agent.mind_space(&rig.agent.pools.open(POOL).unwrap());
}

fn braked(rig: &Rig) -> (bool, bool) {
    let pool = rig.agent.pools.open(POOL).unwrap();
    assert_eq!(pool.doubt, None);
    let loaded = rig.kernel.world().pools[&POOL].read_only;
    (loaded, pool.is_braked())
}

fn create(rig: &Rig, n: u8, active: bool) -> Result<ThinView, ThinError> {
    rig.agent
        .create_thin(STORE, rig.thin(volume(n), false, active))
}

#[test]
fn the_brake_comes_before_the_metadata_is_used_up_and_goes_when_there_is_room() {
    for restart in [None, Some(false), Some(true)] {
        let mut rig = rig();
        create(&rig, 11, true).unwrap();
        use_metadata(&rig, TOTAL - 1100);
        mind(&rig);
        assert_eq!(braked(&rig), (false, false));
        use_metadata(&rig, TOTAL - 1000);
        mind(&rig);
        assert_eq!(braked(&rig), (true, true));
        if let Some(reboot) = restart {
            if reboot {
                rig.kernel.reboot();
            }
            rig.restart();
            assert_eq!(braked(&rig), (true, true), "reboot {reboot}");
        }
        assert!(rig.agent.thin(volume(11)).unwrap().live.is_some());
        let refused = rig.agent.delete_thin(STORE, volume(11), None, 1);
        assert!(refused.is_err(), "a message was sent");
        rig.agent.deactivate(volume(11), 1).unwrap();
        rig.agent.activate(volume(11), HOST, 1).unwrap();
        use_metadata(&rig, TOTAL - 1500);
        mind(&rig);
        assert_eq!(braked(&rig), (true, true), "released too soon");
        use_metadata(&rig, 100);
        mind(&rig);
        assert_eq!(braked(&rig), (false, false));
        create(&rig, 12, true).unwrap();
    }
}

/// Labels of an earlier version give more metadata than the kernel uses.
#[test]
fn the_brake_comes_also_to_a_pool_whose_metadata_is_longer_than_the_kernel_can_use() {
    let mut rig = Rig::new();
    let path = rig.dir.path().join("pools/fast.meta");
    let request = CreatePool {
        metadata: Some(DeviceRequest {
            path: path.clone(),
            create: Some(Bytes(17 << 30)),
        }),
        ..rig.pool()
    };
    rig.agent.create_pool(STORE, request).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(path);
    let file = file.unwrap();
    let mut label = read_label(&file).unwrap().unwrap();
    assert_eq!(label.regions[0].len.bytes().0, METADATA_BLOCKS_MAX * 4096);
    label.regions[0].len = Sectors(255 * (1 << 14) * 8);
    write_label(&file, &label).unwrap();
    rig.kernel.reboot();
    rig.restart();
    for (used, expected) in [(0, false), (METADATA_BLOCKS_MAX - 4096, true), (0, false)] {
        use_metadata(&rig, used);
        mind(&rig);
        assert_eq!(braked(&rig), (expected, expected), "{used} used");
    }
}

/// The pool serves while its brake is released.
#[test]
fn what_is_made_and_deleted_while_a_braked_pool_is_looked_through_is_neither_lost_nor_ownerless() {
    let rig = rig();
    let gone = create(&rig, 11, false).unwrap().record.thin;
    let lost = create(&rig, 13, false).unwrap().record.thin;
    use_metadata(&rig, TOTAL - 1000);
    mind(&rig);
    assert_eq!(braked(&rig), (true, true));
    use_metadata(&rig, 100);
    {
        let mut world = rig.kernel.world();
        let thins = &mut world.pools.get_mut(&POOL).unwrap().thins;
        thins.remove(&lost);
        thins.insert(goldleaf_types::ThinId::new(4711).unwrap(), 1);
    }
    let (agent, wish) = (Arc::clone(&rig.agent), rig.thin(volume(12), false, true));
    let (send, done) = std::sync::mpsc::channel();
    rig.kernel.while_held(move || {
        let made = agent.create_thin(STORE, wish).map(drop);
        let deleted = agent.delete_thin(STORE, volume(11), None, 1);
        send.send((made, deleted)).unwrap();
    });
    mind(&rig);
    let (made, deleted) = done.try_recv().unwrap();
    made.unwrap();
    deleted.unwrap();
    let pool = rig.agent.pools.open(POOL).unwrap();
    assert!(!rig.kernel.world().pools[&POOL].thins.contains_key(&gone));
    assert!(!pool.is_missing(volume(12)));
    assert!(pool.is_missing(volume(13)));
    assert_eq!(pool.record().quarantined, [4711]);
}

#[test]
fn nothing_new_is_admitted_on_the_last_quarter_of_the_metadata() {
    let rig = rig();
    create(&rig, 11, false).unwrap();
    use_metadata(&rig, TOTAL * 3 / 4 + 1);
    for refused in [
        create(&rig, 12, false),
        rig.agent
            .create_snapshot(STORE, snap(snapshot(21), volume(11), false)),
    ] {
        assert!(
            matches!(refused, Err(ThinError::MetadataLow(_))),
            "{refused:?}"
        );
    }
    create(&rig, 11, false).unwrap(); // it is there already
    rig.agent.delete_thin(STORE, volume(11), None, 1).unwrap();
}

/// A table that is loaded again makes the kernel call a full pool read-write until the next write.
#[test]
fn a_pool_without_a_free_block_is_full_whatever_mode_the_kernel_says() {
    let rig = rig();
    let first = create(&rig, 11, false).unwrap().record.thin;
    {
        let mut world = rig.kernel.world();
        let found = world.pools.get_mut(&POOL).unwrap();
        let all = found.data_len / 128;
        found.thins.insert(first, all);
        assert_eq!(found.mode, None);
    }
    for refused in [
        create(&rig, 12, false),
        rig.agent
            .create_snapshot(STORE, snap(snapshot(21), volume(11), false)),
    ] {
        assert!(
            matches!(refused, Err(ThinError::PoolFull(_))),
            "{refused:?}"
        );
    }
    create(&rig, 11, false).unwrap(); // it is there already
}

#[test]
fn the_kernel_is_asked_to_tell_us_before_the_metadata_can_be_used_up() {
    let rig = rig();
    let mark = || rig.kernel.world().pools[&POOL].low_water;
    let data = rig.kernel.world().pools[&POOL].data_len / 128;
    let spare = TOTAL - 1 - TOTAL / 8;
    assert_eq!(mark(), data - spare / 3);
    use_metadata(&rig, spare / 2);
    mind(&rig);
    assert_eq!(mark(), data - (spare - spare / 2) / 3);
}
