//! The CSI driver on a host of the tests: both of its processes, called as an orchestrator calls them.

use std::future::Future;
use std::path::PathBuf;

use csi::controller_client::ControllerClient;
use csi::group_controller_client::GroupControllerClient;
use csi::node_client::NodeClient;
use csi::snapshot_metadata_client::SnapshotMetadataClient;
use csi::volume_capability::access_mode::Mode;
use csi_proto::v1 as csi;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::{Host, Process};

type Answer<T> = Result<T, Status>;

/// A volume's use as a block device by one node.
#[must_use]
pub fn block() -> csi::VolumeCapability {
    csi::VolumeCapability {
        access_type: Some(csi::volume_capability::AccessType::Block(
            csi::volume_capability::BlockVolume {},
        )),
        access_mode: Some(csi::volume_capability::AccessMode {
            mode: Mode::SingleNodeWriter.into(),
        }),
    }
}

/// A volume's use as a file system by one node.
#[must_use]
pub fn file_system(fs_type: &str) -> csi::VolumeCapability {
    csi::VolumeCapability {
        access_type: Some(csi::volume_capability::AccessType::Mount(
            csi::volume_capability::MountVolume {
                fs_type: fs_type.into(),
                mount_flags: vec!["noatime".into()],
                volume_mount_group: String::new(),
            },
        )),
        ..block()
    }
}

/// One volume in one workload's use.
#[derive(Clone, Debug)]
pub struct Use {
    /// The volume's id.
    pub volume: String,
    /// Where it is staged.
    pub staging: PathBuf,
    /// Where its workload finds it.
    pub target: PathBuf,
    /// How it is used.
    pub capability: csi::VolumeCapability,
}

/// The ranges of one message, which has no more than were asked for.
fn ranges(found: &[csi::BlockMetadata], most: i32) -> Vec<(u64, u64)> {
    let most = usize::try_from(most).expect("a number of ranges");
    assert!(most == 0 || found.len() <= most, "{} ranges", found.len());
    let bytes = |n| u64::try_from(n).expect("not negative");
    let range = |r: &csi::BlockMetadata| (bytes(r.byte_offset), bytes(r.size_bytes));
    found.iter().map(range).collect()
}

impl Host {
    /// Starts the controller.
    ///
    /// # Panics
    ///
    /// When it does not start.
    #[must_use]
    pub fn start_csi_controller(&self) -> Process {
        self.csi_process(
            "controller",
            vec![format!("--server=http://{}", self.address())],
            &[],
        )
    }

    /// Starts the node plugin.
    ///
    /// # Panics
    ///
    /// When it does not start.
    #[must_use]
    pub fn start_csi_node(&self, environment: &[(&str, &str)]) -> Process {
        let agent = self.dir().join("agent.sock");
        let arguments = vec![format!("--agent-socket={}", agent.display())];
        self.csi_process("node", arguments, environment)
    }

    fn csi_process(&self, role: &str, more: Vec<String>, environment: &[(&str, &str)]) -> Process {
        // A folder for each: both are the same program, and each has a log.
        let dir = self.dir().join(format!("csi-{role}"));
        std::fs::create_dir_all(&dir).expect("a folder for the driver");
        let endpoint = format!("--endpoint={}", self.csi_endpoint(role));
        let arguments: Vec<_> = [role.to_owned(), endpoint]
            .into_iter()
            .chain(more)
            .collect();
        Process::serve("goldleaf-csi", &dir, &arguments, environment)
            .unwrap_or_else(|said| panic!("the CSI {role}: {said}"))
    }

    /// The address of the driver's socket.
    #[must_use]
    pub fn csi_endpoint(&self, role: &str) -> String {
        format!("unix://{}/csi-{role}/csi.sock", self.dir().display())
    }

    /// What the driver logged.
    #[must_use]
    pub fn csi_logs(&self) -> String {
        ["controller", "node"]
            .map(|role| {
                let log = self.dir().join(format!("csi-{role}/goldleaf-csi.log"));
                format!(
                    "--- {role}\n{}",
                    std::fs::read_to_string(log).unwrap_or_default()
                )
            })
            .concat()
    }

    /// Waits for what is asked of the driver.
    pub fn wait<T>(&self, what: impl Future<Output = T>) -> T {
        self.runtime.block_on(what)
    }

    async fn channel(&self, role: &str) -> Answer<Channel> {
        let endpoint = Endpoint::from_shared(self.csi_endpoint(role)).expect("an address");
        let connected = endpoint.connect().await;
        connected.map_err(|error| Status::from_error(error.into()))
    }

    /// The controller.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub async fn csi_controller(&self) -> Answer<ControllerClient<Channel>> {
        Ok(ControllerClient::new(self.channel("controller").await?))
    }

    /// The node plugin.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub async fn csi_node(&self) -> Answer<NodeClient<Channel>> {
        Ok(NodeClient::new(self.channel("node").await?))
    }

    /// Snapshots of volumes at one instant, through CSI.
    ///
    /// # Errors
    ///
    /// The driver's own.
    pub fn csi_group(&self, name: &str, volumes: &[String]) -> Answer<csi::VolumeGroupSnapshot> {
        let request = csi::CreateVolumeGroupSnapshotRequest {
            name: name.into(),
            source_volume_ids: volumes.to_vec(),
            ..Default::default()
        };
        self.wait(async {
            let mut client = GroupControllerClient::new(self.channel("controller").await?);
            let answer = client.create_volume_group_snapshot(request).await?;
            Ok(answer.into_inner().group_snapshot.expect("a group"))
        })
    }

    /// Which bytes of a snapshot hold something, from an offset on: where, and how many.
    ///
    /// # Errors
    ///
    /// The driver's own.
    pub fn csi_allocated(&self, id: &str, from: u64, most: i32) -> Answer<Vec<(u64, u64)>> {
        let request = csi::GetMetadataAllocatedRequest {
            snapshot_id: id.into(),
            starting_offset: i64::try_from(from).expect("an offset"),
            max_results: most,
            ..Default::default()
        };
        self.wait(async {
            let mut client = SnapshotMetadataClient::new(self.channel("controller").await?);
            let answer = client.get_metadata_allocated(request).await?;
            let (mut stream, mut all) = (answer.into_inner(), vec![]);
            while let Some(part) = stream.message().await? {
                all.extend(ranges(&part.block_metadata, most));
            }
            Ok(all)
        })
    }

    /// Which bytes of a snapshot differ from another one of its volume, as [`Self::csi_allocated`].
    ///
    /// # Errors
    ///
    /// The driver's own.
    pub fn csi_changed(
        &self,
        base: &str,
        target: &str,
        from: u64,
        most: i32,
    ) -> Answer<Vec<(u64, u64)>> {
        let request = csi::GetMetadataDeltaRequest {
            base_snapshot_id: base.into(),
            target_snapshot_id: target.into(),
            starting_offset: i64::try_from(from).expect("an offset"),
            max_results: most,
            ..Default::default()
        };
        self.wait(async {
            let mut client = SnapshotMetadataClient::new(self.channel("controller").await?);
            let answer = client.get_metadata_delta(request).await?;
            let (mut stream, mut all) = (answer.into_inner(), vec![]);
            while let Some(part) = stream.message().await? {
                all.extend(ranges(&part.block_metadata, most));
            }
            Ok(all)
        })
    }

    /// A volume, through CSI.
    ///
    /// # Errors
    ///
    /// The driver's own.
    pub fn csi_create(&self, request: csi::CreateVolumeRequest) -> Answer<csi::Volume> {
        self.wait(async {
            let answer = self.csi_controller().await?.create_volume(request).await?;
            Ok(answer.into_inner().volume.expect("a volume"))
        })
    }

    /// Deletes a volume, through CSI.
    ///
    /// # Errors
    ///
    /// The driver's own.
    pub fn csi_delete(&self, volume: &str) -> Answer<()> {
        let request = csi::DeleteVolumeRequest {
            volume_id: volume.into(),
            ..Default::default()
        };
        self.wait(async { self.csi_controller().await?.delete_volume(request).await })
            .map(drop)
    }

    /// Grows a volume, through CSI.
    ///
    /// # Errors
    ///
    /// The driver's own.
    pub fn csi_expand(
        &self,
        volume: &str,
        bytes: i64,
    ) -> Answer<csi::ControllerExpandVolumeResponse> {
        let request = csi::ControllerExpandVolumeRequest {
            volume_id: volume.into(),
            capacity_range: Some(csi::CapacityRange {
                required_bytes: bytes,
                limit_bytes: 0,
            }),
            ..Default::default()
        };
        let answer = self.wait(async {
            self.csi_controller()
                .await?
                .controller_expand_volume(request)
                .await
        });
        answer.map(tonic::Response::into_inner)
    }

    /// A volume's use, at paths of its own.
    ///
    /// # Panics
    ///
    /// When they cannot be made.
    #[must_use]
    pub fn csi_use(&self, volume: &str, capability: csi::VolumeCapability) -> Use {
        let folder = self.dir().join("kubelet").join(volume);
        std::fs::create_dir_all(&folder).expect("a folder of kubelet's");
        Use {
            volume: volume.into(),
            staging: folder.join("staging"),
            target: folder.join("target"),
            capability,
        }
    }

    /// Stages a volume.
    ///
    /// # Errors
    ///
    /// The driver's own.
    pub fn stage(&self, u: &Use) -> Answer<()> {
        let request = csi::NodeStageVolumeRequest {
            volume_id: u.volume.clone(),
            staging_target_path: u.staging.display().to_string(),
            volume_capability: Some(u.capability.clone()),
            ..Default::default()
        };
        self.wait(async { self.csi_node().await?.node_stage_volume(request).await })
            .map(drop)
    }

    /// Publishes a volume.
    ///
    /// # Errors
    ///
    /// The driver's own.
    pub fn publish(&self, u: &Use, readonly: bool) -> Answer<()> {
        let request = csi::NodePublishVolumeRequest {
            volume_id: u.volume.clone(),
            staging_target_path: u.staging.display().to_string(),
            target_path: u.target.display().to_string(),
            volume_capability: Some(u.capability.clone()),
            readonly,
            ..Default::default()
        };
        self.wait(async { self.csi_node().await?.node_publish_volume(request).await })
            .map(drop)
    }

    /// Unpublishes a volume.
    ///
    /// # Errors
    ///
    /// The driver's own.
    pub fn unpublish(&self, u: &Use) -> Answer<()> {
        let request = csi::NodeUnpublishVolumeRequest {
            volume_id: u.volume.clone(),
            target_path: u.target.display().to_string(),
        };
        self.wait(async { self.csi_node().await?.node_unpublish_volume(request).await })
            .map(drop)
    }

    /// Unstages a volume.
    ///
    /// # Errors
    ///
    /// The driver's own.
    pub fn unstage(&self, u: &Use) -> Answer<()> {
        let request = csi::NodeUnstageVolumeRequest {
            volume_id: u.volume.clone(),
            staging_target_path: u.staging.display().to_string(),
        };
        self.wait(async { self.csi_node().await?.node_unstage_volume(request).await })
            .map(drop)
    }

    /// Grows what is on a volume, where it is published.
    ///
    /// # Errors
    ///
    /// The driver's own.
    pub fn node_expand(&self, u: &Use) -> Answer<i64> {
        let request = csi::NodeExpandVolumeRequest {
            volume_id: u.volume.clone(),
            volume_path: u.target.display().to_string(),
            ..Default::default()
        };
        let answer = self.wait(async { self.csi_node().await?.node_expand_volume(request).await });
        answer.map(|answer| answer.into_inner().capacity_bytes)
    }

    /// How full a volume is, where it is published.
    ///
    /// # Errors
    ///
    /// The driver's own.
    pub fn stats(&self, u: &Use) -> Answer<Vec<csi::VolumeUsage>> {
        let request = csi::NodeGetVolumeStatsRequest {
            volume_id: u.volume.clone(),
            volume_path: u.target.display().to_string(),
            ..Default::default()
        };
        let answer =
            self.wait(async { self.csi_node().await?.node_get_volume_stats(request).await });
        answer.map(|answer| answer.into_inner().usage)
    }
}
