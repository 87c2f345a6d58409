//! The Controller service: volumes and snapshots as seen from anywhere in the cluster.
//!
//! Called by the orchestrator's sidecars. Each call is converted, asked of the control plane and
//! answered; nothing is kept, so any number may be at work at once and any may be cut short.
//! Publishing from the control plane is not served: a volume is local, its node makes its device.

mod capacity;
pub mod control_plane;
mod creation;
mod groups;
mod metadata;
mod snapshots;

use csi::controller_server::Controller;
use csi::controller_service_capability::rpc::Type as Call;
use csi_proto::v1 as csi;
use goldleaf_proto::v1 as api;
use tonic::{Request, Response, Status};

use self::control_plane::ControlPlane;
use self::snapshots::page_size;
use crate::convert::capability::{Access, usage};
use crate::convert::capacity::Range;
use crate::convert::parameters::{Class, Mutable};
use crate::convert::{answers, capability, names};
use crate::scrub::seen;
use crate::status::CsiError;

/// What is served, and announced.
const CALLS: &[Call] = &[
    Call::CreateDeleteVolume,
    Call::ListVolumes,
    Call::GetCapacity,
    Call::CreateDeleteSnapshot,
    Call::ListSnapshots,
    Call::CloneVolume,
    Call::ExpandVolume,
    Call::GetVolume,
    Call::SingleNodeMultiWriter,
    Call::ModifyVolume,
    Call::GetSnapshot,
    Call::GetVolumeHealth,
    Call::ListVolumeHealth,
];

/// The Controller service over a control plane.
#[derive(Clone, Debug)]
pub struct ControllerApi {
    control_plane: ControlPlane,
}

type Answer<T> = Result<Response<T>, Status>;

fn answer<T>(answer: T) -> Answer<T> {
    Ok(Response::new(answer))
}

impl ControllerApi {
    /// Over this control plane.
    #[must_use]
    pub const fn new(control_plane: ControlPlane) -> Self {
        Self { control_plane }
    }

    async fn named_volume(&self, id: &str) -> Result<api::Volume, CsiError> {
        let id = names::volume("volume_id", id)?;
        self.control_plane.volume(&id.to_string()).await
    }

    async fn delete(&self, id: &str) -> Result<(), CsiError> {
        match names::volume("volume_id", id) {
            Ok(id) => self.control_plane.delete_volume(&id.to_string()).await,
            Err(CsiError::NotFound { .. }) => Ok(()), // nobody's id: as good as deleted
            Err(error) => Err(error),
        }
    }

    async fn validate(
        &self,
        r: csi::ValidateVolumeCapabilitiesRequest,
    ) -> Result<csi::ValidateVolumeCapabilitiesResponse, CsiError> {
        if r.volume_capabilities.is_empty() {
            return Err(CsiError::field("volume_capabilities", "is missing"));
        }
        self.named_volume(&r.volume_id).await?;
        let checked = capability::usages(&r.volume_capabilities)
            .and_then(|_| Class::read(&r.parameters))
            .and_then(|_| Mutable::read(&r.mutable_parameters));
        let (confirmed, message) = match checked {
            Ok(_) => {
                let confirmed = csi::validate_volume_capabilities_response::Confirmed {
                    volume_context: r.volume_context,
                    volume_capabilities: r.volume_capabilities,
                    parameters: r.parameters,
                    mutable_parameters: r.mutable_parameters,
                };
                (Some(confirmed), String::new())
            }
            Err(error) => (None, error.to_string()),
        };
        Ok(csi::ValidateVolumeCapabilitiesResponse { confirmed, message })
    }

    async fn expand(
        &self,
        r: &csi::ControllerExpandVolumeRequest,
    ) -> Result<csi::ControllerExpandVolumeResponse, CsiError> {
        if r.volume_id.is_empty() {
            return Err(CsiError::field("volume_id", "is missing"));
        }
        if r.capacity_range.is_none() {
            return Err(CsiError::field("capacity_range", "is missing"));
        }
        let range = Range::read(r.capacity_range.as_ref())?;
        let used = r.volume_capability.as_ref();
        let used = used
            .map(|c| usage("volume_capability", Some(c)))
            .transpose()?;
        let mut volume = self.named_volume(&r.volume_id).await?;
        if volume.size_bytes < range.required {
            let size = range.choose(volume.size_bytes, volume.size_bytes)?;
            volume = self.control_plane.resize(&volume.id, size).await?;
        } else if !range.admits(volume.size_bytes) {
            return Err(CsiError::OutOfRange(format!(
                "the volume has {} bytes already, and does not shrink",
                volume.size_bytes
            )));
        }
        Ok(csi::ControllerExpandVolumeResponse {
            capacity_bytes: answers::size(volume.size_bytes),
            // A file system is grown where it is mounted; a block device shows its size at once.
            node_expansion_required: used.is_none_or(|used| used.access != Access::Block),
        })
    }

    async fn modify(&self, r: csi::ControllerModifyVolumeRequest) -> Result<(), CsiError> {
        let mutable = Mutable::read(&r.mutable_parameters)?;
        let volume = self.named_volume(&r.volume_id).await?;
        let nothing = mutable == Mutable::default();
        if nothing {
            return Ok(());
        }
        let request = api::UpdateRequest {
            target: volume.id,
            set_labels: mutable.labels,
            deletion_protection: mutable.deletion_protection,
            ..Default::default()
        };
        self.control_plane.update(request).await
    }

    async fn volumes_page(
        &self,
        max_entries: i32,
        token: String,
    ) -> Result<(Vec<api::Volume>, String), CsiError> {
        let most = page_size(max_entries)?;
        self.control_plane.list_volumes(most, token).await
    }
}

#[tonic::async_trait]
impl Controller for ControllerApi {
    async fn create_volume(
        &self,
        r: Request<csi::CreateVolumeRequest>,
    ) -> Answer<csi::CreateVolumeResponse> {
        let volume = Some(self.create(seen(r)).await?);
        answer(csi::CreateVolumeResponse { volume })
    }

    async fn delete_volume(
        &self,
        r: Request<csi::DeleteVolumeRequest>,
    ) -> Answer<csi::DeleteVolumeResponse> {
        self.delete(&seen(r).volume_id).await?;
        answer(csi::DeleteVolumeResponse {})
    }

    async fn validate_volume_capabilities(
        &self,
        r: Request<csi::ValidateVolumeCapabilitiesRequest>,
    ) -> Answer<csi::ValidateVolumeCapabilitiesResponse> {
        answer(self.validate(seen(r)).await?)
    }

    async fn list_volumes(
        &self,
        r: Request<csi::ListVolumesRequest>,
    ) -> Answer<csi::ListVolumesResponse> {
        let r = seen(r);
        let (volumes, next_token) = self.volumes_page(r.max_entries, r.starting_token).await?;
        let entry = |volume: &api::Volume| csi::list_volumes_response::Entry {
            volume: Some(answers::volume(volume, None)),
            status: Some(csi::list_volumes_response::VolumeStatus {
                published_node_ids: answers::published_nodes(volume),
            }),
        };
        let entries = volumes.iter().map(entry).collect();
        answer(csi::ListVolumesResponse {
            entries,
            next_token,
        })
    }

    async fn controller_list_volume_health(
        &self,
        r: Request<csi::ControllerListVolumeHealthRequest>,
    ) -> Answer<csi::ControllerListVolumeHealthResponse> {
        let r = seen(r);
        let (volumes, next_token) = self.volumes_page(r.max_entries, r.starting_token).await?;
        let health = |volume: &api::Volume| answers::health(&volume.id, &volume.conditions);
        answer(csi::ControllerListVolumeHealthResponse {
            entries: volumes.iter().map(health).collect(),
            next_token,
        })
    }

    async fn controller_get_volume_health(
        &self,
        r: Request<csi::ControllerGetVolumeHealthRequest>,
    ) -> Answer<csi::ControllerGetVolumeHealthResponse> {
        let volume = self.named_volume(&seen(r).volume_id).await?;
        answer(csi::ControllerGetVolumeHealthResponse {
            volume_health: Some(answers::health(&volume.id, &volume.conditions)),
        })
    }

    async fn get_capacity(
        &self,
        r: Request<csi::GetCapacityRequest>,
    ) -> Answer<csi::GetCapacityResponse> {
        answer(self.capacity(&seen(r)).await?)
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<csi::ControllerGetCapabilitiesRequest>,
    ) -> Answer<csi::ControllerGetCapabilitiesResponse> {
        use csi::controller_service_capability::{Rpc, Type};
        let capability = |call: &Call| csi::ControllerServiceCapability {
            r#type: Some(Type::Rpc(Rpc {
                r#type: (*call).into(),
            })),
        };
        let capabilities = CALLS.iter().map(capability).collect();
        answer(csi::ControllerGetCapabilitiesResponse { capabilities })
    }

    async fn create_snapshot(
        &self,
        r: Request<csi::CreateSnapshotRequest>,
    ) -> Answer<csi::CreateSnapshotResponse> {
        let snapshot = Some(self.take_snapshot(seen(r)).await?);
        answer(csi::CreateSnapshotResponse { snapshot })
    }

    async fn delete_snapshot(
        &self,
        r: Request<csi::DeleteSnapshotRequest>,
    ) -> Answer<csi::DeleteSnapshotResponse> {
        self.drop_snapshot(&seen(r).snapshot_id).await?;
        answer(csi::DeleteSnapshotResponse {})
    }

    async fn list_snapshots(
        &self,
        r: Request<csi::ListSnapshotsRequest>,
    ) -> Answer<csi::ListSnapshotsResponse> {
        let (snapshots, next_token) = self.list_handles(&seen(r)).await?;
        let entry = |snapshot| csi::list_snapshots_response::Entry {
            snapshot: Some(snapshot),
        };
        let entries = snapshots.into_iter().map(entry).collect();
        answer(csi::ListSnapshotsResponse {
            entries,
            next_token,
        })
    }

    async fn get_snapshot(
        &self,
        r: Request<csi::GetSnapshotRequest>,
    ) -> Answer<csi::GetSnapshotResponse> {
        let id = seen(r).snapshot_id;
        let snapshot = self.find_handle(&id).await?;
        let missing = CsiError::NotFound {
            what: "snapshot",
            id,
        };
        let snapshot = Some(snapshot.ok_or(missing)?);
        answer(csi::GetSnapshotResponse { snapshot })
    }

    async fn controller_expand_volume(
        &self,
        r: Request<csi::ControllerExpandVolumeRequest>,
    ) -> Answer<csi::ControllerExpandVolumeResponse> {
        answer(self.expand(&seen(r)).await?)
    }

    async fn controller_get_volume(
        &self,
        r: Request<csi::ControllerGetVolumeRequest>,
    ) -> Answer<csi::ControllerGetVolumeResponse> {
        let volume = self.named_volume(&seen(r).volume_id).await?;
        answer(csi::ControllerGetVolumeResponse {
            volume: Some(answers::volume(&volume, None)),
            status: Some(csi::controller_get_volume_response::VolumeStatus {
                published_node_ids: answers::published_nodes(&volume),
            }),
        })
    }

    async fn controller_modify_volume(
        &self,
        r: Request<csi::ControllerModifyVolumeRequest>,
    ) -> Answer<csi::ControllerModifyVolumeResponse> {
        self.modify(seen(r)).await?;
        answer(csi::ControllerModifyVolumeResponse {})
    }
}
