//! Volumes and snapshots: same request, same answer; another request, a named field; many at once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

mod support;

use std::collections::HashSet;
use std::sync::Arc;

use goldleaf_server::agents::fake::{Cut, Verb};
use goldleaf_server::domain::{ActivateOptions, Phase, PoolMode, Volume};
use goldleaf_server::service::{CreateThin, Listing, ServiceError, Target};
use goldleaf_types::{Bytes, Labels};
use support::{
    GIB, NODE, OTHER_NODE, Rig, active, clone_of, digest, everything, image, labels, named, pool,
    size, snapshot_of, target, thin, verdict,
};
use tonic::Code;

fn code(error: ServiceError) -> Code {
    verdict(error).0
}

#[tokio::test]
async fn the_same_request_answers_the_same_volume_and_another_names_its_field() {
    let rig = Rig::furnished().await;
    let service = rig.service();
    let asked = || {
        active(CreateThin {
            labels: labels([("a", "1")]),
            ..thin("vm1", "golden")
        })
    };
    let first = service.create_thin(asked()).await.unwrap();
    let device = first
        .report
        .as_ref()
        .unwrap()
        .activation
        .clone()
        .unwrap()
        .device_path;
    assert_eq!(device, "/dev/goldleaf/fast/vm1");
    let again = service.create_thin(asked()).await.unwrap();
    assert_eq!(again.volume, first.volume);
    assert_eq!(again.report, first.report);
    assert_eq!(rig.node().effects(Verb::CreateThin), 1);

    service.create_pool(pool("slow", "/dev/sdb")).await.unwrap();
    rig.register(OTHER_NODE, "n2").await;
    type Change = (&'static str, fn(&mut CreateThin));
    let changes: [Change; 6] = [
        ("size_bytes", |w| {
            (w.size, w.asked.size_bytes) = (size(2 * GIB), 2 * GIB)
        }),
        ("image", |w| {
            (w.image, w.asked.image) = (None, String::new())
        }),
        ("labels", |w| w.labels = Labels::default()),
        ("pool", |w| w.placement.pool = Some(named("slow"))),
        ("placement.node", |w| w.placement.node = Some(named("n2"))),
        ("placement.pool_labels", |w| {
            w.placement.pool_labels = labels([("tier", "x")])
        }),
    ];
    for (field, change) in changes {
        let mut other = asked();
        change(&mut other);
        let (code, _, named) = verdict(service.create_thin(other).await.unwrap_err());
        assert_eq!((code, named.as_deref()), (Code::AlreadyExists, Some(field)));
    }
    let (code, _, field) = verdict(
        service
            .clone_thin(clone_of("vm1", "volume/vm1", GIB))
            .await
            .unwrap_err(),
    );
    assert_eq!(
        (code, field.as_deref()),
        (Code::AlreadyExists, Some("image"))
    );
    // Placement that fits is no other request.
    let mut fitting = asked();
    fitting.placement.pool = Some(named("fast"));
    assert_eq!(
        service.create_thin(fitting).await.unwrap().volume,
        first.volume
    );
    rig.check("at the end").await;
}

#[tokio::test]
async fn a_grown_volume_still_answers_its_first_request() {
    let rig = Rig::furnished().await;
    let service = rig.service();
    let first = service.create_thin(thin("vm1", "golden")).await.unwrap();
    let grown = service
        .resize(&named("vm1"), size(2 * GIB), first.volume.revision)
        .await
        .unwrap();
    assert_eq!(grown.volume.size, size(2 * GIB));
    let again = service.create_thin(thin("vm1", "golden")).await.unwrap();
    assert_eq!(again.volume.id, first.volume.id);
    // The same again is fine, smaller is not, and neither is an old revision.
    service
        .resize(&named("vm1"), size(2 * GIB), 0)
        .await
        .unwrap();
    let smaller = service
        .resize(&named("vm1"), size(GIB), 0)
        .await
        .unwrap_err();
    assert_eq!(
        verdict(smaller),
        (
            Code::OutOfRange,
            "OUT_OF_RANGE".into(),
            Some("size_bytes".into())
        )
    );
    let stale = service
        .resize(&named("vm1"), size(4 * GIB), first.volume.revision)
        .await;
    assert_eq!(code(stale.unwrap_err()), Code::Aborted);
    let after = service.get_volume(&named("vm1")).await.unwrap();
    assert_eq!(
        (after.volume.size, after.volume.wanted_size),
        (size(2 * GIB), None)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_at_once_with_one_name_make_one_volume() {
    let rig = Rig::furnished().await;
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let service = Arc::clone(rig.service());
            tokio::spawn(async move { service.create_thin(thin("vm1", "golden")).await })
        })
        .collect();
    let mut ids = HashSet::new();
    for call in calls {
        ids.insert(call.await.unwrap().unwrap().volume.id);
    }
    assert_eq!(ids.len(), 1);
    assert_eq!(rig.node().effects(Verb::CreateThin), 1);
    rig.check("at the end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_at_once_with_different_names_make_sixty_four() {
    let rig = Rig::furnished().await;
    let calls: Vec<_> = (0..64)
        .map(|n| {
            let service = Arc::clone(rig.service());
            tokio::spawn(async move { service.create_thin(thin(&format!("v{n}"), "golden")).await })
        })
        .collect();
    let mut ids = HashSet::new();
    for call in calls {
        ids.insert(call.await.unwrap().unwrap().volume.id);
    }
    assert_eq!(ids.len(), 64);
    rig.check("at the end").await;
}

#[tokio::test]
async fn what_is_refused_changes_nothing() {
    let rig = Rig::furnished().await;
    let service = rig.service();
    let in_pool = |name: &str, pool: &str| {
        let mut wanted = thin(name, "");
        wanted.placement.pool = Some(named(pool));
        wanted
    };
    let unknown = verdict(service.create_thin(in_pool("v", "nope")).await.unwrap_err());
    assert_eq!(
        (unknown.0, unknown.2.as_deref()),
        (Code::NotFound, Some("pool"))
    );
    let unknown = verdict(service.create_thin(thin("v", "nope")).await.unwrap_err());
    assert_eq!(
        (unknown.0, unknown.2.as_deref()),
        (Code::NotFound, Some("image"))
    );
    let unknown = verdict(
        service
            .clone_thin(clone_of("v", "volume/nope", 0))
            .await
            .unwrap_err(),
    );
    assert_eq!(
        (unknown.0, unknown.2.as_deref()),
        (Code::NotFound, Some("source"))
    );

    let fast = rig.node().pools()[0];
    rig.node()
        .set_pool(fast, PoolMode::OutOfDataSpace, Bytes(GIB), Bytes(GIB));
    assert_eq!(
        code(service.create_thin(thin("v", "")).await.unwrap_err()),
        Code::ResourceExhausted
    );
    rig.node()
        .set_pool(fast, PoolMode::ReadOnly, Bytes(0), Bytes(GIB));
    assert_eq!(
        code(service.create_thin(thin("v", "")).await.unwrap_err()),
        Code::FailedPrecondition
    );
    rig.node().set_away(true);
    assert_eq!(
        code(service.create_thin(thin("v", "")).await.unwrap_err()),
        Code::Unavailable
    );
    rig.node().set_away(false);
    rig.node()
        .set_pool(fast, PoolMode::ReadWrite, Bytes(0), Bytes(GIB));
    service.close_pool(&named("fast")).await.unwrap();
    assert_eq!(
        code(service.create_thin(thin("v", "")).await.unwrap_err()),
        Code::FailedPrecondition
    );
    service.open_pool(&named("fast")).await.unwrap();

    // Only the agent sees this one: the wish was written and is taken back.
    rig.node().lose_image(digest(7));
    let lost = verdict(service.create_thin(thin("v", "golden")).await.unwrap_err());
    assert_eq!(
        (lost.0, lost.1.as_str()),
        (Code::Unavailable, "IMAGE_NOT_HERE")
    );
    assert!(service.records.all::<Volume>().await.unwrap().is_empty());
    assert!(
        service
            .pending
            .take()
            .iter()
            .all(|(id, _)| !id.to_string().starts_with("vol-"))
    );
    service.create_thin(thin("v", "")).await.unwrap();
    rig.check("at the end").await;
}

#[tokio::test]
async fn a_volume_goes_where_its_image_is_and_where_it_is_asked_to() {
    let rig = Rig::furnished().await;
    let service = rig.service();
    rig.register(OTHER_NODE, "n2").await;
    let mut big = pool("big", "/dev/sda");
    big.node = Some(named("n2"));
    big.labels = labels([("tier", "bulk")]);
    service.create_pool(big).await.unwrap();
    let id = rig.agents.node(OTHER_NODE).pools()[0];
    rig.agents
        .node(OTHER_NODE)
        .set_pool(id, PoolMode::ReadWrite, Bytes(0), Bytes(100 * GIB));

    let with_image = service.create_thin(thin("a", "golden")).await.unwrap();
    assert_eq!(
        with_image.volume.node, NODE,
        "the node that holds the image"
    );
    let blank = service.create_thin(thin("b", "")).await.unwrap();
    assert_eq!(blank.volume.node, OTHER_NODE, "the pool with most room");
    let mut placed = thin("c", "");
    placed.placement.node = Some(named("n1"));
    assert_eq!(service.create_thin(placed).await.unwrap().volume.node, NODE);
    let mut placed = thin("d", "");
    placed.placement.pool_labels = labels([("tier", "bulk")]);
    assert_eq!(
        service.create_thin(placed).await.unwrap().volume.node,
        OTHER_NODE
    );
    let mut placed = thin("e", "");
    placed.placement.pool_labels = labels([("tier", "none")]);
    let nowhere = verdict(service.create_thin(placed).await.unwrap_err());
    assert_eq!(
        (nowhere.0, nowhere.2.as_deref()),
        (Code::FailedPrecondition, Some("placement"))
    );
    // A file cannot come to another node by itself.
    let mut elsewhere = thin("f", "golden");
    elsewhere.placement.pool = Some(named("big"));
    let refused = verdict(service.create_thin(elsewhere).await.unwrap_err());
    assert_eq!(
        (refused.0, refused.1.as_str()),
        (Code::FailedPrecondition, "IMAGE_ELSEWHERE")
    );
    // A node that is away does not stand in the way of one that is not.
    rig.agents.node(OTHER_NODE).set_away(true);
    assert_eq!(
        service
            .create_thin(thin("g", ""))
            .await
            .unwrap()
            .volume
            .node,
        NODE
    );
}

#[tokio::test]
async fn snapshots_and_clones_carry_pool_size_and_image() {
    let rig = Rig::furnished().await;
    let service = rig.service();
    let volume = service
        .create_thin(thin("vm1", "golden"))
        .await
        .unwrap()
        .volume;
    let first = service
        .create_snapshot(snapshot_of("s1", "volume/vm1"))
        .await
        .unwrap();
    let second = service
        .create_snapshot(snapshot_of("s2", "snapshot/s1"))
        .await
        .unwrap();
    let cloned = service
        .clone_thin(clone_of("vm2", "snapshot/s2", 2 * GIB))
        .await
        .unwrap()
        .volume;
    assert_eq!(second.source, first.id.into());
    for snapshot in [&first, &second] {
        let taken = rig.node().created(snapshot.id.into());
        assert_eq!(taken, Some(snapshot.created), "not the time it shows");
    }
    for (pool, image) in [
        (first.pool, first.image),
        (second.pool, second.image),
        (cloned.pool, cloned.image),
    ] {
        assert_eq!((pool, image), (volume.pool, Some(digest(7))));
    }
    assert_eq!((second.size, cloned.size), (size(GIB), size(2 * GIB)));
    assert_eq!(
        service
            .create_snapshot(snapshot_of("s1", "volume/vm1"))
            .await
            .unwrap(),
        first
    );
    let conflict = verdict(
        service
            .create_snapshot(snapshot_of("s1", "snapshot/s2"))
            .await
            .unwrap_err(),
    );
    assert_eq!(
        (conflict.0, conflict.2.as_deref()),
        (Code::AlreadyExists, Some("source"))
    );
    let small = service
        .clone_thin(clone_of("vm3", "volume/vm1", GIB / 2))
        .await
        .unwrap_err();
    assert_eq!(code(small), Code::OutOfRange);
    service.delete_volume(target("vm1")).await.unwrap();
    service.delete_snapshot(target("s1")).await.unwrap();
    assert_eq!(
        service.get_snapshot(&named("s2")).await.unwrap().phase,
        Phase::Ready
    );
    rig.check("what was made of them lives on").await;
}

#[tokio::test]
async fn deleting_asks_for_the_right_revision_and_forgives_the_absent() {
    let rig = Rig::furnished().await;
    let service = rig.service();
    let volume = service
        .create_thin(thin("vm1", "golden"))
        .await
        .unwrap()
        .volume;
    let at = |revision| Target {
        what: named("vm1"),
        revision,
    };
    let (stale, _, field) = verdict(
        service
            .delete_volume(at(volume.revision + 1))
            .await
            .unwrap_err(),
    );
    assert_eq!(
        (stale, field.as_deref()),
        (Code::Aborted, Some("expected_revision"))
    );
    service.delete_volume(at(volume.revision)).await.unwrap();
    service.delete_volume(at(volume.revision)).await.unwrap();
    service.delete_snapshot(target("never")).await.unwrap();
    service.delete_pool(target("never")).await.unwrap();
    service.delete_image(target("never")).await.unwrap();
    rig.check("at the end").await;
}

#[tokio::test]
async fn lost_data_is_shown_and_never_made_anew() {
    let rig = Rig::furnished().await;
    let service = rig.service();
    let vm1 = service
        .create_thin(thin("vm1", "golden"))
        .await
        .unwrap()
        .volume;
    // The node forgets it altogether: as if another pool's metadata were there.
    let agent = service.agent_of(NODE).await.unwrap();
    agent.delete_thin(vm1.pool, vm1.id.into(), 1).await.unwrap();
    let lost = |v: &Volume| {
        v.conditions
            .iter()
            .any(|c| c.kind == "DataPresent" && !c.status)
    };
    assert!(lost(
        &service.get_volume(&named("vm1")).await.unwrap().volume
    ));
    assert!(lost(
        &service.list_volumes(&everything()).await.unwrap().items[0].volume
    ));
    let repeated = service.create_thin(thin("vm1", "golden")).await.unwrap();
    assert!(lost(&repeated.volume));
    let activated = service
        .activate(&named("vm1"), ActivateOptions::default())
        .await;
    assert_eq!(verdict(activated.unwrap_err()).1, "DATA_MISSING");
    assert!(rig.settle().await.is_empty());
    assert!(
        rig.node().thins().is_empty(),
        "nothing was made in its place"
    );
}

#[tokio::test]
async fn a_list_shows_what_is_live_and_survives_a_node_that_is_away() {
    let rig = Rig::furnished().await;
    let service = rig.service();
    service
        .create_thin(active(thin("vm1", "golden")))
        .await
        .unwrap();
    let one = &service.list_volumes(&everything()).await.unwrap().items[0];
    assert!(one.report.as_ref().unwrap().activation.is_some());
    rig.node().set_away(true);
    let one = &service.list_volumes(&everything()).await.unwrap().items[0];
    assert!(one.report.is_none());
    assert!(
        one.volume
            .conditions
            .iter()
            .any(|c| c.kind == "NodeReachable" && !c.status)
    );
    let got = service.get_volume(&named("vm1")).await.unwrap();
    assert!(
        got.volume
            .conditions
            .iter()
            .any(|c| c.kind == "NodeReachable" && !c.status)
    );
}

#[tokio::test]
async fn pages_follow_creation_and_filters_and_refuse_foreign_tokens() {
    let rig = Rig::furnished().await;
    let service = rig.service();
    for n in 0..7 {
        let odd = if n % 2 == 1 { "yes" } else { "no" };
        let wanted = CreateThin {
            labels: labels([("odd", odd)]),
            ..thin(&format!("v{n}"), "")
        };
        service.create_thin(wanted).await.unwrap();
    }
    let walk = async |size: usize, labels: Labels| {
        let (mut names, mut token, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let listing = Listing {
                size,
                token,
                labels: labels.clone(),
            };
            let page = service.list_volumes(&listing).await.unwrap();
            assert!(page.items.len() <= size);
            names.extend(page.items.iter().map(|v| v.volume.name.to_string()));
            (token, pages) = (page.next, pages + 1);
            if token.is_empty() {
                return (names.join(" "), pages);
            }
        }
    };
    assert_eq!(
        walk(3, Labels::default()).await,
        ("v0 v1 v2 v3 v4 v5 v6".into(), 3)
    );
    assert_eq!(
        walk(7, Labels::default()).await.1,
        1,
        "a full last page has no next"
    );
    assert_eq!(
        walk(2, labels([("odd", "yes")])).await,
        ("v1 v3 v5".into(), 2)
    );
    let token = |token: &str| Listing {
        size: 1,
        token: token.into(),
        labels: Labels::default(),
    };
    let page = service.list_volumes(&token("")).await.unwrap();
    for bad in ["x", "p.", page.next.to_uppercase().as_str()] {
        let refused = verdict(service.list_volumes(&token(bad)).await.unwrap_err());
        assert_eq!(
            (refused.0, refused.2.as_deref()),
            (Code::InvalidArgument, Some("page.token"))
        );
    }
    let of_another_kind = service.list_pools(&token(&page.next)).await.unwrap_err();
    assert_eq!(code(of_another_kind), Code::InvalidArgument);
}

#[tokio::test]
async fn an_image_that_is_not_ready_is_no_base_yet() {
    let rig = Rig::new().await;
    let service = rig.service();
    service.create_pool(pool("fast", "/dev/sda")).await.unwrap();
    service.create_image(image("golden")).await.unwrap();
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
    rig.settle().await;
    for (name, reference) in [
        ("by-name", "golden".to_owned()),
        ("by-digest", digest(7).to_string()),
    ] {
        let made = service.create_thin(thin(name, &reference)).await.unwrap();
        assert_eq!(made.volume.image, Some(digest(7)));
    }
}

/// A closed pool hides its volumes, which is no loss: a size that was wished for waits for it.
#[tokio::test]
async fn a_wanted_size_waits_for_its_pool_to_be_open() {
    let rig = Rig::furnished().await;
    let service = rig.service();
    service.create_thin(thin("vm1", "golden")).await.unwrap();
    rig.node().cut(Verb::Resize, Cut::BeforeEffect);
    let cut = service.resize(&named("vm1"), size(2 * GIB), 0).await;
    assert_eq!(code(cut.unwrap_err()), Code::Unavailable);
    service.close_pool(&named("fast")).await.unwrap();
    let refused = service.resize(&named("vm1"), size(2 * GIB), 0).await;
    assert_eq!(code(refused.unwrap_err()), Code::FailedPrecondition);
    assert!(!rig.settle().await.is_empty(), "it cannot be finished now");
    service.open_pool(&named("fast")).await.unwrap();
    assert!(rig.settle().await.is_empty());
    let grown = service.get_volume(&named("vm1")).await.unwrap();
    assert_eq!(grown.volume.size, size(2 * GIB));
    rig.check("at the end").await;
}
