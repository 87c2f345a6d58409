//! Images through their life, pools and nodes through theirs, and watches of all.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use goldleaf_server::agents::fake::Verb;
use goldleaf_server::domain::{Image, ImageSource, MoreRoom, Phase, PolicyChange, Pool, PoolMode};
use goldleaf_server::reconcile::{self, Waits};
use goldleaf_server::service::{CreateImage, Event, Events, Service, Watch};
use goldleaf_types::{Bytes, Labels};
use support::{
    GIB, NODE, OTHER_NODE, Rig, digest, eventually, image, labels, named, pool, registration,
    snapshot_of, target, thin, verdict,
};
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::Code;

/// The loops, as the server runs them but impatient.
fn loops(service: &Arc<Service>) -> CancellationToken {
    let stop = CancellationToken::new();
    let waits = Waits {
        first: Duration::from_millis(5),
        most: Duration::from_millis(40),
    };
    tokio::spawn(reconcile::recovery(Arc::clone(service), stop.clone()));
    tokio::spawn(reconcile::run(Arc::clone(service), waits, stop.clone()));
    tokio::spawn(reconcile::listen(Arc::clone(service), waits, stop.clone()));
    stop
}

fn from(token: &str) -> Watch {
    Watch {
        token: token.into(),
        labels: Labels::default(),
    }
}

async fn next<V>(events: &mut Events<V>) -> Event<V> {
    let next = tokio::time::timeout(Duration::from_secs(30), events.next()).await;
    next.expect("no event came")
        .expect("the watch ended")
        .unwrap()
}

fn parts<V>(event: Event<V>) -> (Option<V>, String) {
    match event {
        Event::Present { item, token } => (Some(item), token),
        Event::Gone { token, .. } => (None, token),
    }
}

#[tokio::test]
async fn waiting_for_an_image_ends_when_it_is_ready_and_shows_progress_meanwhile() {
    let rig = Rig::new().await;
    let _stop = loops(rig.service()).drop_guard();
    rig.node().hold_imports(true);
    let waiting = tokio::spawn({
        let service = Arc::clone(rig.service());
        async move {
            service
                .create_image(CreateImage {
                    wait: true,
                    ..image("golden")
                })
                .await
        }
    });
    eventually("half of it is there", async || {
        let view = rig.service().get_image(&named("golden")).await;
        view.is_ok_and(|view| view.progress.iter().any(|(_, p)| p.done == Bytes(GIB / 2)))
    })
    .await;
    assert!(!waiting.is_finished());
    let early = rig.service().create_image(image("golden")).await.unwrap();
    assert_eq!(
        early.image.phase,
        Phase::Creating,
        "without wait it answers at once"
    );
    rig.node().hold_imports(false);
    let view = waiting.await.unwrap().unwrap();
    assert_eq!(
        (view.image.phase, view.image.digest),
        (Phase::Ready, Some(digest(7)))
    );
    assert_eq!(view.image.size, Bytes(GIB));
    assert_eq!(rig.node().effects(Verb::ImportImage), 1);
}

/// A node may take minutes for it. What it tells meanwhile, of its other pools too, is followed.
#[tokio::test]
async fn a_change_of_a_pools_room_or_policy_keeps_no_report_waiting() {
    let rig = Rig::furnished().await;
    let service = rig.service();
    let _stop = loops(service).drop_guard();
    let slow = service.create_pool(pool("slow", "/dev/sdb")).await.unwrap();
    let mut modes = [PoolMode::OutOfDataSpace, PoolMode::ReadWrite].into_iter();
    for extends in [true, false] {
        rig.node().hold_imports(true);
        let changing = tokio::spawn({
            let service = Arc::clone(service);
            async move {
                let (fast, more) = (named("fast"), MoreRoom::default());
                match extends {
                    true => service.extend_pool(&fast, &more).await,
                    false => {
                        let change = PolicyChange {
                            overcommit_percent: Some(200),
                            ..PolicyChange::default()
                        };
                        service.set_pool_policy(&fast, &change).await
                    }
                }
            }
        });
        eventually("the others are told", async || {
            let (fast, same) = (named("fast"), "fast".parse().unwrap());
            let renamed = service.rename_pool(&fast, &same, 0).await;
            renamed.is_err_and(|e| e.to_string().contains("is being"))
        })
        .await;
        let (mode, total) = (modes.next().unwrap(), Bytes(GIB));
        rig.node().set_pool(slow.pool.id, mode, total, total);
        eventually("it is followed", async || {
            let id = slow.pool.id;
            let found = service.records.by_id::<Pool>(id).await.unwrap();
            found.unwrap().mode == mode
        })
        .await;
        assert!(!changing.is_finished());
        rig.node().hold_imports(false);
        changing.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_refused_import_fails_with_its_code_and_a_name_can_be_used_again() {
    let rig = Rig::new().await;
    let _stop = loops(rig.service()).drop_guard();
    let service = rig.service();
    let mut wrong = CreateImage {
        wait: true,
        ..image("golden")
    };
    wrong.asked.digest = Some(digest(8));
    let refused = verdict(service.create_image(wrong.clone()).await.unwrap_err());
    assert_eq!(
        (refused.0, refused.1.as_str()),
        (Code::FailedPrecondition, "IMAGE_FAILED")
    );
    let shown = service.get_image(&named("golden")).await.unwrap().image;
    assert_eq!(shown.phase, Phase::Failed);
    assert!(shown.copies[0].message.contains("not what was asked for"));
    let same = service.create_image(wrong).await.unwrap_err();
    assert_eq!(verdict(same).0, refused.0, "the same call, the same answer");
    let unusable = service.create_thin(thin("v", "golden")).await.unwrap_err();
    assert!(matches!(verdict(unusable).0, Code::FailedPrecondition));
    service.delete_image(target("golden")).await.unwrap();
    let view = service
        .create_image(CreateImage {
            wait: true,
            ..image("golden")
        })
        .await
        .unwrap();
    assert_eq!(view.image.phase, Phase::Ready);
}

#[tokio::test]
async fn another_request_for_the_same_image_names_its_field() {
    let rig = Rig::furnished().await;
    rig.register(OTHER_NODE, "n2").await;
    type Change = (&'static str, fn(&mut CreateImage));
    let changes: [Change; 6] = [
        ("file", |w| {
            w.asked.source = ImageSource::File("/import/other.raw".into())
        }),
        ("url", |w| {
            w.asked.source = ImageSource::Url("http://h/x".into())
        }),
        ("source_sha256", |w| w.asked.source_sha256 = "0".repeat(64)),
        ("digest", |w| w.asked.digest = Some(digest(7))),
        ("labels", |w| w.labels = labels([("a", "b")])),
        ("node", |w| w.node = Some(named("n2"))),
    ];
    for (field, change) in changes {
        let mut other = image("golden");
        change(&mut other);
        let (code, _, named) = verdict(rig.service().create_image(other).await.unwrap_err());
        assert_eq!((code, named.as_deref()), (Code::AlreadyExists, Some(field)));
    }
}

#[tokio::test]
async fn content_goes_with_its_last_name_and_never_from_under_a_volume() {
    let rig = Rig::furnished().await;
    let service = rig.service();
    service.create_image(image("second-name")).await.unwrap();
    rig.settle().await;
    service.create_thin(thin("vm1", "golden")).await.unwrap();
    service
        .create_snapshot(snapshot_of("s1", "volume/vm1"))
        .await
        .unwrap();
    for holder in ["volume vm1", "snapshot s1"] {
        let refused = service.delete_image(target("golden")).await.unwrap_err();
        assert!(refused.to_string().contains(holder), "{refused}");
        assert_eq!(verdict(refused).0, Code::FailedPrecondition);
        let shown = service.get_image(&named("golden")).await.unwrap().image;
        assert_eq!(shown.phase, Phase::Ready);
        let _ = service.delete_volume(target("vm1")).await;
    }
    service.delete_snapshot(target("s1")).await.unwrap();
    service.delete_image(target("golden")).await.unwrap();
    assert_eq!(rig.node().images(), [digest(7)], "it has another name");
    service.delete_image(target("second-name")).await.unwrap();
    assert!(rig.node().images().is_empty());
    assert!(service.records.all::<Image>().await.unwrap().is_empty());
}

#[tokio::test]
async fn verifying_reads_every_copy_and_says_which_is_spoilt() {
    let rig = Rig::furnished().await;
    let service = rig.service();
    let fine = service.verify_image(&named("golden")).await.unwrap().image;
    assert_eq!(fine.phase, Phase::Ready);
    rig.node().spoil_image(digest(7), true);
    let spoilt = service.verify_image(&named("golden")).await.unwrap().image;
    assert_eq!(
        (spoilt.phase, spoilt.copies[0].phase),
        (Phase::Failed, Phase::Failed)
    );
    assert!(spoilt.copies[0].message.contains("other content"));
    rig.node().spoil_image(digest(7), false);
    assert_eq!(
        service
            .verify_image(&named("golden"))
            .await
            .unwrap()
            .image
            .phase,
        Phase::Ready
    );
    rig.node().set_away(true);
    let away = service.verify_image(&named("golden")).await.unwrap_err();
    assert_eq!(verdict(away).0, Code::Unavailable);
}

#[tokio::test]
async fn an_image_from_a_url_comes_to_the_node_that_needs_it() {
    let rig = Rig::new().await;
    let url = "https://host/golden.raw";
    for node in [NODE, OTHER_NODE] {
        rig.agents.node(node).offer(url, digest(7), Bytes(GIB));
    }
    let service = rig.service();
    rig.register(OTHER_NODE, "n2").await;
    let mut far = pool("far", "/dev/sda");
    far.node = Some(named("n2"));
    service.create_pool(far).await.unwrap();
    let mut wanted = image("golden");
    wanted.asked.source = ImageSource::Url(url.into());
    service.create_image(wanted).await.unwrap();
    rig.settle().await;
    let early = verdict(
        service
            .create_thin(thin("vm1", "golden"))
            .await
            .unwrap_err(),
    );
    assert_eq!(
        (early.0, early.1.as_str()),
        (Code::Unavailable, "IMAGE_ON_ITS_WAY")
    );
    assert!(rig.settle().await.is_empty());
    assert_eq!(
        service
            .create_thin(thin("vm1", "golden"))
            .await
            .unwrap()
            .volume
            .node,
        OTHER_NODE
    );
}

#[tokio::test]
async fn a_deleted_image_stops_its_import() {
    let rig = Rig::new().await;
    let _stop = loops(rig.service()).drop_guard();
    let service = rig.service();
    rig.node().hold_imports(true);
    service.create_image(image("golden")).await.unwrap();
    eventually("it is being fetched", async || {
        !service
            .get_image(&named("golden"))
            .await
            .unwrap()
            .progress
            .is_empty()
    })
    .await;
    let deleted = service.delete_image(target("golden"));
    let deleted = tokio::time::timeout(Duration::from_secs(30), deleted).await;
    deleted.expect("it waits for the import").unwrap();
    rig.node().hold_imports(false);
    assert!(service.records.all::<Image>().await.unwrap().is_empty());
    assert!(rig.node().images().is_empty());
}

#[tokio::test]
async fn a_pool_follows_its_node_and_a_watch_sees_it() {
    let rig = Rig::new().await;
    let service = rig.service();
    let _stop = loops(service).drop_guard();
    let made = service
        .create_pool(pool("fast", "/dev/sda"))
        .await
        .unwrap()
        .pool;
    let mut events = service.watch_pools(from(""));
    assert_eq!(
        parts(next(&mut events).await).0.unwrap().pool.mode,
        PoolMode::ReadWrite
    );
    rig.node()
        .set_pool(made.id, PoolMode::OutOfDataSpace, Bytes(GIB), Bytes(GIB));
    loop {
        let view = parts(next(&mut events).await).0.unwrap();
        if view.pool.mode == PoolMode::OutOfDataSpace {
            assert_eq!(view.report.unwrap().usage.unwrap().data_used, Bytes(GIB));
            break;
        }
    }
    let full = service.create_thin(thin("v", "")).await.unwrap_err();
    assert_eq!(verdict(full).0, Code::ResourceExhausted);
}

#[tokio::test]
async fn a_node_that_goes_and_comes_is_seen_and_its_work_is_finished() {
    let rig = Rig::furnished().await;
    let service = rig.service();
    let _stop = loops(service).drop_guard();
    let up = async || {
        service
            .get_node(&named("n1"))
            .await
            .unwrap()
            .reach
            .is_some_and(|r| r.up)
    };
    eventually("the node answers", up).await;
    service.create_thin(thin("vm1", "golden")).await.unwrap();
    let mut events = service.watch_nodes(from(""));
    assert!(parts(next(&mut events).await).0.unwrap().reach.unwrap().up);
    rig.node().set_away(true);
    assert!(!parts(next(&mut events).await).0.unwrap().reach.unwrap().up);
    let gone = service.delete_volume(target("vm1")).await.unwrap_err();
    assert_eq!(verdict(gone).0, Code::Unavailable);
    rig.node().set_away(false);
    assert!(parts(next(&mut events).await).0.unwrap().reach.unwrap().up);
    service.delete_volume(target("vm1")).await.unwrap();
    eventually("nothing is left", async || rig.node().thins().is_empty()).await;
}

#[tokio::test]
async fn pools_are_deleted_empty_and_named_once() {
    let rig = Rig::furnished().await;
    let service = rig.service();
    let first = service
        .create_pool(pool("fast", "/dev/sda"))
        .await
        .unwrap()
        .pool;
    let again = service
        .create_pool(pool("fast", "/dev/sda"))
        .await
        .unwrap()
        .pool;
    assert_eq!(first.id, again.id);
    let other = verdict(
        service
            .create_pool(pool("fast", "/dev/sdb"))
            .await
            .unwrap_err(),
    );
    assert_eq!(
        (other.0, other.2.as_deref()),
        (Code::AlreadyExists, Some("devices"))
    );
    let taken = verdict(
        service
            .create_pool(pool("slow", "/dev/sda"))
            .await
            .unwrap_err(),
    );
    assert_eq!(
        (taken.0, taken.1.as_str()),
        (Code::FailedPrecondition, "NOT_BLANK")
    );
    service.create_thin(thin("vm1", "golden")).await.unwrap();
    let used = service.delete_pool(target("fast")).await.unwrap_err();
    assert!(used.to_string().contains("volume vm1"), "{used}");
    assert_eq!(verdict(used).0, Code::FailedPrecondition);
    assert_eq!(
        service.get_pool(&named("fast")).await.unwrap().pool.phase,
        Phase::Ready
    );
    rig.check("at the end").await;
}

#[tokio::test]
async fn a_node_registers_again_moves_and_keeps_its_name_to_itself() {
    let rig = Rig::empty();
    let service = rig.service();
    let none = verdict(
        service
            .create_pool(pool("fast", "/dev/sda"))
            .await
            .unwrap_err(),
    );
    assert_eq!((none.0, none.2.as_deref()), (Code::NotFound, Some("node")));
    let incarnation = service.register(registration(NODE, "n1")).await.unwrap();
    let first = service.get_node(&named("n1")).await.unwrap().node;
    assert_eq!(
        service.register(registration(NODE, "n1")).await.unwrap(),
        incarnation
    );
    assert_eq!(
        service.get_node(&named("n1")).await.unwrap().node,
        first,
        "nothing changed"
    );
    let twin = verdict(
        service
            .register(registration(OTHER_NODE, "n1"))
            .await
            .unwrap_err(),
    );
    assert_eq!(twin.0, Code::AlreadyExists);
    let mut moved = registration(NODE, "renamed");
    moved.address = "http://127.0.0.1:9".into();
    service.register(moved).await.unwrap();
    assert!(service.get_node(&named("n1")).await.is_err());
    assert_eq!(
        service.get_node(&named("renamed")).await.unwrap().node.id,
        NODE
    );
    service
        .register(registration(OTHER_NODE, "n1"))
        .await
        .unwrap();
    let mut anywhere = pool("p", "/dev/sda");
    anywhere.node = None;
    let which = verdict(service.create_pool(anywhere).await.unwrap_err());
    assert_eq!(
        (which.0, which.2.as_deref()),
        (Code::InvalidArgument, Some("node"))
    );
}

#[tokio::test]
async fn a_watch_resumes_after_each_of_its_events_without_gap_or_repeat() {
    let rig = Rig::furnished().await;
    let service = rig.service();
    service.create_thin(thin("a", "")).await.unwrap();
    service.create_thin(thin("b", "")).await.unwrap();
    let mut events = service.watch_volumes(from(""));
    let mut seen = Vec::new();
    let note = |event: Event<goldleaf_server::service::VolumeView>| {
        let (item, token) = parts(event);
        let what = item.map(|v| format!("{} {:?}", v.volume.name, v.volume.phase));
        (what.unwrap_or("gone".into()), token)
    };
    for _ in 0..2 {
        seen.push(note(next(&mut events).await));
    }
    service.create_thin(thin("c", "")).await.unwrap(); // Creating, Ready
    service.delete_volume(target("a")).await.unwrap(); // Deleting, gone
    for _ in 0..4 {
        seen.push(note(next(&mut events).await));
    }
    let whats: Vec<_> = seen.iter().map(|(what, _)| what.as_str()).collect();
    let all = [
        "a Ready",
        "b Ready",
        "c Creating",
        "c Ready",
        "a Deleting",
        "gone",
    ];
    assert_eq!(whats, all);
    for at in 1..seen.len() {
        let mut resumed = service.watch_volumes(from(&seen[at].1));
        for expected in &seen[at + 1..] {
            assert_eq!(
                &note(next(&mut resumed).await),
                expected,
                "resumed after event {at}"
            );
        }
    }
    // In the middle of the first listing, the rest of the list comes, as it is now.
    let mut resumed = service.watch_volumes(from(&seen[0].1));
    assert_eq!(note(next(&mut resumed).await).0, "b Ready");
    let mut foreign = service.watch_pools(from(&seen[0].1));
    assert_eq!(
        verdict(foreign.next().await.unwrap().unwrap_err()).0,
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn a_watch_tells_only_what_its_filter_wants() {
    let rig = Rig::furnished().await;
    let service = rig.service();
    let mut wanted = thin("b", "");
    wanted.labels = labels([("a", "1")]);
    service.create_thin(thin("a", "")).await.unwrap();
    service.create_thin(wanted).await.unwrap();
    let watch = Watch {
        token: String::new(),
        labels: labels([("a", "1")]),
    };
    let mut events = service.watch_volumes(watch);
    assert_eq!(
        parts(next(&mut events).await)
            .0
            .unwrap()
            .volume
            .name
            .as_str(),
        "b"
    );
    service.create_thin(thin("c", "")).await.unwrap();
    let mut wanted = thin("d", "");
    wanted.labels = labels([("a", "1"), ("b", "2")]);
    service.create_thin(wanted).await.unwrap();
    assert_eq!(
        parts(next(&mut events).await)
            .0
            .unwrap()
            .volume
            .name
            .as_str(),
        "d"
    );
}

#[tokio::test]
async fn a_source_that_does_not_answer_is_tried_again() {
    let rig = Rig::new().await;
    let service = rig.service();
    let mut wanted = image("late");
    wanted.asked.source = ImageSource::File("/import/late.raw".into());
    service.create_image(wanted).await.unwrap();
    let id = service.get_image(&named("late")).await.unwrap().image.id;
    let what = goldleaf_server::service::Unfinished::Image(id);
    assert!(service.finish(what).await.is_err());
    let shown = service.get_image(&named("late")).await.unwrap().image;
    assert_eq!(shown.phase, Phase::Creating);
    assert!(
        shown.copies[0]
            .message
            .contains("cannot read /import/late.raw"),
        "says what it waits for"
    );
    rig.node().offer("/import/late.raw", digest(9), Bytes(512));
    service.finish(what).await.unwrap();
    let shown = service.get_image(&named("late")).await.unwrap().image;
    assert_eq!(
        (shown.phase, shown.copies[0].message.as_str()),
        (Phase::Ready, "")
    );
}
