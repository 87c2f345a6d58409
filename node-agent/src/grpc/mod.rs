//! The agent's gRPC service: convert, call, answer.
//!
//! Called by the control plane over TCP on loopback and by local callers over the unix socket.
//! Holds no rule: those are in `ops`. Operations block, so each runs on a blocking thread; a caller
//! that goes away does not stop one that has its locks, and one that waits for them gives up; so does
//! one that takes long and changes nothing.

mod block_stream;
pub mod convert;
mod convert_doctor;
mod convert_pools;
mod convert_space;
pub mod status;

mod convert_life;
mod progress;
mod repair_stream;
mod thin_stream;

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use goldleaf_proto::INCARNATION_KEY;
use goldleaf_proto::agent::v1 as pb;
use goldleaf_proto::v1 as api;
use goldleaf_rpc::field::bad;
use goldleaf_types::{Bytes, Digest, Incarnation, Name, PoolId, ThinOwner};
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use self::convert::{Import, field, optional};
use crate::ops::{
    Agent, CreateGroup, CreatePool, CreateSnapshot, CreateThin, ExtendPool, ImportPool, Look,
    SetPolicy, Which,
};
use crate::preflight;

/// The service.
#[derive(Clone, Debug)]
pub struct AgentApi {
    agent: Arc<Agent>,
    started: jiff::Timestamp,
    stop: CancellationToken,
}

type Answer<T> = Result<Response<T>, Status>;
type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl AgentApi {
    /// The service over an agent; its streams end with `stop`.
    #[must_use]
    pub fn new(agent: Arc<Agent>, stop: CancellationToken) -> Self {
        Self {
            agent,
            started: jiff::Timestamp::now(),
            stop,
        }
    }

    /// Runs an operation where it may block.
    async fn blocking<T, E>(
        &self,
        operation: impl FnOnce(&Agent) -> Result<T, E> + Send + 'static,
    ) -> Result<T, Status>
    where
        T: Send + 'static,
        E: Into<Status> + Send + 'static,
    {
        let agent = Arc::clone(&self.agent);
        progress::blocking_for(move || operation(&agent)).await
    }
}

/// A request's store incarnation and its body.
fn caller<T>(request: Request<T>) -> Result<(Option<Incarnation>, T), Status> {
    Ok((
        convert::incarnation(request.metadata())?,
        request.into_inner(),
    ))
}

/// The store that calls, where one must.
fn said(store: Option<Incarnation>) -> Result<Incarnation, Status> {
    Ok(store.ok_or_else(|| bad(INCARNATION_KEY, "is unset: say which store calls"))?)
}

#[tonic::async_trait]
impl pb::node_agent_server::NodeAgent for AgentApi {
    async fn get_node(&self, _: Request<pb::GetNodeRequest>) -> Answer<pb::AgentNode> {
        let host = &self.agent.host;
        Ok(Response::new(pb::AgentNode {
            id: host.node.to_string(),
            name: host.name.to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            kernel_release: host.kernel_release.clone(),
            thin_pool_target: preflight::thin_pool_target().unwrap_or_default(),
            started: Some(convert::started(self.started)),
        }))
    }

    async fn preflight(
        &self,
        _: Request<pb::AgentPreflightRequest>,
    ) -> Answer<api::PreflightResponse> {
        let checks = tokio::task::spawn_blocking(preflight::checks)
            .await
            .map_err(|e| status::panicked(&e))?;
        Ok(Response::new(preflight::response(&checks)))
    }

    async fn examine(
        &self,
        _: Request<pb::AgentExamineRequest>,
    ) -> Answer<pb::AgentExamineResponse> {
        let found = self.blocking(|a| Ok::<_, Status>(a.examine())).await?;
        Ok(Response::new(convert_doctor::findings(&found)))
    }

    async fn mend(&self, r: Request<pb::AgentMendRequest>) -> Answer<pb::AgentMendResponse> {
        let (store, body) = caller(r)?;
        let mend = move |a: &Agent| Ok::<_, Status>(a.mend(store, &body.findings, body.apply));
        let results = self.blocking(mend).await?;
        Ok(Response::new(convert_doctor::results(results)))
    }

    async fn create_pool(&self, r: Request<pb::AgentCreatePoolRequest>) -> Answer<pb::AgentPool> {
        let (store, body) = caller(r)?;
        let wanted = CreatePool::try_from(body)?;
        let view = self.blocking(move |a| a.create_pool(store, wanted)).await?;
        Ok(Response::new(convert::pool(&view)))
    }

    async fn import_pool(&self, r: Request<pb::AgentImportPoolRequest>) -> Answer<pb::AgentPool> {
        let body = r.into_inner();
        let wanted = ImportPool {
            force_from: optional("force_from_host", &body.force_from_host)?,
            devices: body.devices.into_iter().map(Into::into).collect(),
        };
        let view = self.blocking(move |a| a.import_pool(&wanted)).await?;
        Ok(Response::new(convert::pool(&view)))
    }

    async fn adopt_pool(&self, r: Request<pb::AgentAdoptPoolRequest>) -> Answer<pb::AgentPool> {
        let (store, body) = caller(r)?;
        let store = said(store)?;
        let id: PoolId = field("pool", &body.pool)?;
        let former = optional("former", &body.former)?;
        let view = self
            .blocking(move |a| a.adopt_pool(store, id, former))
            .await?;
        Ok(Response::new(convert::pool(&view)))
    }

    async fn keep_records(
        &self,
        r: Request<pb::AgentKeepRecordsRequest>,
    ) -> Answer<pb::AgentKeepRecordsResponse> {
        let (store, body) = caller(r)?;
        let store = said(store)?;
        let former = optional("former", &body.former)?;
        self.blocking(move |a| a.keep_records(store, former, body.records))
            .await?;
        Ok(Response::new(pb::AgentKeepRecordsResponse {}))
    }

    async fn recall_records(
        &self,
        _: Request<pb::AgentRecallRecordsRequest>,
    ) -> Answer<pb::AgentKeptRecords> {
        let kept = self.blocking(Agent::kept_records).await?;
        let kept = kept.map(|kept| pb::AgentKeptRecords {
            store: kept.store.to_string(),
            records: kept.records,
        });
        Ok(Response::new(kept.unwrap_or_default()))
    }

    async fn open_pool(&self, r: Request<pb::AgentPoolRequest>) -> Answer<pb::AgentPool> {
        let (store, body) = caller(r)?;
        let id: PoolId = field("pool", &body.pool)?;
        let open = move |a: &Agent| match body.rescue {
            true => a.open_for_rescue(id, store),
            false => a.open_pool(id, store),
        };
        let view = self.blocking(open).await?;
        Ok(Response::new(convert::pool(&view)))
    }

    async fn close_pool(&self, r: Request<pb::AgentPoolRequest>) -> Answer<pb::AgentPool> {
        let (store, body) = caller(r)?;
        let id: PoolId = field("pool", &body.pool)?;
        let view = self.blocking(move |a| a.close_pool(id, store)).await?;
        Ok(Response::new(convert::pool(&view)))
    }

    async fn extend_pool(&self, r: Request<pb::AgentExtendPoolRequest>) -> Answer<pb::AgentPool> {
        let (store, body) = caller(r)?;
        let wanted = ExtendPool::try_from(body)?;
        let view = self
            .blocking(move |a| a.extend_pool(store, &wanted))
            .await?;
        Ok(Response::new(convert::pool(&view)))
    }

    async fn set_pool_policy(
        &self,
        r: Request<pb::AgentSetPoolPolicyRequest>,
    ) -> Answer<pb::AgentPool> {
        let (store, body) = caller(r)?;
        let wanted = SetPolicy::try_from(body)?;
        let view = self.blocking(move |a| a.set_policy(store, wanted)).await?;
        Ok(Response::new(convert::pool(&view)))
    }

    async fn rename_pool(&self, r: Request<pb::AgentRenamePoolRequest>) -> Answer<pb::AgentPool> {
        let (store, body) = caller(r)?;
        let id: PoolId = field("pool", &body.pool)?;
        let name: Name = field("name", &body.name)?;
        let view = self
            .blocking(move |a| a.rename_pool(id, store, &name))
            .await?;
        Ok(Response::new(convert::pool(&view)))
    }

    async fn delete_pool(
        &self,
        r: Request<pb::AgentPoolRequest>,
    ) -> Answer<pb::AgentDeleteResponse> {
        let (store, body) = caller(r)?;
        let id: PoolId = field("pool", &body.pool)?;
        let which = match body.force {
            false => Which::Empty,
            true => Which::WithAllInIt,
        };
        self.blocking(move |a| a.delete_pool(id, store, which))
            .await?;
        Ok(Response::new(pb::AgentDeleteResponse {}))
    }

    type RepairPoolStream = Events<pb::AgentRepairPoolEvent>;

    async fn repair_pool(
        &self,
        r: Request<pb::AgentRepairPoolRequest>,
    ) -> Answer<Self::RepairPoolStream> {
        let (store, body) = caller(r)?;
        let wanted = repair_stream::wanted(&body)?;
        let agent = Arc::clone(&self.agent);
        let events = repair_stream::begin(agent, store, wanted, self.stop.clone());
        Ok(Response::new(events))
    }

    async fn list_pools(
        &self,
        _: Request<pb::ListPoolsRequest>,
    ) -> Answer<pb::ListAgentPoolsResponse> {
        Ok(Response::new(pools(&self.agent, Look::Everywhere).await?))
    }

    type WatchPoolsStream = Events<pb::ListAgentPoolsResponse>;

    async fn watch_pools(
        &self,
        _: Request<pb::WatchPoolsRequest>,
    ) -> Answer<Self::WatchPoolsStream> {
        let agent = Arc::clone(&self.agent);
        let stream = WatchStream::new(agent.changes()).then(move |_| {
            let agent = Arc::clone(&agent);
            async move { pools(&agent, Look::AtNew).await }
        });
        Ok(Response::new(Box::pin(
            stream.take_until(self.stop.clone().cancelled_owned()),
        )))
    }

    type ImportImageStream = Events<pb::ImportImageEvent>;

    async fn import_image(
        &self,
        r: Request<pb::AgentImportImageRequest>,
    ) -> Answer<Self::ImportImageStream> {
        let (store, body) = caller(r)?;
        let wanted = Import::try_from(body)?;
        let agent = Arc::clone(&self.agent);
        let stream = progress::follow(
            |progress| pb::ImportImageEvent {
                progress: Some(progress),
                image: None,
            },
            move |meter| async move {
                let record = match wanted {
                    Import::Source(wanted) => agent.images.import_metered(wanted, &meter).await?,
                    Import::Thin(owner, expect) => {
                        let read = move || agent.import_thin(store, owner, expect, &meter);
                        progress::blocking(read).await?
                    }
                };
                Ok(pb::ImportImageEvent {
                    progress: None,
                    image: Some(convert::image(&record)),
                })
            },
        );
        Ok(Response::new(stream))
    }

    type ExportThinStream = Events<pb::AgentExportThinEvent>;

    async fn export_thin(
        &self,
        r: Request<pb::AgentExportThinRequest>,
    ) -> Answer<Self::ExportThinStream> {
        let (store, body) = caller(r)?;
        let over = optional("image_digest", &body.image_digest)?;
        let (owner, target) = convert::export(body)?;
        let agent = Arc::clone(&self.agent);
        let stream = progress::follow(
            |progress| pb::AgentExportThinEvent {
                progress: Some(progress),
                file: None,
            },
            move |meter| async move {
                let write = move || agent.export_thin(store, (owner, over), &target, &meter);
                let exported = progress::blocking(write).await?;
                Ok(pb::AgentExportThinEvent {
                    progress: None,
                    file: Some(convert::exported(&exported)),
                })
            },
        );
        Ok(Response::new(stream))
    }

    async fn list_images(
        &self,
        _: Request<pb::ListAgentImagesRequest>,
    ) -> Answer<pb::ListAgentImagesResponse> {
        let images = self
            .agent
            .images
            .list()
            .iter()
            .map(convert::image)
            .collect();
        Ok(Response::new(pb::ListAgentImagesResponse { images }))
    }

    async fn verify_image(&self, r: Request<pb::AgentImageRequest>) -> Answer<pb::AgentImage> {
        let digest: Digest = field("digest", &r.into_inner().digest)?;
        let record = self
            .blocking(move |a| a.images.verify(&digest, |_| {}))
            .await?;
        Ok(Response::new(convert::image(&record)))
    }

    async fn delete_image(
        &self,
        r: Request<pb::AgentImageRequest>,
    ) -> Answer<pb::AgentDeleteResponse> {
        let (store, body) = caller(r)?;
        let digest: Digest = field("digest", &body.digest)?;
        self.blocking(move |a| a.delete_image(store, digest))
            .await?;
        Ok(Response::new(pb::AgentDeleteResponse {}))
    }

    async fn create_thin(&self, r: Request<pb::AgentCreateThinRequest>) -> Answer<pb::AgentThin> {
        let (store, body) = caller(r)?;
        let wanted = CreateThin::try_from(body)?;
        let view = self.blocking(move |a| a.create_thin(store, wanted)).await?;
        Ok(Response::new(convert::thin(&view)))
    }

    async fn create_snapshot(
        &self,
        r: Request<pb::AgentCreateSnapshotRequest>,
    ) -> Answer<pb::AgentThin> {
        let (store, body) = caller(r)?;
        let wanted = CreateSnapshot::try_from(body)?;
        let view = self
            .blocking(move |a| a.create_snapshot(store, wanted))
            .await?;
        Ok(Response::new(convert::thin(&view)))
    }

    async fn create_group_snapshot(
        &self,
        r: Request<pb::AgentCreateGroupSnapshotRequest>,
    ) -> Answer<pb::AgentThinGroup> {
        let (store, body) = caller(r)?;
        let wanted = CreateGroup::try_from(body)?;
        let views = self
            .blocking(move |a| a.create_group(store, wanted))
            .await?;
        let thins = views.iter().map(convert::thin).collect();
        Ok(Response::new(pb::AgentThinGroup { thins }))
    }

    async fn mark_thin(&self, r: Request<pb::AgentMarkThinRequest>) -> Answer<pb::AgentThin> {
        let (store, body) = caller(r)?;
        let (owner, marks) = convert_life::marks(&body)?;
        let view = self
            .blocking(move |a| a.mark_thin(store, owner, marks, body.epoch))
            .await?;
        Ok(Response::new(convert::thin(&view)))
    }

    async fn resize(&self, r: Request<pb::AgentResizeRequest>) -> Answer<pb::AgentThin> {
        let (store, body) = caller(r)?;
        let (volume, size, epoch) = convert::resize(&body)?;
        let view = self
            .blocking(move |a| a.resize(store, volume.into(), size, epoch))
            .await?;
        Ok(Response::new(convert::thin(&view)))
    }

    async fn decouple(&self, r: Request<pb::AgentDecoupleRequest>) -> Answer<pb::AgentThin> {
        let (store, body) = caller(r)?;
        let owner = ThinOwner::Volume(field("volume", &body.volume)?);
        let rate = Bytes(body.rate_bytes_per_second);
        let view = self
            .blocking(move |a| a.decouple(store, owner, body.epoch, rate))
            .await?;
        let progress = self.agent.progress(owner);
        Ok(Response::new(convert_life::thin_at_work(&view, progress)))
    }

    async fn activate(&self, r: Request<pb::AgentActivateRequest>) -> Answer<pb::AgentThin> {
        let (store, body) = caller(r)?;
        let owner = ThinOwner::Volume(field("volume", &body.volume)?);
        let how = convert::activation(body.options)?;
        let view = self
            .blocking(move |a| {
                a.admit_if_said(store, owner)?;
                a.activate(owner, how, body.epoch)
            })
            .await?;
        Ok(Response::new(convert::thin(&view)))
    }

    async fn deactivate(&self, r: Request<pb::AgentThinRequest>) -> Answer<pb::AgentThin> {
        let (store, body) = caller(r)?;
        let owner: ThinOwner = field("owner", &body.owner)?;
        let view = self
            .blocking(move |a| {
                a.admit_if_said(store, owner)?;
                a.deactivate(owner, body.epoch)
            })
            .await?;
        Ok(Response::new(convert::thin(&view)))
    }

    async fn delete_thin(
        &self,
        r: Request<pb::AgentThinRequest>,
    ) -> Answer<pb::AgentDeleteResponse> {
        let (store, body) = caller(r)?;
        let owner: ThinOwner = field("owner", &body.owner)?;
        let pool: Option<PoolId> = optional("pool", &body.pool)?;
        self.blocking(move |a| a.delete_thin(store, owner, pool, body.epoch))
            .await?;
        Ok(Response::new(pb::AgentDeleteResponse {}))
    }

    async fn get_thin(&self, r: Request<pb::AgentThinRequest>) -> Answer<pb::AgentThin> {
        let body = r.into_inner();
        let owner: ThinOwner = field("owner", &body.owner)?;
        if body.usage {
            let (view, usage) = self.blocking(move |a| a.thin_with_usage(owner)).await?;
            return Ok(Response::new(convert_life::thin_with_usage(&view, usage)));
        }
        let view = self.blocking(move |a| a.thin(owner)).await?;
        let progress = self.agent.progress(owner);
        Ok(Response::new(convert_life::thin_at_work(&view, progress)))
    }

    type WatchThinsStream = Events<pb::WatchThinsEvent>;

    async fn watch_thins(
        &self,
        _: Request<pb::WatchThinsRequest>,
    ) -> Answer<Self::WatchThinsStream> {
        let events = thin_stream::watch(Arc::clone(&self.agent), self.stop.clone());
        Ok(Response::new(Box::pin(ReceiverStream::new(events))))
    }

    type ListBlocksStream = Events<api::BlockRanges>;

    async fn list_blocks(
        &self,
        r: Request<pb::AgentListBlocksRequest>,
    ) -> Answer<Self::ListBlocksStream> {
        let (wanted, most) = block_stream::wanted(&r.into_inner())?;
        let (agent, stop) = (Arc::clone(&self.agent), self.stop.clone());
        let parts = block_stream::begin(agent, wanted, most, stop).await?;
        Ok(Response::new(Box::pin(ReceiverStream::new(parts))))
    }

    async fn list_thins(&self, r: Request<pb::ListThinsRequest>) -> Answer<pb::ListThinsResponse> {
        let body = r.into_inner();
        let pool: Option<PoolId> = optional("pool", &body.pool)?;
        let after: Option<ThinOwner> = optional("after", &body.after)?;
        let limit = match body.limit {
            0 => 1000,
            limit => usize::try_from(limit.min(1000)).unwrap_or(1000),
        };
        let (views, more) = self.blocking(move |a| a.thins(pool, after, limit)).await?;
        let thins = views.iter().map(convert::thin).collect();
        Ok(Response::new(pb::ListThinsResponse { thins, more }))
    }
}

async fn pools(agent: &Arc<Agent>, look: Look) -> Result<pb::ListAgentPoolsResponse, Status> {
    let agent = Arc::clone(agent);
    let views = tokio::task::spawn_blocking(move || agent.pools(look))
        .await
        .map_err(|e| status::panicked(&e))?;
    Ok(pb::ListAgentPoolsResponse {
        pools: views.iter().map(convert::pool).collect(),
    })
}
