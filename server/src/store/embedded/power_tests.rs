//! Power cuts and failing disks: a disk that keeps what was flushed and a random part of the rest,
//! torn at sectors. Whatever it keeps, every transaction that was answered is there whole, no other
//! is half there, and log, rows and revision agree.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use proptest::prelude::Rng as _;
use proptest::test_runner::{RngAlgorithm, TestRng};
use redb::{Builder, StorageBackend};

use super::*;
use crate::store::{Expect, Write};

const SECTOR: usize = 512;
const ROUNDS: u64 = 150; // of three cuts each

#[derive(Debug, Default)]
struct Platters {
    /// What a reader sees.
    now: Vec<u8>,
    /// What survives a cut for sure.
    durable: Vec<u8>,
    /// Sectors that were written since the last flush.
    dirty: BTreeSet<usize>,
    /// Operations until the disk fails; `None`: it does not.
    fuse: Option<u32>,
    /// Whether the failure is a panic.
    panics: bool,
}

/// A disk with a volatile cache.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk(Arc<Mutex<Platters>>);

impl Disk {
    fn platters(&self) -> MutexGuard<'_, Platters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn store(&self) -> EmbeddedStore {
        let mut builder = Builder::new();
        builder
            .set_check_integrity_on_open(true)
            .set_cache_size(1 << 20);
        let db = builder.create_with_backend(self.clone()).unwrap();
        EmbeddedStore::over(db, Path::new("disk"), 40).unwrap()
    }

    /// A disk with a new store on it.
    pub(crate) fn formatted() -> Self {
        let disk = Self::default();
        let db = Builder::new().create_with_backend(disk.clone()).unwrap();
        format::prepare(&db, Path::new("disk")).unwrap();
        drop(db);
        disk
    }

    /// Lets so many operations through; the ones after fail.
    pub(crate) fn fuse(&self, operations: u32) {
        self.platters().fuse = Some(operations);
    }

    /// What the next start finds: of each sector in the cache, chance decides.
    fn restart(&self, rng: &mut TestRng) -> Self {
        let platters = self.platters();
        let mut durable = platters.durable.clone();
        // The file's length may have reached the disk or not.
        if rng.next_u32().is_multiple_of(2) {
            durable.resize(platters.now.len(), 0);
        }
        for sector in &platters.dirty {
            let from = sector * SECTOR;
            let to = (from + SECTOR).min(platters.now.len());
            if rng.next_u32().is_multiple_of(2) && from < to {
                durable.resize(durable.len().max(to), 0);
                durable[from..to].copy_from_slice(&platters.now[from..to]);
            }
        }
        Self(Arc::new(Mutex::new(Platters {
            now: durable.clone(),
            durable,
            ..Platters::default()
        })))
    }
}

impl Platters {
    fn power(&mut self) -> io::Result<()> {
        match &mut self.fuse {
            None => Ok(()),
            Some(0) if self.panics => panic!("a page that makes no sense"),
            Some(0) => Err(io::Error::other("no power")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.platters().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(offset).unwrap();
        let platters = self.platters();
        let found = platters.now.get(from..from + out.len());
        out.copy_from_slice(found.ok_or_else(|| io::Error::other("past the end"))?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut platters = self.platters();
        platters.power()?;
        platters.now.resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut platters = self.platters();
        platters.power()?;
        platters.durable = platters.now.clone();
        platters.dirty.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut platters = self.platters();
        platters.power()?;
        let from = usize::try_from(offset).unwrap();
        platters.now[from..from + data.len()].copy_from_slice(data);
        platters
            .dirty
            .extend(from / SECTOR..(from + data.len()).div_ceil(SECTOR));
        Ok(())
    }
}

/// Adds one to two keys that must always be equal, in one transaction.
fn step(n: u64) -> Txn {
    let expect = |key: &str| match n {
        1 => Expect::Absent(key.into()),
        n => Expect::At(key.into(), n - 1),
    };
    let write = |key: &str| Write::Put(key.into(), n.to_string().repeat(100).into());
    Txn {
        expect: vec![expect("a"), expect("b")],
        writes: vec![write("a"), write("b")],
    }
}

#[tokio::test]
async fn no_power_cut_loses_what_was_answered_or_leaves_half_of_anything() {
    let mut cut_while_writing = 0;
    for seed in 0..ROUNDS {
        let mut rng = TestRng::from_seed(
            RngAlgorithm::ChaCha,
            &[&seed.to_le_bytes()[..], &[7; 24]].concat(),
        );
        let mut disk = Disk::formatted();
        let incarnation = disk.store().incarnation();
        let mut answered = 0;
        for _ in 0..3 {
            let store = disk.store();
            disk.fuse(rng.next_u32() % 60);
            while store.txn(step(answered + 1)).await.is_ok() {
                answered += 1;
            }
            cut_while_writing += u32::from(!disk.platters().dirty.is_empty());
            let next = disk.restart(&mut rng);
            drop(store);
            disk = next;
            answered = check(&disk.store(), incarnation, answered, seed).await;
        }
    }
    assert!(
        cut_while_writing > 100,
        "only {cut_while_writing} cuts hit anything"
    );
}

/// That the store has at least what was answered, whole; how far it is.
async fn check(
    store: &EmbeddedStore,
    incarnation: Incarnation,
    answered: Revision,
    seed: u64,
) -> Revision {
    assert_eq!(store.incarnation(), incarnation);
    let range = Range {
        prefix: String::new(),
        after: None,
        limit: 10,
    };
    let found = store.range(range).await.unwrap();
    let last = found.revision;
    // One transaction may have got through without an answer.
    assert!(
        (answered..=answered + 1).contains(&last),
        "seed {seed}: {answered} became {last}"
    );
    let mut rows = BTreeMap::new();
    for entry in found.entries {
        assert_eq!(entry.modified, last, "seed {seed}");
        rows.insert(entry.key, String::from_utf8(entry.value).unwrap());
    }
    let text = last.to_string().repeat(100);
    let whole = BTreeMap::from([("a".into(), text.clone()), ("b".into(), text)]);
    assert_eq!(
        rows,
        if last == 0 { BTreeMap::new() } else { whole },
        "seed {seed}"
    );
    let from = last.saturating_sub(20);
    let kept = usize::try_from(2 * (last - from)).unwrap();
    let log: Vec<_> = store
        .watch("", from)
        .await
        .unwrap()
        .take(kept)
        .collect()
        .await;
    for (change, n) in log.into_iter().zip(0..) {
        assert_eq!(change.unwrap().revision, from + 1 + n / 2, "seed {seed}");
    }
    last
}

#[tokio::test]
async fn a_failed_commit_closes_the_store_until_it_is_opened_again() {
    let disk = Disk::formatted();
    let store = disk.store();
    store.txn(step(1)).await.unwrap();
    let mut changes = store.watch("", 1).await.unwrap();
    disk.fuse(0);
    assert!(matches!(
        store.txn(step(2)).await,
        Err(StoreError::Unavailable(_))
    ));
    disk.platters().fuse = None; // the disk is well again; what it holds is still unknown
    let error = store.txn(step(3)).await.unwrap_err();
    let StoreError::Unavailable(cause) = error else {
        panic!("{error}")
    };
    assert!(cause.to_string().contains("restart the server"), "{cause}");
    assert!(matches!(
        store.get("a").await,
        Err(StoreError::Unavailable(_))
    ));
    assert!(matches!(
        changes.next().await,
        Some(Err(StoreError::Unavailable(_)))
    ));
    drop(store);
    let store = disk.store();
    let last = store.get("a").await.unwrap().unwrap().modified;
    assert!(last == 1 || last == 2);
    store.txn(step(last + 1)).await.unwrap();
}

#[tokio::test]
async fn a_panic_in_a_commit_closes_the_store_too() {
    let disk = Disk::formatted();
    let store = disk.store();
    store.txn(step(1)).await.unwrap();
    let broken = store.broken();
    disk.platters().panics = true;
    disk.fuse(0);
    assert!(matches!(
        store.txn(step(2)).await,
        Err(StoreError::Unavailable(_))
    ));
    disk.platters().fuse = None;
    broken.await;
    assert!(matches!(
        store.get("a").await,
        Err(StoreError::Unavailable(_))
    ));
    drop(store);
    let store = disk.store();
    let last = store.get("a").await.unwrap().unwrap().modified;
    store.txn(step(last + 1)).await.unwrap();
}
