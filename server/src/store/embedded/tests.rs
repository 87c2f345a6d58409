//! The embedded store against the contract, and what is its own: the file, the lock, the log's end.

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use redb::Database;
use tempfile::TempDir;

use super::format::{CHANGES, FORMAT, HEAD};
use super::*;
use crate::store::{Expect, Write, contract};

fn scratch() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    (folder, path)
}

fn fresh() -> (TempDir, Arc<dyn Store>) {
    let (folder, path) = scratch();
    (folder, Arc::new(EmbeddedStore::open(&path).unwrap()))
}

fn one(key: &str, value: &str) -> Txn {
    Txn {
        expect: Vec::new(),
        writes: vec![Write::Put(key.into(), value.into())],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_created_once() {
    let (_folder, store) = fresh();
    contract::a_key_is_created_once(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_expectation_writes_nothing() {
    let (_folder, store) = fresh();
    contract::a_stale_expectation_writes_nothing(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_seen_whole() {
    let (_folder, store) = fresh();
    contract::a_transaction_is_seen_whole(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_pages_through_its_prefix_in_order() {
    let (_folder, store) = fresh();
    contract::a_range_pages_through_its_prefix_in_order(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_key_is_gone() {
    let (_folder, store) = fresh();
    contract::a_deleted_key_is_gone(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_is_one_more_for_each_transaction_that_writes() {
    let (_folder, store) = fresh();
    contract::a_revision_is_one_more_for_each_transaction_that_writes(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_written_once_in_a_transaction() {
    let (_folder, store) = fresh();
    contract::a_key_is_written_once_in_a_transaction(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_update_is_lost() {
    let (_folder, store) = fresh();
    contract::no_update_is_lost(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_has_every_change_once_and_in_order() {
    let (_folder, store) = fresh();
    contract::a_watch_has_every_change_once_and_in_order(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_says_what_happened() {
    let (_folder, store) = fresh();
    contract::a_change_says_what_happened(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_from_the_future_waits() {
    let (_folder, store) = fresh();
    contract::a_watch_from_the_future_waits(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_opened_again_is_what_it_was() {
    let (_folder, path) = scratch();
    let store = Arc::new(EmbeddedStore::open(&path).unwrap());
    let open = async || Arc::new(EmbeddedStore::open(&path).unwrap()) as Arc<dyn Store>;
    contract::a_store_opened_again_is_what_it_was(store, open).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_of_forgotten_changes_is_refused() {
    let (_folder, path) = scratch();
    let store = Arc::new(EmbeddedStore::open_keeping(&path, 10).unwrap());
    let store: Arc<dyn Store> = store;
    let forget = async |store: &Arc<dyn Store>| {
        for n in 0..10 {
            store.txn(one("x", &n.to_string())).await.unwrap();
        }
    };
    contract::a_watch_of_forgotten_changes_is_refused(store, forget).await;
}

#[tokio::test]
async fn the_log_keeps_whole_transactions_and_no_more_than_it_was_told() {
    let (_folder, path) = scratch();
    let store = EmbeddedStore::open_keeping(&path, 7).unwrap();
    for n in 0..5 {
        let write = |key: &str| Write::Put(format!("{key}{n}"), b"x".into());
        let writes = vec![write("a"), write("b"), write("c")];
        store
            .txn(Txn {
                expect: Vec::new(),
                writes,
            })
            .await
            .unwrap();
        let read = store.shared.db.begin_read().unwrap();
        let left = redb::ReadableTableMetadata::len(&read.open_table(CHANGES).unwrap()).unwrap();
        assert_eq!(left, if n == 0 { 3 } else { 6 }, "after transaction {n}");
    }
    assert!(matches!(
        store.watch("", 2).await,
        Err(StoreError::Compacted { oldest: 3 })
    ));
    assert_eq!(store.watch("", 3).await.unwrap().take(6).count().await, 6);
}

#[tokio::test]
async fn a_slow_watch_ends_and_holds_nobody_up() {
    let (_folder, path) = scratch();
    let store = EmbeddedStore::open_keeping(&path, 10).unwrap();
    let mut slow = store.watch("", 0).await.unwrap();
    store.txn(one("a", "1")).await.unwrap();
    assert_eq!(slow.next().await.unwrap().unwrap().revision, 1);
    for n in 0..50 {
        store.txn(one("a", &n.to_string())).await.unwrap();
    }
    assert!(matches!(
        slow.next().await,
        Some(Err(StoreError::Compacted { oldest: 41 }))
    ));
    assert!(slow.next().await.is_none());
}

#[tokio::test]
async fn a_watch_ends_with_its_store_and_does_not_keep_it_open() {
    let (_folder, path) = scratch();
    let store = EmbeddedStore::open(&path).unwrap();
    let mut changes = store.watch("", 0).await.unwrap();
    assert!(changes.next().now_or_never().is_none());
    drop(store);
    let ended = tokio::time::timeout(Duration::from_secs(5), changes.next())
        .await
        .unwrap();
    assert!(ended.is_none());
    EmbeddedStore::open(&path).unwrap();
}

#[tokio::test]
async fn what_was_queued_is_done_before_the_store_shuts() {
    let (_folder, path) = scratch();
    let store = EmbeddedStore::open(&path).unwrap();
    for n in 0..20 {
        let key = format!("k{n:02}");
        // Sent, and nobody waits for the answer.
        assert!(store.txn(one(&key, "x")).now_or_never().is_none());
    }
    drop(store);
    let store = EmbeddedStore::open(&path).unwrap();
    let range = Range {
        prefix: "k".into(),
        after: None,
        limit: 100,
    };
    assert_eq!(store.range(range).await.unwrap().entries.len(), 20);
}

#[tokio::test]
async fn callers_that_wait_together_share_a_commit_and_conflicts_among_them_are_seen() {
    let (_folder, path) = scratch();
    let store = EmbeddedStore::open(&path).unwrap();
    let create = |value: &str| Txn {
        expect: vec![Expect::Absent("one".into())],
        writes: vec![Write::Put("one".into(), value.into())],
    };
    let answers =
        futures::future::join_all((0..50).map(|n| store.txn(create(&n.to_string())))).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    assert_eq!(store.get("one").await.unwrap().unwrap().modified, 1);
}

#[test]
fn a_second_server_on_the_same_store_is_refused_and_told_what_to_do() {
    let (_folder, path) = scratch();
    let first = EmbeddedStore::open(&path).unwrap();
    let error = EmbeddedStore::open(&path).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }));
    assert!(error.to_string().contains("stop that one first"), "{error}");
    drop(first);
    EmbeddedStore::open(&path).unwrap();
}

#[test]
fn a_database_that_another_program_holds_is_refused_too() {
    let (_folder, path) = scratch();
    drop(EmbeddedStore::open(&path).unwrap());
    let _held = Database::open(&path).unwrap();
    assert!(matches!(
        EmbeddedStore::open(&path),
        Err(OpenError::InUse { .. })
    ));
}

#[test]
fn a_store_of_a_newer_format_is_refused_in_clear_words_and_left_as_it_is() {
    let (_folder, path) = scratch();
    drop(EmbeddedStore::open(&path).unwrap());
    let db = Database::open(&path).unwrap();
    let txn = db.begin_write().unwrap();
    txn.open_table(HEAD)
        .unwrap()
        .insert("format", FORMAT + 1)
        .unwrap();
    txn.commit().unwrap();
    drop(db);
    for _ in 0..2 {
        let error = EmbeddedStore::open(&path).unwrap_err();
        assert!(matches!(
            error,
            OpenError::Newer {
                found: 2,
                known: 1,
                ..
            }
        ));
        assert!(error.to_string().contains("upgrade the server"), "{error}");
    }
}

#[test]
fn a_file_that_is_no_store_is_refused_and_left_as_it_is() {
    let (_folder, path) = scratch();
    drop(Database::create(&path).unwrap());
    assert!(matches!(
        EmbeddedStore::open(&path),
        Err(OpenError::Foreign { .. })
    ));
    for text in [
        "",
        "some other file, which is long enough to be taken for one",
    ] {
        std::fs::write(&path, text).unwrap();
        assert!(EmbeddedStore::open(&path).is_err(), "{text:?} opened");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn a_store_whose_making_was_cut_short_is_made_anew() {
    let (_folder, path) = scratch();
    std::fs::write(path.with_extension("redb.new"), "half").unwrap();
    EmbeddedStore::open(&path).unwrap();
    assert!(!path.with_extension("redb.new").exists());
}

#[test]
fn two_stores_have_two_incarnations() {
    let (_a, a) = scratch();
    let (_b, b) = scratch();
    let incarnation = |path| EmbeddedStore::open(path).unwrap().incarnation();
    assert_ne!(incarnation(&a), incarnation(&b));
    assert_eq!(incarnation(&a), incarnation(&a));
}

#[test]
fn a_store_in_a_folder_that_is_not_there_names_it() {
    let (folder, _) = scratch();
    let error = EmbeddedStore::open(&folder.path().join("no/store")).unwrap_err();
    assert!(error.to_string().contains("no/store"), "{error}");
}
