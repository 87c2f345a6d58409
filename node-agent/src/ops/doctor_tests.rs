//! The doctor on the fake kernel: each planted fault is found, by its name and nothing else, and
//! what can be mended is gone afterwards.

use std::fs;

use goldleaf_types::{Incarnation, PoolId, ThinId};

use super::doctor::{Code, Finding, Outcome};
use super::rig::{HOST, Rig, volume};
use super::tests::spoil_image;
use super::*;
use crate::catalogue::Phase;

const POOL: PoolId = PoolId::from_bytes([1; 16]);
const STORE: Incarnation = Incarnation::from_bytes([2; 16]);

/// A pool with an active volume over the image.
fn rig() -> Rig {
    let rig = Rig::new();
    rig.agent.create_pool(Some(STORE), rig.pool()).unwrap();
    let request = CreateThin {
        activate: Some(HOST),
        ..rig.thin(volume(11), true, true)
    };
    rig.agent.create_thin(Some(STORE), request).unwrap();
    rig
}

/// What the doctor says, but for what this machine lacks as a host.
fn found(rig: &Rig) -> Vec<Finding> {
    let mut found = rig.agent.examine();
    found.retain(|finding| finding.code != Code::HostLacks);
    found
}

fn codes(rig: &Rig) -> Vec<Code> {
    found(rig).iter().map(|finding| finding.code).collect()
}

fn mend(rig: &Rig, finding: &Finding, apply: bool) -> Outcome {
    let mut results = rig.agent.mend(Some(STORE), &[finding.key()], apply);
    assert_eq!(results.len(), 1);
    results.remove(0).outcome
}

/// Mends the one finding that there is and sees that it is gone.
fn mend_the_one(rig: &Rig, code: Code) {
    let before = found(rig);
    assert_eq!(before.len(), 1, "{before:#?}");
    assert_eq!(before[0].code, code);
    let dry = mend(rig, &before[0], false);
    assert!(matches!(dry, Outcome::WouldDo(_)), "{dry:?}");
    assert_eq!(found(rig), before, "without apply nothing changes");
    let done = mend(rig, &before[0], true);
    assert!(matches!(done, Outcome::Done(_)), "{done:?}");
    assert!(
        found(rig).iter().all(|finding| finding.code != code),
        "{:#?}",
        found(rig)
    );
    assert_eq!(mend(rig, &before[0], true), Outcome::NotFound);
}

#[test]
fn nothing_is_found_where_all_is_well() {
    let rig = rig();
    assert_eq!(found(&rig), Vec::new());
}

#[test]
fn an_ownerless_thin_is_quarantined_first_and_deleted_by_a_second_request() {
    let rig = rig();
    let strange = ThinId::new(4711).unwrap();
    let thins = || rig.kernel.world().pools[&POOL].thins.clone();
    let plant = rig
        .kernel
        .world()
        .pools
        .get_mut(&POOL)
        .unwrap()
        .thins
        .insert(strange, 9);
    assert_eq!(plant, None);
    mend_the_one(&rig, Code::UnknownThin);
    assert!(thins().contains_key(&strange), "quarantined, not deleted");
    mend_the_one(&rig, Code::QuarantinedThin);
    assert!(!thins().contains_key(&strange));
    assert_eq!(thins().len(), 1, "the volume's own thin stays");
    assert_eq!(codes(&rig), []);
}

#[test]
fn lost_data_is_said_and_takes_a_person() {
    let rig = rig();
    rig.agent.deactivate(volume(11), 1).unwrap();
    rig.kernel
        .world()
        .pools
        .get_mut(&POOL)
        .unwrap()
        .thins
        .clear();
    let all = found(&rig);
    assert_eq!(all.len(), 1, "{all:#?}");
    assert_eq!(all[0].code, Code::LostThin);
    assert_eq!(mend(&rig, &all[0], true), Outcome::NeedsPerson);
    assert_eq!(found(&rig), all);
}

#[test]
fn a_device_over_another_origin_is_said_and_left_to_a_person() {
    let rig = rig();
    rig.kernel.world().live.get_mut(&volume(11)).unwrap().origin = None;
    let all = found(&rig);
    assert_eq!(all.len(), 1, "{all:#?}");
    assert_eq!(all[0].code, Code::WrongDevice);
    assert_eq!(mend(&rig, &all[0], true), Outcome::NeedsPerson);
}

#[test]
fn a_device_that_no_record_has_is_removed_unless_it_is_open() {
    let rig = rig();
    let spec = rig.kernel.world().live[&volume(11)];
    rig.kernel.world().live.insert(volume(77), spec);
    rig.kernel.world().opened.insert(volume(77), 2);
    let all = found(&rig);
    assert_eq!(all.len(), 1, "{all:#?}");
    let refused = mend(&rig, &all[0], true);
    assert!(matches!(refused, Outcome::Failed(..)), "{refused:?}");
    rig.kernel.world().opened.clear();
    mend_the_one(&rig, Code::StrayDevice);
    assert!(rig.kernel.world().live.contains_key(&volume(11)));
}

#[test]
fn a_device_that_nobody_wants_is_taken_away() {
    let rig = rig();
    let spec = rig.kernel.world().live[&volume(11)];
    rig.agent.deactivate(volume(11), 1).unwrap();
    rig.kernel.world().live.insert(volume(11), spec);
    let origin = rig.kernel.world().images.values().next().copied();
    rig.kernel.world().live.get_mut(&volume(11)).unwrap().origin = origin;
    assert!(codes(&rig).contains(&Code::UnwantedDevice));
    let all = found(&rig);
    let unwanted = all.iter().find(|f| f.code == Code::UnwantedDevice).unwrap();
    let done = mend(&rig, unwanted, true);
    assert!(matches!(done, Outcome::Done(_)), "{done:?}");
    assert!(rig.kernel.world().live.is_empty());
}

#[test]
fn a_row_that_nobody_finishes_is_finished() {
    let rig = rig();
    let pool = rig.agent.pools.open(POOL).unwrap();
    let half = pool.catalogue.write(|rows| {
        let mut row = rows.find(volume(11)).unwrap();
        row.owner = volume(12);
        row.name = "half".parse().unwrap();
        row.thin = rows.reserve_thin().unwrap();
        (row.phase, row.holder) = (Phase::Creating, None);
        rows.insert(row);
        Ok::<_, ThinError>(())
    });
    assert!(half.is_ok());
    mend_the_one(&rig, Code::UnfinishedRow);
    assert_eq!(pool.catalogue.find(volume(12)).unwrap().phase, Phase::Ready);
}

#[test]
fn a_spoilt_image_and_one_that_is_gone_are_said() {
    let rig = rig();
    spoil_image(&rig);
    assert_eq!(codes(&rig), [Code::ImageChanged]);
    let crate::images::Place::File(path) = rig.agent.images.list().remove(0).place else {
        panic!("a file")
    };
    fs::remove_file(path).unwrap();
    assert_eq!(codes(&rig), [Code::ImageMissing]);
}

#[test]
fn wrong_and_stray_links_are_put_right() {
    let rig = rig();
    let row = rig
        .agent
        .pools
        .open(POOL)
        .unwrap()
        .catalogue
        .find(volume(11))
        .unwrap();
    let link = rig.agent.links.path(&"fast".parse().unwrap(), &row.name);
    fs::remove_file(&link).unwrap();
    mend_the_one(&rig, Code::WrongLink);
    let stray = link.with_file_name("nobody");
    std::os::unix::fs::symlink("/dev/null", &stray).unwrap();
    mend_the_one(&rig, Code::StrayLink);
    assert!(link.is_symlink() && !stray.is_symlink());
}

#[test]
fn another_store_quarantines_and_deletes_nothing() {
    let rig = rig();
    let strange = ThinId::new(4711).unwrap();
    rig.kernel
        .world()
        .pools
        .get_mut(&POOL)
        .unwrap()
        .thins
        .insert(strange, 9);
    let all = found(&rig);
    let other = Some(Incarnation::from_bytes([3; 16]));
    let refused = rig.agent.mend(other, &[all[0].key()], true).remove(0);
    assert!(
        matches!(refused.outcome, Outcome::Failed(..)),
        "{refused:?}"
    );
    assert_eq!(found(&rig), all);
}

/// Its pool has no part in it: whoever uses the device hangs until it runs.
#[test]
fn a_device_that_is_suspended_is_found_without_its_pool_and_runs_when_the_agent_starts() {
    let mut rig = rig();
    let path = rig.pool().devices[0].path.clone();
    let hidden = rig.dir.path().join("away");
    fs::rename(&path, &hidden).unwrap();
    rig.kernel.world().suspended.insert(volume(11));
    rig.restart();
    assert!(rig.agent.pools.open(POOL).is_none());
    assert!(rig.kernel.world().suspended.is_empty(), "its users hang");
    rig.kernel.world().suspended.insert(volume(11));
    let suspended = |rig: &Rig| {
        let found = found(rig);
        found.iter().any(|f| {
            (f.code, f.subject.as_str()) == (Code::SuspendedDevice, &*volume(11).to_string())
        })
    };
    assert!(suspended(&rig));
    fs::rename(&hidden, &path).unwrap();
    rig.restart();
    assert!(rig.agent.pools.open(POOL).is_some());
    assert!(!suspended(&rig));
}
