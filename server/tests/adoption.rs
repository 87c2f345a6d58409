//! Stores that are lost, or put back to an older state: what nodes have is adopted, and no wish of
//! another life is carried out.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

#[path = "support/lives.rs"]
mod lives;
mod support;

use goldleaf_server::agents::fake::{Cut, Verb};
use goldleaf_server::domain::{GroupSnapshot, Phase, Pool, Remark, Snapshot, Volume};
use goldleaf_server::failpoint::{Died, Point, dying_at};
use goldleaf_server::service::{ServiceError, Update};
use goldleaf_types::Labels;
use lives::{adopt, all, another_life, backup_of, filled, refused, said};
use support::*;
use tonic::Code;

fn other_store() -> (Code, String) {
    (Code::FailedPrecondition, "OTHER_INCARNATION".into())
}

/// The law: agents refuse changes from a store that they do not know until an administrator adopts
/// what they have; then everything is back, requests and all.
#[tokio::test]
async fn law_a_lost_store_is_made_anew_from_the_catalogues() {
    let lost = filled().await;
    let (volumes, snapshots) = (all::<Volume>(&lost).await, all::<Snapshot>(&lost).await);
    let rig = another_life(&lost, None).await;
    let service = rig.service();
    let effects = rig.node().all_effects();
    // It knows of nothing, and looking changes nothing.
    let looked = adopt(&rig, false).await;
    let mut names = said(&looked);
    names.sort_unstable();
    assert_eq!(
        names.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(),
        ["before", "vm1", "vm2"]
    );
    assert!(
        names
            .iter()
            .all(|(_, becomes)| becomes.contains("taken back"))
    );
    assert!(all::<Pool>(&rig).await.is_empty() && all::<Volume>(&rig).await.is_empty());
    assert_eq!(rig.node().all_effects(), effects);
    adopt(&rig, true).await;
    assert!(said(&adopt(&rig, true).await).is_empty(), "twice is once");
    let found = all::<Volume>(&rig).await;
    for (now, was) in found.iter().zip(&volumes) {
        assert_eq!(
            (
                now.id,
                &now.name,
                now.size,
                now.image,
                now.begin,
                &now.asked,
                &now.labels
            ),
            (
                was.id,
                &was.name,
                was.size,
                was.image,
                was.begin,
                &was.asked,
                &was.labels
            )
        );
        assert_eq!(
            (now.phase, now.node, now.epoch),
            (Phase::Ready, NODE, was.epoch)
        );
    }
    assert_eq!(found.len(), 2);
    assert_eq!(all::<Snapshot>(&rig).await[0].id, snapshots[0].id);
    rig.check("after the adoption").await;
    // The same calls as before give the same answers, and others are conflicts.
    let mut again = thin("vm1", "golden");
    again.labels = labels([("team", "db")]);
    let same = service.create_thin(again.clone()).await.unwrap();
    assert_eq!(same.volume.id, volumes[0].id);
    again.size = size(2 * GIB);
    again.asked.size_bytes = 2 * GIB;
    assert_eq!(
        refused(service.create_thin(again).await).0,
        Code::AlreadyExists
    );
    let again = clone_of("vm2", "snapshot/before", 2 * GIB);
    let clone = service.clone_thin(again).await.unwrap();
    assert_eq!(clone.volume.id, volumes[1].id);
    let again = snapshot_of("before", "volume/vm1");
    let snapshot = service.create_snapshot(again).await.unwrap();
    assert_eq!(snapshot.id, snapshots[0].id);
    // And it is the only store by now.
    let stale = lost.service().delete_volume(target("vm2"));
    assert_eq!(refused(stale.await), other_store());
    service.deactivate(&named("vm1")).await.unwrap();
    service.delete_volume(target("vm2")).await.unwrap();
}

/// The law: what users changed since they made a thing is on its pool too, and comes back with it.
#[tokio::test]
async fn law_later_labels_and_protection_come_back_with_the_catalogue() {
    let lost = filled().await;
    let service = lost.service();
    let change = |set: Labels, remove: &[&str], protect| Remark {
        set,
        remove: remove.iter().map(|key| (*key).to_owned()).collect(),
        deletion_protection: protect,
    };
    let update = |name: &str, change: Remark| Update {
        what: named(name),
        change,
        revision: 0,
    };
    let relabel = change(labels([("tier", "gold")]), &["team"], Some(true));
    let seen = service.update_volume(update("vm1", relabel)).await.unwrap();
    let mut born = thin("guarded", "");
    born.deletion_protection = true;
    service.create_thin(born).await.unwrap();
    // The node is away: nobody waits for it, and it is told when it is back.
    lost.node().set_away(true);
    let relabel = change(labels([("keep", "yes")]), &[], None);
    let what = Update {
        what: named("before"),
        change: relabel,
        revision: 0,
    };
    service.update_snapshot(what).await.unwrap();
    lost.node().set_away(false);
    assert!(lost.settle().await.is_empty());
    let again = lost.service().get_volume(&named("vm1")).await.unwrap();
    assert_eq!(
        again.volume.revision, seen.volume.revision,
        "telling it is no change"
    );
    let was = (all::<Volume>(&lost).await, all::<Snapshot>(&lost).await);
    let rig = another_life(&lost, None).await;
    adopt(&rig, true).await;
    for (now, was) in all::<Volume>(&rig).await.iter().zip(&was.0) {
        assert_eq!(
            (&now.name, &now.labels, &now.marks),
            (&was.name, &was.labels, &was.marks)
        );
    }
    let snapshot = &all::<Snapshot>(&rig).await[0];
    assert_eq!(snapshot.labels, labels([("keep", "yes")]));
    // A repeated creation is compared with what was asked for first, as ever.
    let mut first = active(thin("vm1", "golden"));
    first.labels = labels([("team", "db")]);
    rig.service().create_thin(first).await.unwrap();
    let kept = rig.service().delete_volume(target("guarded"));
    assert!(refused(kept.await).1.contains("PROTECTED"));
}

/// The law: a store put back from an old backup changes nothing until it is adopted, and then
/// deletes, makes and grows nothing that was wished for before.
#[tokio::test]
async fn law_stale_wishes_of_a_restored_store_are_never_carried_out() {
    let newer = filled().await;
    let service = newer.service();
    service.create_thin(thin("dies", "")).await.unwrap();
    service
        .create_thin(thin("deleted-since", ""))
        .await
        .unwrap();
    service.create_thin(thin("grows", "")).await.unwrap();
    let group = service
        .create_group(group_of("both", ["grows", "dies"]))
        .await
        .unwrap();
    let node = newer.node();
    // Wishes that are old by the time the backup is put back.
    node.cut(Verb::CreateThin, Cut::BeforeEffect);
    service.create_thin(thin("born", "")).await.unwrap_err();
    node.cut(Verb::Resize, Cut::BeforeEffect);
    service
        .resize(&named("grows"), size(3 * GIB), 0)
        .await
        .unwrap_err();
    node.cut(Verb::DeleteThin, Cut::BeforeEffect);
    service.delete_volume(target("dies")).await.unwrap_err();
    node.cut(Verb::DeleteThin, Cut::BeforeEffect);
    service.delete_group(target("both")).await.unwrap_err();
    let backup = backup_of(&newer).await;
    // Life goes on: each of them is settled otherwise than it was wished for.
    newer.settle().await;
    let dies = service.create_thin(thin("dies", "")).await.unwrap().volume;
    service.delete_volume(target("born")).await.unwrap();
    service
        .delete_volume(target("deleted-since"))
        .await
        .unwrap();
    let reborn = service
        .create_thin(thin("deleted-since", ""))
        .await
        .unwrap()
        .volume;
    let made = service
        .create_thin(thin("made-since", "golden"))
        .await
        .unwrap()
        .volume;
    service
        .resize(&named("vm2"), size(4 * GIB), 0)
        .await
        .unwrap();
    let mut before = newer.node().thins();
    before.sort_unstable();

    let rig = another_life(&newer, Some(&backup)).await;
    let service = rig.service();
    let effects = rig.node().all_effects();
    rig.settle().await;
    assert_eq!(
        rig.node().all_effects(),
        effects,
        "an old wish was carried out"
    );
    assert_eq!(
        refused(service.delete_volume(target("vm2")).await),
        other_store()
    );
    let shown = service
        .get_pool(&named("fast"))
        .await
        .unwrap()
        .pool
        .conditions;
    assert!(
        shown.iter().any(|c| c.kind == "Adopted" && !c.status),
        "{shown:?}"
    );
    let placed = service
        .create_thin(thin("too-early", ""))
        .await
        .unwrap_err();
    assert!(placed.to_string().contains("adopt"), "{placed}");
    let looked = adopt(&rig, false).await;
    assert_eq!(rig.node().all_effects(), effects);
    let of = |name: &str| {
        let all = said(&looked);
        let of: Vec<_> = all
            .iter()
            .filter(|(n, _)| n == name)
            .map(|(_, b)| *b)
            .collect();
        of.join("; ")
    };
    assert!(of("made-since").contains("taken back"), "{looked:?}");
    assert!(of("deleted-since").contains("lost"), "{looked:?}");
    adopt(&rig, true).await;
    assert!(rig.settle().await.is_empty());
    let mut after = rig.node().thins();
    after.sort_unstable();
    assert_eq!(after, before, "something was deleted or made");
    let volume = |name: &str| {
        let (service, name) = (std::sync::Arc::clone(service), name.to_owned());
        async move { service.get_volume(&named(&name)).await.unwrap().volume }
    };
    // What was made since is back, under its name; what was deleted since is shown as lost.
    assert_eq!(volume("made-since").await.id, made.id);
    assert_eq!(volume("dies").await.id, dies.id);
    assert_eq!(volume("deleted-since").await.id, reborn.id);
    assert_eq!(volume("vm2").await.size, size(4 * GIB));
    let grown = volume("grows").await;
    assert_eq!((grown.size, grown.wanted_size), (size(3 * GIB), None));
    let records = all::<Volume>(&rig).await;
    let lost: Vec<_> = records
        .iter()
        .filter(|v| v.name.as_str().contains(".lost-"))
        .collect();
    assert!(!lost.is_empty(), "{records:?}");
    for lost in lost {
        let view = service
            .get_volume(&goldleaf_server::domain::Ref::Id(lost.id))
            .await
            .unwrap();
        let said = view.volume.conditions;
        let gone = said.iter().any(|c| c.kind == "DataPresent" && !c.status);
        assert!(gone, "{} is not shown as lost: {said:?}", lost.name);
        assert!(
            refused(
                service
                    .activate(
                        &goldleaf_server::domain::Ref::Id(lost.id),
                        Default::default()
                    )
                    .await
            )
            .1
            .contains("DATA_MISSING")
                || lost.phase != Phase::Ready
        );
        // A person takes it away, and only the record goes.
        let target = goldleaf_server::service::Target {
            what: goldleaf_server::domain::Ref::Id(lost.id),
            revision: 0,
        };
        service.delete_volume(target).await.unwrap();
    }
    let mut after = rig.node().thins();
    after.sort_unstable();
    assert_eq!(after, before);
    let _ = (group, all::<GroupSnapshot>(&rig).await);
}

/// Whoever of two stores comes second looks again before it takes a pool.
#[tokio::test]
async fn of_two_stores_that_adopt_at_once_one_wins_and_the_other_is_told() {
    let lost = filled().await;
    let (one, other) = (
        another_life(&lost, None).await,
        another_life(&lost, None).await,
    );
    // The first has its wish and is cut off before the node hears of it.
    one.node().cut(Verb::AdoptPool, Cut::BeforeEffect);
    one.service()
        .adopt_node(&named("n1"), true)
        .await
        .unwrap_err();
    other
        .service()
        .adopt_node(&named("n1"), true)
        .await
        .unwrap();
    let left = one.settle().await;
    assert!(
        left.is_empty() || left[0].contains("another control plane store"),
        "{left:?}"
    );
    assert!(one.settle().await.is_empty(), "it goes on asking");
    let stale = one.service().delete_volume(target("vm2"));
    assert_eq!(refused(stale.await), other_store());
    other.service().delete_volume(target("vm2")).await.unwrap();
    // An administrator may still decide so, with the other's changes in sight.
    one.service().adopt_node(&named("n1"), true).await.unwrap();
    one.service()
        .create_thin(thin("vm3", "golden-none"))
        .await
        .unwrap_err();
    assert_eq!(
        refused(other.service().create_thin(thin("vm3", "")).await),
        (Code::FailedPrecondition, "POOL_NOT_WRITABLE".into())
    );
}

/// An adoption whose answers are lost anywhere goes on by itself.
#[tokio::test]
async fn an_adoption_that_is_cut_off_is_finished_by_the_loop() {
    for cut in [Cut::BeforeEffect, Cut::AfterEffect] {
        let lost = filled().await;
        let rig = another_life(&lost, None).await;
        rig.node().cut(Verb::AdoptPool, cut);
        rig.service()
            .adopt_node(&named("n1"), true)
            .await
            .unwrap_err();
        assert!(all::<Pool>(&rig).await[0].adopting.is_some(), "{cut:?}");
        assert!(rig.settle().await.is_empty(), "{cut:?}");
        rig.check(&format!("{cut:?}")).await;
        assert_eq!(all::<Volume>(&rig).await.len(), 2, "{cut:?}");
    }
}

/// Death of the server at any place of an adoption, of a lost store and of one put back: the same
/// call then ends where an undisturbed one does, and no old wish is carried out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_in_an_adoption_ends_where_it_would_have() {
    let ends = async |from_backup: bool, point: Option<Point>| {
        let lost = filled().await;
        lost.node().cut(Verb::DeleteThin, Cut::BeforeEffect);
        lost.service()
            .delete_volume(target("vm2"))
            .await
            .unwrap_err();
        let backup = backup_of(&lost).await;
        lost.settle().await;
        let again = clone_of("vm2", "snapshot/before", 0);
        lost.service().clone_thin(again).await.unwrap();
        let copy = from_backup.then_some(backup.as_path());
        let mut rig = another_life(&lost, copy).await;
        let service = std::sync::Arc::clone(rig.service());
        let adopting = async move { service.adopt_node(&named("n1"), true).await.map(drop) };
        let task = tokio::spawn(dying_at(point, adopting));
        if point.is_some() {
            assert!(
                task.await.unwrap_err().is_panic(),
                "{point:?} was not reached"
            );
            rig.restart();
            rig.settle().await;
            rig.service().adopt_node(&named("n1"), true).await.unwrap();
        } else {
            task.await.unwrap().unwrap();
        }
        assert!(rig.settle().await.is_empty());
        let volumes = all::<Volume>(&rig).await;
        let mut seen: Vec<_> = volumes
            .iter()
            .map(|v| format!("{} {:?} {}", &v.name.as_str()[..3], v.phase, v.size.bytes()))
            .collect();
        seen.sort_unstable();
        (
            seen,
            rig.node().thins().len(),
            all::<Snapshot>(&rig).await.len(),
        )
    };
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !info.payload().is::<Died>() {
            quiet(info);
        }
    }));
    for from_backup in [false, true] {
        let whole = ends(from_backup, None).await;
        assert_eq!(whole.1, 3, "{whole:?}");
        for point in [
            Point::AdoptionWished,
            Point::AdoptionSettled,
            Point::AdoptionDone,
            Point::AdoptionRecorded,
        ] {
            let cut = ends(from_backup, Some(point)).await;
            assert_eq!(
                cut, whole,
                "after dying at {point:?}, from backup: {from_backup}"
            );
        }
    }
}

#[tokio::test]
async fn a_name_that_is_taken_refuses_the_adoption_before_anything_is_written() {
    let lost = filled().await;
    let rig = another_life(&lost, None).await;
    let service = rig.service();
    service
        .create_pool(pool("other", "/dev/sdb"))
        .await
        .unwrap();
    service.create_thin(thin("vm2", "")).await.unwrap();
    for apply in [false, true] {
        let refused = service.adopt_node(&named("n1"), apply).await.unwrap_err();
        assert!(matches!(refused, ServiceError::Unfit { .. }), "{refused}");
        assert!(refused.to_string().contains("vm2"), "{refused}");
        assert_eq!(
            (
                all::<Volume>(&rig).await.len(),
                all::<Pool>(&rig).await.len()
            ),
            (1, 1)
        );
    }
    service.delete_volume(target("vm2")).await.unwrap();
    adopt(&rig, true).await;
    assert_eq!(all::<Volume>(&rig).await.len(), 2);
}

/// A volume that its user deletes while its pool is adopted once more does not come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_during_an_adoption_stays_deleted() {
    let rig = filled().await;
    let names: Vec<String> = (0..40).map(|n| format!("short-{n}")).collect();
    for name in &names {
        rig.service().create_thin(thin(name, "")).await.unwrap();
    }
    let kept = all::<Volume>(&rig).await.len() - names.len();
    let adopter = std::sync::Arc::clone(rig.service());
    let adopting = tokio::spawn(async move {
        for _ in 0..10 {
            adopter.adopt_node(&named("n1"), true).await.unwrap();
        }
    });
    for name in &names {
        rig.service().delete_volume(target(name)).await.unwrap();
    }
    adopting.await.unwrap();
    let left = all::<Volume>(&rig).await;
    assert_eq!(left.len(), kept, "{left:?}");
}

/// A pool that was renamed since the backup keeps its name, and none that was wished for before it.
#[tokio::test]
async fn an_adopted_pool_is_called_what_its_catalogue_says() {
    let newer = Rig::furnished().await;
    let service = newer.service();
    newer.node().cut(Verb::RenamePool, Cut::BeforeEffect);
    let wished = "wished".parse().unwrap();
    let renamed = service.rename_pool(&named("fast"), &wished, 0).await;
    renamed.unwrap_err();
    let backup = backup_of(&newer).await;
    newer.settle().await;
    let now = "now".parse().unwrap();
    let renamed = service.rename_pool(&named("wished"), &now, 0).await;
    renamed.unwrap();
    let rig = another_life(&newer, Some(&backup)).await;
    rig.settle().await;
    adopt(&rig, true).await;
    let pools = all::<Pool>(&rig).await;
    assert_eq!(pools.len(), 1);
    assert_eq!((&pools[0].name, &pools[0].wanted_name), (&now, &None));
    let again = pool("wished", "/dev/sdb");
    rig.service().create_pool(again).await.unwrap();
}
