//! Importing pools: records that come back from a pool's own catalogue, and pools that move.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

mod support;

use goldleaf_server::domain::{Phase, Pool, Snapshot, Volume};
use goldleaf_server::service::{ImportPool, ServiceError};
use goldleaf_types::NodeId;
use support::*;
use tonic::Code;

fn import(node: NodeId, force_from: Option<NodeId>) -> ImportPool {
    ImportPool {
        node: Some(goldleaf_server::domain::Ref::Id(node)),
        devices: vec!["/dev/sda".into()],
        force_from,
    }
}

/// One pool with a volume over an image, a clone and a snapshot.
async fn filled() -> Rig {
    let rig = Rig::furnished().await;
    let service = rig.service();
    let mut wanted = thin("vm1", "golden");
    wanted.labels = labels([("team", "db")]);
    service.create_thin(wanted).await.unwrap();
    let snapshot = snapshot_of("before", "volume/vm1");
    service.create_snapshot(snapshot).await.unwrap();
    let clone = clone_of("vm2", "snapshot/before", 2 * GIB);
    service.clone_thin(clone).await.unwrap();
    rig
}

async fn records(rig: &Rig) -> (Pool, Vec<Volume>, Vec<Snapshot>) {
    let records = &rig.service().records;
    (
        records.all::<Pool>().await.unwrap().remove(0),
        records.all::<Volume>().await.unwrap(),
        records.all::<Snapshot>().await.unwrap(),
    )
}

#[tokio::test]
async fn with_the_store_lost_all_records_of_a_pool_come_back_from_its_catalogue() {
    let lost = filled().await;
    let (pool, volumes, snapshots) = records(&lost).await;
    // Another store, the same node.
    let mut rig = Rig::empty();
    rig.agents = lost.agents.clone();
    rig.restart();
    rig.register(NODE, "n1").await;
    for _ in 0..2 {
        let view = rig.service().import_pool(import(NODE, None)).await.unwrap();
        assert_eq!((view.pool.id, view.pool.phase), (pool.id, Phase::Ready));
    }
    let (found, all, snaps) = records(&rig).await;
    assert_eq!(
        (found.id, &found.name, found.node),
        (pool.id, &pool.name, NODE)
    );
    assert_eq!(all.len(), 2);
    for (now, was) in all.iter().zip(&volumes) {
        assert_eq!(
            (
                now.id,
                &now.name,
                now.size,
                now.image,
                now.begin,
                &now.asked,
                &now.labels
            ),
            (
                was.id,
                &was.name,
                was.size,
                was.image,
                was.begin,
                &was.asked,
                &was.labels
            )
        );
        assert_eq!((now.phase, now.pool), (Phase::Ready, pool.id));
    }
    assert_eq!(
        (snaps.len(), snaps[0].id, snaps[0].source),
        (1, snapshots[0].id, snapshots[0].source)
    );
    rig.check("after the import").await;
    // And so does idempotency.
    let mut again = thin("vm1", "golden");
    again.labels = labels([("team", "db")]);
    let same = rig.service().create_thin(again).await.unwrap();
    assert_eq!(same.volume.id, volumes[0].id);
}

#[tokio::test]
async fn a_pool_that_moved_takes_its_records_along_by_force_only() {
    let rig = filled().await;
    rig.register(OTHER_NODE, "n2").await;
    let (pool, ..) = records(&rig).await;
    rig.node()
        .move_pool(pool.id, &rig.agents.node(OTHER_NODE), Some(NODE));
    let refused = rig.service().import_pool(import(OTHER_NODE, None)).await;
    let (code, reason, _) = verdict(refused.unwrap_err());
    assert_eq!(
        (code, reason.as_str()),
        (Code::FailedPrecondition, "OTHER_HOST")
    );
    assert_eq!(records(&rig).await.0.node, NODE, "a refusal moved it");
    rig.service().mark_lost(&named("n1"), true).await.unwrap();
    let forced = import(OTHER_NODE, Some(NODE));
    rig.service().import_pool(forced).await.unwrap();
    let (moved, volumes, snapshots) = records(&rig).await;
    assert_eq!(moved.node, OTHER_NODE);
    assert!(volumes.iter().all(|v| v.node == OTHER_NODE && v.epoch == 2));
    let vm1 = volumes.iter().find(|v| v.name.as_str() == "vm1").unwrap();
    // The node knows no image: what matters is that the call is not of before the move.
    let activated = rig
        .service()
        .activate(&named("vm1"), Default::default())
        .await;
    let (_, reason, _) = verdict(activated.unwrap_err());
    assert_eq!(reason, "IMAGE_NOT_HERE", "epoch {}", vm1.epoch);
    // What the former node tells of it still does not count.
    let old = rig.service().records.all::<Pool>().await.unwrap();
    let mut told = goldleaf_server::domain::PoolReport {
        id: pool.id,
        as_of: u64::MAX,
        devices: Vec::new(),
        spares: Vec::new(),
        phase: Phase::Failed,
        conditions: Vec::new(),
        usage: None,
        policy: None,
        incarnation: None,
    };
    let follow = async |told: &goldleaf_server::domain::PoolReport| {
        let told = std::slice::from_ref(told);
        rig.service().follow_pools(NODE, told).await.unwrap();
        rig.service().records.all::<Pool>().await.unwrap()
    };
    assert_eq!(follow(&told).await, old);
    told.phase = Phase::Closed;
    assert_eq!(follow(&told).await, old);
    assert!(snapshots.iter().all(|s| s.node == OTHER_NODE));
    assert_eq!((volumes.len(), snapshots.len()), (2, 1));
}

#[tokio::test]
async fn a_name_that_is_taken_refuses_the_import_before_any_record_is_written() {
    let lost = filled().await;
    let mut rig = Rig::empty();
    rig.agents = lost.agents.clone();
    rig.restart();
    rig.register(NODE, "n1").await;
    let other = pool("other", "/dev/sdb");
    rig.service().create_pool(other).await.unwrap();
    rig.service().create_thin(thin("vm2", "")).await.unwrap();
    let refused = rig
        .service()
        .import_pool(import(NODE, None))
        .await
        .unwrap_err();
    assert!(matches!(refused, ServiceError::Unfit { .. }), "{refused}");
    assert!(refused.to_string().contains("vm2"), "{refused}");
    let (_, volumes, snapshots) = records(&rig).await;
    assert_eq!((volumes.len(), snapshots.len()), (1, 0));
    rig.service().delete_volume(target("vm2")).await.unwrap();
    rig.service().import_pool(import(NODE, None)).await.unwrap();
    assert_eq!(records(&rig).await.1.len(), 2);
}
