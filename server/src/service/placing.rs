//! Where a new volume goes, and whether its image is there.
//!
//! Called by `volumes`. Reads a handful of records and what nodes say now; writes only the wish for
//! another copy of an image that is needed where it is not.

use std::collections::BTreeMap;

use futures::future::join_all;
use goldleaf_types::{Labels, NodeId, PoolId, VolumeSize};

use super::records::carries;
use super::wanted_images::Content;
use super::{Service, ServiceError, Unfinished, busy};
use crate::agents::AgentError;
use crate::domain::{
    Candidate, Image, ImageCopy, ImageSource, NoPlace, Node, Phase, Pool, PoolReport, Ref, choose,
};
use crate::store::rows;

/// Which pools a volume may go to.
#[derive(Clone, Debug, Default)]
pub struct Placement {
    /// This one.
    pub pool: Option<Ref<PoolId>>,
    /// Those of this node.
    pub node: Option<Ref<NodeId>>,
    /// Those with these labels.
    pub pool_labels: Labels,
}

/// A place for a volume: the records it was chosen by.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) pool: Pool,
    pub(super) content: Option<Content>,
}

type Reports = BTreeMap<NodeId, Result<Vec<PoolReport>, ServiceError>>;

impl Service {
    /// A pool that can take the volume now, on a node that has its image.
    pub(super) async fn place(
        &self,
        placement: &Placement,
        content: Option<Content>,
        size: VolumeSize,
    ) -> Result<Place, ServiceError> {
        let size = size.bytes();
        let pools = self.matching(placement).await?;
        let holders = match &content {
            Some(content) => self.holders(content, &pools).await?,
            None => Vec::new(),
        };
        let has_image = |node| content.is_none() || holders.contains(&node);
        let seen = self.candidates(&pools, &Reports::new(), has_image);
        let chosen = match choose(&seen, size) {
            Ok(chosen) => chosen.pool.clone(),
            Err(_) => {
                // Ask those that our streams do not tell of.
                let asked = self.ask(&pools).await;
                match choose(&self.candidates(&pools, &asked, has_image), size) {
                    Ok(chosen) => chosen.pool.clone(),
                    Err(refusal) => return Err(self.no_place(refusal).await),
                }
            }
        };
        if !has_image(chosen.node)
            && let Some(content) = &content
        {
            return Err(self.want_copy(&content.image, chosen.node).await?);
        }
        Ok(Place {
            pool: chosen,
            content,
        })
    }

    /// Why a volume can go nowhere, with the node's name where one is away.
    async fn no_place(&self, refusal: NoPlace) -> ServiceError {
        let NoPlace::Unreachable(id) = refusal else {
            return refusal.into();
        };
        let node = match self.node(id).await {
            Ok(node) => node.name.to_string(),
            Err(error) => return error,
        };
        let why = self
            .live
            .reach(id)
            .map_or_else(|| "not heard of yet".into(), |r| r.why);
        AgentError::Away {
            node,
            why: format!("{why}; wait for its agent, then ask again"),
        }
        .into()
    }

    /// The pools that a request allows.
    async fn matching(&self, placement: &Placement) -> Result<Vec<Pool>, ServiceError> {
        let node = match &placement.node {
            Some(node) => Some(self.records.get::<Node>(node, "placement.node").await?.id),
            None => None,
        };
        let pools = match &placement.pool {
            Some(pool) => vec![self.records.get::<Pool>(pool, "pool").await?],
            None => self.records.all::<Pool>().await?,
        };
        let fits = |pool: &Pool| {
            node.is_none_or(|node| pool.node == node) && carries(pool, &placement.pool_labels)
        };
        Ok(pools.into_iter().filter(fits).collect())
    }

    /// The field of a placement that a volume in this pool does not satisfy.
    pub(super) async fn misplaced(
        &self,
        placement: &Placement,
        at: (PoolId, NodeId),
    ) -> Result<Option<&'static str>, ServiceError> {
        if let Some(pool) = &placement.pool
            && self.records.get::<Pool>(pool, "pool").await?.id != at.0
        {
            return Ok(Some("pool"));
        }
        if let Some(node) = &placement.node
            && self.records.get::<Node>(node, "placement.node").await?.id != at.1
        {
            return Ok(Some("placement.node"));
        }
        if placement.pool_labels.iter().next().is_some() {
            let pool = self.records.by_id::<Pool>(at.0).await?;
            if !pool.is_some_and(|pool| carries(&pool, &placement.pool_labels)) {
                return Ok(Some("placement.pool_labels"));
            }
        }
        Ok(None)
    }

    fn candidates(
        &self,
        pools: &[Pool],
        asked: &Reports,
        has_image: impl Fn(NodeId) -> bool,
    ) -> Vec<Candidate> {
        let candidate = |pool: &Pool| {
            let report = match asked.get(&pool.node) {
                Some(Ok(reports)) => (true, reports.iter().find(|r| r.id == pool.id).cloned()),
                Some(Err(_)) => (false, None),
                None => {
                    let report = self.live.fresh(pool.node, pool.id);
                    (report.is_some(), report)
                }
            };
            Candidate {
                pool: pool.clone(),
                reachable: report.0,
                usage: report.1.as_ref().and_then(|report| report.usage),
                limit: report.1.and_then(|report| {
                    let data = report.usage?.data_total;
                    report.policy?.limit(data)
                }),
                has_image: has_image(pool.node),
            }
        };
        pools.iter().map(candidate).collect()
    }

    async fn ask(&self, pools: &[Pool]) -> Reports {
        let mut nodes: Vec<_> = pools.iter().map(|pool| pool.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let asked = nodes
            .iter()
            .map(|node| async { (*node, self.ask_pools(*node).await) });
        join_all(asked).await.into_iter().collect()
    }

    /// The nodes that hold a content, under whatever name.
    async fn holders(
        &self,
        content: &Content,
        pools: &[Pool],
    ) -> Result<Vec<NodeId>, ServiceError> {
        let on = |image: &Image| -> Vec<NodeId> {
            let ready = image
                .copies
                .iter()
                .filter(|copy| copy.phase == Phase::Ready);
            ready.map(|copy| copy.node).collect()
        };
        let mut nodes = on(&content.image);
        if pools.iter().all(|pool| nodes.contains(&pool.node)) {
            return Ok(nodes);
        }
        let others = self.records.all::<Image>().await?;
        let same =
            |image: &&Image| image.digest == Some(content.digest) && image.phase == Phase::Ready;
        nodes.extend(others.iter().filter(same).flat_map(on));
        Ok(nodes)
    }

    /// Has an image fetched to a node where that can be done; says what goes on in any case.
    async fn want_copy(&self, image: &Image, node: NodeId) -> Result<ServiceError, ServiceError> {
        let _held = self.locks.take_inner(rows::key::<Image>(image.id)).await;
        let Some(mut image) = self.records.by_id::<Image>(image.id).await? else {
            return Ok(busy::<Image>(image.name.as_str(), "being deleted"));
        };
        match image.copy_on(node).map(|copy| copy.phase) {
            Some(Phase::Creating | Phase::Ready) => {}
            Some(Phase::Failed | Phase::Deleting | Phase::Closed) | None => {
                match image.asked.source {
                    ImageSource::Url(_) => {}
                    ImageSource::File(_) | ImageSource::Device(_) | ImageSource::Volume(_) => {
                        return Ok(ServiceError::ImageElsewhere {
                            image: image.name.to_string(),
                            node: self.node(node).await?.name.to_string(),
                        });
                    }
                }
                image.settle(ImageCopy::wanted(node));
                self.records.update(&mut image).await?;
                self.board.wished(image.id);
            }
        }
        self.pending.add(Unfinished::Image(image.id));
        Ok(self.on_its_way(&image, Some(node)).await)
    }
}
