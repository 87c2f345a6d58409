//! Spares on the fake kernel: when one is taken, what a crash leaves, what becomes of them.

use std::panic::{AssertUnwindSafe, catch_unwind};

use goldleaf_types::{Bytes, Incarnation, PoolId, ThinId};

use super::rig::Rig;
use super::*;
use crate::catalogue::read_label;
use crate::failpoint::Point;
use crate::failpoint::test::{Died, die_at};

const POOL: PoolId = PoolId::from_bytes([1; 16]);
const STORE: Option<Incarnation> = Some(Incarnation::from_bytes([2; 16]));
const MIB: u64 = 1 << 20;

/// Blocks of 64 KiB in `mib`.
const fn blocks(mib: u64) -> u64 {
    mib * 16
}

fn give(rig: &Rig, name: &str, mib: u64) {
    let request = ExtendPool {
        spares: vec![DeviceRequest {
            path: rig.dir.path().join("pools").join(name),
            create: Some(Bytes(mib * MIB)),
        }],
        ..ExtendPool::nothing(POOL)
    };
    for _ in 0..2 {
        rig.agent.extend_pool(STORE, &request).unwrap();
    }
}

fn rig() -> Rig {
    let rig = Rig::new();
    rig.agent.create_pool(STORE, rig.pool()).unwrap();
    rig
}

fn use_data(rig: &Rig, used: u64) {
    let mut world = rig.kernel.world();
    let thins = &mut world.pools.get_mut(&POOL).unwrap().thins;
    thins.insert(ThinId::new(4711).unwrap(), used);
}

/// Blocks of data, and names of the devices in use and of the spares.
fn seen(rig: &Rig) -> (u64, Vec<String>, Vec<String>) {
    let pool = rig.agent.pools.open(POOL).unwrap();
    let names = |paths: Vec<std::path::PathBuf>| {
        let name = |path: std::path::PathBuf| path.file_name().unwrap().display().to_string();
        paths.into_iter().map(name).collect()
    };
    let data = rig.kernel.world().pools[&POOL].data_len / 128;
    (data, names(pool.in_use()), names(pool.spares()))
}

#[test]
fn a_spare_waits_until_data_is_scarce_and_is_one_after_every_opening() {
    let mut rig = rig();
    let (data, ..) = seen(&rig);
    give(&rig, "a.pool", 64);
    give(&rig, "b.pool", 64);
    let waiting = (
        data,
        vec!["fast.pool".to_owned()],
        vec!["a.pool".to_owned(), "b.pool".to_owned()],
    );
    assert_eq!(seen(&rig), waiting);
    use_data(&rig, data - data / 5 - 1);
    rig.agent.use_spares();
    assert_eq!(seen(&rig), waiting);
    rig.kernel.reboot();
    rig.restart();
    assert_eq!(seen(&rig), waiting);
    use_data(&rig, data - data / 5);
    rig.agent.use_spares();
    let more = data + blocks(63);
    let after = (
        more,
        vec!["fast.pool".to_owned(), "a.pool".to_owned()],
        vec!["b.pool".to_owned()],
    );
    assert_eq!(seen(&rig), after);
    let pool = rig.agent.pools.open(POOL).unwrap();
    assert_eq!(pool.were_spares().len(), 1);
    drop(pool);
    rig.kernel.reboot();
    rig.restart();
    assert_eq!(seen(&rig), after);
    // A pool opens without its spare, and knows it again when it is back.
    let (here, away) = (
        rig.dir.path().join("pools/b.pool"),
        rig.dir.path().join("away"),
    );
    std::fs::rename(&here, &away).unwrap();
    rig.kernel.reboot();
    rig.restart();
    assert_eq!(seen(&rig).2, Vec::<String>::new());
    let file = std::fs::File::open(rig.dir.path().join("pools/a.pool")).unwrap();
    assert!(read_label(&file).unwrap().is_some());
    std::fs::rename(&away, &here).unwrap();
    rig.kernel.reboot();
    rig.restart();
    assert_eq!(seen(&rig), after);
}

#[test]
fn scarce_metadata_takes_as_much_again_from_a_spare_and_releases_the_brake() {
    let rig = rig();
    give(&rig, "a.pool", 256);
    let used = |blocks| {
        let mut world = rig.kernel.world();
        world.pools.get_mut(&POOL).unwrap().metadata_used = blocks;
    };
    used(8192 - 200);
    let pool = rig.agent.pools.open(POOL).unwrap();
    rig.agent.mind_space(&pool);
    assert!(pool.is_braked());
    rig.agent.use_spares();
    assert!(!pool.is_braked());
    assert_eq!(rig.kernel.world().pools[&POOL].metadata_len / 8, 2 * 8192);
}

#[test]
fn a_spare_that_cannot_be_used_is_told_of_and_one_that_is_deleted_is_blank() {
    let rig = rig();
    let (data, ..) = seen(&rig);
    give(&rig, "a.pool", 64);
    use_data(&rig, data);
    rig.kernel.world().reload_fails = true;
    rig.agent.use_spares();
    let pool = rig.agent.pools.open(POOL).unwrap();
    assert!(pool.spare_trouble().is_some());
    rig.kernel.world().reload_fails = false;
    give(&rig, "b.pool", 64);
    rig.agent.use_spares();
    assert_eq!(pool.spare_trouble(), None);
    drop(pool);
    rig.kernel
        .world()
        .pools
        .get_mut(&POOL)
        .unwrap()
        .thins
        .clear();
    rig.agent.delete_pool(POOL, STORE, Which::Empty).unwrap();
    let left = std::fs::read_dir(rig.dir.path().join("pools")).unwrap();
    assert_eq!(left.count(), 0);
}

#[test]
fn a_death_while_a_spare_is_taken_leaves_a_spare_or_a_larger_pool() {
    let points = [
        (Point::PoolGrown, false),
        (Point::PoolRelabelled, false),
        (Point::PoolRelaid, true),
        (Point::PoolExtended, true),
    ];
    for (point, larger) in points {
        for reboot in [false, true] {
            let mut rig = rig();
            let (data, ..) = seen(&rig);
            give(&rig, "a.pool", 64);
            use_data(&rig, data);
            die_at(Some(point));
            let died = catch_unwind(AssertUnwindSafe(|| rig.agent.use_spares()));
            assert!(died.unwrap_err().is::<Died>(), "{point:?}");
            if reboot {
                rig.kernel.reboot();
            }
            rig.restart();
            let (found, _, spares) = seen(&rig);
            let expected = data + if larger { blocks(63) } else { 0 };
            assert_eq!(found, expected, "{point:?} {reboot}");
            assert_eq!(spares.len(), usize::from(!larger), "{point:?} {reboot}");
            rig.agent.use_spares();
            let (found, used, spares) = seen(&rig);
            assert_eq!((found, used.len(), spares.len()), (data + blocks(63), 2, 0));
        }
    }
}
