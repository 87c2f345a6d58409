//! The Node service: volumes as seen from the one node where this process runs.
//!
//! Called by kubelet. Devices are made by this host's agent over its unix socket, so it all works
//! while the control plane is away; mounts are made here. Nothing is kept: what is there is read
//! from the kernel each time. One call a volume is at work at a time.

pub mod agent;
mod device;
mod filesystem;
mod mounts;
mod publish;
mod stage;
mod usage;
mod work;

use std::path::{Path, PathBuf};

use csi::node_server::Node;
use csi::node_service_capability::rpc::Type as Call;
use csi_proto::v1 as csi;
use tonic::{Request, Response, Status};

use self::agent::LocalAgent;
use self::device::Seen;
use self::publish::Publish;
use self::stage::Stage;
use self::work::Work;
use crate::convert::capability::usage as ways;
use crate::convert::capacity::Range;
use crate::convert::{answers, names, topology};
use crate::scrub::seen;
use crate::status::CsiError;

/// What is served, and announced.
const CALLS: &[Call] = &[
    Call::StageUnstageVolume,
    Call::GetVolumeStats,
    Call::ExpandVolume,
    Call::SingleNodeMultiWriter,
    Call::GetVolumeHealth,
    Call::GetStorageHealth,
];

/// The Node service of this host.
#[derive(Clone, Debug)]
pub struct NodeApi {
    agent: LocalAgent,
    max_volumes: i64,
    work: Work,
}

type Answer<T> = Result<Response<T>, Status>;

fn answer<T>(answer: T) -> Answer<T> {
    Ok(Response::new(answer))
}

/// Work that blocks, off the threads that serve.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CsiError> + Send + 'static,
) -> Result<T, CsiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| {
        tracing::error!(%error, "a call panicked");
        Err(CsiError::Panicked)
    })
}

/// A path of a request that must be whole.
fn absolute(field: &'static str, path: &str) -> Result<PathBuf, CsiError> {
    let problem = if path.is_empty() {
        "is missing"
    } else if !path.starts_with('/') || path.contains('\0') {
        "is no absolute path"
    } else {
        return Ok(path.into());
    };
    Err(CsiError::field(field, problem))
}

/// A path of a request that is only looked at.
fn given(field: &'static str, path: &str) -> Result<PathBuf, CsiError> {
    if path.is_empty() {
        return Err(CsiError::field(field, "is missing"));
    }
    Ok(path.into())
}

impl NodeApi {
    /// Over this host's agent. At most `max_volumes` are published at once; 0 is no bound.
    #[must_use]
    pub fn new(agent: LocalAgent, max_volumes: i64) -> Self {
        let work = Work::default();
        Self {
            agent,
            max_volumes,
            work,
        }
    }

    async fn stage(&self, r: csi::NodeStageVolumeRequest) -> Result<(), CsiError> {
        let volume = names::volume("volume_id", &r.volume_id);
        missing(&volume)?;
        let staging = absolute("staging_target_path", &r.staging_target_path)?;
        let usage = ways("volume_capability", r.volume_capability.as_ref());
        let usage = usage.map_err(CsiError::exceeds)?;
        let volume = volume?;
        let stage = Stage {
            volume,
            staging,
            usage,
        };
        self.work
            .alone(volume, stage.done(self.agent.clone()))
            .await
    }

    async fn unstage(&self, r: csi::NodeUnstageVolumeRequest) -> Result<(), CsiError> {
        let volume = names::volume("volume_id", &r.volume_id);
        missing(&volume)?;
        let staging = absolute("staging_target_path", &r.staging_target_path)?;
        let volume = volume?;
        let undone = stage::undone(volume, staging, self.agent.clone());
        self.work.alone(volume, undone).await
    }

    async fn publish(&self, r: csi::NodePublishVolumeRequest) -> Result<(), CsiError> {
        let volume = names::volume("volume_id", &r.volume_id);
        missing(&volume)?;
        let target = absolute("target_path", &r.target_path)?;
        let usage = ways("volume_capability", r.volume_capability.as_ref());
        let usage = usage.map_err(CsiError::exceeds)?;
        if r.staging_target_path.is_empty() {
            return Err(CsiError::Unfit(
                "staging_target_path: is missing, and a volume must be staged first".into(),
            ));
        }
        let staging = absolute("staging_target_path", &r.staging_target_path)?;
        let volume = volume?;
        if blocking(move || Ok(device::find(volume))).await?.is_none() {
            self.agent.thin(volume).await?; // NOT_FOUND when the node does not have it at all
        }
        let publish = Publish {
            volume,
            staging,
            target,
            usage,
            read_only: r.readonly,
        };
        self.work.alone(volume, blocking(|| publish.done())).await
    }

    async fn unpublish(&self, r: csi::NodeUnpublishVolumeRequest) -> Result<(), CsiError> {
        let volume = names::volume("volume_id", &r.volume_id);
        missing(&volume)?;
        let target = absolute("target_path", &r.target_path)?;
        let volume = volume?;
        let undone = blocking(move || publish::undone(volume, &target));
        self.work.alone(volume, undone).await
    }

    async fn stats(
        &self,
        r: csi::NodeGetVolumeStatsRequest,
    ) -> Result<Vec<csi::VolumeUsage>, CsiError> {
        let volume = names::volume("volume_id", &r.volume_id);
        missing(&volume)?;
        let path = given("volume_path", &r.volume_path)?;
        let volume = volume?;
        let owned = self.agent.find(volume).await.ok().flatten();
        let owned = owned.and_then(|thin| thin.owned_bytes);
        blocking(move || usage::usage(volume, &path, owned)).await
    }

    async fn expand(&self, r: csi::NodeExpandVolumeRequest) -> Result<i64, CsiError> {
        let volume = names::volume("volume_id", &r.volume_id);
        missing(&volume)?;
        let path = given("volume_path", &r.volume_path)?;
        let range = Range::read(r.capacity_range.as_ref())?;
        if let Some(capability) = &r.volume_capability {
            ways("volume_capability", Some(capability))?;
        }
        let volume = volume?;
        let work = async move {
            let at = path.clone();
            let seen = blocking(move || device::at(volume, &at)).await?;
            let device = match &seen {
                Seen::Block(device) | Seen::Mount(device, _) => device,
            };
            if !range.admits(device.size) {
                return Err(CsiError::OutOfRange(format!(
                    "the device has {} bytes: grow the volume first (ControllerExpandVolume)",
                    device.size
                )));
            }
            let size = answers::size(device.size);
            if let Seen::Mount(device, mount) = seen {
                let look = move || Ok((staged(&device, &mount)?, device));
                let (mount, device) = blocking(look).await?;
                filesystem::grow(&device, &mount).await?;
            }
            Ok(size)
        };
        self.work.alone(volume, work).await
    }

    async fn health(&self, id: &str, path: &Path) -> Result<csi::VolumeHealth, CsiError> {
        let volume = names::volume("volume_id", id)?;
        let thin = self.agent.thin(volume).await?;
        let mut health = answers::health(id, &thin.conditions);
        let at = path.to_owned();
        let look = move || Ok(!at.as_os_str().is_empty() && device::at(volume, &at).is_err());
        if blocking(look).await? {
            health
                .health_statuses
                .push(csi::volume_health::VolumeHealthEntry {
                    status: csi::VolumeHealthErrorType::Inaccessible.into(),
                    reason: "NotAtPath".into(),
                    message: format!("the volume is not seen at {}", path.display()),
                });
        }
        Ok(health)
    }
}

/// A missing id is said before any other field is looked at, an unknown one after all of them.
fn missing<T>(id: &Result<T, CsiError>) -> Result<(), CsiError> {
    match id {
        Err(CsiError::BadField { field, problem }) => Err(CsiError::field(field, problem.clone())),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A mount of the device that can be written, if any: only through that one can it grow.
fn staged(device: &device::Device, mount: &mounts::Mount) -> Result<mounts::Mount, CsiError> {
    let all = mounts::all()?.into_iter();
    let mut writable = all.filter(|m| m.number == device.number && !m.read_only());
    Ok(writable.next().unwrap_or_else(|| mount.clone()))
}

#[tonic::async_trait]
impl Node for NodeApi {
    async fn node_stage_volume(
        &self,
        r: Request<csi::NodeStageVolumeRequest>,
    ) -> Answer<csi::NodeStageVolumeResponse> {
        self.stage(seen(r)).await?;
        answer(csi::NodeStageVolumeResponse {})
    }

    async fn node_unstage_volume(
        &self,
        r: Request<csi::NodeUnstageVolumeRequest>,
    ) -> Answer<csi::NodeUnstageVolumeResponse> {
        self.unstage(seen(r)).await?;
        answer(csi::NodeUnstageVolumeResponse {})
    }

    async fn node_publish_volume(
        &self,
        r: Request<csi::NodePublishVolumeRequest>,
    ) -> Answer<csi::NodePublishVolumeResponse> {
        self.publish(seen(r)).await?;
        answer(csi::NodePublishVolumeResponse {})
    }

    async fn node_unpublish_volume(
        &self,
        r: Request<csi::NodeUnpublishVolumeRequest>,
    ) -> Answer<csi::NodeUnpublishVolumeResponse> {
        self.unpublish(seen(r)).await?;
        answer(csi::NodeUnpublishVolumeResponse {})
    }

    async fn node_get_volume_stats(
        &self,
        r: Request<csi::NodeGetVolumeStatsRequest>,
    ) -> Answer<csi::NodeGetVolumeStatsResponse> {
        let usage = self.stats(seen(r)).await?;
        answer(csi::NodeGetVolumeStatsResponse { usage })
    }

    async fn node_get_volume_health(
        &self,
        r: Request<csi::NodeGetVolumeHealthRequest>,
    ) -> Answer<csi::NodeGetVolumeHealthResponse> {
        let r = seen(r);
        let path = Path::new(&r.volume_publish_path);
        let volume_health = Some(self.health(&r.volume_id, path).await?);
        answer(csi::NodeGetVolumeHealthResponse { volume_health })
    }

    async fn node_get_storage_health(
        &self,
        r: Request<csi::NodeGetStorageHealthRequest>,
    ) -> Answer<csi::NodeGetStorageHealthResponse> {
        let _ = seen(r);
        let backend_health = usage::storage_health(&self.agent.pools().await);
        answer(csi::NodeGetStorageHealthResponse { backend_health })
    }

    async fn node_expand_volume(
        &self,
        r: Request<csi::NodeExpandVolumeRequest>,
    ) -> Answer<csi::NodeExpandVolumeResponse> {
        let capacity_bytes = self.expand(seen(r)).await?;
        answer(csi::NodeExpandVolumeResponse { capacity_bytes })
    }

    async fn node_get_capabilities(
        &self,
        _: Request<csi::NodeGetCapabilitiesRequest>,
    ) -> Answer<csi::NodeGetCapabilitiesResponse> {
        use csi::node_service_capability::{Rpc, Type};
        let capability = |call: &Call| csi::NodeServiceCapability {
            r#type: Some(Type::Rpc(Rpc {
                r#type: (*call).into(),
            })),
        };
        let capabilities = CALLS.iter().map(capability).collect();
        answer(csi::NodeGetCapabilitiesResponse { capabilities })
    }

    async fn node_get_info(
        &self,
        _: Request<csi::NodeGetInfoRequest>,
    ) -> Answer<csi::NodeGetInfoResponse> {
        let node = self.agent.node().await?;
        answer(csi::NodeGetInfoResponse {
            accessible_topology: Some(topology::place(&node.id)),
            node_id: node.id,
            max_volumes_per_node: self.max_volumes,
        })
    }
}
