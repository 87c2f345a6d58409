//! Wishes that cannot be carried out now: when they stay, and when they are taken back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

mod support;

use goldleaf_server::agents::fake::{Cut, Verb};
use goldleaf_server::domain::{Image, Phase};
use goldleaf_server::service::Unfinished;
use support::{Rig, digest, image, named, target, thin};

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
