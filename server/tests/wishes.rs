//! Wishes that cannot be carried out now: when they stay, and when they are taken back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

mod support;

use std::sync::Arc;

use goldleaf_server::agents::Agents;
use goldleaf_server::agents::fake::{Cut, Verb};
use goldleaf_server::domain::{Image, Node, Phase, Pool, PoolMode, Ref, Volume};
use goldleaf_server::reconcile::{self, Waits};
use goldleaf_server::service::{Service, Unfinished};
use goldleaf_types::{Bytes, Digest, Incarnation};
use support::{GIB, NODE, Rig, digest, image, named, size, target, thin};
use tokio_util::sync::CancellationToken;

/// A node that is away when a volume is made: the caller is told, the wish stays, and when the node
/// is back the loop finishes it and the same call answers it.
#[tokio::test]
async fn a_wish_outlives_a_node_that_is_away() {
    let rig = Rig::furnished().await;
    let node = rig.node();
    node.cut(Verb::CreateThin, Cut::BeforeEffect);
    let error = rig
        .service()
        .create_thin(thin("vm1", "golden"))
        .await
        .unwrap_err();
    assert_eq!(support::verdict(error).0, tonic::Code::Unavailable);
    let view = rig.service().get_volume(&named("vm1")).await.unwrap();
    assert_eq!(view.volume.phase, Phase::Creating);
    assert_eq!(
        rig.service().pending.take().into_keys().collect::<Vec<_>>(),
        [Unfinished::Volume(view.volume.id)]
    );
    assert!(rig.settle().await.is_empty());
    let again = rig
        .service()
        .create_thin(thin("vm1", "golden"))
        .await
        .unwrap();
    assert_eq!(
        (again.volume.id, again.volume.phase),
        (view.volume.id, Phase::Ready)
    );
    rig.check("at the end").await;
}

/// An import that a crash cut short begins again by itself.
#[tokio::test]
async fn an_unfinished_import_begins_again_after_a_restart() {
    let mut rig = Rig::new().await;
    rig.service().create_image(image("golden")).await.unwrap();
    rig.restart();
    assert!(rig.settle().await.is_empty());
    let all = rig.service().records.all::<Image>().await.unwrap();
    assert_eq!(
        (all[0].phase, all[0].digest),
        (Phase::Ready, Some(digest(7)))
    );
}

/// A volume whose pool is closed is not forgotten, though its node says that it has no such thin.
#[tokio::test]
async fn a_volume_in_a_closed_pool_is_neither_deleted_nor_called_lost() {
    let rig = Rig::furnished().await;
    rig.service()
        .create_thin(thin("vm1", "golden"))
        .await
        .unwrap();
    rig.service().close_pool(&named("fast")).await.unwrap();
    let error = rig
        .service()
        .delete_volume(target("vm1"))
        .await
        .unwrap_err();
    assert_eq!(support::verdict(error).0, tonic::Code::FailedPrecondition);
    let view = rig.service().get_volume(&named("vm1")).await.unwrap();
    assert!(
        view.volume
            .conditions
            .iter()
            .any(|c| c.kind == "PoolOpen" && !c.status)
    );
    assert!(
        !view
            .volume
            .conditions
            .iter()
            .any(|c| c.kind == "DataPresent")
    );
    rig.service().open_pool(&named("fast")).await.unwrap();
    rig.service().delete_volume(target("vm1")).await.unwrap();
    rig.check("at the end").await;
}

/// The thin was made, the answer was lost, and then the agent refuses for good: the wish may only
/// be taken back together with the thin.
#[tokio::test]
async fn a_wish_that_is_taken_back_takes_its_thin_along() {
    let rig = Rig::furnished().await;
    rig.node().cut(Verb::CreateThin, Cut::AfterEffect);
    let error = rig
        .service()
        .create_thin(thin("vm1", "golden"))
        .await
        .unwrap_err();
    assert_eq!(support::verdict(error).0, tonic::Code::Unavailable);
    rig.node().unmake_thin(rig.node().thins()[0]);
    rig.node().lose_image(digest(7));
    let refused = rig
        .service()
        .create_thin(thin("vm1", "golden"))
        .await
        .unwrap_err();
    assert_eq!(support::verdict(refused).1, "IMAGE_NOT_HERE");
    assert!(
        rig.node().thins().is_empty(),
        "a thin that nobody owns is left"
    );
    rig.check("at the end").await;
}

/// As above, but the node cannot be asked to delete it: then the wish stays.
#[tokio::test]
async fn a_wish_whose_thin_may_be_there_is_not_taken_back() {
    let rig = Rig::furnished().await;
    rig.node().cut(Verb::CreateThin, Cut::AfterEffect);
    rig.service()
        .create_thin(thin("vm1", "golden"))
        .await
        .unwrap_err();
    rig.node().unmake_thin(rig.node().thins()[0]);
    rig.node().lose_image(digest(7));
    rig.node().cut(Verb::DeleteThin, Cut::BeforeEffect);
    let error = rig
        .service()
        .create_thin(thin("vm1", "golden"))
        .await
        .unwrap_err();
    assert_eq!(support::verdict(error).1, "NODE_AWAY");
    let view = rig.service().get_volume(&named("vm1")).await.unwrap();
    assert_eq!(view.volume.phase, Phase::Creating);
    rig.settle().await;
    rig.check("the loop takes it back").await;
    assert!(rig.node().thins().is_empty());
}

/// The thin was made and the answer was lost; then a call that wants its device too is refused for
/// its image. What the host has written to it in the meantime is not taken away with the wish.
#[tokio::test]
async fn a_refused_activation_does_not_take_a_finished_thin_back() {
    let rig = Rig::furnished().await;
    rig.node().cut(Verb::CreateThin, Cut::AfterEffect);
    let asked = || thin("vm1", "golden");
    rig.service().create_thin(asked()).await.unwrap_err();
    let made = rig.node().thins();
    assert_eq!(made.len(), 1);
    rig.node().lose_image(digest(7));
    let refused = rig.service().create_thin(support::active(asked())).await;
    assert_eq!(support::verdict(refused.unwrap_err()).1, "IMAGE_NOT_HERE");
    assert_eq!(rig.node().thins(), made, "a thin was taken back");
    let view = rig.service().get_volume(&named("vm1")).await.unwrap();
    assert_eq!(view.volume.phase, Phase::Ready);
    let again = rig.service().create_thin(asked()).await.unwrap();
    assert_eq!(again.volume.id, view.volume.id);
    rig.check("at the end").await;
}

/// A deletion that was cut short waits for its pool to be open: a closed one hides the thin.
#[tokio::test]
async fn an_unfinished_deletion_waits_for_its_pool() {
    let rig = Rig::furnished().await;
    rig.service()
        .create_thin(thin("vm1", "golden"))
        .await
        .unwrap();
    rig.node().cut(Verb::DeleteThin, Cut::BeforeEffect);
    rig.service()
        .delete_volume(target("vm1"))
        .await
        .unwrap_err();
    rig.service().close_pool(&named("fast")).await.unwrap();
    assert!(!rig.settle().await.is_empty(), "it cannot be finished now");
    let view = rig.service().get_volume(&named("vm1")).await.unwrap();
    assert_eq!(view.volume.phase, Phase::Deleting);
    rig.service().open_pool(&named("fast")).await.unwrap();
    assert!(rig.settle().await.is_empty());
    rig.check("at the end").await;
    assert!(rig.node().thins().is_empty());
}

/// A volume over an image that its node has begun to make independent of it.
async fn leaving() -> Rig {
    let rig = Rig::furnished().await;
    let wanted = thin("vm1", "golden");
    rig.service().create_thin(wanted).await.unwrap();
    decouple(rig.service()).await.unwrap();
    assert_eq!(of_image(&rig).await, (Some(Bytes(0)), Some(digest(7))));
    rig
}

async fn decouple(service: &Service) -> Result<Volume, tonic::Status> {
    let done = service.decouple(&named("vm1"), Bytes(0), false).await;
    Ok(done?.volume)
}

/// What the record says of the wish and of the image.
async fn of_image(rig: &Rig) -> (Option<Bytes>, Option<Digest>) {
    let view = rig.service().get_volume(&named("vm1")).await.unwrap();
    (view.volume.decoupling, view.volume.image)
}

/// A closed pool hides the volume that its node copies on as soon as it is open again.
#[tokio::test]
async fn a_wish_to_leave_an_image_outlives_a_closed_pool() {
    let mut rig = leaving().await;
    rig.service().close_pool(&named("fast")).await.unwrap();
    let refused = decouple(rig.service()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert!(refused.message().contains("open it"), "{refused}");
    rig.restart();
    assert!(!rig.settle().await.is_empty(), "it cannot be finished now");
    assert_eq!(of_image(&rig).await, (Some(Bytes(0)), Some(digest(7))));
    rig.service().open_pool(&named("fast")).await.unwrap();
    assert!(rig.settle().await.is_empty());
    assert_eq!(of_image(&rig).await, (None, None));
    rig.check("at the end").await;
}

/// The pool of a node changes hands, and back.
async fn hand_over(rig: &Rig, from: Incarnation, to: Incarnation) {
    let records = &rig.service().records;
    let node = records.get::<Node>(&Ref::Id(NODE), "node").await.unwrap();
    let pool = records.get::<Pool>(&named("fast"), "pool").await.unwrap();
    let agent = rig.agents.called_by(to).of(&node);
    agent.adopt_pool(pool.id, Some(from)).await.unwrap();
}

/// What refuses the call does not end the copying: the record follows what the node has.
#[tokio::test]
async fn a_refused_call_does_not_end_the_wish_to_leave_an_image() {
    let rig = leaving().await;
    let ours = rig.service().records.store().incarnation();
    let theirs = Incarnation::mint();
    hand_over(&rig, ours, theirs).await;
    let refused = decouple(rig.service()).await.unwrap_err();
    assert!(refused.message().contains("another control plane"));
    assert_eq!(of_image(&rig).await, (Some(Bytes(0)), Some(digest(7))));
    hand_over(&rig, theirs, ours).await;
    // It is done, and nobody was told; then the call is refused again.
    rig.node().cut(Verb::Decouple, Cut::AfterEffect);
    decouple(rig.service()).await.unwrap_err();
    hand_over(&rig, ours, theirs).await;
    assert!(rig.settle().await.is_empty());
    assert_eq!(of_image(&rig).await, (None, None));
    assert_eq!(rig.node().effects(Verb::Decouple), 2);
    rig.check("at the end").await;
}

/// A refusal of what was not begun is the last word.
#[tokio::test]
async fn a_wish_to_leave_an_image_that_is_refused_leaves_nothing() {
    let rig = Rig::furnished().await;
    let wanted = support::active(thin("vm1", "golden"));
    rig.service().create_thin(wanted).await.unwrap();
    let refused = decouple(rig.service()).await.unwrap_err();
    assert!(refused.message().contains("deactivate it"), "{refused}");
    assert_eq!(of_image(&rig).await, (None, Some(digest(7))));
    assert!(rig.service().pending.take().is_empty());
    rig.check("at the end").await;
}

/// Asks for the name "nvme" for the pool "fast": code and reason of what is refused.
async fn rename(rig: &Rig) -> Result<Pool, (tonic::Code, String)> {
    let wanted = "nvme".parse().unwrap();
    let done = rig.service().rename_pool(&named("fast"), &wanted, 0).await;
    done.map(|view| view.pool).map_err(|error| {
        let (code, reason, _) = support::verdict(error);
        (code, reason)
    })
}

/// The pool's record, which must agree with its node once nothing is wished for.
async fn only_pool(rig: &Rig) -> Pool {
    let mut all = rig.service().records.all::<Pool>().await.unwrap();
    assert_eq!(all.len(), 1, "{all:?}");
    let pool = all.remove(0);
    if pool.wanted_name.is_none() {
        let agent = rig.service().agent_of(NODE).await.unwrap();
        let found = agent.open_pools().await.unwrap();
        let there = found.iter().find(|found| found.report.id == pool.id);
        assert_eq!(there.map(|found| &found.name), Some(&pool.name));
    }
    pool
}

const REFUSED: tonic::Code = tonic::Code::FailedPrecondition;

/// The node's record has the new name before the labels are written: it counts, whatever came then.
#[tokio::test]
async fn a_pool_whose_labels_cannot_be_written_is_called_the_same_on_both_sides() {
    let rig = Rig::furnished().await;
    rig.node().fail_labels(true);
    let refused = rename(&rig).await.unwrap_err();
    assert_eq!(refused, (REFUSED, "LABEL".to_owned()));
    let pool = only_pool(&rig).await;
    assert_eq!((pool.name.as_str(), pool.wanted_name), ("nvme", None));
    assert!(rig.service().pending.take().is_empty());
    // The former name is anybody's, and the new one is not.
    let again = support::pool("fast", "/dev/sdb");
    rig.service().create_pool(again).await.unwrap();
    let taken = support::pool("nvme", "/dev/sdc");
    rig.service().create_pool(taken).await.unwrap_err();
    rig.check("at the end").await;
}

/// A refusal of a first attempt that begins nothing leaves the former name, whatever the pool is.
#[tokio::test]
async fn a_pool_that_is_refused_another_name_keeps_its_own() {
    let rig = Rig::furnished().await;
    let wanted = support::active(thin("vm1", ""));
    rig.service().create_thin(wanted).await.unwrap();
    let refused = rename(&rig).await.unwrap_err();
    assert_eq!(refused, (REFUSED, "ACTIVE".to_owned()));
    let pool = only_pool(&rig).await;
    assert_eq!((pool.name.as_str(), pool.wanted_name), ("fast", None));
    assert!(rig.service().pending.take().is_empty());
    rig.check("at the end").await;
}

/// The name was changed, nobody was told, and the pool was closed: what it is called is not known.
#[tokio::test]
async fn a_wished_for_name_stays_while_nobody_can_say_what_the_pool_is_called() {
    let mut rig = Rig::furnished().await;
    rig.node().cut(Verb::RenamePool, Cut::AfterEffect);
    rename(&rig).await.unwrap_err();
    rig.service().close_pool(&named("fast")).await.unwrap();
    rig.restart();
    assert!(!rig.settle().await.is_empty(), "it cannot be finished now");
    let pool = only_pool(&rig).await;
    assert_eq!(pool.name.as_str(), "fast");
    assert_eq!(pool.wanted_name.unwrap().as_str(), "nvme");
    rig.service().open_pool(&named("fast")).await.unwrap();
    assert!(rig.settle().await.is_empty());
    let pool = only_pool(&rig).await;
    assert_eq!((pool.name.as_str(), pool.wanted_name), ("nvme", None));
    rig.check("at the end").await;
}

/// A node that refuses to grow a volume, and cannot be asked how large it is: an earlier try may
/// have come through, so the wish stays until it says.
#[tokio::test]
async fn a_refused_size_is_recorded_only_once_the_node_says_how_large_the_volume_is() {
    let rig = Rig::furnished().await;
    let service = rig.service();
    service.create_thin(thin("vm1", "golden")).await.unwrap();
    let vm1 = || async {
        let name = "vm1".parse().unwrap();
        let found = service.records.by_name::<Volume>(&name).await;
        found.unwrap().unwrap()
    };
    let grow = || async {
        let grown = service.resize(&named("vm1"), size(2 * GIB), 0).await;
        support::verdict(grown.unwrap_err()).1
    };
    rig.node().cut(Verb::Resize, Cut::AfterEffect);
    assert_eq!(grow().await, "NODE_AWAY");
    let room = Bytes(100 * GIB);
    rig.node()
        .set_pool(vm1().await.pool, PoolMode::ReadOnly, Bytes(0), room);
    rig.node().cut(Verb::Resize, Cut::AfterRefusal);
    assert_eq!(grow().await, "NODE_AWAY");
    let now = vm1().await;
    assert_eq!(
        (now.size, now.wanted_size),
        (size(GIB), Some(size(2 * GIB)))
    );
    rig.node().set_away(false);
    assert_eq!(grow().await, "POOL_READ_ONLY");
    let now = vm1().await;
    assert_eq!((now.size, now.wanted_size), (size(2 * GIB), None));
    rig.check("at the end").await;
}

/// However many imports take hours: what else is unfinished is finished meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn imports_that_do_not_end_keep_nothing_else_unfinished() {
    let rig = Rig::furnished().await;
    let service = rig.service();
    rig.node().hold_imports(true);
    let stop = CancellationToken::new();
    let run = reconcile::run(Arc::clone(service), Waits::default(), stop.clone());
    let _stop = stop.drop_guard();
    tokio::spawn(run);
    for n in 0..70 {
        let name = format!("slow{n}");
        service.create_image(image(&name)).await.unwrap();
    }
    support::eventually("imports are under way", async || {
        let images = service.list_images(&support::everything()).await.unwrap();
        let begun = images.items.iter().filter(|i| !i.progress.is_empty());
        begun.count() >= 64
    })
    .await;
    rig.node().cut(Verb::CreateThin, Cut::BeforeEffect);
    let cut = service.create_thin(thin("vm1", "golden")).await;
    assert_eq!(support::verdict(cut.unwrap_err()).1, "NODE_AWAY");
    support::eventually("the volume is finished", async || {
        let made = service.get_volume(&named("vm1")).await.unwrap();
        made.volume.phase == Phase::Ready
    })
    .await;
    rig.node().hold_imports(false);
}
