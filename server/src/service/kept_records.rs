//! What only the store knows of a node (names of images, channels, labels and protection of pools),
//! kept there for the day when the store is lost, and taken back from there.
//!
//! Keeping is called by `reconcile` whenever something of it changed, taking back by `adoption`.
//! Records are only ever added here, under their own ids, each in a transaction of its own: a crash
//! leaves some of them, and the same again adds the rest. What the store has by id or by name is not
//! touched.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use goldleaf_types::{Digest, Incarnation, NodeId, PoolId};

use super::taking_in::{Change, lost_name};
use super::{Service, ServiceError};
use crate::agents::AgentPort;
use crate::domain::{Channel, Image, ImageCopy, KeptMarks, KeptRecords, Node, Phase, Pool};
use crate::failpoint::{Point, hit};
use crate::store::rows::Row;

/// What becomes of each.
const TAKEN_BACK: &str = "taken back from what the node keeps";
const COPY_TAKEN_BACK: &str = "its copy on this node is taken back";

/// What a node keeps and the store lacks.
#[derive(Clone, Debug, Default)]
pub(super) struct Returning {
    /// The store that had it kept, unless that is ours or nothing is kept.
    former: Option<Incarnation>,
    images: Vec<Image>,
    /// Images that the store has, without the copy of this node.
    copies: Vec<Image>,
    channels: Vec<Channel>,
    /// Of pools that are made anew by the adoption.
    pub(super) pools: BTreeMap<PoolId, KeptMarks>,
}

impl Returning {
    /// For people.
    pub(super) fn changes(&self) -> Vec<Change> {
        let back = self.images.iter().map(|image| said(image, TAKEN_BACK));
        let copies = self.copies.iter().map(|image| said(image, COPY_TAKEN_BACK));
        let channels = self.channels.iter().map(|at| said(at, TAKEN_BACK));
        back.chain(copies).chain(channels).collect()
    }
}

fn said<T: Row>(record: &T, becomes: &'static str) -> Change {
    Change {
        kind: T::KIND,
        id: record.id().to_string(),
        name: record.name().to_string(),
        becomes,
    }
}

impl Service {
    /// What each node is to keep.
    ///
    /// # Errors
    ///
    /// When the store is away or a row cannot be read.
    pub async fn records_to_keep(&self) -> Result<HashMap<NodeId, String>, ServiceError> {
        let images = self.records.all::<Image>().await?;
        let channels = self.records.all::<Channel>().await?;
        let pools = self.records.all::<Pool>().await?;
        let nodes = self.records.all::<Node>().await?.into_iter();
        let of = |node| KeptRecords::of(node, &images, &channels, &pools).encode();
        Ok(nodes.map(|node| (node.id, of(node.id))).collect())
    }

    /// Has a node keep this.
    ///
    /// # Errors
    ///
    /// When the node does not answer or keeps another store's, or the store is away.
    pub async fn have_records_kept(
        &self,
        node: NodeId,
        records: String,
    ) -> Result<(), ServiceError> {
        let agent = self.agent_of(node).await?;
        Ok(agent.keep_records(records, None).await?)
    }

    /// What a node keeps of another store, and ours lacks.
    ///
    /// # Errors
    ///
    /// When the node does not answer, when what it keeps cannot be read, or the store is away.
    pub(super) async fn returning(
        &self,
        node: NodeId,
        agent: &dyn AgentPort,
    ) -> Result<Returning, ServiceError> {
        let kept = agent.kept_records().await?;
        let ours = self.records.store().incarnation();
        let Some(kept) = kept.filter(|kept| kept.store != ours) else {
            return Ok(Returning::default());
        };
        let found = KeptRecords::decode(&kept.records)?;
        let mut returning = Returning {
            former: Some(kept.store),
            pools: found.pools,
            ..Returning::default()
        };
        let there = agent.images().await?;
        let there: BTreeSet<Digest> = there.into_iter().map(|image| image.digest).collect();
        let here = found.images.into_iter();
        for image in here.filter(|image| image.digest.is_some_and(|d| there.contains(&d))) {
            self.sort_image(node, image, &mut returning).await?;
        }
        let mut held: BTreeSet<Digest> = BTreeSet::new();
        let known = self.records.all::<Image>().await?;
        held.extend(
            known
                .iter()
                .chain(&returning.images)
                .filter_map(|i| i.digest),
        );
        for channel in found.channels {
            let is_new = self.records.by_id::<Channel>(channel.id).await?.is_none()
                && self
                    .records
                    .by_name::<Channel>(&channel.name)
                    .await?
                    .is_none();
            if is_new && held.contains(&channel.digest) {
                returning.channels.push(channel);
            }
        }
        Ok(returning)
    }

    /// One image that a node keeps the name of, and holds.
    async fn sort_image(
        &self,
        node: NodeId,
        mut image: Image,
        returning: &mut Returning,
    ) -> Result<(), ServiceError> {
        image.copies.retain(|copy| copy.node == node);
        if let Some(mut known) = self.records.by_id::<Image>(image.id).await? {
            let lacks = known.copy_on(node).is_none() && known.phase != Phase::Deleting;
            if lacks && known.digest == image.digest {
                known.settle(ImageCopy {
                    phase: Phase::Ready,
                    ..ImageCopy::wanted(node)
                });
                known.phase = known.phase_of_copies();
                returning.copies.push(known);
            }
            return Ok(());
        }
        match self.records.by_name::<Image>(&image.name).await? {
            // Its user had it made again.
            Some(other) if other.digest == image.digest => return Ok(()),
            Some(_) => image.name = lost_name(&image.name, &image.id.to_string())?,
            None => {}
        }
        returning.images.push(image);
        Ok(())
    }

    /// Adds what returns; then the node keeps ours.
    ///
    /// # Errors
    ///
    /// When somebody took one of the names meanwhile, the node does not answer, or the store is away.
    pub(super) async fn take_records_back(
        &self,
        node: NodeId,
        agent: &dyn AgentPort,
        returning: Returning,
    ) -> Result<(), ServiceError> {
        let (images, copies) = (returning.images.len(), returning.copies.len());
        let channels = returning.channels.len();
        for mut image in returning.images {
            self.records.insert(&mut image, Vec::new()).await?;
        }
        for mut image in returning.copies {
            self.records.update(&mut image).await?;
        }
        for mut channel in returning.channels {
            self.records.insert(&mut channel, Vec::new()).await?;
        }
        hit(Point::RecordsTakenBack);
        let Some(former) = returning.former else {
            return Ok(());
        };
        if let Some(records) = self.records_to_keep().await?.remove(&node) {
            agent.keep_records(records, Some(former)).await?;
        }
        tracing::info!(%node, images, copies, channels, %former, "records taken back");
        Ok(())
    }
}
