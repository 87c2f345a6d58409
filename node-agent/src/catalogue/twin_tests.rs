//! Two copies on two disks that fail, lose power, tear and rot: one sound copy is enough.

use std::collections::BTreeMap;

use goldleaf_types::{ThinId, VolumeId};
use proptest::prelude::Rng as _;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::crash_tests::Disk;
use super::tests::{pool, row};
use super::*;

type Known = BTreeMap<ThinOwner, ThinId>;

fn regions(disks: &[Disk; 2]) -> Vec<RegionStorage<Disk>> {
    disks.iter().map(Disk::storage).collect()
}

fn made(disks: &[Disk; 2]) {
    let made = Catalogue::create(regions(disks), &pool()).unwrap();
    made.close().unwrap();
}

fn open(disks: &[Disk; 2]) -> Result<Catalogue, CatalogueError> {
    Catalogue::open(regions(disks), pool().id)
}

fn rows(catalogue: &Catalogue) -> Known {
    let all = catalogue.all().into_iter();
    all.map(|r| (r.owner, r.thin)).collect()
}

/// One change; its owner and whether it was answered.
fn change(catalogue: &Catalogue, known: &mut Known) -> Result<(), ThinOwner> {
    let owner = ThinOwner::from(VolumeId::mint());
    let done = catalogue.write(move |rows| {
        let thin = rows.reserve_thin()?;
        rows.insert(row(owner, thin));
        Ok::<_, NoThinIds>(thin)
    });
    done.map(|thin| {
        known.insert(owner, thin);
    })
    .map_err(|_| owner)
}

/// Overwrites all that a disk holds.
fn rot(disk: &Disk) {
    disk.platters().durable.fill(0xa5);
}

fn content(disks: &[Disk; 2]) -> [Vec<u8>; 2] {
    disks.each_ref().map(|disk| disk.platters().durable.clone())
}

/// The law: whichever copy fails to be written, is torn, is older or has rotted, every change that
/// was answered is there, and afterwards both copies are whole again.
#[test]
fn law_catalogue_twin() {
    let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    for round in 0..20 {
        let mut disks = [Disk::new(), Disk::new()];
        made(&disks);
        let mut known = Known::new();
        for _ in 0..3 {
            let victim = usize::from(rng.next_u32().is_multiple_of(2));
            let catalogue = open(&disks).unwrap();
            assert_eq!(rows(&catalogue), known, "round {round}");
            assert_eq!(catalogue.degraded(), None, "round {round}");
            // One disk takes no more writes, at a moment of chance; the pool goes on.
            disks[victim].fuse(rng.next_u32() % 40);
            for _ in 0..20 {
                change(&catalogue, &mut known).expect("one copy is enough");
            }
            let failed = catalogue.degraded().expect("its failure is shown");
            assert_eq!(failed.copy, victim);
            // And then the power goes.
            disks[1 - victim].fuse(rng.next_u32() % 20);
            let unanswered = loop {
                if let Err(owner) = change(&catalogue, &mut known) {
                    break owner;
                }
            };
            drop(catalogue);
            disks = disks.each_ref().map(|disk| disk.restart(&mut rng));
            let reopened = open(&disks).unwrap();
            if let Some(row) = reopened.find(unanswered) {
                known.insert(unanswered, row.thin);
            }
            reopened.close().unwrap();
            drop(reopened);
            // Both are whole: either alone is enough.
            let rotten = usize::from(rng.next_u32().is_multiple_of(2));
            rot(&disks[rotten]);
        }
        assert_eq!(rows(&open(&disks).unwrap()), known, "round {round}");
    }
}

#[test]
fn no_power_cut_of_both_copies_loses_an_answered_change() {
    let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    for round in 0..20 {
        let mut disks = [Disk::new(), Disk::new()];
        made(&disks);
        let mut known = Known::new();
        for _ in 0..3 {
            let catalogue = open(&disks).unwrap();
            assert_eq!(rows(&catalogue), known, "round {round}");
            let cut = rng.next_u32() % 60;
            disks.iter().for_each(|disk| disk.fuse(cut));
            let unanswered = loop {
                if let Err(owner) = change(&catalogue, &mut known) {
                    break owner;
                }
            };
            drop(catalogue);
            disks = disks.each_ref().map(|disk| disk.restart(&mut rng));
            let reopened = open(&disks).unwrap();
            if let Some(row) = reopened.find(unanswered) {
                known.insert(unanswered, row.thin);
            }
            reopened.close().unwrap();
        }
    }
}

#[test]
fn a_cut_while_a_copy_is_made_anew_leaves_the_other_to_begin_again() {
    let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    for cut in 0..200 {
        let mut disks = [Disk::new(), Disk::new()];
        made(&disks);
        let mut known = Known::new();
        let catalogue = open(&disks).unwrap();
        change(&catalogue, &mut known).unwrap();
        catalogue.close().unwrap();
        drop(catalogue);
        rot(&disks[1]);
        disks[1].fuse(cut);
        let catalogue = open(&disks).unwrap();
        let done = catalogue.degraded().is_none();
        change(&catalogue, &mut known).unwrap();
        drop(catalogue);
        disks = disks.each_ref().map(|disk| disk.restart(&mut rng));
        let catalogue = open(&disks).unwrap();
        assert_eq!((rows(&catalogue), catalogue.degraded()), (known, None));
        if done {
            return;
        }
    }
    panic!("it is never made anew");
}

#[test]
fn an_older_copy_is_never_taken_for_the_newest() {
    let disks = [Disk::new(), Disk::new()];
    made(&disks);
    let mut known = Known::new();
    let catalogue = open(&disks).unwrap();
    disks[0].fuse(0);
    change(&catalogue, &mut known).unwrap();
    catalogue.close().unwrap();
    drop(catalogue);
    disks[0].platters().fuse = None;
    // The one that has it loses what follows its headers.
    disks[1].platters().durable[8192..].fill(0xa5);
    let before = content(&disks);
    let error = open(&disks).unwrap_err();
    assert!(
        matches!(error, CatalogueError::OnlyOlderCopy { newest: 1, .. }),
        "{error:?}"
    );
    assert!(content(&disks)[1] == before[1], "it was written over");
}

#[test]
fn two_damaged_copies_are_an_error_that_says_both_and_nothing_is_written() {
    let disks = [Disk::new(), Disk::new()];
    made(&disks);
    disks.iter().for_each(rot);
    let before = content(&disks);
    let error = open(&disks).unwrap_err();
    assert!(matches!(error, CatalogueError::NoCopy(_)), "{error:?}");
    assert_eq!(
        error.to_string().matches("neither header").count(),
        2,
        "{error}"
    );
    assert!(content(&disks) == before, "something was written");
}

#[test]
fn a_copy_that_a_newer_version_wrote_is_not_written_over() {
    let disks = [Disk::new(), Disk::new()];
    made(&disks);
    for slot in 0..2 {
        let durable = &mut disks[1].platters().durable[slot * 4096..][..4096];
        durable[16] = 2;
        durable[20..24].fill(0);
        let crc = crc32c::crc32c(durable);
        durable[20..24].copy_from_slice(&crc.to_le_bytes());
        if !durable.starts_with(b"GOLDLEAF REGION\n") {
            durable.fill(0);
        }
    }
    let before = content(&disks);
    let error = open(&disks).unwrap_err();
    assert!(error.to_string().contains("upgrade"), "{error}");
    assert!(content(&disks)[1] == before[1], "it was written over");
}

#[test]
fn a_twin_appears_beside_a_catalogue_that_never_had_one() {
    let disks = [Disk::new(), Disk::new()];
    let first = Catalogue::create(vec![disks[0].storage()], &pool()).unwrap();
    let mut known = Known::new();
    change(&first, &mut known).unwrap();
    first.close().unwrap();
    drop(first);
    open(&disks).unwrap().close().unwrap();
    rot(&disks[0]);
    assert_eq!(rows(&open(&disks).unwrap()), known);
}
