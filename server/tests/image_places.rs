//! Which nodes hold an image: placing, evicting, and the law of the last whole copy.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

mod support;

use goldleaf_server::agents::fake::{Cut, Verb};
use goldleaf_server::domain::{Image, ImageSource, Phase, Pool};
use goldleaf_server::service::{CreateImage, ImageView, ServiceError, Unfinished};
use goldleaf_types::{Bytes, NodeId};
use support::{
    GIB, GOLDEN, NODE, OTHER_NODE, Rig, digest, image, named, pool, snapshot_of, target, thin,
    verdict,
};
use tonic::Code;

/// Two nodes that can both fetch the image, which the first has, with a pool on each.
async fn two_nodes() -> Rig {
    let rig = Rig::furnished().await;
    rig.register(OTHER_NODE, "n2").await;
    let mut far = pool("far", "/dev/sda");
    far.node = Some(named("n2"));
    rig.service().create_pool(far).await.unwrap();
    rig
}

async fn place(rig: &Rig, nodes: &[&str]) -> Result<ImageView, ServiceError> {
    let nodes: Vec<_> = nodes.iter().map(|node| named(node)).collect();
    let view = rig.service().place_image(&named("golden"), &nodes).await?;
    rig.settle().await;
    rig.service()
        .placed_image((view.image.id, &view.image.name), &nodes)
        .await
}

async fn evict(rig: &Rig, name: &str, node: &str) -> Result<ImageView, ServiceError> {
    rig.service().evict_image(&named(name), &named(node)).await
}

fn copies(view: &ImageView) -> Vec<(NodeId, Phase)> {
    let copies = view.image.copies.iter();
    copies.map(|copy| (copy.node, copy.phase)).collect()
}

fn refused(answer: Result<ImageView, ServiceError>) -> (Code, String) {
    let (code, reason, _) = verdict(answer.unwrap_err());
    (code, reason)
}

#[tokio::test]
async fn a_spoilt_copy_is_recorded_though_another_node_is_away() {
    let rig = two_nodes().await;
    place(&rig, &["n1", "n2"]).await.unwrap();
    let verify = || async { rig.service().verify_image(&named("golden")).await };
    let seen = || async {
        let view = rig.service().get_image(&named("golden")).await.unwrap();
        copies(&view)
    };
    // Whichever is asked first.
    for (away, spoilt) in [(NODE, OTHER_NODE), (OTHER_NODE, NODE)] {
        rig.agents.node(away).set_away(true);
        rig.agents.node(spoilt).spoil_image(digest(7), true);
        assert_eq!(refused(verify().await).1, "NODE_AWAY");
        let phase = |node| match node == spoilt {
            true => Phase::Failed,
            false => Phase::Ready,
        };
        let both = [(NODE, phase(NODE)), (OTHER_NODE, phase(OTHER_NODE))];
        assert_eq!(seen().await, both);
        rig.agents.node(away).set_away(false);
        rig.agents.node(spoilt).spoil_image(digest(7), false);
        verify().await.unwrap();
    }
}

#[tokio::test]
async fn an_image_is_placed_and_evicted_and_twice_is_once() {
    let rig = two_nodes().await;
    let far = rig.agents.node(OTHER_NODE);
    for _ in 0..2 {
        let view = place(&rig, &["n1", "n2"]).await.unwrap();
        assert_eq!(
            copies(&view),
            [(NODE, Phase::Ready), (OTHER_NODE, Phase::Ready)]
        );
    }
    assert_eq!(
        (far.images(), far.effects(Verb::ImportImage)),
        (vec![digest(7)], 1)
    );
    for _ in 0..2 {
        let view = evict(&rig, "golden", "n2").await.unwrap();
        assert_eq!(copies(&view), [(NODE, Phase::Ready)]);
    }
    assert!(far.images().is_empty());
    let unknown = rig
        .service()
        .place_image(&named("golden"), &[named("n3")])
        .await;
    assert_eq!(
        verdict(unknown.unwrap_err()),
        (Code::NotFound, "NOT_FOUND".into(), Some("nodes".into()))
    );
}

#[tokio::test]
async fn a_node_that_cannot_fetch_says_why_and_is_tried_again_when_asked_again() {
    let rig = two_nodes().await;
    let far = rig.agents.node(OTHER_NODE);
    far.offer(GOLDEN, digest(8), Bytes(GIB));
    let error = place(&rig, &["n2"]).await.unwrap_err();
    assert!(
        error.to_string().contains("not what was asked for"),
        "{error}"
    );
    assert_eq!(verdict(error).1, "IMAGE_FAILED");
    let shown = rig.service().get_image(&named("golden")).await.unwrap();
    assert_eq!(
        copies(&shown),
        [(NODE, Phase::Ready), (OTHER_NODE, Phase::Failed)]
    );
    assert_eq!(shown.image.phase, Phase::Ready, "the others have it");
    far.offer(GOLDEN, digest(7), Bytes(GIB));
    let view = place(&rig, &["n2"]).await.unwrap();
    assert_eq!(copies(&view)[1], (OTHER_NODE, Phase::Ready));
}

#[tokio::test]
async fn law_the_last_whole_copy_that_a_volume_needs_stays() {
    let rig = two_nodes().await;
    place(&rig, &["n2"]).await.unwrap();
    let mut wanted = thin("vm1", "golden");
    wanted.placement.node = Some(named("n1"));
    rig.service().create_thin(wanted).await.unwrap();
    rig.service()
        .create_snapshot(snapshot_of("s1", "volume/vm1"))
        .await
        .unwrap();
    for by in ["volume vm1", "snapshot s1"] {
        let error = evict(&rig, "golden", "n1").await.unwrap_err();
        assert!(error.to_string().contains(by), "{error}");
        assert_eq!(verdict(error).1, "IN_USE");
        let _ = rig.service().delete_volume(target("vm1")).await;
    }
    // The one that counts is read whole first: spoilt, lost or away it is none.
    let near = rig.node();
    near.spoil_image(digest(7), true);
    let last = (Code::FailedPrecondition, "LAST_COPY".to_owned());
    assert_eq!(refused(evict(&rig, "golden", "n2").await), last);
    near.spoil_image(digest(7), false);
    near.set_away(true);
    assert_eq!(refused(evict(&rig, "golden", "n2").await), last);
    near.set_away(false);
    assert_eq!(rig.agents.node(OTHER_NODE).images(), [digest(7)]);
    evict(&rig, "golden", "n2").await.unwrap();
    assert!(rig.agents.node(OTHER_NODE).images().is_empty());
}

#[tokio::test]
async fn two_evictions_at_once_do_not_count_on_each_other() {
    let rig = two_nodes().await;
    place(&rig, &["n2"]).await.unwrap();
    // Another name whose copy is on the other node alone; the volume is on a third.
    let mut second = image("second");
    second.node = Some(named("n2"));
    rig.service().create_image(second).await.unwrap();
    rig.settle().await;
    evict(&rig, "golden", "n2").await.unwrap();
    let third = NodeId::from_bytes([3; 16]);
    rig.register(third, "n3").await;
    let mut pool = pool("third", "/dev/sda");
    pool.node = Some(named("n3"));
    rig.service().create_pool(pool).await.unwrap();
    place(&rig, &["n3"]).await.unwrap();
    let mut wanted = thin("vm1", "golden");
    wanted.placement.node = Some(named("n3"));
    rig.service().create_thin(wanted).await.unwrap();
    rig.agents.node(third).lose_image(digest(7));
    let (one, other) = tokio::join!(evict(&rig, "golden", "n1"), evict(&rig, "second", "n2"));
    assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
    let left: usize = [NODE, OTHER_NODE]
        .iter()
        .map(|n| rig.agents.node(*n).images().len())
        .sum();
    assert_eq!(left, 1);
}

#[tokio::test]
async fn content_with_another_name_on_the_node_stays_and_one_without_goes() {
    let rig = two_nodes().await;
    place(&rig, &["n2"]).await.unwrap();
    rig.service().create_image(image("second")).await.unwrap();
    rig.settle().await;
    evict(&rig, "second", "n1").await.unwrap();
    assert_eq!(rig.node().images(), [digest(7)], "golden is there too");
    let second = rig
        .service()
        .get_image(&named("second"))
        .await
        .unwrap()
        .image;
    assert_eq!((second.phase, second.copies.len()), (Phase::Ready, 0));
    // Forgotten by its only name that has copies, the content goes from both nodes.
    rig.service().delete_image(target("golden")).await.unwrap();
    assert!(rig.node().images().is_empty() && rig.agents.node(OTHER_NODE).images().is_empty());
    let elsewhere = rig
        .service()
        .create_thin(thin("v", "second"))
        .await
        .unwrap_err();
    assert_eq!(verdict(elsewhere).1, "IMAGE_ELSEWHERE");
    rig.service()
        .place_image(&named("second"), &[named("n1")])
        .await
        .unwrap();
    assert!(rig.settle().await.is_empty());
    rig.service()
        .create_thin(thin("v", "second"))
        .await
        .unwrap();
}

#[tokio::test]
async fn an_image_without_copies_from_a_url_comes_when_a_volume_needs_it() {
    let rig = Rig::furnished().await;
    let url = "https://host/other.raw";
    rig.node().offer(url, digest(9), Bytes(GIB));
    let mut wanted = image("other");
    wanted.asked.source = ImageSource::Url(url.into());
    rig.service().create_image(wanted).await.unwrap();
    rig.settle().await;
    evict(&rig, "other", "n1").await.unwrap();
    let early = rig
        .service()
        .create_thin(thin("v", "other"))
        .await
        .unwrap_err();
    assert_eq!(verdict(early).1, "IMAGE_ON_ITS_WAY");
    assert!(rig.settle().await.is_empty());
    rig.service().create_thin(thin("v", "other")).await.unwrap();
}

#[tokio::test]
async fn an_eviction_that_was_cut_short_goes_on_and_one_that_its_node_refuses_is_taken_back() {
    let rig = two_nodes().await;
    place(&rig, &["n2"]).await.unwrap();
    let far = rig.agents.node(OTHER_NODE);
    far.cut(Verb::DeleteImage, Cut::BeforeEffect);
    assert_eq!(
        refused(evict(&rig, "golden", "n2").await).0,
        Code::Unavailable
    );
    let id = rig
        .service()
        .get_image(&named("golden"))
        .await
        .unwrap()
        .image
        .id;
    let pending = rig.service().pending.take();
    assert!(
        pending.contains_key(&Unfinished::Image(id)),
        "the loop has it"
    );
    assert!(rig.settle().await.is_empty());
    assert!(far.images().is_empty());
    // A thin that no record knows of: its node alone can say so.
    place(&rig, &["n2"]).await.unwrap();
    let mut wanted = thin("vm1", "golden");
    wanted.placement.node = Some(named("n2"));
    rig.service().create_thin(wanted).await.unwrap();
    far.copy_thin();
    rig.service().delete_volume(target("vm1")).await.unwrap();
    assert_eq!(
        refused(evict(&rig, "golden", "n2").await),
        (Code::FailedPrecondition, "IMAGE_NEEDED".into())
    );
    let shown = rig.service().get_image(&named("golden")).await.unwrap();
    assert_eq!(copies(&shown)[1], (OTHER_NODE, Phase::Ready));
    assert_eq!(far.images(), [digest(7)]);
}

#[tokio::test]
async fn a_copy_that_is_wished_for_while_another_is_fetched_does_not_wait_for_it() {
    let rig = two_nodes().await;
    rig.node().hold_imports(true);
    let slow = CreateImage {
        name: "slow".parse().unwrap(),
        ..image("slow")
    };
    let id = rig.service().create_image(slow).await.unwrap().image.id;
    let service = rig.service().clone();
    let work = tokio::spawn(async move { service.finish(Unfinished::Image(id)).await });
    support::eventually("the first is being fetched", async || {
        let view = rig.service().get_image(&named("slow")).await.unwrap();
        !view.progress.is_empty()
    })
    .await;
    rig.service()
        .place_image(&named("slow"), &[named("n2")])
        .await
        .unwrap();
    support::eventually("the second is there", async || {
        let image = rig
            .service()
            .records
            .by_id::<Image>(id)
            .await
            .unwrap()
            .unwrap();
        image.is_on(OTHER_NODE) && !image.is_on(NODE)
    })
    .await;
    // And it can be given up while it is on its way.
    evict(&rig, "slow", "n1").await.unwrap();
    work.await.unwrap().unwrap();
    rig.node().hold_imports(false);
    let view = rig.service().get_image(&named("slow")).await.unwrap();
    assert_eq!(copies(&view), [(OTHER_NODE, Phase::Ready)]);
}

/// Disks that two nodes reach: the one that does not have the pool cannot open it, and says so.
#[tokio::test]
async fn a_pool_follows_the_word_of_its_own_node_alone() {
    let rig = two_nodes().await;
    let pool = rig.service().get_pool(&named("fast")).await.unwrap();
    let mut report = pool.report.unwrap();
    report.phase = Phase::Failed;
    let service = rig.service();
    service
        .follow_pools(OTHER_NODE, std::slice::from_ref(&report))
        .await
        .unwrap();
    let id = pool.pool.id;
    let phase = async || {
        let record = service.records.by_id::<Pool>(id).await.unwrap();
        record.unwrap().phase
    };
    assert_eq!(phase().await, Phase::Ready);
    service.follow_pools(NODE, &[report]).await.unwrap();
    assert_eq!(phase().await, Phase::Failed);
}
