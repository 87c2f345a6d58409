//! Channels: names that are moved, and what was made through them before and after.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

mod support;

use std::sync::Arc;

use goldleaf_server::domain::{Channel, ImageSource};
use goldleaf_server::service::{Event, Service, ServiceError, SetChannel, Watch};
use goldleaf_types::{Bytes, ChannelName, Labels};
use support::{
    GIB, Rig, clone_of, digest, everything, image, labels, named, size, target, thin, verdict,
};
use tokio_stream::StreamExt;
use tonic::Code;

const OTHER: &str = "/import/other.raw";

/// Two images of other content, "golden" and "newer".
async fn two_images() -> Rig {
    let rig = Rig::furnished().await;
    rig.node().offer(OTHER, digest(8), Bytes(2 * GIB));
    let mut newer = image("newer");
    newer.asked.source = ImageSource::File(OTHER.into());
    rig.service().create_image(newer).await.unwrap();
    assert!(rig.settle().await.is_empty());
    rig
}

fn point(image: &str) -> SetChannel {
    SetChannel {
        name: "debian/stable".parse().unwrap(),
        image: image.parse().unwrap(),
        labels: Labels::default(),
        revision: 0,
    }
}

async fn set(service: &Service, image: &str) -> Result<Channel, ServiceError> {
    service.set_channel(point(image)).await
}

fn stable<Id>() -> goldleaf_server::domain::Ref<Id, ChannelName> {
    goldleaf_server::domain::Ref::Name("debian/stable".parse().unwrap())
}

#[tokio::test]
async fn what_was_made_through_a_channel_stays_as_it_is_when_the_channel_moves() {
    let rig = two_images().await;
    let service = rig.service();
    set(service, "golden").await.unwrap();
    let before = service
        .create_thin(thin("vm1", "debian/stable"))
        .await
        .unwrap()
        .volume;
    assert_eq!(before.image, Some(digest(7)));
    let cloned = clone_of("c1", "image/debian/stable", 0);
    assert_eq!(
        service
            .clone_thin(cloned.clone())
            .await
            .unwrap()
            .volume
            .image,
        Some(digest(7))
    );

    set(service, "newer").await.unwrap();
    let again = service
        .create_thin(thin("vm1", "debian/stable"))
        .await
        .unwrap()
        .volume;
    assert_eq!(
        (again.id, again.image),
        (before.id, Some(digest(7))),
        "same call, same answer"
    );
    assert_eq!(
        service.clone_thin(cloned).await.unwrap().volume.image,
        Some(digest(7))
    );
    let other = service
        .create_thin(thin("vm1", "golden"))
        .await
        .unwrap_err();
    let (code, _, field) = verdict(other);
    assert_eq!(
        (code, field.as_deref()),
        (Code::AlreadyExists, Some("image"))
    );
    let after = service
        .create_thin(thin("vm2", "debian/stable"))
        .await
        .unwrap()
        .volume;
    assert_eq!(after.image, Some(digest(8)));
    let whole = service
        .clone_thin(clone_of("c2", "image/debian/stable", 0))
        .await
        .unwrap();
    assert_eq!(
        (whole.volume.image, whole.volume.size.bytes()),
        (Some(digest(8)), Bytes(2 * GIB))
    );
    rig.check("at the end").await;
}

/// The first call ended between wish and answer; the channel moved before it was asked again.
#[tokio::test]
async fn a_call_that_was_cut_short_keeps_the_content_that_it_first_meant() {
    use goldleaf_server::agents::fake::{Cut, Verb};
    for cut in [Cut::BeforeEffect, Cut::AfterEffect] {
        let mut rig = two_images().await;
        set(rig.service(), "golden").await.unwrap();
        rig.node().cut(Verb::CreateThin, cut);
        rig.service()
            .create_thin(thin("vm1", "debian/stable"))
            .await
            .unwrap_err();
        set(rig.service(), "newer").await.unwrap();
        rig.restart();
        let made = rig
            .service()
            .create_thin(thin("vm1", "debian/stable"))
            .await
            .unwrap();
        assert_eq!(made.volume.image, Some(digest(7)), "{cut:?}");
        rig.check("at the end").await;
    }
}

#[tokio::test]
async fn a_channel_is_set_once_whatever_the_number_of_calls_and_only_from_its_revision() {
    let rig = two_images().await;
    let service = rig.service();
    let made = set(service, "golden").await.unwrap();
    assert_eq!(set(service, "golden").await.unwrap(), made, "twice is once");
    let stale = SetChannel {
        revision: made.revision + 9,
        ..point("newer")
    };
    let refused = verdict(service.set_channel(stale.clone()).await.unwrap_err());
    assert_eq!(
        (refused.0, refused.1.as_str()),
        (Code::Aborted, "OTHER_REVISION")
    );
    let same = SetChannel {
        image: "golden".parse().unwrap(),
        ..stale
    };
    assert_eq!(
        service.set_channel(same).await.unwrap(),
        made,
        "what is so already is not refused"
    );
    let right = SetChannel {
        revision: made.revision,
        labels: labels([("by", "ci")]),
        ..point("newer")
    };
    let moved = service.set_channel(right).await.unwrap();
    assert_eq!(
        (moved.id, moved.digest, moved.created),
        (made.id, digest(8), made.created)
    );
    assert!(moved.moved > made.moved && moved.labels.get("by") == Some("ci"));
    let absent = SetChannel {
        name: "debian/testing".parse().unwrap(),
        revision: 7,
        ..point("golden")
    };
    assert_eq!(
        verdict(service.set_channel(absent.clone()).await.unwrap_err()).0,
        Code::NotFound
    );
    // One channel may follow another, as it points then.
    let follows = SetChannel {
        image: "debian/stable".parse().unwrap(),
        revision: 0,
        ..absent
    };
    assert_eq!(
        service.set_channel(follows).await.unwrap().digest,
        digest(8)
    );
    assert_eq!(
        service
            .list_channels(&everything())
            .await
            .unwrap()
            .items
            .len(),
        2
    );
    let unknown = verdict(set(service, "none").await.unwrap_err());
    assert_eq!(
        (unknown.0, unknown.2.as_deref()),
        (Code::NotFound, Some("image"))
    );
}

#[tokio::test]
async fn the_last_image_of_what_a_channel_points_to_is_not_deleted() {
    let rig = two_images().await;
    let service = rig.service();
    set(service, "golden").await.unwrap();
    let refused = service.delete_image(target("golden")).await.unwrap_err();
    assert!(
        refused.to_string().contains("channel debian/stable"),
        "{refused}"
    );
    assert_eq!(verdict(refused).1, "IN_USE");
    service.create_image(image("second")).await.unwrap();
    assert!(rig.settle().await.is_empty());
    service.delete_image(target("golden")).await.unwrap();
    let made = service
        .create_thin(thin("vm1", "debian/stable"))
        .await
        .unwrap();
    assert_eq!(
        made.volume.image,
        Some(digest(7)),
        "by the name that is left"
    );
    service.delete_volume(target("vm1")).await.unwrap();
    for _ in 0..2 {
        let gone = goldleaf_server::service::Target {
            what: stable(),
            revision: 0,
        };
        service.delete_channel(gone).await.unwrap();
    }
    service.delete_image(target("second")).await.unwrap();
    let unknown = service
        .create_thin(thin("vm1", "debian/stable"))
        .await
        .unwrap_err();
    assert_eq!(verdict(unknown).0, Code::NotFound);
}

#[tokio::test]
async fn a_watch_sees_a_channel_come_move_and_go() {
    let rig = two_images().await;
    let service = Arc::clone(rig.service());
    let mut events = service.watch_channels(Watch {
        token: String::new(),
        labels: Labels::default(),
    });
    // Each is waited for: a watch that begins late tells what is there then, not how it came to it.
    let mut next = async || {
        let event = tokio::time::timeout(std::time::Duration::from_secs(20), events.next());
        match event.await.expect("no event").unwrap().unwrap() {
            Event::Present { item, .. } => item.digest.to_string(),
            Event::Gone { id, .. } => id,
        }
    };
    let made = set(&service, "golden").await.unwrap();
    assert_eq!(next().await, digest(7).to_string());
    set(&service, "newer").await.unwrap();
    assert_eq!(next().await, digest(8).to_string());
    let gone = goldleaf_server::service::Target {
        what: stable(),
        revision: 0,
    };
    service.delete_channel(gone).await.unwrap();
    assert_eq!(next().await, made.id.to_string());
    assert!(service.get_channel(&stable()).await.is_err());
}

#[tokio::test]
async fn an_image_is_found_by_what_points_at_it_and_shown_whole_where_that_is_asked_for() {
    let rig = two_images().await;
    let service = rig.service();
    set(service, "golden").await.unwrap();
    let found = async |what: &str| {
        let view = service.find_image(&what.parse().unwrap()).await;
        view.map(|view| view.image.name.to_string())
    };
    assert_eq!(found("debian/stable").await.unwrap(), "golden");
    assert_eq!(found(&digest(8).to_string()).await.unwrap(), "newer");
    assert_eq!(found("newer").await.unwrap(), "newer");
    let (code, _, _) = verdict(found("debian/none").await.unwrap_err());
    assert_eq!(code, Code::NotFound);
    // A volume that is to show all of it is never of a larger image, wherever the channel points.
    let whole = |name: &str| {
        let mut wanted = thin(name, "debian/stable");
        wanted.whole_image = true;
        wanted
    };
    let before = service.create_thin(whole("vm1")).await.unwrap().volume;
    set(service, "newer").await.unwrap();
    let (code, _, field) = verdict(service.create_thin(whole("vm2")).await.unwrap_err());
    assert_eq!(
        (code, field.as_deref()),
        (Code::OutOfRange, Some("size_bytes"))
    );
    let again = service.create_thin(whole("vm1")).await.unwrap().volume;
    assert_eq!((again.id, again.image), (before.id, Some(digest(7))));
    let part = service.create_thin(thin("vm3", "debian/stable")).await;
    assert_eq!(part.unwrap().volume.image, Some(digest(8)));
    // Nor is one that shows a part of it taken for it, before it has grown.
    let of_part = || async { service.create_thin(whole("vm3")).await };
    let (code, _, field) = verdict(of_part().await.unwrap_err());
    assert_eq!(
        (code, field.as_deref()),
        (Code::OutOfRange, Some("size_bytes"))
    );
    let grown = service.resize(&named("vm3"), size(4 * GIB), 0).await;
    assert_eq!(of_part().await.unwrap().volume.id, grown.unwrap().volume.id);
}
