//! The controller over a real control plane with agents in memory, and requests to it.

#![allow(dead_code, unused_imports, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used)] // a test that cannot go on is to fail

#[path = "../../../server/tests/support/mod.rs"]
pub mod support;

use std::sync::Arc;

use clap::Parser;
use csi::controller_client::ControllerClient;
pub use csi::volume_capability::access_mode::Mode;
pub use csi_proto::v1 as csi;
use goldleaf_csi::app;
use goldleaf_csi::args::Args;
use goldleaf_server::app as server;
pub use support::{GIB, NODE, OTHER_NODE, Rig};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
pub use tonic::{Code, Status};

pub const SIZE: i64 = 1 << 30;

/// A driver over a control plane with one node, its pool "fast" and its image "golden".
pub struct Driver {
    pub rig: Rig,
    pub stop: CancellationToken,
    pub client: ControllerClient<Channel>,
    pub channel: Channel,
    _folder: tempfile::TempDir,
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub async fn driver() -> Driver {
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
    let channel = loop {
        match endpoint.connect().await {
            Ok(channel) => break channel,
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    };
    Driver {
        rig,
        stop,
        client: ControllerClient::new(channel.clone()),
        channel,
        _folder: folder,
    }
}

pub fn capability(mode: Mode) -> csi::VolumeCapability {
    csi::VolumeCapability {
        access_type: Some(csi::volume_capability::AccessType::Block(
            csi::volume_capability::BlockVolume {},
        )),
        access_mode: Some(csi::volume_capability::AccessMode { mode: mode.into() }),
    }
}

pub fn mounted(fs_type: &str) -> csi::VolumeCapability {
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

pub fn range(required: i64, limit: i64) -> Option<csi::CapacityRange> {
    Some(csi::CapacityRange {
        required_bytes: required,
        limit_bytes: limit,
    })
}

pub fn places(nodes: &[&str]) -> Option<csi::TopologyRequirement> {
    let place = |node: &&str| csi::Topology {
        segments: [("goldleaf.dev/node".into(), (*node).into())].into(),
    };
    Some(csi::TopologyRequirement {
        requisite: nodes.iter().map(place).collect(),
        preferred: vec![],
    })
}

pub fn wanted(name: &str) -> csi::CreateVolumeRequest {
    csi::CreateVolumeRequest {
        name: name.into(),
        capacity_range: range(SIZE, 0),
        volume_capabilities: vec![capability(Mode::SingleNodeWriter)],
        ..Default::default()
    }
}

pub fn golden(name: &str) -> csi::CreateVolumeRequest {
    csi::CreateVolumeRequest {
        parameters: [("image".into(), "golden".into())].into(),
        ..wanted(name)
    }
}

pub fn from_snapshot(name: &str, id: &str) -> csi::CreateVolumeRequest {
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

pub fn from_volume(name: &str, id: &str) -> csi::CreateVolumeRequest {
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
    pub async fn create(&self, r: csi::CreateVolumeRequest) -> Result<csi::Volume, Status> {
        let answer = self.client.clone().create_volume(r).await?;
        Ok(answer.into_inner().volume.unwrap())
    }

    pub async fn snapshot(&self, name: &str, volume: &str) -> Result<csi::Snapshot, Status> {
        let request = csi::CreateSnapshotRequest {
            name: name.into(),
            source_volume_id: volume.into(),
            ..Default::default()
        };
        let answer = self.client.clone().create_snapshot(request).await?;
        Ok(answer.into_inner().snapshot.unwrap())
    }

    pub async fn delete(&self, id: &str) -> Result<(), Status> {
        let request = csi::DeleteVolumeRequest {
            volume_id: id.into(),
            ..Default::default()
        };
        self.client.clone().delete_volume(request).await.map(drop)
    }

    pub async fn delete_snapshot(&self, id: &str) -> Result<(), Status> {
        let request = csi::DeleteSnapshotRequest {
            snapshot_id: id.into(),
            ..Default::default()
        };
        self.client.clone().delete_snapshot(request).await.map(drop)
    }

    pub async fn expand(&self, id: &str, size: Option<csi::CapacityRange>) -> Result<i64, Status> {
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

    pub async fn snapshots(
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

    pub async fn modify(&self, id: &str, key: &str, value: &str) -> Result<(), Status> {
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

pub const ABSENT: &str = "vol-00000000000000000000000000000009";
pub const ABSENT_SNAPSHOT: &str = "snap-00000000000000000000000000000009";
