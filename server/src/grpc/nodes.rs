//! Nodes on the wire.

use goldleaf_proto::v1 as api;
use goldleaf_proto::v1::node_service_server::NodeService;
use tonic::{Request, Response};

use super::convert::{self, field, optional};
use super::{Answer, Api, EventStream, answers, answers_node};
use crate::domain::NodeAsked;
use crate::service::{Event, NodeView};

fn node_event(event: Event<NodeView>) -> api::NodeEvent {
    let gone = |id| api::Node {
        id,
        ..Default::default()
    };
    let (kind, node, resume_token) = answers::event(event, answers_node::node, gone);
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
        Ok(Response::new(answers_node::node(&view)))
    }

    async fn list(&self, r: Request<api::ListRequest>) -> Answer<api::ListNodesResponse> {
        let listed = self
            .service
            .list_nodes(&convert::listing(r.into_inner())?)
            .await?;
        Ok(Response::new(api::ListNodesResponse {
            nodes: listed.items.iter().map(answers_node::node).collect(),
            next_page_token: listed.next,
        }))
    }

    async fn preflight(&self, r: Request<api::PreflightRequest>) -> Answer<api::PreflightResponse> {
        let what = optional("node", &r.into_inner().node)?;
        let checks = self.service.preflight(what.as_ref()).await?;
        Ok(Response::new(answers_node::preflight(checks)))
    }

    async fn drain(&self, r: Request<api::DrainNodeRequest>) -> Answer<api::DrainNodeResponse> {
        let body = r.into_inner();
        let what = field("node", &body.node)?;
        let idle = body.deactivate_unused;
        let drained = self
            .to_the_end(|service| async move { service.drain(&what, idle).await })
            .await?;
        Ok(Response::new(answers_node::drained(&drained)))
    }

    async fn resume(&self, r: Request<api::ResumeNodeRequest>) -> Answer<api::Node> {
        let what = field("node", &r.into_inner().node)?;
        let view = self
            .to_the_end(|service| async move { service.resume_node(&what).await })
            .await?;
        Ok(Response::new(answers_node::node(&view)))
    }

    async fn mark_lost(
        &self,
        r: Request<api::MarkNodeLostRequest>,
    ) -> Answer<api::MarkNodeLostResponse> {
        let body = r.into_inner();
        let what = field("node", &body.node)?;
        let loss = self
            .to_the_end(|service| async move { service.mark_lost(&what, body.apply).await })
            .await?;
        Ok(Response::new(answers_node::loss(&loss)))
    }

    async fn take_back(&self, r: Request<api::TakeBackNodeRequest>) -> Answer<api::Node> {
        let what = field("node", &r.into_inner().node)?;
        let view = self
            .to_the_end(|service| async move { service.take_back(&what).await })
            .await?;
        Ok(Response::new(answers_node::node(&view)))
    }

    async fn adopt(&self, r: Request<api::AdoptNodeRequest>) -> Answer<api::AdoptNodeResponse> {
        let body = r.into_inner();
        let what = field("node", &body.node)?;
        let adoption = self
            .to_the_end(|service| async move { service.adopt_node(&what, body.apply).await })
            .await?;
        Ok(Response::new(answers_node::adoption(&adoption)))
    }

    type WatchStream = EventStream<api::NodeEvent>;

    async fn watch(&self, r: Request<api::WatchRequest>) -> Answer<Self::WatchStream> {
        let events = self.service.watch_nodes(convert::watch(r.into_inner())?);
        Ok(Response::new(self.stream(events, node_event)))
    }
}
