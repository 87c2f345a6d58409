//! Nodes that are drained, given up and taken back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

mod support;

use goldleaf_server::agents::fake::{Cut, Verb};
use goldleaf_server::domain::{ActivateOptions, Holder, Image, Phase, Pool, Ref, Snapshot, Volume};
use goldleaf_server::service::{ImportPool, ServiceError};
use goldleaf_types::NodeId;
use support::*;
use tonic::Code;

/// A pool "fast" on n1 with "vm1" over an image, and an empty pool "other" on n2, which has the
/// image too.
async fn two_nodes() -> Rig {
    let rig = Rig::furnished().await;
    rig.register(OTHER_NODE, "n2").await;
    let mut other = pool("other", "/dev/sdb");
    other.node = Some(Ref::Id(OTHER_NODE));
    rig.service().create_pool(other).await.unwrap();
    let mut there = image("golden-there");
    there.node = Some(Ref::Id(OTHER_NODE));
    rig.service().create_image(there).await.unwrap();
    rig.settle().await;
    let mut wanted = thin("vm1", "golden");
    wanted.placement.pool = Some(named("fast"));
    rig.service().create_thin(wanted).await.unwrap();
    rig
}

fn refused<T: std::fmt::Debug>(answer: Result<T, ServiceError>) -> (Code, String) {
    let (code, reason, _) = verdict(answer.unwrap_err());
    (code, reason)
}

fn because(reason: &str) -> (Code, String) {
    (Code::FailedPrecondition, reason.to_owned())
}

async fn volume(rig: &Rig, name: &str) -> Option<Volume> {
    let records = &rig.service().records;
    records.by_name(&name.parse().unwrap()).await.unwrap()
}

#[tokio::test]
async fn new_volumes_keep_off_a_drained_node_until_it_is_resumed() {
    let rig = two_nodes().await;
    let service = rig.service();
    for _ in 0..2 {
        let drained = service.drain(&named("n1"), false).await.unwrap();
        assert!(drained.node.node.drained.is_some() && drained.active.unwrap().is_empty());
    }
    let placed = service.create_thin(thin("vm2", "golden")).await.unwrap();
    assert_eq!(
        placed.volume.node, OTHER_NODE,
        "it has the image and is not drained"
    );
    let mut named_pool = thin("vm3", "");
    named_pool.placement.pool = Some(named("fast"));
    assert_eq!(
        refused(service.create_thin(named_pool.clone()).await),
        because("NODE_DRAINED")
    );
    let clone = clone_of("vm3", "volume/vm1", 0);
    assert_eq!(
        refused(service.clone_thin(clone).await),
        because("NODE_DRAINED")
    );
    // What is there goes on: repeated, frozen, grown, used.
    let mut again = thin("vm1", "golden");
    again.placement.pool = Some(named("fast"));
    service.create_thin(again).await.unwrap();
    let snapshot = snapshot_of("s1", "volume/vm1");
    service.create_snapshot(snapshot).await.unwrap();
    service
        .resize(&named("vm1"), size(2 * GIB), 0)
        .await
        .unwrap();
    // It stays so across a restart of either.
    service.register(registration(NODE, "n1")).await.unwrap();
    assert!(
        refused(service.create_thin(named_pool.clone()).await)
            .1
            .contains("DRAINED")
    );
    let resumed = service.resume_node(&named("n1")).await.unwrap();
    assert!(resumed.node.drained.is_none());
    service.create_thin(named_pool).await.unwrap();
}

/// A volume that was decided on before the drain and would be written after it goes elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_creation_that_races_with_a_drain_is_decided_anew() {
    let rig = two_nodes().await;
    let service = rig.service();
    let creations = (0..60).map(|n| {
        let service = std::sync::Arc::clone(service);
        tokio::spawn(async move { service.create_thin(thin(&format!("r{n}"), "golden")).await })
    });
    let creations: Vec<_> = creations.collect();
    let drained = service.drain(&named("n1"), false).await.unwrap();
    for creation in creations {
        creation.await.unwrap().unwrap();
    }
    let mut elsewhere = 0;
    for volume in service.records.all::<Volume>().await.unwrap() {
        let key = goldleaf_server::store::rows::key::<Volume>(volume.id);
        let row = service.records.store().get(&key).await.unwrap().unwrap();
        let late = row.created > drained.node.node.revision;
        assert!(
            !late || volume.node == OTHER_NODE,
            "{} came late",
            volume.name
        );
        elsewhere += usize::from(volume.node == OTHER_NODE);
    }
    assert!(elsewhere > 0, "no creation came after the drain");
}

#[tokio::test]
async fn a_drain_takes_away_what_nobody_needs_and_says_why_the_rest_stays() {
    let rig = two_nodes().await;
    let service = rig.service();
    for name in ["idle", "open"] {
        let mut wanted = active(thin(name, ""));
        wanted.placement.pool = Some(named("fast"));
        service.create_thin(wanted).await.unwrap();
    }
    let csi = ActivateOptions {
        holder: Holder::Csi,
        read_only: false,
    };
    service.activate(&named("vm1"), csi).await.unwrap();
    let open = volume(&rig, "open").await.unwrap();
    rig.node().hold_open(open.id, 1);
    let looked = service.drain(&named("n1"), false).await.unwrap();
    assert_eq!((looked.active.unwrap().len(), looked.deactivated), (3, 0));
    let drained = service.drain(&named("n1"), true).await.unwrap();
    let left: Vec<_> = drained.active.unwrap();
    let why: Vec<_> = left
        .iter()
        .map(|a| (a.name.as_str(), a.kept_because.as_str()))
        .collect();
    assert_eq!(drained.deactivated, 1);
    assert_eq!((why.len(), why[0].0, why[1].0), (2, "vm1", "open"));
    assert!(
        why[0].1.contains("Kubernetes") && why[1].1.contains("held open"),
        "{why:?}"
    );
    assert_eq!(rig.node().active().len(), 2);
}

#[tokio::test]
async fn a_node_that_is_away_is_drained_and_said_to_be_unknown() {
    let rig = two_nodes().await;
    rig.node().set_away(true);
    let drained = rig.service().drain(&named("n1"), true).await.unwrap();
    assert!(drained.active.unwrap_err().contains("n1"));
    assert!(drained.node.node.drained.is_some());
}

#[tokio::test]
async fn without_apply_marking_a_node_lost_only_says_what_it_would_mean() {
    let rig = two_nodes().await;
    let service = rig.service();
    let snapshot = snapshot_of("s1", "volume/vm1");
    service.create_snapshot(snapshot).await.unwrap();
    let before = (
        rig.node().all_effects(),
        service.records.all::<Volume>().await.unwrap(),
        service.records.all::<Image>().await.unwrap(),
    );
    let loss = service.mark_lost(&named("n1"), false).await.unwrap();
    let said: Vec<_> = loss
        .forsaken
        .iter()
        .map(|f| (f.kind, f.name.as_str()))
        .collect();
    assert_eq!(
        said,
        [
            ("pool", "fast"),
            ("volume", "vm1"),
            ("snapshot", "s1"),
            ("image", "golden")
        ]
    );
    assert!(!loss.applied && loss.node.node.lost.is_none());
    let after = (
        rig.node().all_effects(),
        service.records.all::<Volume>().await.unwrap(),
        service.records.all::<Image>().await.unwrap(),
    );
    assert_eq!(after, before);
    service.register(registration(NODE, "n1")).await.unwrap();
}

/// The law: a lost node that comes back is fenced until an administrator takes it back.
#[tokio::test]
async fn law_lost_node_is_fenced_until_it_is_taken_back() {
    let rig = two_nodes().await;
    let service = rig.service();
    let id = volume(&rig, "vm1").await.unwrap().id;
    service.mark_lost(&named("n1"), true).await.unwrap();
    // It is back and knows of nothing.
    let effects = rig.node().all_effects();
    assert_eq!(
        refused(service.register(registration(NODE, "n1")).await),
        because("NODE_LOST")
    );
    let activated = service
        .activate(&named("vm1"), ActivateOptions::default())
        .await;
    assert_eq!(refused(activated), because("NODE_LOST"));
    let frozen = service.create_snapshot(snapshot_of("s1", "volume/vm1"));
    assert_eq!(refused(frozen.await), because("NODE_LOST"));
    let grown = service.resize(&named("vm1"), size(2 * GIB), 0).await;
    assert_eq!(refused(grown), because("NODE_LOST"));
    assert_eq!(volume(&rig, "vm1").await.unwrap().wanted_size, None);
    let mut here = thin("vm2", "");
    here.placement.pool = Some(named("fast"));
    assert_eq!(
        refused(service.create_thin(here).await),
        because("NODE_LOST")
    );
    let seen = service.get_volume(&named("vm1")).await.unwrap();
    let said = seen
        .volume
        .conditions
        .iter()
        .find(|c| c.kind == "NodeReachable");
    assert!(said.unwrap().message.contains("marked lost"));
    // Its user needs the name, elsewhere.
    service.delete_volume(target("vm1")).await.unwrap();
    let again = service
        .create_thin(thin("vm1", "golden-there"))
        .await
        .unwrap();
    assert_eq!(again.volume.node, OTHER_NODE);
    assert!(rig.settle().await.is_empty());
    assert_eq!(
        rig.node().all_effects(),
        effects,
        "something was asked of it"
    );
    assert!(rig.node().thins().contains(&id.into()));
    // Taken back: what was deleted meanwhile goes, and nothing else.
    service.take_back(&named("n1")).await.unwrap();
    service.register(registration(NODE, "n1")).await.unwrap();
    assert!(rig.settle().await.is_empty());
    assert!(rig.node().thins().is_empty());
    let images = service.records.all::<Image>().await.unwrap();
    assert!(images.iter().all(|i| i.phase == Phase::Ready), "{images:?}");
    let mut here = thin("vm2", "golden");
    here.placement.pool = Some(named("fast"));
    service.create_thin(here).await.unwrap();
}

#[tokio::test]
async fn what_waits_for_a_lost_node_is_freed() {
    let rig = two_nodes().await;
    let service = rig.service();
    let pinned = |name: &str| {
        let mut wanted = thin(name, "");
        wanted.placement.pool = Some(named("fast"));
        wanted
    };
    for name in ["dies", "grows", "frozen"] {
        service.create_thin(pinned(name)).await.unwrap();
    }
    let node = rig.node();
    node.cut(Verb::CreateThin, Cut::AfterEffect);
    service.create_thin(pinned("born")).await.unwrap_err();
    node.cut(Verb::DeleteThin, Cut::BeforeEffect);
    service.delete_volume(target("dies")).await.unwrap_err();
    node.cut(Verb::Resize, Cut::BeforeEffect);
    let grown = service.resize(&named("grows"), size(2 * GIB), 0).await;
    grown.unwrap_err();
    node.cut(Verb::CreateGroup, Cut::AfterEffect);
    let group = service.create_group(group_of("both", ["grows", "frozen"]));
    assert!(group.await.is_err(), "a volume that grows is not frozen");
    let group = service.create_group(group_of("both", ["vm1", "frozen"]));
    group.await.unwrap_err();
    node.cut(Verb::CreatePool, Cut::BeforeEffect);
    service
        .create_pool(pool("half", "/dev/sdc"))
        .await
        .unwrap_err();
    node.set_away(true);
    let loss = service.mark_lost(&named("n1"), true).await.unwrap();
    let becomes = |name: &str| {
        let found = loss.forsaken.iter().find(|f| f.name == name);
        found.unwrap().becomes
    };
    assert!(becomes("born").contains("creation is given up"));
    assert!(becomes("dies").contains("counts as done"));
    assert!(becomes("grows").contains("former size"));
    assert!(becomes("both").contains("creation is given up"));
    assert!(becomes("half").contains("creation is given up"));
    assert!(becomes("golden").contains("only copy"));
    for name in ["born", "dies"] {
        assert!(volume(&rig, name).await.is_none(), "{name} is there");
    }
    assert_eq!(volume(&rig, "grows").await.unwrap().wanted_size, None);
    assert!(service.records.all::<Snapshot>().await.unwrap().is_empty());
    assert_eq!(service.records.all::<Pool>().await.unwrap().len(), 2);
    assert!(
        goldleaf_server::reconcile::unfinished(service)
            .await
            .unwrap()
            .is_empty(),
        "something waits still"
    );
    // Everything that came through after all goes when the node is back.
    node.set_away(false);
    service.take_back(&named("n1")).await.unwrap();
    assert!(rig.settle().await.is_empty());
    let kept: Vec<_> = service
        .records
        .all::<Volume>()
        .await
        .unwrap()
        .iter()
        .map(|v| v.id.into())
        .collect();
    let mut thins = node.thins();
    thins.sort_unstable();
    assert_eq!(thins, kept);
}

#[tokio::test]
async fn a_pool_is_taken_by_force_from_a_node_that_is_given_up_and_from_no_other() {
    let rig = two_nodes().await;
    let service = rig.service();
    let fast = service.get_pool(&named("fast")).await.unwrap().pool;
    let moved = volume(&rig, "vm1").await.unwrap();
    let stays = snapshot_of("s1", "volume/vm1");
    service.create_snapshot(stays).await.unwrap();
    rig.node()
        .move_pool(fast.id, &rig.agents.node(OTHER_NODE), Some(NODE));
    let import = |from: NodeId| ImportPool {
        node: Some(named("n2")),
        devices: vec!["/dev/sda".into()],
        force_from: Some(from),
    };
    let error = service.import_pool(import(NODE)).await.unwrap_err();
    assert!(error.to_string().contains("node lost n1"), "{error}");
    service.mark_lost(&named("n1"), true).await.unwrap();
    // Given up before its pool came back: deleted where it came back.
    service.delete_snapshot(target("s1")).await.unwrap();
    service.import_pool(import(NODE)).await.unwrap();
    assert_eq!(volume(&rig, "vm1").await.unwrap().node, OTHER_NODE);
    service
        .activate(&named("vm1"), ActivateOptions::default())
        .await
        .unwrap();
    assert!(rig.settle().await.is_empty());
    assert_eq!(rig.agents.node(OTHER_NODE).thins(), [moved.id.into()]);
    assert!(service.records.all::<Snapshot>().await.unwrap().is_empty());
}

/// A name that is wished for is free again; what copies by itself on the node is found again with it;
/// and a pool that is gone for good is deleted with all that was in it.
#[tokio::test]
async fn a_lost_nodes_pool_gives_its_second_name_up_and_can_be_destroyed() {
    let rig = two_nodes().await;
    let service = rig.service();
    let leaving = service
        .decouple(&named("vm1"), goldleaf_types::Bytes(0), false)
        .await;
    leaving.unwrap();
    rig.node().cut(Verb::RenamePool, Cut::BeforeEffect);
    let slow = "slow".parse().unwrap();
    let renamed = service.rename_pool(&named("fast"), &slow, 0).await;
    renamed.unwrap_err();
    service.mark_lost(&named("n1"), true).await.unwrap();
    let renamed = service.rename_pool(&named("other"), &slow, 0).await;
    renamed.unwrap();
    assert!(rig.settle().await.is_empty());
    assert!(volume(&rig, "vm1").await.unwrap().decoupling.is_some());
    service.take_back(&named("n1")).await.unwrap();
    service.register(registration(NODE, "n1")).await.unwrap();
    assert!(rig.settle().await.is_empty());
    let alone = volume(&rig, "vm1").await.unwrap();
    assert_eq!((alone.decoupling, alone.image), (None, None));
    service.mark_lost(&named("n1"), true).await.unwrap();
    let doomed = service.destroy_pool(&named("fast"), "fast", 0).await;
    assert!(doomed.unwrap().done);
    assert!(volume(&rig, "vm1").await.is_none());
    let pools = service.records.all::<Pool>().await.unwrap();
    assert_eq!(pools.len(), 1, "{pools:?}");
}

/// A page of volumes costs what the slowest node takes, not what all of them take together.
#[tokio::test]
async fn the_nodes_of_a_page_are_asked_at_once() {
    let rig = two_nodes().await;
    let service = rig.service();
    let mut there = thin("vm2", "golden-there");
    there.placement.node = Some(named("n2"));
    service.create_thin(there).await.unwrap();
    let nodes = [rig.node(), rig.agents.node(OTHER_NODE)];
    nodes.iter().for_each(|node| node.hold_lists(true));
    let listing = tokio::spawn({
        let service = std::sync::Arc::clone(service);
        async move { service.list_volumes(&everything()).await }
    });
    eventually("each is asked", async || {
        nodes.iter().all(|node| node.lists_waited_for() == 1)
    })
    .await;
    nodes.iter().for_each(|node| node.hold_lists(false));
    let listed = listing.await.unwrap().unwrap().items;
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().all(|view| view.report.is_some()));
}
