//! Watches of volumes and snapshots tell what their nodes say: activation and lost data.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use goldleaf_server::agents::Agents;
use goldleaf_server::domain::{ActivateOptions, Node, Ref, Snapshot};
use goldleaf_server::reconcile::{self, Waits};
use goldleaf_server::service::{Event, Events, VolumeView, Watch};
use goldleaf_types::Labels;
use support::{NODE, Rig, named, snapshot_of, thin};
use tokio_util::sync::CancellationToken;

fn everything() -> Watch {
    Watch {
        token: String::new(),
        labels: Labels::default(),
    }
}

/// A furnished control plane that listens to its node.
async fn rig() -> (Rig, CancellationToken) {
    let rig = Rig::furnished().await;
    let stop = CancellationToken::new();
    let service = Arc::clone(rig.service());
    tokio::spawn(reconcile::listen(service, Waits::default(), stop.clone()));
    support::eventually("the node is heard", || async {
        rig.service().live.reach(NODE).is_some_and(|r| r.up)
    })
    .await;
    (rig, stop)
}

/// The next event of which something holds; others may come before it.
async fn until<V>(events: &mut Events<V>, what: &str, holds: impl Fn(&V) -> bool) -> V {
    let search = async {
        loop {
            match events.next().await.unwrap().unwrap() {
                Event::Present { item, .. } if holds(&item) => return item,
                Event::Present { .. } | Event::Gone { .. } => {}
            }
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(30), search).await;
    found.unwrap_or_else(|_| panic!("no event: {what}"))
}

fn active(view: &VolumeView) -> Option<bool> {
    view.report
        .as_ref()
        .map(|report| report.activation.is_some())
}

#[tokio::test]
async fn activation_by_the_control_plane_and_by_a_local_caller_are_events() {
    let (rig, stop) = rig().await;
    let service = rig.service();
    let mut events = service.watch_volumes(everything());
    let made = service.create_thin(thin("vm1", "golden")).await.unwrap();
    until(&mut events, "it is there", |v| active(v) == Some(false)).await;
    let options = ActivateOptions::default();
    service.activate(&named("vm1"), options).await.unwrap();
    let seen = until(&mut events, "active", |v| active(v) == Some(true)).await;
    let device = seen.report.unwrap().activation.unwrap().device_path;
    assert_eq!(device, "/dev/goldleaf/fast/vm1");
    service.deactivate(&named("vm1")).await.unwrap();
    until(&mut events, "not active", |v| active(v) == Some(false)).await;

    // Past the control plane, as a local caller does.
    let node = service.records.get::<Node>(&Ref::Id(NODE), "node").await;
    let agent = rig.agents.of(&node.unwrap());
    agent.activate(made.volume.id, options, 0).await.unwrap();
    until(&mut events, "active locally", |v| active(v) == Some(true)).await;
    stop.cancel();
}

#[tokio::test]
async fn lost_data_and_a_node_that_goes_away_are_events() {
    let (rig, stop) = rig().await;
    let service = rig.service();
    let volume = service.create_thin(thin("vm1", "")).await.unwrap().volume;
    let frozen = service
        .create_snapshot(snapshot_of("s1", "volume/vm1"))
        .await;
    let mut volumes = service.watch_volumes(everything());
    let mut snapshots = service.watch_snapshots(everything());
    let lost = |conditions: &[goldleaf_server::domain::Condition]| {
        conditions
            .iter()
            .any(|c| c.kind == "DataPresent" && !c.status)
    };
    rig.node().lose_data(volume.id.into());
    until(&mut volumes, "lost", |v| lost(&v.volume.conditions)).await;
    rig.node().lose_data(frozen.unwrap().id.into());
    until(&mut snapshots, "lost", |s: &Snapshot| lost(&s.conditions)).await;

    rig.node().set_away(true);
    let away = |view: &VolumeView| {
        let mut conditions = view.volume.conditions.iter();
        conditions.any(|c| c.kind == "NodeReachable" && !c.status)
    };
    until(&mut volumes, "away", away).await;
    rig.node().set_away(false);
    until(&mut volumes, "back", |v| active(v) == Some(false)).await;
    stop.cancel();
}
