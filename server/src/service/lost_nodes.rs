//! Nodes that are given up, and taken back.
//!
//! Called by `grpc`. The mark in the node's record is the wish, and a fence from the moment it is
//! durable: nothing is asked of the node, nothing that it says counts, and it cannot register. What
//! waits for it is then freed one by one, by the same code that finishes it otherwise; after a crash
//! the loop does the rest. What is ready keeps its record: the pool may be imported elsewhere.

use goldleaf_types::{ImageId, NodeId};

use super::placing::trusted;
use super::{NodeView, Service, ServiceError, Unfinished};
use crate::domain::{
    GroupSnapshot, Image, ImageCopy, Node, Phase, Pool, Ref, Refusal, Snapshot, Volume,
};
use crate::failpoint::{Point, hit};
use crate::store::rows::{self, Row};
use crate::telemetry::Chain;

/// What is given up with a node.
#[derive(Clone, Debug)]
pub struct Loss {
    /// The node.
    pub node: NodeView,
    /// Each thing on it, or that waits for it.
    pub forsaken: Vec<Forsaken>,
    /// Whether it was done.
    pub applied: bool,
}

/// One thing on a lost node, or that waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forsaken {
    /// Of what.
    pub kind: &'static str,
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What becomes of it.
    pub becomes: &'static str,
}

const KEPT: &str = "kept, and lost unless its pool comes back";

impl Service {
    /// Says what would be given up with a node, and gives it up if `apply`. The same again frees
    /// what waits for it since.
    ///
    /// # Errors
    ///
    /// When there is no such node, or the store is away.
    pub async fn mark_lost(&self, what: &Ref<NodeId>, apply: bool) -> Result<Loss, ServiceError> {
        let mut node = self.records.get::<Node>(what, "node").await?;
        if !apply {
            let forsaken = self.forsaken_with(node.id).await?;
            return Ok(Loss {
                node: self.view_node(node),
                forsaken,
                applied: false,
            });
        }
        {
            let _held = self.hold_nodes().await;
            node = self.records.get::<Node>(what, "node").await?;
            if node.lost.is_none() {
                node.lost = Some(jiff::Timestamp::now());
                self.records.update(&mut node).await?;
                tracing::info!(node = %node.id, name = %node.name, "node marked lost");
            }
        }
        hit(Point::NodeLost);
        self.live.away(node.id, "it was marked lost");
        self.live_thins.away(node.id);
        self.live.registered.notify_one(); // its stream is to end
        // After the mark: no wish for it comes any more.
        let forsaken = self.forsaken_with(node.id).await?;
        self.free_waiting(node.id).await?;
        Ok(Loss {
            node: self.view_node(node),
            forsaken,
            applied: true,
        })
    }

    /// Trusts a node again. One that does not count as lost is as good.
    ///
    /// # Errors
    ///
    /// When there is no such node, or the store is away.
    pub async fn take_back(&self, what: &Ref<NodeId>) -> Result<NodeView, ServiceError> {
        let mut node = {
            let _held = self.hold_nodes().await;
            let mut node = self.records.get::<Node>(what, "node").await?;
            if node.lost.take().is_some() {
                self.records.update(&mut node).await?;
                tracing::info!(node = %node.id, name = %node.name, "node taken back");
            }
            node
        };
        hit(Point::NodeTakenBack);
        self.live.registered.notify_one(); // its stream is to be opened
        for returned in self.returned_thins().await? {
            self.pending.add(returned);
        }
        for untold in self.untold().await? {
            self.pending.add(untold);
        }
        let decoupling = |v: &Volume| v.node == node.id && v.decoupling.is_some();
        for volume in self.records.all::<Volume>().await? {
            if decoupling(&volume) {
                self.pending.add(Unfinished::Volume(volume.id));
            }
        }
        for image in self.records.all::<Image>().await? {
            self.want_lost_copy(image.id, node.id).await?;
        }
        if let Some(again) = self.records.by_id::<Node>(node.id).await? {
            node = again;
        }
        Ok(self.view_node(node))
    }

    /// Frees what waits for a lost node, as far as that goes now; the loop does the rest.
    async fn free_waiting(&self, node: NodeId) -> Result<(), ServiceError> {
        let mut waiting = Vec::new();
        for group in self.records.all::<GroupSnapshot>().await? {
            if group.node == node && group.phase.is_underway() {
                waiting.push(Unfinished::Group(group.id));
            }
        }
        for snapshot in self.records.all::<Snapshot>().await? {
            if snapshot.node == node && snapshot.phase.is_underway() {
                waiting.push(Unfinished::Snapshot(snapshot.id));
            }
        }
        for volume in self.records.all::<Volume>().await? {
            if volume.node == node && (volume.phase.is_underway() || volume.wanted_size.is_some()) {
                waiting.push(Unfinished::Volume(volume.id));
            }
        }
        for pool in self.records.all::<Pool>().await? {
            if pool.node == node && (pool.phase.is_underway() || pool.wanted_name.is_some()) {
                waiting.push(Unfinished::Pool(pool.id));
            }
        }
        for what in waiting {
            match self.finish(what).await {
                Ok(()) | Err(ServiceError::NodeLost { .. }) => {}
                Err(error) => {
                    tracing::warn!(%what, error = %Chain(&error), "not freed yet");
                    self.pending.add(what);
                }
            }
        }
        for image in self.records.all::<Image>().await? {
            match image.copy_on(node).map(|copy| copy.phase) {
                Some(Phase::Deleting) => self.pending.add(Unfinished::Image(image.id)),
                Some(_) => self.lose_copies_on_lost_nodes(&image).await?,
                None => {}
            }
        }
        Ok(())
    }

    /// Copies on lost nodes count no more. A deletion of the image goes on without them.
    pub(super) async fn lose_copies_on_lost_nodes(
        &self,
        image: &Image,
    ) -> Result<(), ServiceError> {
        for copy in image.copies.iter().filter(|copy| counts(copy.phase)) {
            if self.is_lost(copy.node).await? {
                self.lose_copy(image.id, copy.node).await?;
            }
        }
        Ok(())
    }

    async fn lose_copy(&self, id: ImageId, node: NodeId) -> Result<(), ServiceError> {
        {
            let _held = self.locks.take_inner(rows::key::<Image>(id)).await;
            let Some(mut image) = self.records.by_id::<Image>(id).await? else {
                return Ok(());
            };
            if image.phase == Phase::Deleting {
                image.settle(lost_copy(node));
                self.records.update(&mut image).await?;
            } else {
                self.change_copies(&mut image, [lost_copy(node)]).await?;
            }
        }
        self.board.settled(id, node); // ends an import that is under way
        Ok(())
    }

    /// A copy that counted no more because its node was lost is looked for again.
    async fn want_lost_copy(&self, id: ImageId, node: NodeId) -> Result<(), ServiceError> {
        let _held = self.locks.take_inner(rows::key::<Image>(id)).await;
        let Some(mut image) = self.records.by_id::<Image>(id).await? else {
            return Ok(());
        };
        if image.copy_on(node) == Some(&lost_copy(node)) && image.phase != Phase::Deleting {
            self.change_copies(&mut image, [ImageCopy::wanted(node)])
                .await?;
        }
        Ok(())
    }

    /// What is on a node or waits for it.
    async fn forsaken_with(&self, node: NodeId) -> Result<Vec<Forsaken>, ServiceError> {
        let mut all = Vec::new();
        let records = &self.records;
        let pools = records.all::<Pool>().await?;
        all.extend(pools.iter().filter(|p| p.node == node).map(|pool| {
            let becomes = match pool.phase {
                Phase::Creating => "its creation is given up",
                Phase::Deleting => "its deletion counts as done",
                Phase::Ready | Phase::Failed | Phase::Closed => {
                    "kept; it may be imported on another node, by force"
                }
            };
            forsaken(pool, becomes)
        }));
        let volumes = records.all::<Volume>().await?;
        all.extend(volumes.iter().filter(|v| v.node == node).map(|volume| {
            let becomes = match of_thin(volume.phase) {
                KEPT if volume.wanted_size.is_some() => {
                    "kept with its former size, and lost unless its pool comes back"
                }
                becomes => becomes,
            };
            forsaken(volume, becomes)
        }));
        let snapshots = records.all::<Snapshot>().await?;
        let here = snapshots.iter().filter(|s| s.node == node);
        all.extend(here.map(|snapshot| forsaken(snapshot, of_thin(snapshot.phase))));
        let groups = records.all::<GroupSnapshot>().await?;
        let here = groups
            .iter()
            .filter(|g| g.node == node && g.phase.is_underway());
        all.extend(here.map(|group| forsaken(group, of_thin(group.phase))));
        for image in records.all::<Image>().await? {
            // Said again of one that was lost before, so that the same call has the same answer.
            if image.is_on(node) || image.copy_on(node) == Some(&lost_copy(node)) {
                let mut others = image.copies.iter().filter(|copy| copy.node != node);
                let becomes = if others.any(|copy| copy.phase == Phase::Ready) {
                    "its copy there counts no more"
                } else {
                    "its only copy counts no more"
                };
                all.push(forsaken(&image, becomes));
            }
        }
        Ok(all)
    }

    /// Refuses to take a pool by force from a node of ours that is not given up: it may still write
    /// it.
    pub(super) async fn given_up_before_force(&self, from: NodeId) -> Result<(), ServiceError> {
        match self.records.by_id::<Node>(from).await? {
            Some(node) if trusted(&node).is_ok() => Err(ServiceError::Unfit {
                kind: Node::KIND,
                name: node.name.to_string(),
                why: format!(
                    "is not given up, and two hosts that write one pool destroy it: close the pool \
                     there, or if it is gone for good mark it lost first (`goldleaf node lost {} \
                     --apply`)",
                    node.name
                ),
            }),
            Some(_) | None => Ok(()),
        }
    }
}

/// Whether a copy is counted on, or on its way. One that is being taken away is gone with its node,
/// and nobody looks for it again.
fn counts(copy: Phase) -> bool {
    match copy {
        Phase::Creating | Phase::Ready | Phase::Closed => true,
        Phase::Failed | Phase::Deleting => false,
    }
}

fn of_thin(phase: Phase) -> &'static str {
    match phase {
        Phase::Creating => "its creation is given up",
        Phase::Deleting => {
            "its deletion counts as done; should its pool come back, it is deleted then"
        }
        Phase::Ready | Phase::Failed | Phase::Closed => KEPT,
    }
}

fn forsaken<T: Row>(record: &T, becomes: &'static str) -> Forsaken {
    Forsaken {
        kind: T::KIND,
        id: record.id().to_string(),
        name: record.name().to_string(),
        becomes,
    }
}

/// What is said of a copy on a lost node.
fn lost_copy(node: NodeId) -> ImageCopy {
    ImageCopy {
        node,
        phase: Phase::Failed,
        message: "its node was marked lost".into(),
        refusal: Some(Refusal::FailedPrecondition),
    }
}
