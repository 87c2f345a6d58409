//! What only the store knows of a node (names of images, channels, labels and protection of pools),
//! kept there for the day when the store is lost, and taken back from there.
//!
//! Keeping is called by `reconcile` whenever something of it changed, taking back by `adoption`.
//! Records are added under their own ids, each in a transaction of its own: a crash leaves some of
//! them, and the same again adds the rest. Of what the store has by id or by name only channels are
//! touched, those that were moved later than it knows. While the node has a pool that the store does
//! not know yet, it goes on keeping the former store's records: that pool's are nowhere else.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use goldleaf_types::{Digest, Incarnation, NodeId, PoolId};

use super::records::unchanged;
use super::taking_in::{Change, lost_name};
use super::{Service, ServiceError};
use crate::agents::AgentPort;
use crate::domain::{Channel, Image, ImageCopy, KeptMarks, KeptRecords, Node, Phase, Pool};
use crate::failpoint::{Point, hit};
use crate::store::StoreError;
use crate::store::rows::Row;
use crate::telemetry::Chain;

/// What becomes of each.
const TAKEN_BACK: &str = "taken back from what the node keeps";
const COPY_TAKEN_BACK: &str = "its copy on this node is taken back";
const MOVED: &str = "points where it was moved to later than this store knows";
const NOT_OPEN: &str = "is not open: its labels and protection stay kept; import it (`goldleaf pool import`), or wait until \
     its node has opened it, then adopt again";

/// What a node keeps and the store lacks.
#[derive(Clone, Debug, Default)]
pub(super) struct Returning {
    /// The store that had it kept, unless that is ours or nothing is kept.
    former: Option<Incarnation>,
    images: Vec<Image>,
    /// Images that the store has, without the copy of this node.
    copies: Vec<Image>,
    channels: Vec<Channel>,
    /// Channels that the store has, pointing to where they were moved since.
    moved: Vec<Channel>,
    /// Of pools that are made anew by the adoption.
    pub(super) pools: BTreeMap<PoolId, KeptMarks>,
    /// Those of them that the node has and the store does not know.
    unknown: BTreeSet<PoolId>,
}

impl Returning {
    /// For people. The pools of the node that are `open` are adopted with it.
    pub(super) fn changes(&self, open: &BTreeSet<PoolId>) -> Vec<Change> {
        let back = self.images.iter().map(|image| said(image, TAKEN_BACK));
        let copies = self.copies.iter().map(|image| said(image, COPY_TAKEN_BACK));
        let channels = self.channels.iter().map(|at| said(at, TAKEN_BACK));
        let moved = self.moved.iter().map(|at| said(at, MOVED));
        let waiting = self.unknown.difference(open).map(|id| Change {
            kind: Pool::KIND,
            id: id.to_string(),
            name: id.to_string(),
            becomes: NOT_OPEN,
        });
        let records = back.chain(copies).chain(channels).chain(moved);
        records.chain(waiting).collect()
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
        let nodes = self.records.all::<Node>().await?;
        // Of thousands of images on many nodes this is more than a moment's work.
        let made = tokio::task::spawn_blocking(move || {
            let of = |node| KeptRecords::of(node, &images, &channels, &pools).encode();
            nodes.iter().map(|node| (node.id, of(node.id))).collect()
        });
        let made = made.await;
        made.map_err(|gone| StoreError::Unavailable(Arc::new(gone)).into())
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
        let Some((former, found)) = self.kept_of_another(node, agent).await? else {
            return Ok(Returning::default());
        };
        let mut returning = Returning {
            former: Some(former),
            pools: found.pools,
            ..Returning::default()
        };
        for report in agent.pools().await? {
            if returning.pools.contains_key(&report.id)
                && self.records.by_id::<Pool>(report.id).await?.is_none()
            {
                returning.unknown.insert(report.id);
            }
        }
        let there = agent.images().await?;
        let there: BTreeSet<Digest> = there.into_iter().map(|image| image.digest).collect();
        let here = found.images.into_iter();
        for image in here.filter(|image| image.digest.is_some_and(|d| there.contains(&d))) {
            self.sort_image(node, image, &mut returning).await?;
        }
        let known = self.records.all::<Image>().await?;
        let known = known.iter().filter(|i| i.phase != Phase::Deleting);
        let held = known.chain(&returning.images).filter_map(|i| i.digest);
        let held: BTreeSet<Digest> = held.collect();
        let channels = found.channels.into_iter();
        for channel in channels.filter(|channel| held.contains(&channel.digest)) {
            self.sort_channel(channel, &mut returning).await?;
        }
        Ok(returning)
    }

    /// What a node keeps of another store, and which that is.
    ///
    /// # Errors
    ///
    /// As [`Service::returning`].
    pub(super) async fn kept_of_another(
        &self,
        node: NodeId,
        agent: &dyn AgentPort,
    ) -> Result<Option<(Incarnation, KeptRecords)>, ServiceError> {
        let kept = agent.kept_records().await?;
        let ours = self.records.store().incarnation();
        let Some(kept) = kept.filter(|kept| kept.store != ours) else {
            return Ok(None);
        };
        let found = KeptRecords::decode(&kept.records).map_err(|error| ServiceError::Unfit {
            kind: Node::KIND,
            name: node.to_string(),
            why: format!(
                "keeps records of its former store that this version cannot read ({}): upgrade the \
                 control plane, or move kept-records.json out of the node's state folder, and the names \
                 in it are given up",
                Chain(&error)
            ),
        })?;
        Ok(Some((kept.store, found)))
    }

    /// One channel to an image that is here or returns.
    async fn sort_channel(
        &self,
        channel: Channel,
        returning: &mut Returning,
    ) -> Result<(), ServiceError> {
        let known = match self.records.by_id::<Channel>(channel.id).await? {
            None => self.records.by_name::<Channel>(&channel.name).await?,
            known => known,
        };
        match known {
            None => returning.channels.push(channel),
            Some(known) if known.digest != channel.digest && known.moved < channel.moved => {
                returning.moved.push(Channel {
                    digest: channel.digest,
                    moved: channel.moved,
                    ..known
                });
            }
            Some(_) => {}
        }
        Ok(())
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
        let channels = returning.channels.len() + returning.moved.len();
        for mut image in returning.images {
            self.records.insert(&mut image, Vec::new()).await?;
        }
        for mut image in returning.copies {
            self.records.update(&mut image).await?;
        }
        // A channel's image is not deleted: the records of both are compared.
        let known = self.records.all::<Image>().await?;
        let known = known.iter().filter(|i| i.phase != Phase::Deleting);
        let held: HashMap<_, _> = known
            .filter_map(|i| Some((i.digest?, unchanged(i))))
            .collect();
        for mut channel in returning.channels {
            if let Some(expected) = held.get(&channel.digest) {
                let expected = vec![expected.clone()];
                self.records.insert(&mut channel, expected).await?;
            }
        }
        for mut channel in returning.moved {
            if let Some(expected) = held.get(&channel.digest) {
                let expected = vec![expected.clone()];
                self.records.update_if(&mut channel, expected).await?;
            }
        }
        hit(Point::RecordsTakenBack);
        let Some(former) = returning.former.filter(|_| returning.unknown.is_empty()) else {
            return Ok(());
        };
        if let Some(records) = self.records_to_keep().await?.remove(&node) {
            agent.keep_records(records, Some(former)).await?;
        }
        tracing::info!(%node, images, copies, channels, %former, "records taken back");
        Ok(())
    }
}
