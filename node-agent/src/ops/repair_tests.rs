//! Repairs: nothing is changed unless it is said so, nothing is lost in silence, the old metadata
//! stays, and a crash at any point ends in the repaired pool or in the one that was.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use goldleaf_types::{Bytes, Incarnation};

use super::rig::{HOST, POOL, Rig, quiet, snap, snapshot, volume};
use super::*;
use crate::catalogue::Repair;
use crate::failpoint::Point;
use crate::failpoint::test::{Died, die_at};
use crate::kernel::fake::{Damage, FakePool};

pub(super) const STORE: Incarnation = Incarnation::from_bytes([2; 16]);

/// A pool with a volume that maps five blocks, one that maps three, and a snapshot of the first.
pub(super) fn rig() -> Rig {
    let rig = Rig::new();
    rig.agent.create_pool(Some(STORE), rig.pool()).unwrap();
    for n in [11, 12] {
        let thin = rig.thin(volume(n), false, false);
        rig.agent.create_thin(Some(STORE), thin).unwrap();
    }
    let fill = |n: u8, blocks| {
        let thin = thin_of(&rig, n);
        rig.kernel
            .world()
            .pools
            .get_mut(&POOL)
            .unwrap()
            .thins
            .insert(thin, blocks);
    };
    fill(11, 5);
    fill(12, 3);
    let taken = snap(snapshot(21), volume(11), false);
    rig.agent.create_snapshot(Some(STORE), taken).unwrap();
    rig
}

fn thin_of(rig: &Rig, n: u8) -> goldleaf_types::ThinId {
    rig.agent.thin(volume(n)).unwrap().record.thin
}

fn close(rig: &Rig) {
    rig.agent.close_pool(POOL, Some(STORE)).unwrap();
}

pub(super) fn damage(rig: &Rig, damage: Damage) {
    rig.kernel.world().pools.get_mut(&POOL).unwrap().damage = damage;
}

pub(super) fn broken() -> Damage {
    Damage {
        broken: true,
        ..Damage::default()
    }
}

pub(super) fn ask(rig: &Rig, apply: bool, accept_loss: bool) -> Result<RepairReport, PoolError> {
    let wanted = RepairPool {
        id: POOL,
        apply,
        accept_loss,
    };
    rig.agent.repair_pool(Some(STORE), wanted, &|_, _, _| ())
}

/// Files of repairs, by what they are.
pub(super) fn files(rig: &Rig, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(rig.dir.path().join("repair"));
    let paths = entries.into_iter().flatten().flatten().map(|e| e.path());
    paths
        .filter(|p| p.extension().is_some_and(|e| e == ending))
        .collect()
}

fn fates(report: &RepairReport) -> Vec<Fate> {
    report.thins.iter().map(|thin| thin.fate).collect()
}

fn metadata(rig: &Rig) -> FakePool {
    rig.kernel.world().pools[&POOL].clone()
}

#[test]
fn a_dry_run_says_what_would_be_and_changes_nothing() {
    let rig = rig();
    close(&rig);
    damage(&rig, broken());
    assert!(rig.agent.open_pool(POOL, Some(STORE)).is_err());
    let device = rig.dir.path().join("pools/fast.pool");
    let before = std::fs::read(&device).unwrap();
    let was = metadata(&rig);
    let report = ask(&rig, false, false).unwrap();
    assert_eq!(report.outcome, RepairOutcome::WouldDo);
    assert!(
        report.damage.as_ref().unwrap().contains("checksum"),
        "{report:?}"
    );
    assert_eq!(fates(&report), [Fate::Whole; 3]);
    let sizes: Vec<_> = report
        .thins
        .iter()
        .map(|t| t.after.unwrap().0 >> 16)
        .collect();
    assert_eq!(sizes, [5, 3, 5]);
    assert_eq!(report.kept, None);
    assert!(
        std::fs::read(&device).unwrap() == before,
        "a device was written"
    );
    assert_eq!(format!("{:?}", metadata(&rig)), format!("{was:?}"));
    for ending in ["copy", "repaired", "before"] {
        assert_eq!(files(&rig, ending), Vec::<PathBuf>::new());
    }
    assert!(rig.agent.pools.open(POOL).is_none());
}

#[test]
fn a_repair_keeps_the_old_metadata_and_opens_the_pool() {
    let rig = rig();
    close(&rig);
    damage(&rig, broken());
    let report = ask(&rig, true, false).unwrap();
    assert_eq!(report.outcome, RepairOutcome::Done);
    let kept = report.kept.unwrap();
    assert_eq!(files(&rig, "before"), [kept.as_path()]);
    assert!(
        std::fs::read_to_string(kept)
            .unwrap()
            .contains("[true, false")
    );
    assert!(files(&rig, "copy").is_empty() && files(&rig, "repaired").is_empty());
    let pool = rig.agent.pools.open(POOL).unwrap();
    assert_eq!(pool.record().repair, None);
    assert_eq!(metadata(&rig).damage, Damage::default());
    rig.check("repaired");
    let more = rig.thin(volume(13), false, true);
    rig.agent.create_thin(Some(STORE), more).unwrap();
    // Asked again, as by a caller that got no answer.
    let again = ask(&rig, true, false).unwrap();
    assert_eq!(again.outcome, RepairOutcome::NothingToDo);
    assert_eq!(files(&rig, "before").len(), 1);
}

#[test]
fn a_pool_that_needs_a_check_is_taken_down_only_when_nothing_of_it_is_in_use() {
    let rig = rig();
    rig.agent.activate(volume(11), HOST, 1).unwrap();
    let check = Damage {
        needs_check: true,
        ..Damage::default()
    };
    damage(&rig, check);
    let dry = ask(&rig, false, false).unwrap();
    assert!(dry.needs_check && dry.damage.is_none());
    assert_eq!(dry.outcome, RepairOutcome::WouldDo);
    let refused = ask(&rig, true, false).unwrap_err().to_string();
    let name = rig.agent.thin(volume(11)).unwrap().record.name;
    assert!(refused.contains(name.as_str()), "{refused}");
    assert!(metadata(&rig).live && rig.agent.pools.open(POOL).is_some());
    rig.agent.deactivate(volume(11), 1).unwrap();
    assert_eq!(ask(&rig, true, false).unwrap().outcome, RepairOutcome::Done);
    let pool = rig.agent.pools.open(POOL).unwrap();
    assert!(pool.check_writable(&*rig.agent.kernel).is_ok());
    rig.check("repaired");
}

#[test]
fn what_would_be_lost_is_lost_only_when_that_is_accepted_and_is_said_from_then_on() {
    let rig = rig();
    let (short, gone) = (thin_of(&rig, 11), thin_of(&rig, 12));
    close(&rig);
    damage(
        &rig,
        Damage {
            found: vec![(short, Some(2)), (gone, None)],
            ..broken()
        },
    );
    let was = format!("{:?}", metadata(&rig));
    let dry = ask(&rig, false, false).unwrap();
    assert_eq!(fates(&dry), [Fate::Shortened, Fate::Lost, Fate::Whole]);
    let refused = ask(&rig, true, false).unwrap_err();
    assert!(matches!(refused, PoolError::WouldLose { .. }), "{refused}");
    assert_eq!(format!("{:?}", metadata(&rig)), was);
    assert!(files(&rig, "before").is_empty());
    ask(&rig, true, true).unwrap();
    let shortened = rig.agent.thin(volume(11)).unwrap();
    assert_eq!(shortened.record.lost_blocks, 3);
    assert!(rig.agent.thin(volume(12)).unwrap().missing);
    assert!(
        !metadata(&rig).thins.contains_key(&gone),
        "made anew in silence"
    );
    let codes = || -> Vec<_> {
        let found = rig.agent.examine().into_iter().map(|finding| finding.key());
        found.filter(|key| key.contains("Thin/")).collect()
    };
    let key = format!("ShortenedThin/{}", volume(11));
    assert_eq!(codes(), [format!("LostThin/{}", volume(12)), key.clone()]);
    // Somebody has looked through it.
    let _ = rig
        .agent
        .mend(Some(STORE), std::slice::from_ref(&key), true);
    assert_eq!(codes(), [format!("LostThin/{}", volume(12))]);
    assert_eq!(rig.agent.thin(volume(11)).unwrap().record.lost_blocks, 0);
}

#[test]
fn a_damaged_superblock_is_told_what_the_catalogue_knows_and_nothing_counts_as_whole() {
    let rig = rig();
    let recorded = rig.agent.pools.open(POOL).unwrap().record().transaction_id;
    close(&rig);
    damage(
        &rig,
        Damage {
            superblock: true,
            ..Damage::default()
        },
    );
    let dry = ask(&rig, false, false).unwrap();
    assert_eq!(fates(&dry), [Fate::Unsure; 3]);
    assert_eq!(dry.found_transaction, Some(recorded));
    assert!(ask(&rig, true, false).is_err());
    ask(&rig, true, true).unwrap();
    assert_eq!(rig.agent.pools.open(POOL).unwrap().doubt, None);
}

#[test]
fn a_repair_that_makes_nothing_of_it_leaves_all_as_it_was() {
    let rig = rig();
    let hopeless = |needs_check, broken| Damage {
        hopeless: true,
        needs_check,
        broken,
        ..Damage::default()
    };
    // Open before, and open after.
    damage(&rig, hopeless(true, false));
    let error = ask(&rig, true, true).unwrap_err().to_string();
    assert!(error.contains("no compatible roots"), "{error}");
    assert!(metadata(&rig).live && rig.agent.pools.open(POOL).is_some());
    // Not open before, and not after.
    damage(&rig, Damage::default());
    close(&rig);
    damage(&rig, hopeless(false, true));
    for apply in [false, true] {
        assert!(ask(&rig, apply, true).is_err());
        assert_eq!(metadata(&rig).damage, hopeless(false, true));
        assert!(files(&rig, "before").is_empty() && files(&rig, "repaired").is_empty());
    }
}

#[test]
fn a_pool_that_takes_changes_or_is_sound_or_anothers_is_not_repaired() {
    let rig = rig();
    assert_eq!(
        ask(&rig, true, true).unwrap().outcome,
        RepairOutcome::NothingToDo
    );
    close(&rig);
    assert_eq!(
        ask(&rig, true, true).unwrap().outcome,
        RepairOutcome::NothingToDo
    );
    assert!(
        rig.agent.pools.open(POOL).is_none(),
        "opened though nothing was done"
    );
    damage(&rig, broken());
    let wanted = RepairPool {
        id: POOL,
        apply: true,
        accept_loss: false,
    };
    for other in [None, Some(Incarnation::from_bytes([7; 16]))] {
        let refused = rig.agent.repair_pool(other, wanted, &|_, _, _| ());
        assert!(
            matches!(refused, Err(PoolError::OtherIncarnation(_))),
            "{refused:?}"
        );
    }
}

/// The device takes no write: the wish stays, nothing is opened, and an opening later goes on.
#[test]
fn a_device_that_takes_no_metadata_keeps_the_pool_closed_until_it_does() {
    let rig = rig();
    close(&rig);
    damage(&rig, broken());
    rig.kernel.world().no_put = true;
    assert!(ask(&rig, true, false).is_err());
    assert!(rig.agent.pools.open(POOL).is_none());
    assert!(rig.agent.open_pool(POOL, Some(STORE)).is_err());
    assert_eq!(
        ask(&rig, false, false).unwrap().outcome,
        RepairOutcome::WouldResume
    );
    rig.kernel.world().no_put = false;
    rig.agent.open_pool(POOL, Some(STORE)).unwrap();
    rig.check("opened");
    assert_eq!(files(&rig, "repaired"), Vec::<PathBuf>::new());
    assert_eq!(files(&rig, "before").len(), 1);
}

#[test]
fn without_the_file_that_a_row_names_nothing_is_opened_and_another_repair_may_begin() {
    let rig = rig();
    close(&rig);
    damage(&rig, broken());
    rig.kernel.world().no_put = true;
    assert!(ask(&rig, true, false).is_err());
    rig.kernel.world().no_put = false;
    let [made] = files(&rig, "repaired").try_into().unwrap();
    let content = std::fs::read(&made).unwrap();
    for spoilt in [None, Some(&b"other content"[..])] {
        std::fs::remove_file(&made).unwrap();
        if let Some(bytes) = spoilt {
            std::fs::write(&made, bytes).unwrap();
        } else {
            let _ = std::fs::File::create(made.with_extension("gone")).unwrap();
        }
        let error = rig.agent.open_pool(POOL, Some(STORE)).unwrap_err();
        assert!(matches!(error, PoolError::RepairFile { .. }), "{error}");
        assert!(
            error.to_string().contains(&made.display().to_string()),
            "{error}"
        );
        assert!(!metadata(&rig).live);
        // Looking at what a repair would do takes nothing away that a person may bring back.
        let looked = ask(&rig, false, false).unwrap();
        assert_eq!(looked.outcome, RepairOutcome::WouldDo);
        assert_eq!(made.exists(), spoilt.is_some());
        std::fs::write(&made, &content).unwrap();
    }
    // One that cannot be read may be whole: no other is begun over it.
    std::fs::remove_file(&made).unwrap();
    std::fs::create_dir(&made).unwrap();
    let error = ask(&rig, true, false).unwrap_err();
    assert!(matches!(error, PoolError::RepairFile { .. }), "{error}");
    std::fs::remove_dir(&made).unwrap();
    std::fs::write(&made, &content).unwrap();
    std::fs::remove_file(&made).unwrap();
    assert_eq!(ask(&rig, true, false).unwrap().outcome, RepairOutcome::Done);
    rig.check("repaired once more");
    assert_eq!(files(&rig, "before").len(), 2, "what was kept stays");
}

/// All of it was put, and neither row nor file says so any more: there is a way on.
#[test]
fn a_wish_without_its_file_is_no_dead_end_even_over_sound_metadata() {
    quiet();
    let mut rig = rig();
    close(&rig);
    damage(&rig, broken());
    die_at(Some(Point::RepairPut));
    let died = catch_unwind(AssertUnwindSafe(|| ask(&rig, true, false)));
    assert!(died.is_err_and(|panic| panic.is::<Died>()));
    for file in files(&rig, "repaired") {
        std::fs::remove_file(file).unwrap();
    }
    rig.restart();
    assert!(rig.agent.open_pool(POOL, Some(STORE)).is_err());
    assert_eq!(
        ask(&rig, false, false).unwrap().outcome,
        RepairOutcome::WouldDo
    );
    assert_eq!(ask(&rig, true, false).unwrap().outcome, RepairOutcome::Done);
    rig.check("repaired");
}

#[test]
fn a_row_names_no_file_outside_the_folder() {
    let rig = Rig::new();
    let folder = RepairFolder::new(rig.dir.path().join("repair"));
    let row = Repair {
        file: "../../etc/passwd".into(),
        digest: goldleaf_types::Digest::from_bytes([0; 32]),
    };
    assert_eq!(folder.path(&row), rig.dir.path().join("repair/passwd"));
}

#[test]
fn progress_tells_each_step_in_order() {
    let rig = rig();
    close(&rig);
    damage(&rig, broken());
    let steps = std::cell::RefCell::new(Vec::new());
    let told = |step, done: Bytes, total: Bytes| {
        assert!(done <= total && total.0 > 0);
        steps.borrow_mut().push(step);
    };
    let wanted = RepairPool {
        id: POOL,
        apply: true,
        accept_loss: false,
    };
    rig.agent.repair_pool(Some(STORE), wanted, &told).unwrap();
    let mut steps = steps.into_inner();
    steps.dedup();
    assert_eq!(
        steps,
        [
            RepairStep::Copying,
            RepairStep::Checking,
            RepairStep::Repairing,
            RepairStep::CheckingResult,
            RepairStep::Putting,
        ]
    );
}

/// Dies at every point of a repair, with and without a reboot, of a pool that was open and of one
/// that was not. Asked once more, it is repaired, with nothing lost or left, and never is half of it
/// loaded: the fake kernel refuses that.
#[test]
fn a_crash_at_any_point_ends_in_the_repaired_pool() {
    quiet();
    let points = Point::ALL
        .iter()
        .filter(|p| p.name().contains("/repair-pool/"));
    let points: Vec<Point> = points.copied().collect();
    assert!(points.len() >= 6);
    for (point, reboot, open) in points.iter().flat_map(|p| {
        [(false, false), (false, true), (true, false), (true, true)].map(|(r, o)| (*p, r, o))
    }) {
        let when = format!("{} reboot {reboot} open {open}", point.name());
        let mut rig = rig();
        if open {
            damage(
                &rig,
                Damage {
                    needs_check: true,
                    ..Damage::default()
                },
            );
        } else {
            close(&rig);
            damage(&rig, broken());
        }
        die_at(Some(point));
        let died = catch_unwind(AssertUnwindSafe(|| ask(&rig, true, false)));
        die_at(None);
        assert!(
            died.is_err_and(|panic| panic.is::<Died>()),
            "{when}: not reached"
        );
        if reboot {
            rig.kernel.reboot();
        }
        rig.restart();
        let report = ask(&rig, true, false).unwrap_or_else(|e| panic!("{when}: {e}"));
        let done = [RepairOutcome::Done, RepairOutcome::NothingToDo];
        assert!(done.contains(&report.outcome), "{when}: {report:?}");
        rig.agent.open_pool(POOL, Some(STORE)).unwrap();
        rig.check(&when);
        assert_eq!(metadata(&rig).damage, Damage::default(), "{when}");
        let blocks: Vec<u64> = metadata(&rig).thins.values().copied().collect();
        assert_eq!(blocks, [5, 3, 5], "{when}");
        assert!(
            !files(&rig, "before").is_empty(),
            "{when}: the old metadata is gone"
        );
        let left = [files(&rig, "copy"), files(&rig, "repaired")].concat();
        assert_eq!(left, Vec::<PathBuf>::new(), "{when}");
    }
}
