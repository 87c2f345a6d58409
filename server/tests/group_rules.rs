//! Groups of snapshots: all or none, one pool, names of their own, the same again is the same.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

mod support;

use goldleaf_server::domain::{PoolMode, Snapshot};
use goldleaf_server::service::ServiceError;
use goldleaf_types::{Bytes, SnapshotId};
use support::{
    GIB, Rig, clone_of, everything, group_of, named, pool, snapshot_of, target, thin, verdict,
};
use tonic::Code;

async fn rig() -> Rig {
    let rig = Rig::furnished().await;
    for name in ["vm1", "vm2"] {
        let wanted = thin(name, "golden");
        rig.service().create_thin(wanted).await.unwrap();
    }
    rig
}

fn told(error: ServiceError) -> (Code, Option<String>) {
    let (code, _, field) = verdict(error);
    (code, field)
}

#[tokio::test]
async fn a_groups_snapshots_are_snapshots_like_any_other() {
    let rig = rig().await;
    let service = rig.service();
    let wanted = || group_of("g", ["vm1", "vm2"]);
    let group = service.create_group(wanted()).await.unwrap();
    assert_eq!(service.create_group(wanted()).await.unwrap(), group);
    let found = service.get_snapshot(&named("g.vm2")).await.unwrap();
    assert_eq!(found.id, group.members[1].snapshot);
    assert_eq!(found.created, group.created, "of another instant");
    let taken = rig.node().created(found.id.into());
    assert_eq!(taken, Some(group.created), "not the instant it shows");
    let clone = clone_of("c", "snapshot/g.vm1", 0);
    service.clone_thin(clone).await.unwrap();
    rig.check("made").await;
    service.delete_snapshot(target("g.vm1")).await.unwrap();
    assert_eq!(
        service.list_groups(&everything()).await.unwrap().items,
        [group]
    );
    service.delete_group(target("g")).await.unwrap();
    service.delete_group(target("g")).await.unwrap();
    let left = service.list_snapshots(&everything()).await.unwrap();
    assert!(left.items.is_empty());
    // Its snapshots' names are free again.
    service.create_group(wanted()).await.unwrap();
    rig.check("at the end").await;
}

#[tokio::test]
async fn another_request_of_a_name_or_a_name_that_is_taken_is_a_conflict() {
    let rig = rig().await;
    let service = rig.service();
    service
        .create_group(group_of("g", ["vm1", "vm2"]))
        .await
        .unwrap();
    let other = service.create_group(group_of("g", ["vm2", "vm1"])).await;
    assert_eq!(
        told(other.unwrap_err()),
        (Code::AlreadyExists, Some("volumes".into()))
    );
    let taken = snapshot_of("h.vm2", "volume/vm1");
    service.create_snapshot(taken).await.unwrap();
    let other = service.create_group(group_of("h", ["vm1", "vm2"])).await;
    assert_eq!(
        told(other.unwrap_err()),
        (Code::AlreadyExists, Some("name".into()))
    );
    // And a group that was deleted leaves a name that another took since.
    service.delete_snapshot(target("g.vm1")).await.unwrap();
    let later = snapshot_of("g.vm1", "volume/vm2");
    let later = service.create_snapshot(later).await.unwrap();
    service.delete_group(target("g")).await.unwrap();
    let found: Option<Snapshot> = service.records.by_id(later.id).await.unwrap();
    assert!(found.is_some());
    assert_eq!(
        service
            .get_snapshot(&named::<SnapshotId>("g.vm1"))
            .await
            .unwrap()
            .id,
        later.id
    );
    rig.check("at the end").await;
}

#[tokio::test]
async fn a_group_of_two_pools_or_in_a_full_pool_is_refused_and_leaves_nothing() {
    let rig = rig().await;
    let service = rig.service();
    service.create_pool(pool("slow", "/dev/sdb")).await.unwrap();
    let mut elsewhere = thin("vm3", "");
    elsewhere.placement.pool = Some(named("slow"));
    service.create_thin(elsewhere).await.unwrap();
    for volumes in [["vm1", "vm3"], ["vm1", "vm1"]] {
        let refused = service.create_group(group_of("g", volumes)).await;
        assert_eq!(
            told(refused.unwrap_err()),
            (Code::InvalidArgument, Some("volumes".into()))
        );
    }
    let pool = service.get_volume(&named("vm1")).await.unwrap().volume.pool;
    rig.node()
        .set_pool(pool, PoolMode::OutOfDataSpace, Bytes(GIB), Bytes(GIB));
    let refused = service.create_group(group_of("g", ["vm1", "vm2"])).await;
    assert_eq!(told(refused.unwrap_err()).0, Code::FailedPrecondition);
    let groups = service.list_groups(&everything()).await.unwrap();
    assert!(groups.items.is_empty());
    rig.check("at the end").await;
    // Nor does the refused one keep names.
    let free = snapshot_of("g.vm1", "volume/vm3");
    service.create_snapshot(free).await.unwrap();
}
