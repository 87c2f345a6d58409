//! The GroupController service over a real control plane: all or none, the same again, and each
//! wrong call with the code of the specification's error tables.
#![allow(clippy::unwrap_used)] // a test that cannot go on is to fail

mod driver;

use csi::group_controller_client::GroupControllerClient;
use driver::*;
use goldleaf_server::domain::PoolMode;
use goldleaf_types::Bytes;
use tonic::transport::Channel;

const ABSENT_GROUP: &str = "group-00000000000000000000000000000009";

fn wanted_group(name: &str, volumes: &[&String]) -> csi::CreateVolumeGroupSnapshotRequest {
    csi::CreateVolumeGroupSnapshotRequest {
        name: name.into(),
        source_volume_ids: volumes.iter().map(|id| (*id).clone()).collect(),
        ..Default::default()
    }
}

struct Groups(GroupControllerClient<Channel>);

impl Groups {
    fn of(driver: &Driver) -> Self {
        Self(GroupControllerClient::new(driver.channel.clone()))
    }

    async fn create(
        &self,
        r: csi::CreateVolumeGroupSnapshotRequest,
    ) -> Result<csi::VolumeGroupSnapshot, Status> {
        let answer = self.0.clone().create_volume_group_snapshot(r).await?;
        Ok(answer.into_inner().group_snapshot.unwrap())
    }

    async fn get(&self, id: &str, ids: &[String]) -> Result<csi::VolumeGroupSnapshot, Status> {
        let request = csi::GetVolumeGroupSnapshotRequest {
            group_snapshot_id: id.into(),
            snapshot_ids: ids.to_vec(),
            ..Default::default()
        };
        let answer = self.0.clone().get_volume_group_snapshot(request).await?;
        Ok(answer.into_inner().group_snapshot.unwrap())
    }

    async fn delete(&self, id: &str, ids: &[String]) -> Result<(), Status> {
        let request = csi::DeleteVolumeGroupSnapshotRequest {
            group_snapshot_id: id.into(),
            snapshot_ids: ids.to_vec(),
            ..Default::default()
        };
        let answer = self.0.clone().delete_volume_group_snapshot(request).await;
        answer.map(drop)
    }
}

fn ids(group: &csi::VolumeGroupSnapshot) -> Vec<String> {
    let ids = group.snapshots.iter().map(|s| s.snapshot_id.clone());
    ids.collect()
}

/// A driver with two volumes.
async fn furnished() -> (Driver, Groups, [String; 2]) {
    let driver = driver().await;
    let a = driver.create(golden("a")).await.unwrap().volume_id;
    let b = driver.create(wanted("b")).await.unwrap().volume_id;
    let groups = Groups::of(&driver);
    (driver, groups, [a, b])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_made_once_is_seen_in_lists_restores_and_goes_as_one() {
    let (driver, groups, [a, b]) = furnished().await;
    let group = groups.create(wanted_group("g", &[&a, &b])).await.unwrap();
    assert!(group.ready_to_use && group.creation_time.is_some());
    let sources: Vec<_> = group
        .snapshots
        .iter()
        .map(|s| &s.source_volume_id)
        .collect();
    assert_eq!(sources, [&a, &b]);
    for snapshot in &group.snapshots {
        assert!(snapshot.ready_to_use && snapshot.creation_time.is_some());
        assert_eq!(snapshot.group_snapshot_id, group.group_snapshot_id);
    }
    // In whatever order the volumes are named, and though one of them has gone, it is the same.
    for order in [[&a, &b], [&b, &a]] {
        assert_eq!(
            groups.create(wanted_group("g", &order)).await.unwrap(),
            group
        );
    }
    let known = ids(&group);
    let (listed, _) = driver.snapshots(0, "", "", "").await.unwrap();
    for snapshot in &group.snapshots {
        assert!(listed.contains(snapshot), "{snapshot:?} in {listed:?}");
    }
    let alone = driver.snapshot("alone", &a).await.unwrap();
    assert_eq!(alone.group_snapshot_id, "");
    driver.create(from_snapshot("c", &known[0])).await.unwrap();
    driver.delete(&a).await.unwrap();
    assert_eq!(
        groups.create(wanted_group("g", &[&a, &b])).await.unwrap(),
        group
    );
    assert_eq!(
        groups.get(&group.group_snapshot_id, &known).await.unwrap(),
        group
    );
    for _ in 0..2 {
        groups
            .delete(&group.group_snapshot_id, &known)
            .await
            .unwrap();
    }
    let (left, _) = driver.snapshots(0, "", "", "").await.unwrap();
    assert_eq!(
        left.iter()
            .filter(|s| !s.group_snapshot_id.is_empty())
            .count(),
        0
    );
    driver.rig.check("at the end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_as_long_as_the_specification_allows_serve() {
    let driver = driver().await;
    let long = |c: &str| c.repeat(128);
    let a = driver.create(wanted(&long("a"))).await.unwrap().volume_id;
    let b = driver.create(wanted(&long("b"))).await.unwrap().volume_id;
    let groups = Groups::of(&driver);
    let wanted = || wanted_group(&long("g"), &[&a, &b]);
    let group = groups.create(wanted()).await.unwrap();
    assert_eq!(groups.create(wanted()).await.unwrap(), group);
    groups
        .delete(&group.group_snapshot_id, &ids(&group))
        .await
        .unwrap();
    driver.rig.check("at the end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_wrong_call_for_groups_gets_the_code_that_the_specification_says() {
    let (driver, groups, [a, b]) = furnished().await;
    let slow = support_pool(&driver, "slow", "/dev/sdb").await;
    let elsewhere = csi::CreateVolumeRequest {
        parameters: [("pool".to_owned(), slow)].into(),
        ..wanted("elsewhere")
    };
    let elsewhere = driver.create(elsewhere).await.unwrap().volume_id;
    let there = groups
        .create(wanted_group("there", &[&a, &b]))
        .await
        .unwrap();
    let known = ids(&there);
    let id = there.group_snapshot_id.as_str();
    let absent = ABSENT.to_owned();
    let with_parameter = csi::CreateVolumeGroupSnapshotRequest {
        parameters: [("colour".into(), "red".into())].into(),
        ..wanted_group("g", &[&a])
    };
    let many: Vec<String> = (0..65).map(|n| format!("vol-{n:032x}")).collect();
    let many: Vec<&String> = many.iter().collect();
    let create = async |r| groups.create(r).await.map(drop);
    let get = async |id: &str, ids: &[String]| groups.get(id, ids).await.map(drop);
    let rows = [
        (
            "create, no name",
            create(wanted_group("", &[&a])).await,
            Code::InvalidArgument,
        ),
        (
            "create, long name",
            create(wanted_group(&"x".repeat(129), &[&a])).await,
            Code::InvalidArgument,
        ),
        (
            "create, no volumes",
            create(wanted_group("g", &[])).await,
            Code::InvalidArgument,
        ),
        (
            "create, an empty id",
            create(wanted_group("g", &[&String::new()])).await,
            Code::InvalidArgument,
        ),
        (
            "create, twice the same",
            create(wanted_group("g", &[&a, &a])).await,
            Code::InvalidArgument,
        ),
        (
            "create, parameters",
            create(with_parameter).await,
            Code::InvalidArgument,
        ),
        (
            "create, absent",
            create(wanted_group("g", &[&a, &absent])).await,
            Code::NotFound,
        ),
        (
            "create, no id",
            create(wanted_group("g", &[&"x".to_owned()])).await,
            Code::NotFound,
        ),
        (
            "create, too many",
            create(wanted_group("g", &many)).await,
            Code::InvalidArgument,
        ),
        (
            "create, two pools",
            create(wanted_group("g", &[&a, &elsewhere])).await,
            Code::FailedPrecondition,
        ),
        (
            "create, taken",
            create(wanted_group("there", &[&a])).await,
            Code::AlreadyExists,
        ),
        (
            "create, taken by others",
            create(wanted_group("there", &[&a, &elsewhere])).await,
            Code::AlreadyExists,
        ),
        ("get, no id", get("", &known).await, Code::InvalidArgument),
        (
            "get, absent",
            get(ABSENT_GROUP, &known).await,
            Code::NotFound,
        ),
        ("get, another's id", get("x", &known).await, Code::NotFound),
        (
            "get, no snapshots",
            get(id, &[]).await,
            Code::InvalidArgument,
        ),
        (
            "get, one lacks",
            get(id, &known[..1]).await,
            Code::InvalidArgument,
        ),
        (
            "get, a strange one",
            get(id, &[&known[..], &["snap-x".into()]].concat()).await,
            Code::InvalidArgument,
        ),
        (
            "delete, no id",
            groups.delete("", &known).await,
            Code::InvalidArgument,
        ),
        (
            "delete, no snapshots",
            groups.delete(id, &[]).await,
            Code::InvalidArgument,
        ),
        (
            "delete, one lacks",
            groups.delete(id, &known[1..]).await,
            Code::InvalidArgument,
        ),
        (
            "delete, a strange one",
            groups.delete(id, &[ABSENT_SNAPSHOT.into()]).await,
            Code::InvalidArgument,
        ),
        (
            "a snapshot of a group",
            driver.delete_snapshot(&known[0]).await,
            Code::InvalidArgument,
        ),
    ];
    for (what, answer, code) in rows {
        let refused = answer.expect_err(what);
        assert_eq!(refused.code(), code, "{what}: {refused:?}");
        assert!(!refused.message().is_empty(), "{what}");
    }
    // In use: one of its snapshots is protected.
    let service = driver.rig.service();
    let protect = |on| goldleaf_server::service::Update {
        what: support::named("there.a"),
        change: goldleaf_server::domain::Remark {
            deletion_protection: Some(on),
            ..Default::default()
        },
        revision: 0,
    };
    service.update_snapshot(protect(true)).await.unwrap();
    let refused = groups.delete(id, &known).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    service.update_snapshot(protect(false)).await.unwrap();
    groups.delete(ABSENT_GROUP, &[]).await.unwrap();
    groups.delete("of another driver", &[]).await.unwrap();
    // No room: Kubernetes tries again once somebody made some.
    let volume = service.get_volume(&a.parse().unwrap()).await.unwrap();
    let (pool, full) = (volume.volume.pool, Bytes(GIB));
    let node = driver.rig.node();
    node.set_pool(pool, PoolMode::OutOfDataSpace, full, full);
    let refused = groups
        .create(wanted_group("g", &[&a, &b]))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    // A pool that takes nothing for another reason is no matter of room.
    node.set_pool(pool, PoolMode::ReadOnly, Bytes(0), full);
    let refused = groups
        .create(wanted_group("g", &[&a, &b]))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    node.set_pool(pool, PoolMode::ReadWrite, Bytes(0), full);
    driver.rig.check("after the refusals").await;
}

async fn support_pool(driver: &Driver, name: &str, device: &str) -> String {
    let pool = driver
        .rig
        .service()
        .create_pool(support::pool(name, device));
    pool.await.unwrap();
    name.to_owned()
}
