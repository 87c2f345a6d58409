//! The Controller service over a real control plane with agents in memory: the rows of the
//! specification's error tables, and what the table does not say.
#![allow(clippy::unwrap_used)] // helpers of tests are tests too

#[path = "../../server/tests/support/mod.rs"]
mod support;

use std::sync::Arc;

use clap::Parser;
use csi::controller_client::ControllerClient;
use csi::volume_capability::access_mode::Mode;
use csi_proto::v1 as csi;
use goldleaf_csi::app;
use goldleaf_csi::args::Args;
use goldleaf_server::app as server;
use support::{GIB, NODE, OTHER_NODE, Rig};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

const SIZE: i64 = 1 << 30;

/// A driver over a control plane with one node, its pool "fast" and its image "golden".
struct Driver {
    rig: Rig,
    stop: CancellationToken,
    client: ControllerClient<Channel>,
    _folder: tempfile::TempDir,
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn driver() -> Driver {
    let rig = Rig::furnished().await;
    rig.register(OTHER_NODE, "n2").await;
    let stop = CancellationToken::new();
    let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", tcp.local_addr().unwrap());
    tokio::spawn(server::serve(Arc::clone(rig.service()), tcp, stop.clone()));
    let folder = tempfile::tempdir().unwrap();
    let socket = format!("unix://{}/csi.sock", folder.path().display());
    let args = [
        "goldleaf-csi",
        "controller",
        "--server",
        &address,
        "--endpoint",
        &socket,
    ];
    let args = Args::parse_from(args);
    let told = stop.clone().cancelled_owned();
    tokio::spawn(async move { app::serve(&args, told).await.unwrap() });
    let endpoint = Endpoint::from_shared(socket).unwrap();
    let client = loop {
        match endpoint.connect().await {
            Ok(channel) => break ControllerClient::new(channel),
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    };
    Driver {
        rig,
        stop,
        client,
        _folder: folder,
    }
}

fn capability(mode: Mode) -> csi::VolumeCapability {
    csi::VolumeCapability {
        access_type: Some(csi::volume_capability::AccessType::Block(
            csi::volume_capability::BlockVolume {},
        )),
        access_mode: Some(csi::volume_capability::AccessMode { mode: mode.into() }),
    }
}

fn mounted(fs_type: &str) -> csi::VolumeCapability {
    csi::VolumeCapability {
        access_type: Some(csi::volume_capability::AccessType::Mount(
            csi::volume_capability::MountVolume {
                fs_type: fs_type.into(),
                ..Default::default()
            },
        )),
        ..capability(Mode::SingleNodeWriter)
    }
}

fn range(required: i64, limit: i64) -> Option<csi::CapacityRange> {
    Some(csi::CapacityRange {
        required_bytes: required,
        limit_bytes: limit,
    })
}

fn places(nodes: &[&str]) -> Option<csi::TopologyRequirement> {
    let place = |node: &&str| csi::Topology {
        segments: [("goldleaf.dev/node".into(), (*node).into())].into(),
    };
    Some(csi::TopologyRequirement {
        requisite: nodes.iter().map(place).collect(),
        preferred: vec![],
    })
}

fn wanted(name: &str) -> csi::CreateVolumeRequest {
    csi::CreateVolumeRequest {
        name: name.into(),
        capacity_range: range(SIZE, 0),
        volume_capabilities: vec![capability(Mode::SingleNodeWriter)],
        ..Default::default()
    }
}

fn golden(name: &str) -> csi::CreateVolumeRequest {
    csi::CreateVolumeRequest {
        parameters: [("image".into(), "golden".into())].into(),
        ..wanted(name)
    }
}

fn from_snapshot(name: &str, id: &str) -> csi::CreateVolumeRequest {
    use csi::volume_content_source::{SnapshotSource, Type};
    csi::CreateVolumeRequest {
        volume_content_source: Some(csi::VolumeContentSource {
            r#type: Some(Type::Snapshot(SnapshotSource {
                snapshot_id: id.into(),
            })),
        }),
        ..wanted(name)
    }
}

fn from_volume(name: &str, id: &str) -> csi::CreateVolumeRequest {
    use csi::volume_content_source::{Type, VolumeSource};
    csi::CreateVolumeRequest {
        volume_content_source: Some(csi::VolumeContentSource {
            r#type: Some(Type::Volume(VolumeSource {
                volume_id: id.into(),
            })),
        }),
        ..wanted(name)
    }
}

impl Driver {
    async fn create(&self, r: csi::CreateVolumeRequest) -> Result<csi::Volume, Status> {
        let answer = self.client.clone().create_volume(r).await?;
        Ok(answer.into_inner().volume.unwrap())
    }

    async fn snapshot(&self, name: &str, volume: &str) -> Result<csi::Snapshot, Status> {
        let request = csi::CreateSnapshotRequest {
            name: name.into(),
            source_volume_id: volume.into(),
            ..Default::default()
        };
        let answer = self.client.clone().create_snapshot(request).await?;
        Ok(answer.into_inner().snapshot.unwrap())
    }

    async fn delete(&self, id: &str) -> Result<(), Status> {
        let request = csi::DeleteVolumeRequest {
            volume_id: id.into(),
            ..Default::default()
        };
        self.client.clone().delete_volume(request).await.map(drop)
    }

    async fn delete_snapshot(&self, id: &str) -> Result<(), Status> {
        let request = csi::DeleteSnapshotRequest {
            snapshot_id: id.into(),
            ..Default::default()
        };
        self.client.clone().delete_snapshot(request).await.map(drop)
    }

    async fn expand(&self, id: &str, size: Option<csi::CapacityRange>) -> Result<i64, Status> {
        let request = csi::ControllerExpandVolumeRequest {
            volume_id: id.into(),
            capacity_range: size,
            ..Default::default()
        };
        let answer = self
            .client
            .clone()
            .controller_expand_volume(request)
            .await?;
        Ok(answer.into_inner().capacity_bytes)
    }

    async fn snapshots(
        &self,
        max_entries: i32,
        token: &str,
        source: &str,
        id: &str,
    ) -> Result<(Vec<csi::Snapshot>, String), Status> {
        let request = csi::ListSnapshotsRequest {
            max_entries,
            starting_token: token.into(),
            source_volume_id: source.into(),
            snapshot_id: id.into(),
            ..Default::default()
        };
        let page = self
            .client
            .clone()
            .list_snapshots(request)
            .await?
            .into_inner();
        let snapshots = page.entries.into_iter().map(|e| e.snapshot.unwrap());
        Ok((snapshots.collect(), page.next_token))
    }

    async fn modify(&self, id: &str, key: &str, value: &str) -> Result<(), Status> {
        let request = csi::ControllerModifyVolumeRequest {
            volume_id: id.into(),
            mutable_parameters: [(key.into(), value.into())].into(),
            ..Default::default()
        };
        self.client
            .clone()
            .controller_modify_volume(request)
            .await
            .map(drop)
    }
}

const ABSENT: &str = "vol-00000000000000000000000000000009";
const ABSENT_SNAPSHOT: &str = "snap-00000000000000000000000000000009";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_wrong_creation_gets_the_code_that_the_specification_says() {
    let driver = driver().await;
    let there = driver.create(golden("there")).await.unwrap();
    let with = |change: &dyn Fn(&mut csi::CreateVolumeRequest)| {
        let mut request = wanted("new");
        change(&mut request);
        request
    };
    let other_node = OTHER_NODE.to_string();
    let multi = |mode| with(&|r| r.volume_capabilities = vec![capability(mode)]);
    let rows = [
        ("no name", with(&|r| r.name.clear()), Code::InvalidArgument),
        (
            "long name",
            with(&|r| r.name = "x".repeat(129)),
            Code::InvalidArgument,
        ),
        (
            "no capability",
            with(&|r| r.volume_capabilities.clear()),
            Code::InvalidArgument,
        ),
        (
            "multi-node reader",
            multi(Mode::MultiNodeReaderOnly),
            Code::InvalidArgument,
        ),
        (
            "multi-node writer",
            multi(Mode::MultiNodeMultiWriter),
            Code::InvalidArgument,
        ),
        (
            "one multi-node writer",
            multi(Mode::MultiNodeSingleWriter),
            Code::InvalidArgument,
        ),
        ("no mode", multi(Mode::Unknown), Code::InvalidArgument),
        (
            "both accesses",
            with(&|r| r.volume_capabilities.push(mounted(""))),
            Code::InvalidArgument,
        ),
        (
            "unknown fs",
            with(&|r| r.volume_capabilities = vec![mounted("ntfs")]),
            Code::InvalidArgument,
        ),
        (
            "unknown parameter",
            with(&|r| {
                r.parameters = [("imgae".into(), "golden".into())].into();
            }),
            Code::InvalidArgument,
        ),
        (
            "unknown mutable",
            with(&|r| {
                r.mutable_parameters = [("iops".into(), "1".into())].into();
            }),
            Code::InvalidArgument,
        ),
        (
            "negative size",
            with(&|r| r.capacity_range = range(-1, 0)),
            Code::InvalidArgument,
        ),
        (
            "limit below",
            with(&|r| r.capacity_range = range(SIZE, 1)),
            Code::InvalidArgument,
        ),
        (
            "too large",
            with(&|r| r.capacity_range = range(i64::MAX, 0)),
            Code::OutOfRange,
        ),
        (
            "no whole sector",
            with(&|r| r.capacity_range = range(1, 100)),
            Code::OutOfRange,
        ),
        (
            "smaller than its image",
            csi::CreateVolumeRequest {
                capacity_range: range(4096, 0),
                ..golden("new")
            },
            Code::OutOfRange,
        ),
        (
            "smaller than its source",
            csi::CreateVolumeRequest {
                capacity_range: range(4096, 0),
                ..from_volume("new", &there.volume_id)
            },
            Code::OutOfRange,
        ),
        (
            "unknown image",
            with(&|r| {
                r.parameters = [("image".into(), "none".into())].into();
            }),
            Code::NotFound,
        ),
        (
            "unknown pool",
            with(&|r| {
                r.parameters = [("pool".into(), "none".into())].into();
            }),
            Code::NotFound,
        ),
        ("unknown volume", from_volume("new", ABSENT), Code::NotFound),
        (
            "unknown snapshot",
            from_snapshot("new", ABSENT_SNAPSHOT),
            Code::NotFound,
        ),
        ("no id", from_snapshot("new", "some-id"), Code::NotFound),
        (
            "node without pools",
            with(&|r| {
                r.accessibility_requirements = places(&[&other_node]);
            }),
            Code::ResourceExhausted,
        ),
        (
            "unknown node",
            with(&|r| {
                r.accessibility_requirements = places(&["node-x"]);
            }),
            Code::ResourceExhausted,
        ),
        (
            "source elsewhere",
            csi::CreateVolumeRequest {
                accessibility_requirements: places(&[&other_node]),
                ..from_volume("new", &there.volume_id)
            },
            Code::ResourceExhausted,
        ),
        (
            "taken, other size",
            csi::CreateVolumeRequest {
                capacity_range: range(2 * SIZE, 0),
                ..golden("there")
            },
            Code::AlreadyExists,
        ),
        ("taken, blank", wanted("there"), Code::AlreadyExists),
        (
            "taken, other source",
            from_volume("there", ABSENT),
            Code::AlreadyExists,
        ),
        (
            "taken, elsewhere",
            csi::CreateVolumeRequest {
                accessibility_requirements: places(&[&other_node]),
                ..golden("there")
            },
            Code::ResourceExhausted,
        ),
    ];
    for (what, request, code) in rows {
        let refused = driver.create(request).await.expect_err(what);
        assert_eq!(refused.code(), code, "{what}: {refused:?}");
        assert!(!refused.message().is_empty(), "{what}");
    }
    assert_eq!(
        driver.rig.node().thins().len(),
        1,
        "a refused volume was made"
    );
    driver.rig.check("after the refusals").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_other_wrong_call_gets_the_code_that_the_specification_says() {
    let driver = driver().await;
    let volume = driver.create(golden("v")).await.unwrap().volume_id;
    let other = driver.create(wanted("w")).await.unwrap().volume_id;
    driver.snapshot("s", &volume).await.unwrap();
    let image = driver.rig.service();
    let image = image
        .records
        .all::<goldleaf_server::domain::Image>()
        .await
        .unwrap()[0]
        .id;
    let image = image.to_string();
    let mut client = driver.client.clone();
    let validate = |id: &str, capabilities| csi::ValidateVolumeCapabilitiesRequest {
        volume_id: id.into(),
        volume_capabilities: capabilities,
        ..Default::default()
    };
    let one = vec![capability(Mode::SingleNodeWriter)];
    let volumes = |max_entries, token: &str| csi::ListVolumesRequest {
        max_entries,
        starting_token: token.into(),
    };
    let get = |id: &str| csi::GetSnapshotRequest {
        snapshot_id: id.into(),
        ..Default::default()
    };
    let volume_of = |id: &str| csi::ControllerGetVolumeRequest {
        volume_id: id.into(),
    };
    let rows: Vec<(&str, Result<(), Status>, Code)> = vec![
        (
            "delete, no id",
            driver.delete("").await,
            Code::InvalidArgument,
        ),
        (
            "snapshot, no name",
            driver.snapshot("", &volume).await.map(drop),
            Code::InvalidArgument,
        ),
        (
            "snapshot, no volume",
            driver.snapshot("t", "").await.map(drop),
            Code::InvalidArgument,
        ),
        (
            "snapshot, absent",
            driver.snapshot("t", ABSENT).await.map(drop),
            Code::NotFound,
        ),
        (
            "snapshot, taken",
            driver.snapshot("s", &other).await.map(drop),
            Code::AlreadyExists,
        ),
        (
            "drop, no id",
            driver.delete_snapshot("").await,
            Code::InvalidArgument,
        ),
        (
            "drop an image",
            driver.delete_snapshot(&image).await,
            Code::FailedPrecondition,
        ),
        (
            "snapshots, bad token",
            driver.snapshots(0, "x", "", "").await.map(drop),
            Code::Aborted,
        ),
        (
            "snapshots, bad page",
            driver.snapshots(0, "sx", "", "").await.map(drop),
            Code::Aborted,
        ),
        (
            "snapshots, negative",
            driver.snapshots(-1, "", "", "").await.map(drop),
            Code::InvalidArgument,
        ),
        (
            "get, no id",
            client.get_snapshot(get("")).await.map(drop),
            Code::InvalidArgument,
        ),
        (
            "get, absent",
            client.get_snapshot(get(ABSENT_SNAPSHOT)).await.map(drop),
            Code::NotFound,
        ),
        (
            "volumes, bad token",
            client.list_volumes(volumes(0, "x")).await.map(drop),
            Code::Aborted,
        ),
        (
            "volumes, negative",
            client.list_volumes(volumes(-1, "")).await.map(drop),
            Code::InvalidArgument,
        ),
        (
            "volume, no id",
            client.controller_get_volume(volume_of("")).await.map(drop),
            Code::InvalidArgument,
        ),
        (
            "volume, absent",
            client
                .controller_get_volume(volume_of(ABSENT))
                .await
                .map(drop),
            Code::NotFound,
        ),
        (
            "validate, no id",
            client
                .validate_volume_capabilities(validate("", one.clone()))
                .await
                .map(drop),
            Code::InvalidArgument,
        ),
        (
            "validate, none",
            client
                .validate_volume_capabilities(validate(&volume, vec![]))
                .await
                .map(drop),
            Code::InvalidArgument,
        ),
        (
            "validate, absent",
            client
                .validate_volume_capabilities(validate(ABSENT, one))
                .await
                .map(drop),
            Code::NotFound,
        ),
        (
            "expand, no id",
            driver.expand("", range(SIZE, 0)).await.map(drop),
            Code::InvalidArgument,
        ),
        (
            "expand, no range",
            driver.expand(&volume, None).await.map(drop),
            Code::InvalidArgument,
        ),
        (
            "expand, absent",
            driver.expand(ABSENT, range(SIZE, 0)).await.map(drop),
            Code::NotFound,
        ),
        (
            "expand, too large",
            driver.expand(&volume, range(i64::MAX, 0)).await.map(drop),
            Code::OutOfRange,
        ),
        (
            "expand, to less",
            driver.expand(&volume, range(0, 4096)).await.map(drop),
            Code::OutOfRange,
        ),
        (
            "modify, no id",
            driver.modify("", "deletionProtection", "true").await,
            Code::InvalidArgument,
        ),
        (
            "modify, absent",
            driver.modify(ABSENT, "deletionProtection", "true").await,
            Code::NotFound,
        ),
        (
            "modify, unknown",
            driver.modify(&volume, "iops", "1").await,
            Code::InvalidArgument,
        ),
        (
            "modify, wrong",
            driver.modify(&volume, "deletionProtection", "1").await,
            Code::InvalidArgument,
        ),
    ];
    for (what, answer, code) in rows {
        assert_eq!(answer.expect_err(what).code(), code, "{what}");
    }
    driver.delete(ABSENT).await.unwrap();
    driver.delete("of another driver").await.unwrap();
    driver.delete_snapshot("of another driver").await.unwrap();
    let refused = validate(&volume, vec![capability(Mode::MultiNodeMultiWriter)]);
    let refused = client
        .validate_volume_capabilities(refused)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(refused.confirmed, None);
    assert!(
        refused.message.contains("single-node"),
        "{}",
        refused.message
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_volume_is_answered_however_often_and_wherever_it_is_asked_for() {
    let driver = driver().await;
    let node = NODE.to_string();
    let asked = csi::CreateVolumeRequest {
        accessibility_requirements: places(&[&node]),
        ..golden("pvc-1")
    };
    let volume = driver.create(asked.clone()).await.unwrap();
    assert_eq!(volume.capacity_bytes, SIZE);
    assert_eq!(
        volume.accessible_topology,
        places(&[&node]).unwrap().requisite
    );
    assert_eq!(driver.create(asked.clone()).await.unwrap(), volume);
    // Wherever, or with bounds that its size is within, it is the same.
    assert_eq!(driver.create(golden("pvc-1")).await.unwrap(), volume);
    let bounds = csi::CreateVolumeRequest {
        capacity_range: range(1, 2 * SIZE),
        ..golden("pvc-1")
    };
    assert_eq!(driver.create(bounds).await.unwrap(), volume);
    let both = places(&[&OTHER_NODE.to_string(), &node]);
    let anywhere = csi::CreateVolumeRequest {
        accessibility_requirements: both,
        ..wanted("pvc-2")
    };
    let second = driver.create(anywhere).await.unwrap();
    assert_eq!(second.accessible_topology, volume.accessible_topology);
    // What is no name of Goldleaf's is found again all the same.
    let strange = driver.create(wanted("a name/with: things")).await.unwrap();
    assert_eq!(
        driver.create(wanted("a name/with: things")).await.unwrap(),
        strange
    );
    driver.delete(&volume.volume_id).await.unwrap();
    driver.delete(&volume.volume_id).await.unwrap();
    assert_eq!(driver.rig.node().thins().len(), 2);
    driver.rig.check("at the end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_begins_as_another_says_so_and_may_be_larger() {
    let driver = driver().await;
    let volume = driver.create(golden("v")).await.unwrap().volume_id;
    let snapshot = driver.snapshot("s", &volume).await.unwrap();
    assert!(snapshot.ready_to_use && snapshot.size_bytes == SIZE);
    let home = places(&[&NODE.to_string()]);
    assert_eq!(
        snapshot.accessible_topology,
        home.clone().unwrap().requisite
    );
    for (asked, fits) in [(home, true), (places(&[&OTHER_NODE.to_string()]), false)] {
        let request = csi::CreateSnapshotRequest {
            name: "s".into(),
            source_volume_id: volume.clone(),
            accessibility_requirements: asked,
            ..Default::default()
        };
        let answer = driver.client.clone().create_snapshot(request).await;
        assert_eq!(answer.is_ok(), fits, "{answer:?}");
    }
    assert_eq!(driver.snapshot("s", &volume).await.unwrap(), snapshot);
    let image = driver
        .rig
        .service()
        .records
        .all::<goldleaf_server::domain::Image>();
    let image = image.await.unwrap()[0].id.to_string();
    for (name, request) in [
        ("from a volume", from_volume("a", &volume)),
        ("from a snapshot", from_snapshot("b", &snapshot.snapshot_id)),
        ("from an image", from_snapshot("c", &image)),
    ] {
        let larger = csi::CreateVolumeRequest {
            capacity_range: range(3 * SIZE, 0),
            ..request.clone()
        };
        let made = driver.create(larger.clone()).await.unwrap();
        assert_eq!(made.capacity_bytes, 3 * SIZE, "{name}");
        assert_eq!(made.content_source, request.volume_content_source, "{name}");
        assert_eq!(driver.create(larger).await.unwrap(), made, "{name}, again");
    }
    // Without a size it gets its source's.
    let same = csi::CreateVolumeRequest {
        capacity_range: None,
        ..from_snapshot("d", &snapshot.snapshot_id)
    };
    assert_eq!(driver.create(same).await.unwrap().capacity_bytes, SIZE);
    // A retry is answered though its source has gone meanwhile.
    driver.delete_snapshot(&snapshot.snapshot_id).await.unwrap();
    let again = csi::CreateVolumeRequest {
        capacity_range: range(3 * SIZE, 0),
        ..from_snapshot("b", &snapshot.snapshot_id)
    };
    driver.create(again).await.unwrap();
    driver.rig.check("at the end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_show_every_thing_once_page_by_page_images_among_the_snapshots() {
    let driver = driver().await;
    let volume = driver.create(wanted("v")).await.unwrap().volume_id;
    let other = driver.create(wanted("w")).await.unwrap().volume_id;
    for n in 0..5 {
        let source = if n == 3 { &other } else { &volume };
        driver.snapshot(&format!("s{n}"), source).await.unwrap();
    }
    for size in [1, 2, 4, 5, 6, 100] {
        let (mut found, mut token) = (vec![], String::new());
        loop {
            let (page, next) = driver.snapshots(size, &token, "", "").await.unwrap();
            assert!(page.len() <= usize::try_from(size).unwrap());
            found.extend(page.into_iter().map(|s| s.snapshot_id));
            token = next;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(found.len(), 6, "{found:?} in pages of {size}");
        assert!(
            found[5].starts_with("img-") && found[..5].iter().all(|id| id.starts_with("snap-"))
        );
    }
    let (of_other, _) = driver.snapshots(0, "", &other, "").await.unwrap();
    assert_eq!(of_other.len(), 1);
    let (images, _) = driver.snapshots(0, "", "", "").await.unwrap();
    let image = images.last().unwrap();
    assert_eq!(image.size_bytes, i64::try_from(GIB).unwrap());
    assert!(image.ready_to_use);
    let (one, _) = driver
        .snapshots(0, "", "", &image.snapshot_id)
        .await
        .unwrap();
    assert_eq!((one.len(), &one[0]), (1, image));
    let (none, _) = driver.snapshots(0, "", "", ABSENT_SNAPSHOT).await.unwrap();
    assert_eq!(none, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_grows_is_protected_and_is_seen_with_its_place_and_health() {
    let driver = driver().await;
    let volume = driver.create(wanted("v")).await.unwrap().volume_id;
    assert_eq!(
        driver.expand(&volume, range(SIZE + 1, 0)).await.unwrap(),
        SIZE + 4096
    );
    assert_eq!(
        driver.expand(&volume, range(SIZE, 0)).await.unwrap(),
        SIZE + 4096
    );
    driver
        .modify(&volume, "deletionProtection", "true")
        .await
        .unwrap();
    let refused = driver.delete(&volume).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    driver
        .modify(&volume, "deletionProtection", "false")
        .await
        .unwrap();
    let mut client = driver.client.clone();
    let request = csi::ControllerGetVolumeRequest {
        volume_id: volume.clone(),
    };
    let seen = client
        .controller_get_volume(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(seen.volume.unwrap().accessible_topology.len(), 1);
    assert_eq!(
        seen.status.unwrap().published_node_ids,
        Vec::<String>::new()
    );
    let health = csi::ControllerGetVolumeHealthRequest {
        volume_id: volume.clone(),
        ..Default::default()
    };
    let health = client
        .controller_get_volume_health(health)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(health.volume_health.unwrap().health_statuses, []);
    driver.delete(&volume).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn capacity_is_that_of_the_pools_which_the_class_can_use_from_the_place() {
    let driver = driver().await;
    let mut client = driver.client.clone();
    let mut ask = async |node: Option<String>, pool: &str| {
        let request = csi::GetCapacityRequest {
            parameters: [("pool".to_owned(), pool.to_owned())].into(),
            accessible_topology: node.map(|n| places(&[&n]).unwrap().requisite[0].clone()),
            ..Default::default()
        };
        let answer = client.get_capacity(request).await.unwrap().into_inner();
        (
            answer.available_capacity > 0,
            answer.maximum_volume_size != Some(0),
        )
    };
    assert_eq!(ask(None, "").await, (true, true));
    assert_eq!(ask(Some(NODE.to_string()), "fast").await, (true, true));
    assert_eq!(ask(Some(OTHER_NODE.to_string()), "").await, (false, false));
    assert_eq!(ask(None, "slow").await, (false, false));
}
