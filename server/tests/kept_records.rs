//! A store that is lost, and what a node keeps of it: names of images, channels, labels of pools.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

#[path = "support/lives.rs"]
mod lives;
mod support;

use std::sync::Arc;

use goldleaf_server::domain::{Channel, Image, ImageSource, KeptRecords, Pool, Ref, Remark};
use goldleaf_server::failpoint::{Died, Point, dying_at};
use goldleaf_server::reconcile::{self, Waits};
use goldleaf_server::service::{Adoption, ImportPool, ServiceError, SetChannel, Target, Update};
use goldleaf_types::{Bytes, ChannelName, Labels};
use lives::{adopt, all, another_life, backup_of, filled, refused};
use support::*;
use tokio_util::sync::CancellationToken;

const OTHER: &str = "/import/other.raw";

/// Has the node keep what the store knows of it now.
async fn tell(rig: &Rig) -> Result<(), ServiceError> {
    let service = rig.service();
    let mut texts = service.records_to_keep().await.unwrap();
    let text = texts.remove(&NODE).unwrap();
    service.have_records_kept(NODE, text).await
}

fn relabel<Id>(name: &str) -> Update<Ref<Id>> {
    Update {
        what: named(name),
        change: Remark {
            set: labels([("tier", "gold")]),
            remove: Vec::new(),
            deletion_protection: Some(true),
        },
        revision: 0,
    }
}

async fn point(rig: &Rig, channel: &str, image: &str) {
    let wanted = SetChannel {
        name: channel.parse().unwrap(),
        image: image.parse().unwrap(),
        labels: labels([("for", "all")]),
        revision: 0,
    };
    rig.service().set_channel(wanted).await.unwrap();
}

/// An image of other content.
async fn other_image(rig: &Rig, name: &str) {
    image_of(rig, name, 8).await;
}

async fn image_of(rig: &Rig, name: &str, content: u8) {
    rig.node().offer(OTHER, digest(content), Bytes(GIB));
    let mut wanted = image(name);
    wanted.asked.source = ImageSource::File(OTHER.into());
    rig.service().create_image(wanted).await.unwrap();
    assert!(rig.settle().await.is_empty());
}

/// What is said of images and channels.
fn said(adoption: &Adoption) -> Vec<(&str, &str)> {
    let records = adoption.records.iter();
    records.map(|c| (c.kind, c.name.as_str())).collect()
}

/// What does not change from life to life.
fn lasting(image: &Image) -> Image {
    Image {
        revision: 0,
        conditions: Vec::new(),
        ..image.clone()
    }
}

#[tokio::test]
async fn law_names_of_images_channels_and_labels_of_pools_come_back_with_their_node() {
    let lost = filled().await;
    let service = lost.service();
    service.update_image(relabel("golden")).await.unwrap();
    service.update_pool(relabel("fast")).await.unwrap();
    point(&lost, "debian/stable", "golden").await;
    tell(&lost).await.unwrap();
    let rig = another_life(&lost, None).await;
    assert_eq!(refused(tell(&rig).await).1, "OTHER_INCARNATION");
    let back = [("image", "golden"), ("channel", "debian/stable")];
    assert_eq!(said(&adopt(&rig, false).await), back);
    assert!(all::<Image>(&rig).await.is_empty() && all::<Channel>(&rig).await.is_empty());
    assert_eq!(said(&adopt(&rig, true).await), back);
    assert!(said(&adopt(&rig, true).await).is_empty(), "twice is once");
    let (was, is) = (all::<Image>(&lost).await, all::<Image>(&rig).await);
    assert_eq!(
        is.iter().map(lasting).collect::<Vec<_>>(),
        [lasting(&was[0])]
    );
    let (was, is) = (all::<Channel>(&lost).await, all::<Channel>(&rig).await);
    assert_eq!(is.len(), 1);
    assert_eq!(
        (&is[0].id, &is[0].labels, &is[0].digest),
        (&was[0].id, &was[0].labels, &was[0].digest)
    );
    let (was, is) = (all::<Pool>(&lost).await, all::<Pool>(&rig).await);
    assert_eq!(
        (&is[0].labels, &is[0].marks),
        (&was[0].labels, &was[0].marks)
    );
    assert!(is[0].marks.deletion_protection && is[0].labels != Labels::default());
    // Whoever asks for the image by name is served as ever, and asking for it again is no conflict.
    let service = rig.service();
    for (name, image) in [("vm8", "golden"), ("vm9", "debian/stable")] {
        service.create_thin(thin(name, image)).await.unwrap();
    }
    service.create_image(image("golden")).await.unwrap();
    rig.check("after the adoption").await;
    // It keeps ours now, and the former store's no more.
    tell(&rig).await.unwrap();
    assert_eq!(refused(tell(&lost).await).1, "OTHER_INCARNATION");
}

#[tokio::test]
async fn what_was_made_anew_meanwhile_is_left_as_it_is() {
    for (same, expected) in [(true, 1), (false, 2)] {
        let lost = filled().await;
        tell(&lost).await.unwrap();
        let rig = another_life(&lost, None).await;
        if same {
            rig.service().create_image(image("golden")).await.unwrap();
            assert!(rig.settle().await.is_empty());
        } else {
            other_image(&rig, "golden").await;
        }
        let now = all::<Image>(&rig).await;
        adopt(&rig, true).await;
        let images = all::<Image>(&rig).await;
        assert_eq!(images.len(), expected, "the same content: {same}");
        assert!(images.contains(&now[0]));
        let other = images.iter().find(|image| image.id != now[0].id);
        assert_eq!(other.is_none(), same);
        if let Some(other) = other {
            assert!(
                other.name.as_str().starts_with("golden.lost-"),
                "{}",
                other.name
            );
            assert_eq!(other.digest, Some(digest(7)));
        }
    }
}

#[tokio::test]
async fn what_is_newer_than_a_backup_comes_back_and_what_is_not_there_does_not() {
    let lost = filled().await;
    let copy = backup_of(&lost).await;
    other_image(&lost, "newer").await;
    point(&lost, "debian/next", "newer").await;
    tell(&lost).await.unwrap();
    let rig = another_life(&lost, Some(&copy)).await;
    let back = [("image", "newer"), ("channel", "debian/next")];
    assert_eq!(said(&adopt(&rig, false).await), back);
    // Its content went meanwhile.
    let text = lost.node().kept_records().unwrap().records;
    assert_eq!(KeptRecords::decode(&text).unwrap().images.len(), 2);
    lost.service()
        .delete_image(target("newer"))
        .await
        .unwrap_err();
    lost.service()
        .delete_channel(target_of("debian/next"))
        .await
        .unwrap();
    lost.service().delete_image(target("newer")).await.unwrap();
    assert!(said(&adopt(&rig, true).await).is_empty());
    assert_eq!(all::<Image>(&rig).await.len(), 1);
}

fn target_of<Id>(channel: &str) -> Target<Ref<Id, ChannelName>> {
    Target {
        what: Ref::Name(channel.parse().unwrap()),
        revision: 0,
    }
}

#[tokio::test]
async fn a_crash_before_the_node_keeps_ours_leaves_an_adoption_that_goes_on_when_asked_again() {
    let lost = filled().await;
    point(&lost, "debian/stable", "golden").await;
    tell(&lost).await.unwrap();
    let rig = another_life(&lost, None).await;
    let service = Arc::clone(rig.service());
    let died = tokio::spawn(dying_at(Some(Point::RecordsTakenBack), async move {
        service.adopt_node(&named("n1"), true).await
    }));
    assert!(died.await.unwrap_err().into_panic().is::<Died>());
    assert_eq!(all::<Image>(&rig).await.len(), 1);
    assert_eq!(refused(tell(&rig).await).1, "OTHER_INCARNATION");
    assert!(said(&adopt(&rig, true).await).is_empty());
    tell(&rig).await.unwrap();
    assert_eq!(all::<Channel>(&rig).await.len(), 1);
}

#[tokio::test]
async fn a_pool_that_is_not_open_has_its_labels_kept_until_it_is_there() {
    let lost = filled().await;
    let service = lost.service();
    service.update_pool(relabel("fast")).await.unwrap();
    service.deactivate(&named("vm1")).await.unwrap();
    service.close_pool(&named("fast")).await.unwrap();
    tell(&lost).await.unwrap();
    let was = all::<Pool>(&lost).await.remove(0);
    let rig = another_life(&lost, None).await;
    let id = was.id.to_string();
    for apply in [false, true] {
        let said = adopt(&rig, apply).await.records;
        let told = said.iter().find(|change| change.id == id).unwrap();
        assert!(told.becomes.contains("is not open"), "{told:?}");
    }
    assert_eq!(refused(tell(&rig).await).1, "OTHER_INCARNATION");
    let import = ImportPool {
        node: None,
        devices: vec!["/dev/sda".into()],
        force_from: None,
    };
    rig.service().import_pool(import).await.unwrap();
    let is = all::<Pool>(&rig).await.remove(0);
    assert_eq!((&is.labels, &is.marks), (&was.labels, &was.marks));
    assert!(said(&adopt(&rig, true).await).is_empty());
    tell(&rig).await.unwrap();
}

#[tokio::test]
async fn a_channel_that_was_moved_after_the_backup_points_there_again() {
    let lost = filled().await;
    point(&lost, "debian/stable", "golden").await;
    let copy = backup_of(&lost).await;
    other_image(&lost, "newer").await;
    point(&lost, "debian/stable", "newer").await;
    tell(&lost).await.unwrap();
    let rig = another_life(&lost, Some(&copy)).await;
    let back = [("image", "newer"), ("channel", "debian/stable")];
    assert_eq!(said(&adopt(&rig, true).await), back);
    assert_eq!(all::<Channel>(&rig).await[0].digest, digest(8));
    // One that was made anew since is newer than what the node keeps.
    tell(&rig).await.unwrap();
    let again = another_life(&rig, None).await;
    image_of(&again, "newest", 9).await;
    point(&again, "debian/stable", "newest").await;
    let now = all::<Channel>(&again).await;
    adopt(&again, true).await;
    assert_eq!(all::<Channel>(&again).await, now);
}

#[tokio::test]
async fn records_of_a_newer_version_stop_an_adoption_before_anything_is_written() {
    let lost = filled().await;
    let service = lost.service();
    let newer = "{\"v\":\"2\"}".to_owned();
    service.have_records_kept(NODE, newer).await.unwrap();
    let rig = another_life(&lost, None).await;
    let error = rig
        .service()
        .adopt_node(&named("n1"), true)
        .await
        .unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("upgrade") && said.contains("kept-records.json"),
        "{said}"
    );
    assert_eq!(verdict(error).0, tonic::Code::FailedPrecondition);
    assert!(all::<Pool>(&rig).await.is_empty());
}

#[tokio::test]
async fn a_node_that_does_not_keep_our_records_says_so() {
    let lost = filled().await;
    tell(&lost).await.unwrap();
    let rig = another_life(&lost, None).await;
    let stop = CancellationToken::new();
    let listening = tokio::spawn(reconcile::listen(
        Arc::clone(rig.service()),
        Waits::default(),
        stop.clone(),
    ));
    let service = Arc::clone(rig.service());
    let unkept = async || service.get_node(&named("n1")).await.unwrap().unkept;
    eventually("it says so", async || unkept().await.is_some()).await;
    adopt(&rig, true).await;
    other_image(&rig, "news").await;
    eventually("it keeps them", async || unkept().await.is_none()).await;
    stop.cancel();
    listening.await.unwrap();
}

#[tokio::test]
async fn a_node_is_told_of_each_change_by_itself() {
    let rig = filled().await;
    let stop = CancellationToken::new();
    let listening = tokio::spawn(reconcile::listen(
        Arc::clone(rig.service()),
        Waits::default(),
        stop.clone(),
    ));
    let keeps = |wanted: &'static str| {
        let node = rig.node();
        move || {
            let kept = node.kept_records();
            async move { kept.is_some_and(|kept| kept.records.contains(wanted)) }
        }
    };
    eventually("the image is kept", keeps("\"golden\"")).await;
    rig.service().update_pool(relabel("fast")).await.unwrap();
    eventually("the pool's label is kept", keeps("\"gold\"")).await;
    point(&rig, "debian/stable", "golden").await;
    eventually("the channel is kept", keeps("debian/stable")).await;
    stop.cancel();
    listening.await.unwrap();
}
