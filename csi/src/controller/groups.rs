//! The GroupController service: snapshots of several volumes at one instant.
//!
//! Called by the orchestrator's snapshotter. The control plane makes all snapshots of a group or
//! none; nothing is kept here. The order in which volumes are named is no part of what is asked for:
//! whoever finds them by a label names them in another one the next time.

use std::collections::BTreeSet;

use csi::group_controller_server::GroupController;
use csi_proto::v1 as csi;
use goldleaf_proto::v1 as api;
use goldleaf_types::SnapshotId;
use tonic::Request;

use super::{Answer, ControllerApi, answer};
use crate::convert::{answers, names, parameters};
use crate::scrub::seen;
use crate::status::CsiError;

/// Most volumes that the control plane freezes together.
const LARGEST: usize = 64;

/// A request whose shape is right.
struct Asked {
    name: String,
    /// The volumes' ids, each once.
    volumes: BTreeSet<String>,
}

impl TryFrom<csi::CreateVolumeGroupSnapshotRequest> for Asked {
    type Error = CsiError;

    fn try_from(r: csi::CreateVolumeGroupSnapshotRequest) -> Result<Self, CsiError> {
        const FIELD: &str = "source_volume_ids";
        let name = names::group_name("name", &r.name)?;
        if r.source_volume_ids.is_empty() {
            return Err(CsiError::field(FIELD, "is missing"));
        }
        if r.source_volume_ids.len() > LARGEST {
            let problem = format!("names more than {LARGEST} volumes, the most that go together");
            return Err(CsiError::field(FIELD, problem));
        }
        parameters::none(&r.parameters)?;
        let mut volumes = BTreeSet::new();
        for id in &r.source_volume_ids {
            if !volumes.insert(names::volume(FIELD, id)?.to_string()) {
                return Err(CsiError::field(FIELD, format!("names {id} twice")));
            }
        }
        Ok(Self { name, volumes })
    }
}

impl ControllerApi {
    async fn take_group(
        &self,
        r: csi::CreateVolumeGroupSnapshotRequest,
    ) -> Result<csi::VolumeGroupSnapshot, CsiError> {
        let asked = Asked::try_from(r)?;
        let found = self.control_plane.find_group(&asked.name).await?;
        let group = match found {
            Some(group) if sources(&group) != asked.volumes => {
                return Err(CsiError::Other {
                    what: format!("group of snapshots {}", asked.name),
                    field: "source_volume_ids",
                });
            }
            Some(group) if group.phase() == api::Phase::Ready => group,
            Some(group) if group.phase() == api::Phase::Deleting => {
                return Err(CsiError::Busy(group.id));
            }
            Some(group) => self.ask_for_group(asked, &group.pool).await?,
            None => {
                let pool = self.one_pool(&asked.volumes).await?;
                self.ask_for_group(asked, &pool).await?
            }
        };
        self.shown_group(&group).await
    }

    /// The pool of all of these volumes: only one pool is frozen at one instant.
    async fn one_pool(&self, volumes: &BTreeSet<String>) -> Result<String, CsiError> {
        let mut first: Option<api::Volume> = None;
        for id in volumes {
            let volume = self.control_plane.volume(id).await?;
            match &first {
                None => first = Some(volume),
                Some(first) if first.pool == volume.pool => {}
                Some(first) => {
                    return Err(CsiError::Unfit(format!(
                        "source_volume_ids: {} lies in {} on {}, {id} in {} on {}, and only volumes \
                         of one pool are frozen together: let one StorageClass with `pool` make them",
                        first.id, first.pool, first.node, volume.pool, volume.node
                    )));
                }
            }
        }
        Ok(first.map(|volume| volume.pool).unwrap_or_default())
    }

    async fn ask_for_group(
        &self,
        asked: Asked,
        pool: &str,
    ) -> Result<api::GroupSnapshot, CsiError> {
        let request = api::CreateGroupSnapshotRequest {
            name: asked.name,
            volumes: asked.volumes.into_iter().collect(),
            ..Default::default()
        };
        let refused = match self.control_plane.create_group(request).await {
            Err(error) if error.reason() == "POOL_READ_ONLY" => error,
            answer => return answer,
        };
        let pool = self.control_plane.find_pool(pool).await?;
        let full = |pool: &api::Pool| {
            let usage = pool.usage.as_ref();
            usage.is_some_and(|usage| usage.mode() == api::PoolMode::OutOfDataSpace)
        };
        match pool.filter(full) {
            Some(pool) => Err(CsiError::NoRoom(pool.name)),
            None => Err(refused),
        }
    }

    /// A group that there is, its snapshots checked against those that the caller knows.
    async fn known_group(
        &self,
        id: &str,
        snapshots: &[String],
    ) -> Result<api::GroupSnapshot, CsiError> {
        let group = names::group("group_snapshot_id", id)?;
        let group = self.control_plane.find_group(&group.to_string()).await?;
        let missing = || CsiError::NotFound {
            what: "group of snapshots",
            id: id.into(),
        };
        let group = group.ok_or_else(missing)?;
        let wrong = |problem: String| Err(CsiError::field("snapshot_ids", problem));
        if snapshots.is_empty() {
            return wrong("is missing: name every snapshot of the group".into());
        }
        let of_group: BTreeSet<&str> = group.members.iter().map(|m| m.snapshot.as_str()).collect();
        let strange = snapshots.iter().find(|id| !of_group.contains(id.as_str()));
        if let Some(strange) = strange {
            let strange: String = strange.chars().take(80).collect();
            return wrong(format!("{strange:?} is no snapshot of {}", group.id));
        }
        for id in of_group {
            // One that was deleted by itself need not be named.
            let named = snapshots.iter().any(|named| named == id);
            if !named && self.control_plane.find_snapshot(id).await?.is_some() {
                return wrong(format!("{id} is of {} too and is not named", group.id));
            }
        }
        Ok(group)
    }

    async fn drop_group(&self, id: &str, snapshots: &[String]) -> Result<(), CsiError> {
        match self.known_group(id, snapshots).await {
            Ok(group) => self.control_plane.delete_group(&group.id).await,
            Err(CsiError::NotFound { .. }) => Ok(()), // nobody's id, or gone
            Err(error) => Err(error),
        }
    }

    /// A group with those of its snapshots that there are.
    async fn shown_group(
        &self,
        group: &api::GroupSnapshot,
    ) -> Result<csi::VolumeGroupSnapshot, CsiError> {
        let mut snapshots = Vec::with_capacity(group.members.len());
        for member in &group.members {
            let found = self.control_plane.find_snapshot(&member.snapshot).await?;
            snapshots.extend(found.as_ref().map(answers::snapshot));
        }
        Ok(answers::group(group, snapshots))
    }

    /// Refuses the deletion of a snapshot that goes only with its group.
    pub(super) async fn stands_alone(&self, id: SnapshotId) -> Result<(), CsiError> {
        let found = self.control_plane.find_snapshot(&id.to_string()).await?;
        let of_group = found.filter(|snapshot| !snapshot.group.is_empty());
        let Some(snapshot) = of_group else {
            return Ok(());
        };
        match self.control_plane.find_group(&snapshot.group).await? {
            Some(group) => Err(CsiError::field(
                "snapshot_id",
                format!(
                    "{id} is part of the group {} and goes with it: DeleteVolumeGroupSnapshot",
                    group.id
                ),
            )),
            None => Ok(()),
        }
    }
}

fn sources(group: &api::GroupSnapshot) -> BTreeSet<String> {
    group.members.iter().map(|m| m.source.clone()).collect()
}

#[tonic::async_trait]
impl GroupController for ControllerApi {
    async fn group_controller_get_capabilities(
        &self,
        _: Request<csi::GroupControllerGetCapabilitiesRequest>,
    ) -> Answer<csi::GroupControllerGetCapabilitiesResponse> {
        use csi::group_controller_service_capability::{Rpc, Type, rpc};
        let call = rpc::Type::CreateDeleteGetVolumeGroupSnapshot;
        let capability = csi::GroupControllerServiceCapability {
            r#type: Some(Type::Rpc(Rpc {
                r#type: call.into(),
            })),
        };
        answer(csi::GroupControllerGetCapabilitiesResponse {
            capabilities: vec![capability],
        })
    }

    async fn create_volume_group_snapshot(
        &self,
        r: Request<csi::CreateVolumeGroupSnapshotRequest>,
    ) -> Answer<csi::CreateVolumeGroupSnapshotResponse> {
        let group_snapshot = Some(self.take_group(seen(r)).await?);
        answer(csi::CreateVolumeGroupSnapshotResponse { group_snapshot })
    }

    async fn delete_volume_group_snapshot(
        &self,
        r: Request<csi::DeleteVolumeGroupSnapshotRequest>,
    ) -> Answer<csi::DeleteVolumeGroupSnapshotResponse> {
        let r = seen(r);
        self.drop_group(&r.group_snapshot_id, &r.snapshot_ids)
            .await?;
        answer(csi::DeleteVolumeGroupSnapshotResponse {})
    }

    async fn get_volume_group_snapshot(
        &self,
        r: Request<csi::GetVolumeGroupSnapshotRequest>,
    ) -> Answer<csi::GetVolumeGroupSnapshotResponse> {
        let r = seen(r);
        let group = self
            .known_group(&r.group_snapshot_id, &r.snapshot_ids)
            .await?;
        let group_snapshot = Some(self.shown_group(&group).await?);
        answer(csi::GetVolumeGroupSnapshotResponse { group_snapshot })
    }
}
