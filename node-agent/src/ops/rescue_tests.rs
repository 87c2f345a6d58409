//! Rescue: of a pool that does not open, what can be read is read, and no device is written.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::repair_tests::{STORE, ask, broken, damage, rig};
use super::rig::{HOST, POOL, Rig, volume};
use super::*;
use crate::catalogue::{Label, RegionKind, read_label};
use crate::kernel::fake::Damage;

const READ: Activation = Activation {
    read_only: true,
    ..HOST
};

fn device(rig: &Rig) -> PathBuf {
    rig.dir.path().join("pools/fast.pool")
}

fn content(rig: &Rig) -> Vec<u8> {
    std::fs::read(device(rig)).unwrap()
}

fn label(rig: &Rig) -> Label {
    let file = File::open(device(rig)).unwrap();
    read_label(&file).unwrap().unwrap()
}

/// No copy of its catalogue can be read any more.
fn spoil_catalogue(rig: &Rig) {
    let label = label(rig);
    let file = OpenOptions::new().write(true).open(device(rig)).unwrap();
    let copies = label.regions.iter();
    for copy in copies.filter(|r| r.kind == RegionKind::Catalogue) {
        let len = usize::try_from(copy.len.bytes().0).unwrap();
        file.write_all_at(&vec![0x5a; len], copy.start.bytes().0)
            .unwrap();
    }
}

/// The host went down, and the pool's metadata is damaged: it does not open.
fn does_not_open() -> Rig {
    let mut rig = rig();
    damage(&rig, broken());
    rig.kernel.reboot();
    rig.restart();
    assert!(rig.agent.pools.open(POOL).is_none());
    rig
}

fn rescue(rig: &Rig) -> Result<PoolView, PoolError> {
    rig.agent.open_for_rescue(POOL, Some(STORE))
}

fn doubt(view: &PoolView) -> String {
    let PoolState::Open {
        doubt: Some(doubt), ..
    } = &view.state
    else {
        panic!("{view:?}");
    };
    doubt.to_string()
}

#[test]
fn volumes_are_read_and_no_device_is_written_from_the_opening_to_the_close() {
    let rig = does_not_open();
    let (before, was) = (content(&rig), rig.kernel.world().pools[&POOL].clone());
    let view = rescue(&rig).unwrap();
    assert!(doubt(&view).contains("thin_check finds errors"), "{view:?}");
    assert!(rig.kernel.world().pools[&POOL].read_only);
    let live = rig.agent.activate(volume(11), READ, 1).unwrap();
    assert!(live.live.is_some_and(|live| live.read_only));
    rig.agent.sweep();
    assert!(rig.agent.thin(volume(11)).unwrap().live.is_some());
    // Again, as by a caller that got no answer.
    rescue(&rig).unwrap();
    rig.agent.activate(volume(11), READ, 1).unwrap();
    assert!(matches!(
        rig.agent.close_pool(POOL, Some(STORE)),
        Err(PoolError::Active { count: 1, .. })
    ));
    rig.agent.deactivate(volume(11), 1).unwrap();
    let closed = rig.agent.close_pool(POOL, Some(STORE)).unwrap();
    assert!(
        matches!(&closed.state, PoolState::Unopenable(why) if why.contains("thin_check")),
        "{closed:?}"
    );
    assert!(content(&rig) == before, "a device was written");
    let mut now = rig.kernel.world().pools[&POOL].clone();
    (now.live, now.read_only) = (was.live, was.read_only);
    (now.low_water, now.queues) = (was.low_water, was.queues);
    assert_eq!(format!("{now:?}"), format!("{was:?}"));
    // It is as it was: it does not open, and can be repaired.
    assert!(rig.agent.open_pool(POOL, Some(STORE)).is_err());
    assert_eq!(ask(&rig, true, false).unwrap().outcome, RepairOutcome::Done);
    rig.check("repaired");
}

#[test]
fn every_change_is_refused_and_says_why() {
    let rig = does_not_open();
    rescue(&rig).unwrap();
    let (agent, store) = (&rig.agent, Some(STORE));
    let before = content(&rig);
    let writable = agent.activate(volume(11), HOST, 1).unwrap_err();
    assert!(
        writable.to_string().contains("open for rescue"),
        "{writable}"
    );
    let made = agent.create_thin(store, rig.thin(volume(13), false, false));
    assert!(made.unwrap_err().to_string().contains("open for rescue"));
    let policy = SetPolicy {
        id: POOL,
        no_space: None,
        wait_seconds: Some(1),
        overcommit_percent: None,
    };
    for refused in [
        agent
            .rename_pool(POOL, store, &"other".parse().unwrap())
            .err(),
        agent.set_policy(store, policy).err(),
        agent.extend_pool(store, &ExtendPool::nothing(POOL)).err(),
        agent.open_pool(POOL, store).err(),
        ask(&rig, true, true).err(),
        ask(&rig, false, false).err(),
    ] {
        let said = refused.unwrap().to_string();
        assert!(said.contains("open for rescue"), "{said}");
    }
    // Rows that are not shown may need any image.
    assert!(matches!(
        agent.delete_image(store, rig.digest),
        Err(ImageOpError::PoolNotOpen { .. })
    ));
    assert!(content(&rig) == before, "a device was written");
}

#[test]
fn it_stays_open_for_rescue_over_a_restart_and_a_reboot_until_it_is_closed() {
    let mut rig = does_not_open();
    rescue(&rig).unwrap();
    rig.agent.activate(volume(11), READ, 1).unwrap();
    let before = content(&rig);
    rig.restart();
    assert!(rig.agent.pools.open(POOL).unwrap().shown().is_some());
    assert!(
        rig.agent.thin(volume(11)).unwrap().live.is_some(),
        "what was active is"
    );
    rig.kernel.reboot();
    rig.restart();
    assert!(rig.agent.pools.open(POOL).unwrap().shown().is_some());
    assert!(rig.kernel.world().pools[&POOL].read_only);
    assert!(rig.agent.thin(volume(11)).unwrap().live.is_none());
    rig.agent.close_pool(POOL, Some(STORE)).unwrap();
    assert!(content(&rig) == before, "a device was written");
    rig.restart();
    assert!(rig.agent.pools.open(POOL).is_none());
    assert!(!rig.kernel.world().pools[&POOL].live);
}

#[test]
fn without_a_catalogue_each_thin_is_shown_by_its_number() {
    let mut rig = rig();
    let thins: Vec<_> = rig.kernel.world().pools[&POOL]
        .thins
        .clone()
        .into_iter()
        .collect();
    rig.agent.close_pool(POOL, Some(STORE)).unwrap();
    spoil_catalogue(&rig);
    assert!(rig.agent.open_pool(POOL, Some(STORE)).is_err());
    let before = content(&rig);
    let view = rescue(&rig).unwrap();
    assert!(
        doubt(&view).contains("No copy of its catalogue"),
        "{view:?}"
    );
    let shown = |rig: &Rig| {
        let (views, _) = rig.agent.thins(Some(POOL), None, 10).unwrap();
        let mut rows: Vec<_> = views.into_iter().map(|view| view.record).collect();
        rows.sort_by_key(|row| row.thin);
        rows
    };
    let rows = shown(&rig);
    let said: Vec<_> = rows
        .iter()
        .map(|row| (row.thin, row.size.bytes().0 >> 16))
        .collect();
    assert_eq!(said, thins);
    assert_eq!(rows[0].name.to_string(), format!("thin-{}", rows[0].thin));
    rig.agent.activate(rows[0].owner, READ, 0).unwrap();
    rig.restart();
    assert_eq!(shown(&rig), rows, "another owner after a restart");
    assert!(rig.agent.thin(rows[0].owner).unwrap().live.is_some());
    rig.agent.deactivate(rows[0].owner, 0).unwrap();
    rig.agent.close_pool(POOL, Some(STORE)).unwrap();
    assert!(content(&rig) == before, "a device was written");
}

#[test]
fn a_pool_that_is_open_or_half_repaired_or_that_the_kernel_cannot_read_is_not_rescued() {
    let rig = rig();
    assert!(rescue(&rig).unwrap_err().to_string().contains("it is open"));
    rig.agent.close_pool(POOL, Some(STORE)).unwrap();
    damage(&rig, broken());
    rig.kernel.world().no_put = true;
    assert!(ask(&rig, true, false).is_err());
    let half = rescue(&rig).unwrap_err().to_string();
    assert!(half.contains("cut short"), "{half}");
    rig.kernel.world().no_put = false;
    rig.agent.open_pool(POOL, Some(STORE)).unwrap();
    rig.agent.close_pool(POOL, Some(STORE)).unwrap();
    let gone = Damage {
        superblock: true,
        ..Damage::default()
    };
    damage(&rig, gone);
    assert!(matches!(rescue(&rig), Err(PoolError::Kernel(_))));
    assert!(!rig.kernel.world().pools[&POOL].live && rig.agent.pools.open(POOL).is_none());
    damage(&rig, Damage::default());
    rig.agent.open_pool(POOL, Some(STORE)).unwrap();
    rig.check("opened");
}
