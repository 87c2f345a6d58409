//! Where a new volume goes, and whether its image is there.
//!
//! Called by `volumes`. Reads a handful of records and what nodes say now; writes only the wish for
//! another copy of an image that is needed where it is not.

use std::collections::BTreeMap;

use futures::future::join_all;
use goldleaf_types::{Digest, Labels, NodeId, PoolId};

use super::records::carries;
use super::{Service, ServiceError, Unfinished, busy};
use crate::agents::AgentError;
use crate::domain::{
    Candidate, Image, ImageCopy, ImageRef, ImageSource, NoPlace, Node, Phase, Pool, PoolReport,
    Ref, choose,
};
use crate::store::rows::{self, Row};

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
    pub(super) image: Option<(Digest, Image)>,
}

type Reports = BTreeMap<NodeId, Result<Vec<PoolReport>, ServiceError>>;

impl Service {
    /// A pool that can take the volume now, on a node that has its image.
    pub(super) async fn place(
        &self,
        placement: &Placement,
        image: Option<&ImageRef>,
    ) -> Result<Place, ServiceError> {
        let pools = self.matching(placement).await?;
        let image = match image {
            Some(wanted) => Some(self.usable_image(wanted, "image").await?),
            None => None,
        };
        let content = image.as_ref().map(|(digest, _)| *digest);
        let holders = match &image {
            Some((digest, image)) => self.holders(*digest, image, &pools).await?,
            None => Vec::new(),
        };
        let has_image = |node| content.is_none() || holders.contains(&node);
        let seen = self.candidates(&pools, &Reports::new(), has_image);
        let chosen = match choose(&seen) {
            Ok(chosen) => chosen.pool.clone(),
            Err(_) => {
                // Ask those that our streams do not tell of.
                let asked = self.ask(&pools).await;
                match choose(&self.candidates(&pools, &asked, has_image)) {
                    Ok(chosen) => chosen.pool.clone(),
                    Err(refusal) => return Err(self.no_place(refusal).await),
                }
            }
        };
        if !has_image(chosen.node)
            && let Some((_, image)) = &image
        {
            return Err(self.want_copy(image, chosen.node).await?);
        }
        Ok(Place {
            pool: chosen,
            image,
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
                usage: report.1.and_then(|report| report.usage),
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

    /// A ready image by name, id or content; `field` is the request's.
    pub(super) async fn usable_image(
        &self,
        wanted: &ImageRef,
        field: &'static str,
    ) -> Result<(Digest, Image), ServiceError> {
        let image = match wanted {
            ImageRef::Record(what) => self.records.get::<Image>(what, field).await?,
            ImageRef::Digest(digest) => {
                let holds = |image: &Image| image.digest == Some(*digest);
                let ready = |image: &Image| holds(image) && image.phase == Phase::Ready;
                let found = match self.records.first(ready).await? {
                    Some(image) => Some(image),
                    None => self.records.first(holds).await?,
                };
                found.ok_or_else(|| ServiceError::NotFound {
                    kind: Image::KIND,
                    what: digest.to_string(),
                    field,
                })?
            }
        };
        match (image.phase, image.digest) {
            (Phase::Ready, Some(digest)) => Ok((digest, image)),
            (Phase::Creating | Phase::Ready, _) => Err(self.on_its_way(&image, None).await),
            (Phase::Deleting, _) => Err(busy::<Image>(image.name.as_str(), "being deleted")),
            (Phase::Failed | Phase::Closed, _) => Err(ServiceError::Unfit {
                kind: Image::KIND,
                name: image.name.to_string(),
                why: format!(
                    "is on no node ({}): create it again with the same parameters, or delete it",
                    why(&image)
                ),
            }),
        }
    }

    /// The nodes that hold a content, under whatever name.
    async fn holders(
        &self,
        digest: Digest,
        image: &Image,
        pools: &[Pool],
    ) -> Result<Vec<NodeId>, ServiceError> {
        let on = |image: &Image| -> Vec<NodeId> {
            let ready = image
                .copies
                .iter()
                .filter(|copy| copy.phase == Phase::Ready);
            ready.map(|copy| copy.node).collect()
        };
        let mut nodes = on(image);
        if pools.iter().all(|pool| nodes.contains(&pool.node)) {
            return Ok(nodes);
        }
        let others = self.records.all::<Image>().await?;
        let same = |image: &&Image| image.digest == Some(digest) && image.phase == Phase::Ready;
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
                    ImageSource::File(_) | ImageSource::Device(_) => {
                        return Ok(ServiceError::ImageElsewhere {
                            image: image.name.to_string(),
                            node: self.node(node).await?.name.to_string(),
                        });
                    }
                }
                image.settle(ImageCopy::wanted(node));
                self.records.update(&mut image).await?;
            }
        }
        self.pending.add(Unfinished::Image(image.id));
        Ok(self.on_its_way(&image, Some(node)).await)
    }

    async fn on_its_way(&self, image: &Image, node: Option<NodeId>) -> ServiceError {
        let copy = match node {
            Some(node) => image.copy_on(node),
            None => image.copies.first(),
        };
        let progress = copy.and_then(|copy| self.board.of(image.id, copy.node));
        let what = match progress {
            Some(p) if p.total.0 > 0 => format!("{} of {} B are there", p.done.0, p.total.0),
            Some(p) => format!("{} B are there", p.done.0),
            None => match copy {
                Some(copy) if !copy.message.is_empty() => copy.message.clone(),
                Some(_) | None => "it is on its way".into(),
            },
        };
        let name = match copy {
            Some(copy) => match self.node(copy.node).await {
                Ok(node) => node.name.to_string(),
                Err(_) => copy.node.to_string(),
            },
            None => "any".into(),
        };
        ServiceError::ImageOnItsWay {
            image: image.name.to_string(),
            node: name,
            what: format!("{what}; ask again"),
        }
    }
}

/// What an image's copies say of their failure.
fn why(image: &Image) -> String {
    let said: Vec<_> = image
        .copies
        .iter()
        .filter(|copy| !copy.message.is_empty())
        .map(|copy| copy.message.as_str())
        .collect();
    said.join("; ")
}
