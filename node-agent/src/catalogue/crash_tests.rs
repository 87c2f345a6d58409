//! Power cuts: a disk that keeps only what was flushed and a random part of the rest, torn at
//! sectors. Whatever it keeps, every change that was answered is there and no other is half there.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use goldleaf_types::{Bytes, ThinId, VolumeId};
use proptest::prelude::Rng as _;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::tests::{REGION, pool, row};
use super::*;

const SECTOR: usize = 512;

#[derive(Debug, Default)]
pub(super) struct Platters {
    pub(super) durable: Vec<u8>,
    /// Sectors written since the last flush, as the cache has them.
    cached: BTreeMap<usize, [u8; SECTOR]>,
    /// Operations until the power goes; `None`: it stays.
    pub(super) fuse: Option<u32>,
}

/// A disk with a volatile cache.
#[derive(Clone, Debug)]
pub(super) struct Disk(Arc<Mutex<Platters>>);

impl Disk {
    pub(super) fn new() -> Self {
        let durable = vec![0; usize::try_from(REGION).unwrap()];
        Self(Arc::new(Mutex::new(Platters {
            durable,
            ..Platters::default()
        })))
    }

    pub(super) fn platters(&self) -> std::sync::MutexGuard<'_, Platters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn storage(&self) -> RegionStorage<Self> {
        RegionStorage::new(self.clone(), Bytes(0), Bytes(REGION))
    }

    /// Cuts the power after so many more operations.
    pub(super) fn fuse(&self, operations: u32) {
        self.platters().fuse = Some(operations);
    }

    /// What another start finds: of each sector in the cache, chance decides.
    pub(super) fn restart(&self, rng: &mut TestRng) -> Self {
        let mut platters = self.platters();
        let cached = std::mem::take(&mut platters.cached);
        for (sector, bytes) in cached {
            if rng.next_u32().is_multiple_of(2) {
                platters.durable[sector * SECTOR..][..SECTOR].copy_from_slice(&bytes);
            }
        }
        let durable = std::mem::take(&mut platters.durable);
        platters.fuse = Some(0);
        Self(Arc::new(Mutex::new(Platters {
            durable,
            ..Platters::default()
        })))
    }
}

impl Platters {
    fn power(&mut self) -> io::Result<()> {
        match &mut self.fuse {
            None => Ok(()),
            Some(0) => Err(io::Error::other("no power")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }
}

impl Medium for Disk {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let platters = self.platters();
        let start = usize::try_from(offset).unwrap();
        buf.copy_from_slice(&platters.durable[start..start + buf.len()]);
        let end = start + buf.len();
        for (sector, bytes) in platters.cached.range(start / SECTOR..=end / SECTOR) {
            let at = sector * SECTOR;
            let (from, to) = (at.max(start), (at + SECTOR).min(end));
            if from < to {
                buf[from - start..to - start].copy_from_slice(&bytes[from - at..to - at]);
            }
        }
        Ok(())
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut platters = self.platters();
        platters.power()?;
        let start = usize::try_from(offset).unwrap();
        let end = start + buf.len();
        for sector in start / SECTOR..end.div_ceil(SECTOR) {
            let at = sector * SECTOR;
            let mut bytes = [0; SECTOR];
            match platters.cached.get(&sector) {
                Some(cached) => bytes = *cached,
                None => bytes.copy_from_slice(&platters.durable[at..at + SECTOR]),
            }
            let (from, to) = (at.max(start), (at + SECTOR).min(end));
            bytes[from - at..to - at].copy_from_slice(&buf[from - start..to - start]);
            platters.cached.insert(sector, bytes);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut platters = self.platters();
        platters.power()?;
        let cached = std::mem::take(&mut platters.cached);
        for (sector, bytes) in cached {
            platters.durable[sector * SECTOR..][..SECTOR].copy_from_slice(&bytes);
        }
        Ok(())
    }
}

/// Rounds of changes, each cut at a moment of chance: what was answered is there afterwards.
#[test]
fn no_power_cut_loses_an_answered_change_or_shows_half_of_one() {
    let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut cuts = 0;
    for _ in 0..60 {
        let mut disk = Disk::new();
        Catalogue::create(vec![disk.storage()], &pool())
            .unwrap()
            .close()
            .unwrap();
        let mut known: BTreeMap<ThinOwner, ThinId> = BTreeMap::new();
        for _ in 0..4 {
            let catalogue = Catalogue::open(vec![disk.storage()], pool().id).unwrap();
            let found: BTreeMap<_, _> = catalogue
                .all()
                .into_iter()
                .map(|r| (r.owner, r.thin))
                .collect();
            assert_eq!(found, known);
            disk.fuse(rng.next_u32() % 60);
            let mut unanswered = None;
            for step in 0.. {
                let owner = ThinOwner::from(VolumeId::mint());
                let victim = known.keys().next().copied().filter(|_| step % 3 == 2);
                let done = catalogue.write(move |rows| {
                    let thin = rows.reserve_thin()?;
                    rows.insert(row(owner, thin));
                    if let Some(victim) = victim {
                        rows.remove(victim);
                    }
                    Ok::<_, NoThinIds>(thin)
                });
                match done {
                    Ok(thin) => {
                        known.insert(owner, thin);
                        victim.map(|v| known.remove(&v));
                    }
                    Err(_) => {
                        unanswered = Some((owner, victim));
                        break;
                    }
                }
            }
            cuts += 1;
            drop(catalogue);
            disk = disk.restart(&mut rng);
            // The one that got no answer may be there: whole or not at all.
            let (owner, victim) = unanswered.unwrap();
            let reopened = Catalogue::open(vec![disk.storage()], pool().id).unwrap();
            if let Some(row) = reopened.find(owner) {
                known.insert(owner, row.thin);
                victim.map(|v| known.remove(&v));
            }
            reopened.close().unwrap();
        }
    }
    assert_eq!(cuts, 240);
}

/// Cuts the making of a catalogue at every operation: afterwards it is blank, whole or refused.
#[test]
fn a_catalogue_whose_making_was_cut_short_is_never_taken_for_a_whole_one() {
    let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    for cut in 0.. {
        let disk = Disk::new();
        disk.fuse(cut);
        let made = Catalogue::create(vec![disk.storage()], &pool()).and_then(|c| c.close());
        let disk = disk.restart(&mut rng);
        match (made, Catalogue::open(vec![disk.storage()], pool().id)) {
            (Ok(()), opened) => {
                assert_eq!(opened.unwrap().pool(), pool());
                return;
            }
            (Err(_), Ok(whole)) => assert_eq!(whole.pool(), pool(), "cut at {cut}"),
            (Err(_), Err(_)) => {
                // A repeated making begins by erasing.
                disk.storage().erase().unwrap();
                let again = Catalogue::create(vec![disk.storage()], &pool()).unwrap();
                assert_eq!(again.pool(), pool(), "cut at {cut}");
            }
        }
        assert!(cut < 1000, "its making never ends");
    }
}
