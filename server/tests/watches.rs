//! Watches of volumes and snapshots tell what their nodes say: activation and lost data.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use goldleaf_server::agents::{Agents, ThinNews};
use goldleaf_server::domain::{ActivateOptions, Node, Phase, Ref, Remark, Snapshot};
use goldleaf_server::reconcile::{self, Waits};
use goldleaf_server::service::{Event, Events, Update, VolumeView, Watch};
use goldleaf_types::{Labels, VolumeId};
use support::{NODE, Rig, labels, named, snapshot_of, thin};
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

/// A node of many volumes goes away, or its watcher is slow: whatever is missed is told again.
#[tokio::test]
async fn a_watcher_that_lags_is_told_of_everything_once_more() {
    let rig = Rig::furnished().await;
    let service = rig.service();
    let made = service.create_thin(thin("vm1", "golden")).await.unwrap();
    let mut events = service.watch_volumes(everything());
    until(&mut events, "it is there", |v| active(v).is_none()).await;
    let agent = service.agent_of(NODE).await.unwrap();
    let options = ActivateOptions::default();
    agent.activate(made.volume.id, options, 0).await.unwrap();
    let there = agent.thins().await.unwrap();
    let others = (0..3000).map(|_| VolumeId::mint().into()).collect();
    let news = |there, gone| ThinNews {
        there,
        gone,
        whole: false,
    };
    // Nothing else runs in between.
    service.live_thins.take(NODE, news(there, Vec::new()));
    service.live_thins.take(NODE, news(Vec::new(), others));
    until(&mut events, "active", |v| active(v) == Some(true)).await;
}

#[tokio::test]
async fn what_stops_carrying_the_labels_is_gone_for_who_asked_for_them() {
    let rig = Rig::furnished().await;
    let service = rig.service();
    let mut watch = everything();
    watch.labels = labels([("team", "db")]);
    let mut events = service.watch_volumes(watch);
    let mut wanted = thin("vm1", "golden");
    wanted.labels = labels([("team", "db")]);
    let id = service.create_thin(wanted).await.unwrap().volume.id;
    until(&mut events, "ready", |v| v.volume.phase == Phase::Ready).await;
    let relabel = |team| Update {
        what: Ref::Id(id),
        change: Remark {
            set: labels([("team", team)]),
            ..Remark::default()
        },
        revision: 0,
    };
    service.update_volume(relabel("web")).await.unwrap();
    let next = tokio::time::timeout(Duration::from_secs(5), events.next());
    let next = next.await.expect("no event").unwrap().unwrap();
    assert!(matches!(&next, Event::Gone { id: gone, .. } if *gone == id.to_string()));
    service.update_volume(relabel("db")).await.unwrap();
    until(&mut events, "back", |v| v.volume.id == id).await;
}
