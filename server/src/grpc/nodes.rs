//! Nodes on the wire.

use goldleaf_proto::v1 as api;
use goldleaf_proto::v1::node_service_server::NodeService;
use tonic::{Request, Response};

use super::convert::{self, field, optional};
use super::{Answer, Api, EventStream, answers};
use crate::domain::NodeAsked;
use crate::service::{Event, NodeView};

fn node_event(event: Event<NodeView>) -> api::NodeEvent {
    let gone = |id| api::Node {
        id,
        ..Default::default()
    };
    let (kind, node, resume_token) = answers::event(event, answers::node, gone);
    api::NodeEvent {
        kind,
        node,
        resume_token,
    }
}

#[tonic::async_trait]
impl NodeService for Api {
    async fn register(
        &self,
        r: Request<api::RegisterNodeRequest>,
    ) -> Answer<api::RegisterNodeResponse> {
        let asked = NodeAsked::try_from(r.into_inner())?;
        let incarnation = self
            .to_the_end(|service| async move { service.register(asked).await })
            .await?
            .to_string();
        Ok(Response::new(api::RegisterNodeResponse { incarnation }))
    }

    async fn get(&self, r: Request<api::GetRequest>) -> Answer<api::Node> {
        let what = field("target", &r.into_inner().target)?;
        let view = self.service.get_node(&what).await?;
        Ok(Response::new(answers::node(&view)))
    }

    async fn list(&self, r: Request<api::ListRequest>) -> Answer<api::ListNodesResponse> {
        let listed = self
            .service
            .list_nodes(&convert::listing(r.into_inner())?)
            .await?;
        Ok(Response::new(api::ListNodesResponse {
            nodes: listed.items.iter().map(answers::node).collect(),
            next_page_token: listed.next,
        }))
    }

    async fn preflight(&self, r: Request<api::PreflightRequest>) -> Answer<api::PreflightResponse> {
        let what = optional("node", &r.into_inner().node)?;
        let checks = self.service.preflight(what.as_ref()).await?;
        Ok(Response::new(answers::preflight(checks)))
    }

    type WatchStream = EventStream<api::NodeEvent>;

    async fn watch(&self, r: Request<api::WatchRequest>) -> Answer<Self::WatchStream> {
        let events = self.service.watch_nodes(convert::watch(r.into_inner())?);
        Ok(Response::new(self.stream(events, node_event)))
    }
}
