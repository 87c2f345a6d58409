//! What a pool that is being deleted with all that is in it refuses, and what brings it back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

mod support;

use goldleaf_server::agents::fake::{Cut, Verb};
use goldleaf_server::domain::{ActivateOptions, Node, Phase, Pool, Ref, Remark, Snapshot, Volume};
use goldleaf_server::service::{ServiceError, Update};
use goldleaf_server::store::Range;
use support::*;
use tonic::Code;

/// A volume "vm1" with a snapshot "s1" in the pool "fast".
async fn filled() -> Rig {
    let rig = Rig::furnished().await;
    rig.service().create_thin(thin("vm1", "")).await.unwrap();
    let snapshot = snapshot_of("s1", "volume/vm1");
    rig.service().create_snapshot(snapshot).await.unwrap();
    rig
}

fn protect<Id>(name: &str, on: bool) -> Update<Ref<Id>> {
    Update {
        what: named(name),
        change: Remark {
            deletion_protection: Some(on),
            ..Remark::default()
        },
        revision: 0,
    }
}

async fn destroy(rig: &Rig) -> Result<(), ServiceError> {
    let done = rig.service().destroy_pool(&named("fast"), "fast", 0).await;
    done.map(|doomed| assert!(doomed.done))
}

async fn fast(rig: &Rig) -> Option<Pool> {
    let records = &rig.service().records;
    records.by_name(&"fast".parse().unwrap()).await.unwrap()
}

async fn vm1(rig: &Rig) -> Option<Volume> {
    let records = &rig.service().records;
    records.by_name(&"vm1".parse().unwrap()).await.unwrap()
}

fn refused<T: std::fmt::Debug>(what: &str, done: Result<T, ServiceError>) {
    let error = done.expect_err(what);
    let text = error.to_string();
    let (code, reason, _) = verdict(error);
    assert_eq!(
        (code, reason.as_str()),
        (Code::FailedPrecondition, "NOT_READY"),
        "{what}: {text}"
    );
    assert!(
        text.starts_with("pool fast is being deleted"),
        "{what}: {text}"
    );
}

/// The wish is durable and its node away: what would go with the pool is not let come to be.
#[tokio::test]
async fn nothing_is_made_used_or_protected_in_a_pool_that_is_to_go() {
    let mut rig = filled().await;
    rig.service()
        .create_group(group_of("both", ["vm1"]))
        .await
        .unwrap();
    rig.node().set_away(true);
    let away = destroy(&rig).await.unwrap_err();
    assert_eq!(verdict(away).1, "NODE_AWAY");
    rig.node().set_away(false); // and nobody has gone on with it yet
    rig.restart();
    let effects = rig.node().all_effects();
    let s = rig.service();
    refused(
        "protect a volume",
        s.update_volume(protect("vm1", true)).await,
    );
    refused(
        "protect a snapshot",
        s.update_snapshot(protect("s1", true)).await,
    );
    refused(
        "clone a volume",
        s.clone_thin(clone_of("c", "volume/vm1", 0)).await,
    );
    refused(
        "clone a snapshot",
        s.clone_thin(clone_of("c", "snapshot/s1", 0)).await,
    );
    refused(
        "freeze",
        s.create_snapshot(snapshot_of("s2", "volume/vm1")).await,
    );
    refused(
        "freeze a snapshot",
        s.create_snapshot(snapshot_of("s2", "snapshot/s1")).await,
    );
    refused(
        "freeze again",
        s.create_snapshot(snapshot_of("s1", "volume/vm1")).await,
    );
    refused(
        "freeze at one instant",
        s.create_group(group_of("g", ["vm1"])).await,
    );
    refused(
        "the same again",
        s.create_group(group_of("both", ["vm1"])).await,
    );
    refused("create again", s.create_thin(thin("vm1", "")).await);
    refused(
        "create again, active",
        s.create_thin(active(thin("vm1", ""))).await,
    );
    refused(
        "activate",
        s.activate(&named("vm1"), ActivateOptions::default()).await,
    );
    let mut another = thin("vm2", "");
    another.placement.pool = Some(named("fast"));
    let error = s.create_thin(another).await.unwrap_err();
    assert!(error.to_string().contains("it is being deleted"), "{error}");
    assert_eq!(
        rig.node().all_effects(),
        effects,
        "its node was asked for something"
    );
    // Nothing of it protects: what only takes protection off, or says something, is let through.
    s.update_volume(protect("vm1", false)).await.unwrap();
    let mut said = protect("s1", false);
    said.change.set = labels([("team", "db")]);
    s.update_snapshot(said).await.unwrap();
    assert!(rig.settle().await.is_empty());
    assert!(fast(&rig).await.is_none());
    assert!(
        rig.service()
            .records
            .all::<Snapshot>()
            .await
            .unwrap()
            .is_empty()
    );
    rig.check("at the end").await;
}

/// A group that is wished for keeps the names of its snapshots: those go with it.
#[tokio::test]
async fn names_that_an_unfinished_group_kept_are_free_once_its_pool_is_gone() {
    for lost in [false, true] {
        let rig = filled().await;
        let s = rig.service();
        s.create_group(group_of("done", ["vm1"])).await.unwrap();
        rig.node().cut(Verb::CreateGroup, Cut::BeforeEffect);
        let cut = s.create_group(group_of("g", ["vm1"])).await.unwrap_err();
        assert_eq!(verdict(cut).1, "NODE_AWAY");
        if lost {
            // Not yet freed of what waits for it.
            let mut node: Node = s.records.by_id(NODE).await.unwrap().unwrap();
            node.lost = Some(jiff::Timestamp::now());
            s.records.update(&mut node).await.unwrap();
        }
        destroy(&rig).await.unwrap();
        assert!(s.list_groups(&everything()).await.unwrap().items.is_empty());
        let names = s.records.store().range(Range {
            prefix: "snapshot".into(),
            after: None,
            limit: 10,
        });
        assert_eq!(names.await.unwrap().entries, [], "lost: {lost}");
    }
}

/// Volumes can be deleted while a group of them is wished for.
#[tokio::test]
async fn a_pool_with_an_unfinished_group_is_not_empty() {
    let rig = Rig::furnished().await;
    let s = rig.service();
    s.create_thin(thin("vm1", "")).await.unwrap();
    rig.node().cut(Verb::CreateGroup, Cut::BeforeEffect);
    s.create_group(group_of("g", ["vm1"])).await.unwrap_err();
    s.delete_volume(target("vm1")).await.unwrap();
    let kept = s.delete_pool(target("fast")).await.unwrap_err();
    assert!(kept.to_string().contains("group g"), "{kept}");
    assert_eq!(verdict(kept).1, "IN_USE");
    assert!(rig.settle().await.is_empty());
    s.delete_pool(target("fast")).await.unwrap();
    rig.check("at the end").await;
}

/// Its node refuses: everything is as it was, and can be used again.
#[tokio::test]
async fn a_pool_that_stays_takes_everything_again() {
    let rig = filled().await;
    let s = rig.service();
    s.activate(&named("vm1"), ActivateOptions::default())
        .await
        .unwrap();
    let kept = destroy(&rig).await.unwrap_err();
    assert_eq!(verdict(kept).1, "ACTIVE");
    s.update_volume(protect("vm1", true)).await.unwrap();
    s.create_snapshot(snapshot_of("s2", "volume/vm1"))
        .await
        .unwrap();
    let kept = destroy(&rig).await.unwrap_err();
    assert_eq!(verdict(kept).1, "DELETION_PROTECTED");
    rig.check("at the end").await;
}

/// Protected between the look at what is protected and the wish: the wish is taken back.
#[tokio::test]
async fn what_was_protected_before_the_wish_and_not_seen_keeps_its_pool() {
    for lost in [false, true] {
        let rig = filled().await;
        let s = rig.service();
        s.update_volume(protect("vm1", true)).await.unwrap();
        let mut pool = fast(&rig).await.unwrap();
        (pool.phase, pool.doomed) = (Phase::Deleting, true);
        s.records.update(&mut pool).await.unwrap();
        if lost {
            s.mark_lost(&named("n1"), true).await.unwrap();
        }
        rig.settle().await;
        let pool = fast(&rig).await.unwrap();
        let phase = if lost { Phase::Closed } else { Phase::Ready };
        assert_eq!((pool.phase, pool.doomed), (phase, false), "lost: {lost}");
        assert!(vm1(&rig).await.is_some(), "lost: {lost}");
        rig.check("at the end").await;
    }
}

/// Who is told that a volume is protected has it still, however a destruction of its pool comes in
/// between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn protection_that_was_granted_outlives_a_destruction_that_races_with_it() {
    for round in 0..20 {
        let rig = filled().await;
        let service = std::sync::Arc::clone(rig.service());
        let protecting = tokio::spawn(async move {
            for _ in 0..round % 5 {
                tokio::task::yield_now().await;
            }
            service.update_volume(protect("vm1", true)).await.map(drop)
        });
        let destroyed = destroy(&rig).await;
        let protected = protecting.await.unwrap();
        rig.settle().await;
        assert_eq!(
            protected.is_ok(),
            vm1(&rig).await.is_some(),
            "{protected:?} {destroyed:?}"
        );
        assert_eq!(
            protected.is_ok(),
            destroyed.is_err(),
            "{protected:?} {destroyed:?}"
        );
    }
}
