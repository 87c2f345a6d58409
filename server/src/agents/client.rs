//! The agents over gRPC: one channel a node, dialled when it is first used.
//!
//! Made by `app`. Every call carries our store's incarnation, for an agent refuses changes from
//! another store, and the id of the request it serves. A call has a deadline, unless it streams or
//! reads a whole image: there the connection's own pings tell a dead agent from a slow one. What
//! an agent does not answer may have happened; that is said as [`AgentError::Away`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use goldleaf_proto::INCARNATION_KEY;
use goldleaf_proto::agent::v1 as pb;
use goldleaf_proto::agent::v1::node_agent_client::NodeAgentClient;
use goldleaf_proto::v1 as api;
use goldleaf_rpc::call;
use goldleaf_types::{
    Bytes, Digest, Incarnation, Name, NodeId, PoolId, ThinOwner, VolumeId, VolumeSize,
};
use jiff::Timestamp;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::{
    AgentError, AgentPort, Agents, BlockParts, Export, Import, PoolReports, Repair, ThinReports,
    convert, convert_doctor, exports, imported, imports, refusal, repairs, thin_news,
};
use crate::domain::{
    ActivateOptions, Begin, BlockOrder, CatalogueRow, Check, ExportOrder, Finding, GroupSnapshot,
    ImageAsked, ImageReport, ImportedPool, KeptText, Mended, MoreRoom, Node, PolicyChange, Pool,
    PoolReport, ThinOrder, ThinReport,
};

/// A thousand thins with the largest labels and parameters.
const LARGEST_ANSWER: usize = 64 << 20;

/// Thins asked for at a time: the most that an agent answers.
const PAGE: u32 = 1000;

/// How long an answer may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// To connect.
    pub connect: Duration,
    /// Calls about thins, lists and images at rest.
    pub thin: Duration,
    /// Calls that make, open, close or delete a pool.
    pub pool: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            thin: Duration::from_secs(60),
            pool: Duration::from_secs(600),
        }
    }
}

/// The way to every node's agent, over gRPC.
#[derive(Debug)]
pub struct GrpcAgents {
    incarnation: Incarnation,
    timeouts: Timeouts,
    /// The channel of each node, and the address it goes to.
    channels: Mutex<HashMap<NodeId, (String, Channel)>>,
}

impl GrpcAgents {
    /// Agents that are told that the store `incarnation` calls.
    #[must_use]
    pub fn new(incarnation: Incarnation, timeouts: Timeouts) -> Self {
        Self {
            incarnation,
            timeouts,
            channels: Mutex::default(),
        }
    }

    /// The node's channel; another one when its address changed.
    fn channel(&self, node: &Node) -> Result<Channel, tonic::transport::Error> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((address, channel)) = channels.get(&node.id)
            && *address == node.address
        {
            return Ok(channel.clone());
        }
        let channel = Endpoint::from_shared(node.address.clone())?
            .connect_timeout(self.timeouts.connect)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true)
            .connect_lazy();
        channels.insert(node.id, (node.address.clone(), channel.clone()));
        Ok(channel)
    }
}

impl Agents for GrpcAgents {
    /// Called within a runtime, on which the connection will live.
    fn of(&self, node: &Node) -> Arc<dyn AgentPort> {
        let name = node.name.to_string();
        let client = self.channel(node).map_err(|error| AgentError::Away {
            node: name.clone(),
            why: format!("its address {:?} cannot be dialled: {error}", node.address),
        });
        Arc::new(GrpcAgent {
            node: name,
            client: client.map(|channel| {
                NodeAgentClient::new(channel).max_decoding_message_size(LARGEST_ANSWER)
            }),
            incarnation: self.incarnation,
            timeouts: self.timeouts,
        })
    }
}

/// One node's agent.
#[derive(Debug)]
struct GrpcAgent {
    node: String,
    client: Result<NodeAgentClient<Channel>, AgentError>,
    incarnation: Incarnation,
    timeouts: Timeouts,
}

impl GrpcAgent {
    fn client(&self) -> Result<NodeAgentClient<Channel>, AgentError> {
        self.client.clone()
    }

    /// A request with what every call carries.
    fn request<T>(&self, body: T) -> Request<T> {
        let mut request = Request::new(body);
        let incarnation = MetadataValue::try_from(self.incarnation.to_string())
            .expect("an incarnation is lawful metadata");
        request.metadata_mut().insert(INCARNATION_KEY, incarnation);
        if let Some(call) = call::current() {
            call.stamp(request.metadata_mut());
        }
        request
    }

    fn within<T>(&self, limit: Duration, body: T) -> Request<T> {
        let mut request = self.request(body);
        request.set_timeout(limit);
        request
    }

    fn thin_call<T>(&self, body: T) -> Request<T> {
        self.within(self.timeouts.thin, body)
    }

    fn pool_call(&self, pool: PoolId) -> Request<pb::AgentPoolRequest> {
        self.within(
            self.timeouts.pool,
            pb::AgentPoolRequest {
                pool: pool.to_string(),
                ..Default::default()
            },
        )
    }

    /// The body of an answer, or why there is none.
    fn answer<T>(&self, answer: Result<Response<T>, Status>) -> Result<T, AgentError> {
        answer
            .map(Response::into_inner)
            .map_err(|status| refusal::read(&self.node, &status))
    }
}

#[async_trait]
impl AgentPort for GrpcAgent {
    async fn preflight(&self) -> Result<Vec<Check>, AgentError> {
        let call = self.thin_call(pb::AgentPreflightRequest {});
        let answer = self.answer(self.client()?.preflight(call).await)?;
        Ok(convert::checks(answer))
    }

    async fn examine(&self) -> Result<Vec<Finding>, AgentError> {
        // Metadata is read, and an image that looks changed: as long as a pool's own calls.
        let call = self.within(self.timeouts.pool, pb::AgentExamineRequest {});
        let answer = self.answer(self.client()?.examine(call).await)?;
        convert_doctor::findings(&self.node, answer)
    }

    async fn mend(&self, keys: &[String], apply: bool) -> Result<Vec<Mended>, AgentError> {
        let findings = keys.to_vec();
        let request = pb::AgentMendRequest { findings, apply };
        let call = self.within(self.timeouts.pool, request);
        let answer = self.answer(self.client()?.mend(call).await)?;
        convert_doctor::mended(&self.node, answer)
    }

    async fn create_pool(&self, pool: &Pool) -> Result<PoolReport, AgentError> {
        let call = self.within(self.timeouts.pool, convert::create_pool(pool));
        let answer = self.answer(self.client()?.create_pool(call).await)?;
        convert::pool(&self.node, answer)
    }

    async fn import_pool(
        &self,
        devices: &[String],
        force_from: Option<NodeId>,
    ) -> Result<ImportedPool, AgentError> {
        let call = self.request(pb::AgentImportPoolRequest {
            devices: devices.to_vec(),
            force_from_host: force_from.map(|h| h.to_string()).unwrap_or_default(),
        });
        let answer = self.answer(self.client()?.import_pool(call).await)?;
        imported::pool(&self.node, answer)
    }

    async fn adopt_pool(
        &self,
        pool: PoolId,
        former: Option<Incarnation>,
    ) -> Result<PoolReport, AgentError> {
        let call = self.thin_call(pb::AgentAdoptPoolRequest {
            pool: pool.to_string(),
            former: former.map(|store| store.to_string()).unwrap_or_default(),
        });
        let answer = self.answer(self.client()?.adopt_pool(call).await)?;
        convert::pool(&self.node, answer)
    }

    async fn keep_records(
        &self,
        records: String,
        former: Option<Incarnation>,
    ) -> Result<(), AgentError> {
        let call = self.thin_call(imported::keep_records(records, former));
        self.answer(self.client()?.keep_records(call).await)?;
        Ok(())
    }

    async fn kept_records(&self) -> Result<Option<KeptText>, AgentError> {
        let call = self.thin_call(pb::AgentRecallRecordsRequest {});
        match self.answer(self.client()?.recall_records(call).await) {
            // An agent of before that keeps none.
            Err(AgentError::Refused { reason, .. }) if reason == "UNIMPLEMENTED" => Ok(None),
            answer => imported::kept_records(&self.node, answer?),
        }
    }

    async fn open_pools(&self) -> Result<Vec<ImportedPool>, AgentError> {
        let call = self.thin_call(pb::ListPoolsRequest {});
        let answer = self.answer(self.client()?.list_pools(call).await)?;
        let open = |pool: &pb::AgentPool| pool.phase() == api::Phase::Ready;
        let pools = answer.pools.into_iter().filter(open);
        pools.map(|pool| imported::pool(&self.node, pool)).collect()
    }

    async fn catalogue(&self, pool: PoolId) -> Result<Vec<CatalogueRow>, AgentError> {
        let thins = self.listed(&pool.to_string()).await?;
        thins
            .into_iter()
            .map(|thin| imported::row(&self.node, thin))
            .collect()
    }

    async fn open_pool(&self, pool: PoolId, rescue: bool) -> Result<PoolReport, AgentError> {
        let mut call = self.pool_call(pool);
        call.get_mut().rescue = rescue;
        let answer = self.answer(self.client()?.open_pool(call).await)?;
        convert::pool(&self.node, answer)
    }

    async fn close_pool(&self, pool: PoolId) -> Result<PoolReport, AgentError> {
        let call = self.pool_call(pool);
        let answer = self.answer(self.client()?.close_pool(call).await)?;
        convert::pool(&self.node, answer)
    }

    async fn extend_pool(&self, pool: PoolId, more: &MoreRoom) -> Result<PoolReport, AgentError> {
        let call = self.within(self.timeouts.pool, convert::extend_pool(pool, more));
        let answer = self.answer(self.client()?.extend_pool(call).await)?;
        convert::pool(&self.node, answer)
    }

    async fn set_policy(
        &self,
        pool: PoolId,
        change: &PolicyChange,
    ) -> Result<PoolReport, AgentError> {
        let call = self.within(self.timeouts.pool, convert::set_policy(pool, change));
        let answer = self.answer(self.client()?.set_pool_policy(call).await)?;
        convert::pool(&self.node, answer)
    }

    async fn rename_pool(&self, pool: PoolId, name: &Name) -> Result<PoolReport, AgentError> {
        let body = pb::AgentRenamePoolRequest {
            pool: pool.to_string(),
            name: name.to_string(),
        };
        let call = self.within(self.timeouts.pool, body);
        let answer = self.answer(self.client()?.rename_pool(call).await)?;
        convert::pool(&self.node, answer)
    }

    async fn repair_pool(
        &self,
        pool: PoolId,
        apply: bool,
        accept_loss: bool,
    ) -> Result<Repair, AgentError> {
        let pool = pool.to_string();
        let call = self.request(pb::AgentRepairPoolRequest {
            pool,
            apply,
            accept_loss,
        });
        let events = self.answer(self.client()?.repair_pool(call).await)?;
        Ok(repairs::stages(self.node.clone(), events))
    }

    async fn delete_pool(&self, pool: PoolId, force: bool) -> Result<(), AgentError> {
        let body = pb::AgentPoolRequest {
            pool: pool.to_string(),
            force,
            ..Default::default()
        };
        let call = self.within(self.timeouts.pool, body);
        self.answer(self.client()?.delete_pool(call).await)?;
        Ok(())
    }

    async fn pools(&self) -> Result<Vec<PoolReport>, AgentError> {
        let call = self.thin_call(pb::ListPoolsRequest {});
        let answer = self.answer(self.client()?.list_pools(call).await)?;
        convert::pools(&self.node, answer)
    }

    async fn watch_pools(&self) -> Result<PoolReports, AgentError> {
        let call = self.request(pb::WatchPoolsRequest {});
        let reports = self.answer(self.client()?.watch_pools(call).await)?;
        let node = self.node.clone();
        Ok(reports
            .map(move |message| match message {
                Ok(message) => convert::pools(&node, message),
                Err(status) => Err(refusal::read(&node, &status)),
            })
            .boxed())
    }

    async fn import_image(
        &self,
        asked: &ImageAsked,
        thin: Option<ThinOwner>,
    ) -> Result<Import, AgentError> {
        let call = self.request(convert::import_image(asked, thin));
        let events = self.answer(self.client()?.import_image(call).await)?;
        Ok(imports::steps(self.node.clone(), events))
    }

    async fn export_thin(
        &self,
        owner: ThinOwner,
        order: &ExportOrder,
    ) -> Result<Export, AgentError> {
        let call = self.request(exports::request(owner, order));
        let events = self.answer(self.client()?.export_thin(call).await)?;
        Ok(exports::steps(self.node.clone(), events))
    }

    async fn images(&self) -> Result<Vec<ImageReport>, AgentError> {
        let call = self.thin_call(pb::ListAgentImagesRequest {});
        let answer = self.answer(self.client()?.list_images(call).await)?;
        answer
            .images
            .into_iter()
            .map(|image| convert::image(&self.node, image))
            .collect()
    }

    async fn verify_image(&self, digest: Digest) -> Result<ImageReport, AgentError> {
        let call = self.request(pb::AgentImageRequest {
            digest: digest.to_string(),
        });
        let answer = self.answer(self.client()?.verify_image(call).await)?;
        convert::image(&self.node, answer)
    }

    async fn delete_image(&self, digest: Digest) -> Result<(), AgentError> {
        let call = self.thin_call(pb::AgentImageRequest {
            digest: digest.to_string(),
        });
        self.answer(self.client()?.delete_image(call).await)?;
        Ok(())
    }

    async fn create_thin(
        &self,
        order: &ThinOrder,
        activate: Option<ActivateOptions>,
    ) -> Result<ThinReport, AgentError> {
        let mut client = self.client()?;
        let answer = match order.begin {
            Begin::Blank => {
                let call = self.thin_call(convert::create_thin(order, None, activate));
                self.answer(client.create_thin(call).await)?
            }
            Begin::Image(digest) => {
                let call = self.thin_call(convert::create_thin(order, Some(digest), activate));
                self.answer(client.create_thin(call).await)?
            }
            Begin::Thin(source) => {
                let call = self.thin_call(convert::create_snapshot(order, source, activate));
                self.answer(client.create_snapshot(call).await)?
            }
        };
        convert::thin(&self.node, answer)
    }

    async fn create_group(&self, group: &GroupSnapshot) -> Result<Timestamp, AgentError> {
        let call = self.thin_call(convert::create_group(group));
        let answer = self.answer(self.client()?.create_group_snapshot(call).await)?;
        convert::instant(&self.node, answer)
    }

    async fn mark_thin(
        &self,
        owner: ThinOwner,
        marks: String,
        epoch: u64,
    ) -> Result<(), AgentError> {
        let call = self.thin_call(pb::AgentMarkThinRequest {
            owner: owner.to_string(),
            marks,
            epoch,
        });
        self.answer(self.client()?.mark_thin(call).await)?;
        Ok(())
    }

    async fn resize(
        &self,
        volume: VolumeId,
        size: VolumeSize,
        epoch: u64,
    ) -> Result<ThinReport, AgentError> {
        let call = self.thin_call(pb::AgentResizeRequest {
            volume: volume.to_string(),
            size_bytes: size.bytes().0,
            epoch,
        });
        let answer = self.answer(self.client()?.resize(call).await)?;
        convert::thin(&self.node, answer)
    }

    async fn decouple(
        &self,
        volume: VolumeId,
        rate: Bytes,
        epoch: u64,
    ) -> Result<ThinReport, AgentError> {
        let call = self.thin_call(pb::AgentDecoupleRequest {
            volume: volume.to_string(),
            epoch,
            rate_bytes_per_second: rate.0,
        });
        let answer = self.answer(self.client()?.decouple(call).await)?;
        convert::thin(&self.node, answer)
    }

    async fn activate(
        &self,
        volume: VolumeId,
        options: ActivateOptions,
        epoch: u64,
    ) -> Result<ThinReport, AgentError> {
        let call = self.thin_call(pb::AgentActivateRequest {
            volume: volume.to_string(),
            options: Some(convert::activate(options)),
            epoch,
        });
        let answer = self.answer(self.client()?.activate(call).await)?;
        convert::thin(&self.node, answer)
    }

    async fn deactivate(&self, volume: VolumeId, epoch: u64) -> Result<ThinReport, AgentError> {
        let owner = volume.to_string();
        let call = self.thin_call(pb::AgentThinRequest {
            owner,
            epoch,
            ..Default::default()
        });
        let answer = self.answer(self.client()?.deactivate(call).await)?;
        convert::thin(&self.node, answer)
    }

    async fn delete_thin(
        &self,
        pool: PoolId,
        owner: ThinOwner,
        epoch: u64,
    ) -> Result<(), AgentError> {
        let call = self.thin_call(pb::AgentThinRequest {
            owner: owner.to_string(),
            epoch,
            pool: pool.to_string(),
            ..Default::default()
        });
        self.answer(self.client()?.delete_thin(call).await)?;
        Ok(())
    }

    async fn thin(&self, owner: ThinOwner) -> Result<ThinReport, AgentError> {
        let call = self.thin_call(pb::AgentThinRequest {
            owner: owner.to_string(),
            ..Default::default()
        });
        let answer = self.answer(self.client()?.get_thin(call).await)?;
        convert::thin(&self.node, answer)
    }

    async fn watch_thins(&self) -> Result<ThinReports, AgentError> {
        let call = self.request(pb::WatchThinsRequest {});
        let events = self.answer(self.client()?.watch_thins(call).await)?;
        Ok(thin_news::news(self.node.clone(), events))
    }

    async fn thin_usage(&self, owner: ThinOwner) -> Result<ThinReport, AgentError> {
        // As long as what makes a pool: it walks one.
        let request = pb::AgentThinRequest {
            owner: owner.to_string(),
            usage: true,
            ..Default::default()
        };
        let call = self.within(self.timeouts.pool, request);
        let answer = self.answer(self.client()?.get_thin(call).await)?;
        convert::thin(&self.node, answer)
    }

    async fn blocks(&self, order: &BlockOrder) -> Result<BlockParts, AgentError> {
        // No deadline: it takes as long as its reader does.
        let call = self.request(pb::AgentListBlocksRequest {
            snapshot: order.snapshot.to_string(),
            base: order.base.map(|base| base.to_string()).unwrap_or_default(),
            starting_offset: order.from,
            max_results: order.most,
        });
        let parts = self.answer(self.client()?.list_blocks(call).await)?;
        let node = self.node.clone();
        let read = move |part| match part {
            Ok(part) => convert::block_part(&node, part),
            Err(status) => Err(refusal::read(&node, &status)),
        };
        Ok(parts.map(read).boxed())
    }

    async fn thins(&self) -> Result<Vec<ThinReport>, AgentError> {
        let thins = self.listed("").await?;
        thins
            .into_iter()
            .map(|thin| convert::thin(&self.node, thin))
            .collect()
    }
}

impl GrpcAgent {
    /// Every thin of a pool, or of all of them, page by page.
    async fn listed(&self, pool: &str) -> Result<Vec<pb::AgentThin>, AgentError> {
        let mut client = self.client()?;
        let mut thins: Vec<pb::AgentThin> = Vec::new();
        loop {
            let call = pb::ListThinsRequest {
                pool: pool.to_owned(),
                after: thins.last().map(|t| t.owner.clone()).unwrap_or_default(),
                limit: PAGE,
            };
            let answer = self.answer(client.list_thins(self.thin_call(call)).await)?;
            let empty = answer.thins.is_empty();
            thins.extend(answer.thins);
            if !answer.more || empty {
                return Ok(thins);
            }
        }
    }
}

#[cfg(test)]
mod tests;
