//! This host's agent, as the node plugin asks it over its unix socket.
//!
//! Called by `node` alone. It works while the control plane is away: what is asked here is recorded
//! in the pool itself. The connection is made when it is first needed and again when it was lost.

use std::path::Path;
use std::time::Duration;

use agent::node_agent_client::NodeAgentClient;
use anyhow::Context;
use goldleaf_proto::agent::v1 as agent;
use goldleaf_proto::v1 as api;
use goldleaf_rpc::call::Stamp;
use goldleaf_types::VolumeId;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use crate::status::CsiError;

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// This host's agent.
#[derive(Clone, Debug)]
pub struct LocalAgent(NodeAgentClient<InterceptedService<Channel, Stamp>>);

type Answer<T> = Result<T, CsiError>;

impl LocalAgent {
    /// The one that serves on this socket, reached when it is first asked.
    ///
    /// # Errors
    ///
    /// When the path makes no address.
    pub fn at(socket: &Path) -> anyhow::Result<Self> {
        let address = format!("unix://{}", socket.display());
        let endpoint = Endpoint::from_shared(address).context("--agent-socket is no path")?;
        let channel = endpoint.connect_timeout(CONNECT).connect_lazy();
        Ok(Self(NodeAgentClient::with_interceptor(channel, Stamp)))
    }

    /// Which node this is.
    ///
    /// # Errors
    ///
    /// When the agent does not answer.
    pub async fn node(&self) -> Answer<agent::AgentNode> {
        let answer = self.0.clone().get_node(agent::GetNodeRequest {}).await?;
        Ok(answer.into_inner())
    }

    pub(super) async fn pools(&self) -> Answer<Vec<agent::AgentPool>> {
        let answer = self
            .0
            .clone()
            .list_pools(agent::ListPoolsRequest {})
            .await?;
        Ok(answer.into_inner().pools)
    }

    fn named(volume: VolumeId) -> agent::AgentThinRequest {
        agent::AgentThinRequest {
            owner: volume.to_string(),
            ..Default::default()
        }
    }

    /// A volume that this node has.
    pub(super) async fn find(&self, volume: VolumeId) -> Answer<Option<agent::AgentThin>> {
        match self.0.clone().get_thin(Self::named(volume)).await {
            Ok(thin) => Ok(Some(thin.into_inner())),
            Err(status) => match CsiError::from(status) {
                error if error.is_not_found() => Ok(None),
                error => Err(error),
            },
        }
    }

    /// A volume that this node must have.
    pub(super) async fn thin(&self, volume: VolumeId) -> Answer<agent::AgentThin> {
        let found = self.find(volume).await?;
        found.ok_or_else(|| CsiError::NotFound {
            what: "volume on this node",
            id: volume.to_string(),
        })
    }

    /// Makes the volume's device appear, for the orchestrator.
    pub(super) async fn activate(
        &self,
        volume: VolumeId,
        read_only: bool,
    ) -> Answer<agent::AgentThin> {
        let options = api::ActivateOptions {
            holder: api::Holder::Csi.into(),
            read_only,
        };
        let request = agent::AgentActivateRequest {
            volume: volume.to_string(),
            options: Some(options),
            epoch: 0,
        };
        Ok(self.0.clone().activate(request).await?.into_inner())
    }

    /// Takes the volume's device away.
    pub(super) async fn deactivate(&self, volume: VolumeId) -> Answer<()> {
        self.0.clone().deactivate(Self::named(volume)).await?;
        Ok(())
    }
}
