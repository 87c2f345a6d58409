//! What every store keeps to: each check is run against each kind of store.
//!
//! A check takes a store of its own, empty or not, and uses keys that begin with its own word, so
//! that it can run beside others where the store is one service for all.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;

use super::{Change, Changes, Entry, Expect, Range, Revision, Store, StoreError, Txn, Write};

type Shared = Arc<dyn Store>;

fn put(key: &str, value: &str) -> Write {
    Write::Put(key.into(), value.into())
}

fn delete(key: &str) -> Write {
    Write::Delete(key.into())
}

fn absent(key: &str) -> Expect {
    Expect::Absent(key.into())
}

fn at(key: &str, revision: Revision) -> Expect {
    Expect::At(key.into(), revision)
}

async fn write(store: &Shared, writes: impl IntoIterator<Item = Write>) -> Revision {
    let txn = Txn {
        expect: Vec::new(),
        writes: writes.into_iter().collect(),
    };
    store.txn(txn).await.unwrap()
}

async fn txn(
    store: &Shared,
    expect: impl IntoIterator<Item = Expect>,
    writes: impl IntoIterator<Item = Write>,
) -> Result<Revision, StoreError> {
    let expect = expect.into_iter().collect();
    store
        .txn(Txn {
            expect,
            writes: writes.into_iter().collect(),
        })
        .await
}

fn conflict(answer: Result<Revision, StoreError>) -> String {
    match answer {
        Err(StoreError::Conflict { key }) => key,
        other => panic!("wanted a conflict, got {other:?}"),
    }
}

async fn all(store: &Shared, prefix: &str) -> Vec<(String, String)> {
    let range = Range {
        prefix: prefix.into(),
        after: None,
        limit: usize::MAX,
    };
    let entries = store.range(range).await.unwrap().entries;
    let text = |e: Entry| (e.key, String::from_utf8(e.value).unwrap());
    entries.into_iter().map(text).collect()
}

async fn revision(store: &Shared) -> Revision {
    let range = Range {
        prefix: "nothing-begins-so".into(),
        after: None,
        limit: 1,
    };
    store.range(range).await.unwrap().revision
}

/// The next so many changes of a watch.
async fn take(changes: &mut Changes, count: usize) -> Vec<Change> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let next = tokio::time::timeout(Duration::from_secs(20), changes.next()).await;
        seen.push(
            next.expect("no change in 20 s")
                .expect("the watch ended")
                .unwrap(),
        );
    }
    seen
}

/// That a watch has nothing to say.
async fn quiet(changes: &mut Changes) {
    let next = tokio::time::timeout(Duration::from_millis(100), changes.next()).await;
    assert!(next.is_err(), "unexpected {next:?}");
}

/// A key can be made once; what it holds and when it was made and written can be read.
pub async fn a_key_is_created_once(store: Shared) {
    assert_eq!(store.get("once/a").await.unwrap(), None);
    let made = txn(&store, [absent("once/a")], [put("once/a", "1")])
        .await
        .unwrap();
    let second = txn(&store, [absent("once/a")], [put("once/a", "2")]).await;
    assert_eq!(conflict(second), "once/a");
    let written = write(&store, [put("once/a", "3")]).await;
    let entry = store.get("once/a").await.unwrap().unwrap();
    let wanted = Entry {
        key: "once/a".into(),
        value: b"3".into(),
        created: made,
        modified: written,
    };
    assert_eq!(entry, wanted);
}

/// A stale expectation writes nothing at all and takes no revision.
pub async fn a_stale_expectation_writes_nothing(store: Shared) {
    let first = write(&store, [put("stale/a", "1"), put("stale/b", "1")]).await;
    let second = write(&store, [put("stale/a", "2")]).await;
    let expect = [
        at("stale/b", first),
        at("stale/a", first),
        absent("stale/c"),
    ];
    let answer = txn(
        &store,
        expect,
        [put("stale/b", "x"), put("stale/c", "x"), delete("stale/a")],
    )
    .await;
    assert_eq!(conflict(answer), "stale/a");
    assert_eq!(
        conflict(txn(&store, [at("stale/z", 1)], [put("stale/z", "x")]).await),
        "stale/z"
    );
    let rows = [
        ("stale/a".into(), "2".into()),
        ("stale/b".into(), "1".into()),
    ];
    assert_eq!(all(&store, "stale/").await, rows);
    assert_eq!(revision(&store).await, second);
    let third = txn(&store, [at("stale/a", second)], [put("stale/a", "3")])
        .await
        .unwrap();
    assert_eq!(third, second + 1);
}

/// All writes of a transaction have one revision, and no reader sees some of them.
pub async fn a_transaction_is_seen_whole(store: Shared) {
    let reader = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let mut looks = 0;
            loop {
                let rows = all(&store, "whole/").await;
                let values: BTreeSet<_> = rows.iter().map(|(_, value)| value.clone()).collect();
                assert!(values.len() <= 1, "a half: {rows:?}");
                assert!(rows.is_empty() || rows.len() == 3, "a half: {rows:?}");
                looks += 1;
                if values.contains("end") {
                    return looks;
                }
                tokio::task::yield_now().await;
            }
        })
    };
    for n in 0..50 {
        let keys = ["whole/a", "whole/b", "whole/c"];
        if n % 7 == 6 {
            write(&store, keys.map(delete)).await;
        } else {
            write(&store, keys.map(|key| put(key, &n.to_string()))).await;
        }
    }
    let last = write(
        &store,
        ["whole/a", "whole/b", "whole/c"].map(|key| put(key, "end")),
    )
    .await;
    for key in ["whole/a", "whole/b", "whole/c"] {
        assert_eq!(store.get(key).await.unwrap().unwrap().modified, last);
    }
    assert!(reader.await.unwrap() > 0);
}

/// A range is in order, of its prefix alone, in pages that neither skip nor repeat.
pub async fn a_range_pages_through_its_prefix_in_order(store: Shared) {
    let keys: Vec<_> = (0..25).map(|n| format!("range/{n:02}")).collect();
    for key in keys.iter().rev() {
        write(&store, [put(key, key)]).await;
    }
    let last = write(
        &store,
        [
            put("range", "x"),
            put("range-name/00", "x"),
            put("rangf", "x"),
        ],
    )
    .await;
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let range = Range {
            prefix: "range/".into(),
            after: after.clone(),
            limit: 10,
        };
        let page = store.range(range).await.unwrap();
        assert_eq!(page.revision, last);
        assert_eq!(page.more, seen.len() + page.entries.len() < keys.len());
        seen.extend(page.entries.iter().map(|e| e.key.clone()));
        after = page.entries.last().map(|e| e.key.clone());
        if !page.more {
            break;
        }
    }
    assert_eq!(seen, keys);
    let page = |after: &str, limit| {
        let range = Range {
            prefix: "range/".into(),
            after: Some(after.into()),
            limit,
        };
        let store = Arc::clone(&store);
        async move {
            let page = store.range(range).await.unwrap();
            (
                page.entries.into_iter().map(|e| e.key).collect::<Vec<_>>(),
                page.more,
            )
        }
    };
    assert_eq!(page("range/22x", 2).await, (keys[23..].to_vec(), false));
    assert_eq!(page("range/23", 1).await, (keys[24..].to_vec(), false));
    assert_eq!(page("range/24", 5).await, (Vec::new(), false));
    assert_eq!(page("a", 1).await, (keys[..1].to_vec(), true));
    assert_eq!(page("z", 5).await, (Vec::new(), false));
}

/// A deleted key is gone, can be made anew, and deleting what is not there changes nothing.
pub async fn a_deleted_key_is_gone(store: Shared) {
    let made = write(&store, [put("gone/a", "1")]).await;
    let gone = txn(&store, [at("gone/a", made)], [delete("gone/a")])
        .await
        .unwrap();
    assert_eq!(gone, made + 1);
    assert_eq!(store.get("gone/a").await.unwrap(), None);
    assert_eq!(
        write(&store, [delete("gone/a")]).await,
        gone,
        "nothing was written"
    );
    assert_eq!(
        conflict(txn(&store, [at("gone/a", made)], [delete("gone/a")]).await),
        "gone/a"
    );
    let again = txn(&store, [absent("gone/a")], [put("gone/a", "2")])
        .await
        .unwrap();
    assert_eq!(store.get("gone/a").await.unwrap().unwrap().created, again);
}

/// Each transaction that writes takes the next revision; one that does not takes none.
pub async fn a_revision_is_one_more_for_each_transaction_that_writes(store: Shared) {
    let mut last = revision(&store).await;
    for n in 0..10 {
        let next = write(
            &store,
            [put("rev/a", &n.to_string()), put(&format!("rev/{n}"), "x")],
        )
        .await;
        assert_eq!(next, last + 1);
        assert_eq!(write(&store, []).await, next);
        assert_eq!(txn(&store, [at("rev/a", next)], []).await.unwrap(), next);
        assert!(
            txn(&store, [absent("rev/a")], [put("rev/b", "x")])
                .await
                .is_err()
        );
        assert_eq!(revision(&store).await, next);
        last = next;
    }
}

/// A transaction that writes a key twice is refused whole.
pub async fn a_key_is_written_once_in_a_transaction(store: Shared) {
    let before = revision(&store).await;
    let twice = txn(
        &store,
        [],
        [put("twice/a", "1"), put("twice/b", "1"), delete("twice/a")],
    )
    .await;
    assert!(
        matches!(twice, Err(StoreError::Unavailable(_))),
        "{twice:?}"
    );
    assert_eq!(all(&store, "twice/").await, []);
    assert_eq!(write(&store, [put("twice/a", "1")]).await, before + 1);
}

/// 64 tasks count one key up together: no count is lost.
pub async fn no_update_is_lost(store: Shared) {
    const TASKS: usize = 64;
    const EACH: usize = 5;
    write(&store, [put("count", "0")]).await;
    let count = |store: Shared| async move {
        for _ in 0..EACH {
            loop {
                let entry = store.get("count").await.unwrap().unwrap();
                let n: usize = String::from_utf8(entry.value).unwrap().parse().unwrap();
                let next = put("count", &(n + 1).to_string());
                match txn(&store, [at("count", entry.modified)], [next]).await {
                    Ok(_) => break,
                    Err(StoreError::Conflict { .. }) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| tokio::spawn(count(Arc::clone(&store))))
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(
        store.get("count").await.unwrap().unwrap().value,
        (TASKS * EACH).to_string().as_bytes()
    );
}

/// A watch has what was, what is written while it begins, and what comes, each once and in order.
pub async fn a_watch_has_every_change_once_and_in_order(store: Shared) {
    const WRITERS: usize = 8;
    const EACH: usize = 40;
    let before = write(&store, [put("watch/first", "x")]).await;
    let mut early = store.watch("watch/", before).await.unwrap();
    let writer = |store: Shared, w: usize| async move {
        for n in 0..EACH {
            let (a, b) = (format!("watch/{w}/{n}/a"), format!("watch/{w}/{n}/b"));
            write(&store, [put(&a, "1"), put(&b, "1"), put("other/x", "1")]).await;
        }
    };
    let tasks: Vec<_> = (0..WRITERS)
        .map(|w| tokio::spawn(writer(Arc::clone(&store), w)))
        .collect();
    let mut late = Vec::new();
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(3)).await;
        let from = revision(&store).await;
        late.push((from, store.watch("watch/", from).await.unwrap()));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let seen = take(&mut early, 2 * WRITERS * EACH).await;
    quiet(&mut early).await;
    let keys: BTreeSet<_> = seen.iter().map(|change| &change.key).collect();
    assert_eq!(keys.len(), 2 * WRITERS * EACH);
    for (pair, n) in seen.chunks(2).zip(1..) {
        let [a, b] = pair else {
            panic!("half a transaction")
        };
        assert_eq!((a.revision, b.revision), (before + n, before + n));
        assert_eq!(a.key.trim_end_matches('a'), b.key.trim_end_matches('b'));
    }
    for (from, mut changes) in late {
        let rest: Vec<_> = seen.iter().filter(|c| c.revision > from).cloned().collect();
        assert_eq!(take(&mut changes, rest.len()).await, rest);
        quiet(&mut changes).await;
    }
}

/// A change says what the key holds since and when it was made, or that it is gone.
pub async fn a_change_says_what_happened(store: Shared) {
    let mut changes = store
        .watch("change/", revision(&store).await)
        .await
        .unwrap();
    let made = write(&store, [put("change/a", "1"), put("else/a", "1")]).await;
    let put_again = write(&store, [put("change/a", "2")]).await;
    let gone = write(&store, [delete("change/a"), delete("change/b")]).await;
    let change = |value: Option<&str>, created, revision| Change {
        key: "change/a".into(),
        value: value.map(Into::into),
        created,
        revision,
    };
    let wanted = [
        change(Some("1"), made, made),
        change(Some("2"), made, put_again),
        change(None, 0, gone),
    ];
    assert_eq!(take(&mut changes, 3).await, wanted);
    quiet(&mut changes).await;
    let mut again = store.watch("change/", made).await.unwrap();
    assert_eq!(take(&mut again, 2).await, wanted[1..]);
}

/// A watch of what comes after a revision that is not yet here waits for it.
pub async fn a_watch_from_the_future_waits(store: Shared) {
    let mut changes = store
        .watch("future/", revision(&store).await + 1)
        .await
        .unwrap();
    write(&store, [put("future/a", "1")]).await;
    let second = write(&store, [put("future/b", "1")]).await;
    let seen = take(&mut changes, 1).await;
    assert_eq!(
        (seen[0].key.as_str(), seen[0].revision),
        ("future/b", second)
    );
}

/// A store opened again is what it was: entries, revision, incarnation, history.
pub async fn a_store_opened_again_is_what_it_was(
    store: Shared,
    open: impl AsyncFnOnce() -> Shared,
) {
    let incarnation = store.incarnation();
    let made = write(&store, [put("again/a", "1"), put("again/b", "1")]).await;
    let last = write(&store, [put("again/a", "2"), delete("again/b")]).await;
    let entry = store.get("again/a").await.unwrap();
    drop(store);
    let store = open().await;
    assert_eq!(store.incarnation(), incarnation);
    assert_eq!(revision(&store).await, last);
    assert_eq!(store.get("again/a").await.unwrap(), entry);
    assert_eq!(
        all(&store, "again/").await,
        [("again/a".into(), "2".into())]
    );
    let mut changes = store.watch("again/", made).await.unwrap();
    assert_eq!(take(&mut changes, 2).await.len(), 2);
    assert_eq!(write(&store, [put("again/c", "1")]).await, last + 1);
    assert_eq!(take(&mut changes, 1).await[0].key, "again/c");
}

/// A watch from a time that was forgotten is refused with where one can begin; from there it works.
pub async fn a_watch_of_forgotten_changes_is_refused(
    store: Shared,
    forget: impl AsyncFnOnce(&Shared),
) {
    let before = write(&store, [put("old/a", "1")]).await;
    forget(&store).await;
    let oldest = match store.watch("old/", before - 1).await {
        Err(StoreError::Compacted { oldest }) => oldest,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("the watch began"),
    };
    assert!(oldest >= before);
    let mut changes = store.watch("old/", oldest).await.unwrap();
    let next = write(&store, [put("old/b", "1")]).await;
    let seen = take(&mut changes, 1).await;
    assert_eq!(seen.last().unwrap().revision, next);
}
