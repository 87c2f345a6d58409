//! Where a new volume goes, and whether its image is there.
//!
//! Called by `volumes`. Reads a handful of records and what nodes say now; writes only the wish for
//! another copy of an image that is needed where it is not.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use futures::future::join_all;
use goldleaf_types::{Labels, NodeId, PoolId, VolumeSize};

use super::records::carries;
use super::wanted_images::Content;
use super::{Service, ServiceError, Unfinished, busy};
use crate::agents::AgentError;
use crate::domain::{
    Candidate, Image, ImageCopy, ImageSource, NoPlace, Node, Phase, Pool, PoolReport, Ref,
    Standing, choose,
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
    pub(super) node: Node,
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
        let mut nodes = self.nodes_of(&pools).await?;
        let holders = match &content {
            Some(content) => self.holders(content, &pools).await?,
            None => Vec::new(),
        };
        let has_image = |node| content.is_none() || holders.contains(&node);
        let seen = self.candidates((&pools, &nodes), &Reports::new(), has_image);
        let chosen = match choose(&seen, size) {
            Ok(chosen) => chosen.pool.clone(),
            Err(_) => {
                // Ask those that our streams do not tell of.
                let asked = self.ask(&pools).await;
                match choose(&self.candidates((&pools, &nodes), &asked, has_image), size) {
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
        // As it was when it was chosen, so that a drain in between is noticed.
        let node = nodes
            .remove(&chosen.node)
            .expect("every pool's node was read");
        Ok(Place {
            node,
            pool: chosen,
            content,
        })
    }

    /// The records of these pools' nodes.
    async fn nodes_of(&self, pools: &[Pool]) -> Result<BTreeMap<NodeId, Node>, ServiceError> {
        let mut nodes = BTreeMap::new();
        for pool in pools {
            if let Entry::Vacant(empty) = nodes.entry(pool.node) {
                empty.insert(self.node(pool.node).await?);
            }
        }
        Ok(nodes)
    }

    /// Why a volume can go nowhere, with the node's name where it is a node's fault.
    async fn no_place(&self, refusal: NoPlace) -> ServiceError {
        let (NoPlace::Unreachable(id) | NoPlace::Drained(id) | NoPlace::Lost(id)) = refusal else {
            return refusal.into();
        };
        let node = match self.node(id).await {
            Ok(node) => match takes_volumes(&node) {
                Ok(()) => node.name.to_string(),
                Err(kept_off) => return kept_off,
            },
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
        (pools, nodes): (&[Pool], &BTreeMap<NodeId, Node>),
        asked: &Reports,
        has_image: impl Fn(NodeId) -> bool,
    ) -> Vec<Candidate> {
        let ours = self.records.store().incarnation();
        let candidate = |pool: &Pool| {
            let report = match asked.get(&pool.node) {
                Some(Ok(reports)) => (true, reports.iter().find(|r| r.id == pool.id).cloned()),
                Some(Err(_)) => (false, None),
                None => {
                    let report = self.live.fresh(pool.node, pool.id);
                    (report.is_some(), report)
                }
            };
            let owner = report.1.as_ref().and_then(|report| report.incarnation);
            let foreign = owner.is_some_and(|owner| owner != ours);
            Candidate {
                pool: pool.clone(),
                reachable: report.0,
                usage: report.1.as_ref().and_then(|report| report.usage),
                limit: report.1.and_then(|report| {
                    let data = report.usage?.data_total;
                    report.policy?.limit(data)
                }),
                has_image: has_image(pool.node),
                standing: match nodes
                    .get(&pool.node)
                    .map(Node::standing)
                    .unwrap_or_default()
                {
                    Standing::Open if foreign => Standing::Foreign,
                    standing @ (Standing::Open
                    | Standing::Drained
                    | Standing::Lost
                    | Standing::Foreign) => standing,
                },
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

/// Refuses a node that is to be given no new volume.
pub(super) fn takes_volumes(node: &Node) -> Result<(), ServiceError> {
    match node.standing() {
        Standing::Open | Standing::Foreign => Ok(()),
        Standing::Drained => Err(ServiceError::NodeDrained {
            node: node.name.to_string(),
        }),
        Standing::Lost => trusted(node),
    }
}

/// Refuses a node that counts as lost.
pub(super) fn trusted(node: &Node) -> Result<(), ServiceError> {
    match node.lost {
        None => Ok(()),
        Some(since) => Err(ServiceError::NodeLost {
            node: node.name.to_string(),
            since: since.to_string(),
        }),
    }
}
