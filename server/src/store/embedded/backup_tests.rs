//! Backups: of one moment, whole or refused, and a restored store is another life of the same keys.

use std::sync::Arc;

use futures::TryStreamExt;

use super::*;
use crate::store::embedded::EmbeddedStore;
use crate::store::{Entry, Range, Store, Txn, Write};

const BACKUP_V1: &str = include_str!("../../../tests/golden/backup-v1.hex");

fn golden() -> Vec<u8> {
    let hex: String = BACKUP_V1.split_whitespace().collect();
    let pairs = hex.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn header() -> BackupHeader {
    BackupHeader {
        store_format: 1,
        incarnation: Incarnation::from_bytes([0x66; 16]),
        revision: 7,
        taken: "2026-11-24T06:00:00Z".parse().unwrap(),
        server_version: "0.1.0".into(),
    }
}

/// The golden file with a header of another kind.
fn with_header(header: &BackupHeader) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(|chunk: Vec<u8>| {
        bytes.extend(chunk);
        Ok(())
    });
    let entry = |created, modified, value: &[u8]| format::encode_entry(created, modified, value);
    let (name, id) = ("volume-name/vm1", format!("vol-{}", "11".repeat(16)));
    let wrote = writer
        .begin(header)
        .and_then(|()| writer.entry(name, &entry(3, 3, id.as_bytes())))
        .and_then(|()| writer.entry(&format!("volume/{id}"), &entry(3, 7, b"{\"v\":\"1\"}")))
        .and_then(|()| writer.end(2));
    assert!(wrote.is_ok());
    drop(writer);
    bytes
}

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join("a.backup");
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn store(&self) -> PathBuf {
        self.0.path().join("store.redb")
    }
}

async fn taken(store: &dyn Store) -> Vec<u8> {
    let chunks: Vec<Vec<u8>> = store.backup().await.unwrap().try_collect().await.unwrap();
    chunks.concat()
}

async fn everything(store: &dyn Store) -> Vec<Entry> {
    let range = Range {
        prefix: String::new(),
        after: None,
        limit: 100_000,
    };
    store.range(range).await.unwrap().entries
}

fn put(key: &str, value: &[u8]) -> Write {
    Write::Put(key.into(), value.into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_version_1_is_read_and_written_as_ever() {
    assert_eq!(with_header(&header()), golden());
    let scratch = Scratch::new();
    let backup = scratch.put(&golden());
    assert_eq!(check(&backup).unwrap(), header());
    assert_eq!(restore(&backup, &scratch.store()).unwrap(), header());
    let store = EmbeddedStore::open(&scratch.store()).unwrap();
    let entries = everything(&store).await;
    assert_eq!(
        (entries.len(), entries[0].key.as_str()),
        (2, "volume-name/vm1")
    );
    assert_eq!((entries[1].created, entries[1].modified), (3, 7));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_of_one_moment_while_the_store_serves_and_comes_back_as_another_life() {
    let scratch = Scratch::new();
    let store = Arc::new(EmbeddedStore::open(&scratch.0.path().join("first.redb")).unwrap());
    let filler = (0..3000).map(|n| put(&format!("filler/{n:05}"), &[b'x'; 100]));
    let writes = filler.collect();
    let txn = Txn {
        expect: Vec::new(),
        writes,
    };
    store.txn(txn).await.unwrap();
    let writer = Arc::clone(&store);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let writing = tokio::spawn(async move {
        let mut n = 0_u64;
        while !*stopped.borrow() {
            n += 1;
            let value = n.to_string();
            let writes = ["a", "z"].map(|key| put(key, value.as_bytes())).into();
            let expect = Vec::new();
            writer.txn(Txn { expect, writes }).await.unwrap();
        }
        n
    });
    let mut restored = 0;
    for round in 0..8 {
        let backup = scratch.put(&taken(&*store).await);
        let path = scratch.0.path().join(format!("restored-{round}.redb"));
        let header = EmbeddedStore::restore(&backup, &path).unwrap();
        assert_eq!(header.incarnation, store.incarnation());
        let again = EmbeddedStore::open(&path).unwrap();
        assert_ne!(again.incarnation(), store.incarnation());
        let find = async |key: &str| again.get(key).await.unwrap().map(|e| (e.value, e.modified));
        assert_eq!(
            find("a").await,
            find("z").await,
            "two halves of a transaction"
        );
        restored += everything(&again).await.len();
        // It goes on from there.
        let next = again.txn(Txn {
            expect: Vec::new(),
            writes: vec![put("new", b"1")],
        });
        assert_eq!(next.await.unwrap(), header.revision + 1);
    }
    stop.send(true).unwrap();
    assert!(writing.await.unwrap() > 8, "nothing was written meanwhile");
    assert!(restored >= 8 * 3000);
    // At rest it is the same, to the revision of each key.
    let backup = scratch.put(&taken(&*store).await);
    restore(&backup, &scratch.store()).unwrap();
    let again = EmbeddedStore::open(&scratch.store()).unwrap();
    assert_eq!(everything(&again).await, everything(&*store).await);
}

#[test]
fn a_damaged_or_shortened_backup_is_refused_and_leaves_nothing() {
    let (scratch, whole) = (Scratch::new(), golden());
    let refused = |bytes: &[u8], what: &str| {
        let backup = scratch.put(bytes);
        assert!(check(&backup).is_err(), "{what} passed");
        assert!(
            restore(&backup, &scratch.store()).is_err(),
            "{what} was restored"
        );
        assert!(!scratch.store().exists(), "{what} left a store");
    };
    for at in 0..whole.len() {
        let mut spoilt = whole.clone();
        spoilt[at] ^= 0x10;
        refused(&spoilt, &format!("a flipped bit at {at}"));
        refused(&whole[..at], &format!("the first {at} bytes"));
    }
    refused(
        &[whole.as_slice(), b"x"].concat(),
        "something after the end",
    );
    restore(&scratch.put(&whole), &scratch.store()).unwrap();
}

#[test]
fn a_newer_backup_is_refused_with_what_to_do() {
    let scratch = Scratch::new();
    let mut newer = golden();
    newer[16] = 2;
    let format = BackupHeader {
        store_format: 2,
        ..header()
    };
    for bytes in [newer, with_header(&format)] {
        let refused = restore(&scratch.put(&bytes), &scratch.store()).unwrap_err();
        assert!(matches!(refused, RestoreError::Newer { found: 2, .. }));
        assert!(refused.to_string().contains("upgrade"), "{refused}");
        assert!(!scratch.store().exists());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_restored_over_a_store_that_has_anything_or_is_served() {
    let scratch = Scratch::new();
    let backup = scratch.put(&golden());
    let store = EmbeddedStore::open(&scratch.store()).unwrap();
    let refused = restore(&backup, &scratch.store()).unwrap_err();
    assert!(
        matches!(refused, RestoreError::Store(OpenError::InUse { .. })),
        "{refused}"
    );
    let first = store.incarnation();
    drop(store);
    // An empty one that a server has made at its first start is no loss.
    restore(&backup, &scratch.store()).unwrap();
    let store = EmbeddedStore::open(&scratch.store()).unwrap();
    assert_ne!(store.incarnation(), first);
    let writes = vec![put("k", b"v")];
    let expect = Vec::new();
    store.txn(Txn { expect, writes }).await.unwrap();
    drop(store);
    let refused = restore(&backup, &scratch.store()).unwrap_err();
    assert!(
        matches!(refused, RestoreError::NotEmpty { revision: 8, .. }),
        "{refused}"
    );
    let store = EmbeddedStore::open(&scratch.store()).unwrap();
    assert_eq!(everything(&store).await.len(), 3, "it is as it was");
}
