//! Agents in memory, for tests only: no server uses them.
//!
//! A [`FakeAgents`] stands for every node's agent. Each refuses what a real one refuses and is as
//! idempotent, so that a test of the control plane means something. A test can take a node away,
//! cut a call short before or after its effect, reboot the host, and count what really happened.
//! Clones are the same agents: a server that is "killed" and made anew meets the same nodes.

mod adoption;
mod blocks;
mod host;
mod import;
mod life;
mod port;
mod refuse;
mod repair;
mod room;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use goldleaf_types::{Bytes, Digest, Incarnation, NodeId, PoolId, ThinOwner, VolumeId};
use tokio::sync::watch;

use super::{AgentPort, Agents};
use crate::domain::{KeptText, Node, PoolMode};
use host::Host;

/// A call that changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// Makes a pool.
    CreatePool,
    /// Opens a pool.
    OpenPool,
    /// Closes a pool.
    ClosePool,
    /// Gives a pool more room.
    ExtendPool,
    /// Sets what a pool does when it fills.
    SetPolicy,
    /// Gives a pool another name.
    RenamePool,
    /// Repairs a pool's metadata.
    RepairPool,
    /// Takes a pool over from another store.
    AdoptPool,
    /// Deletes a pool.
    DeletePool,
    /// Brings an image.
    ImportImage,
    /// Writes a thin to a file.
    Export,
    /// Deletes an image.
    DeleteImage,
    /// Makes a thin.
    CreateThin,
    /// Several snapshots at once.
    CreateGroup,
    /// Makes a volume independent of its image.
    Decouple,
    /// Keeps what a user changed.
    Mark,
    /// Grows a volume.
    Resize,
    /// Makes a device.
    Activate,
    /// Takes a device away.
    Deactivate,
    /// Deletes a thin.
    DeleteThin,
}

/// Where a call loses its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nothing happened.
    BeforeEffect,
    /// It happened, and nobody was told.
    AfterEffect,
    /// It was refused, and the node is away from then on.
    AfterRefusal,
}

/// Every node's agent.
#[derive(Clone, Debug, Default)]
pub struct FakeAgents {
    nodes: Arc<Mutex<BTreeMap<NodeId, FakeNode>>>,
    /// The store that calls; none is one that every pool admits.
    caller: Option<Incarnation>,
}

impl FakeAgents {
    /// Nodes without pools, images or faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same nodes, called by this store.
    #[must_use]
    pub fn called_by(&self, store: Incarnation) -> Self {
        Self {
            nodes: Arc::clone(&self.nodes),
            caller: Some(store),
        }
    }

    /// A node, to look at it or to disturb it.
    #[must_use]
    pub fn node(&self, id: NodeId) -> FakeNode {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.entry(id).or_default().clone()
    }
}

impl Agents for FakeAgents {
    fn of(&self, node: &Node) -> Arc<dyn AgentPort> {
        Arc::new(port::FakeAgent {
            name: node.name.to_string(),
            node: self.node(node.id),
            caller: self.caller,
        })
    }
}

/// One node. Clones are the same one.
#[derive(Clone, Debug)]
pub struct FakeNode {
    host: Arc<Mutex<Host>>,
    /// Told at each change that a watch of pools may see.
    news: watch::Sender<u64>,
    /// While true, neither import, export nor repair gets past its half, and no pool's room or policy
    /// changes.
    held: watch::Sender<bool>,
    /// While true, no list of thins is answered.
    lists_held: watch::Sender<bool>,
}

impl Default for FakeNode {
    fn default() -> Self {
        Self {
            host: Arc::default(),
            news: watch::Sender::new(0),
            held: watch::Sender::new(false),
            lists_held: watch::Sender::new(false),
        }
    }
}

impl FakeNode {
    fn host(&self) -> MutexGuard<'_, Host> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.news.send_modify(|count| *count += 1);
    }

    /// Makes the node answer nothing, or answer again.
    pub fn set_away(&self, away: bool) {
        self.host().away = away;
        self.changed();
    }

    /// Cuts the next call of this kind. Several wait in order.
    pub fn cut(&self, verb: Verb, cut: Cut) {
        self.host().cuts.push((verb, cut));
    }

    /// Lets so many cut points pass, is cut off at the next, and answers nothing more until this is
    /// called again. A call that changes something has two: before its effect and after it.
    pub fn cut_after(&self, points: Option<u32>) {
        let mut host = self.host();
        (host.fuse, host.cut_off) = (points, false);
    }

    /// Whether [`Self::cut_after`] has struck.
    #[must_use]
    pub fn was_cut(&self) -> bool {
        self.host().cut_off
    }

    /// How often a call of this kind changed something.
    #[must_use]
    pub fn effects(&self, verb: Verb) -> u64 {
        self.host().effects.get(&verb).copied().unwrap_or(0)
    }

    /// How often a call of any kind changed something.
    #[must_use]
    pub fn all_effects(&self) -> u64 {
        self.host().effects.values().sum()
    }

    /// Puts content at a place from which it can be imported.
    pub fn offer(&self, place: &str, digest: Digest, size: Bytes) {
        self.host().offers.insert(place.to_owned(), (digest, size));
    }

    /// Holds imports, exports and repairs at their half, and what changes a pool's room or policy before
    /// it begins, or lets them go on.
    pub fn hold_imports(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// Holds back every answer that lists the node's thins, or lets them go.
    pub fn hold_lists(&self, held: bool) {
        self.lists_held.send_replace(held);
    }

    /// How many wait for a list that is held back.
    #[must_use]
    pub fn lists_waited_for(&self) -> usize {
        self.lists_held.receiver_count()
    }

    /// Waits while [`Self::hold_imports`] holds.
    async fn not_held(&self) {
        // The sender lives as long as we do.
        let _ = self.held.subscribe().wait_for(|held| !held).await;
    }

    /// Spoils an image's content or mends it: verifying a spoilt one is refused.
    pub fn spoil_image(&self, digest: Digest, spoilt: bool) {
        let mut host = self.host();
        if spoilt {
            host.spoilt.insert(digest);
        } else {
            host.spoilt.remove(&digest);
        }
    }

    /// Makes an image vanish from the node's disk.
    pub fn lose_image(&self, digest: Digest) {
        self.host().images.remove(&digest);
    }

    /// Has every device refuse its label, or take it again.
    pub fn fail_labels(&self, fail: bool) {
        self.host().labels_fail = fail;
    }

    /// Makes a volume's device be held open by so many.
    pub fn hold_open(&self, volume: VolumeId, openers: u32) {
        if let Some(thin) = self.host().thins.get_mut(&volume.into()) {
            thin.openers = openers;
        }
    }

    /// Makes a thin's data be lost, as a damaged pool loses it.
    pub fn lose_data(&self, owner: ThinOwner) {
        if let Some(thin) = self.host().thins.get_mut(&owner) {
            thin.missing = true;
        }
        self.changed();
    }

    /// Puts a thin back to where its agent stood before it was made.
    pub fn unmake_thin(&self, owner: ThinOwner) {
        if let Some(thin) = self.host().thins.get_mut(&owner) {
            thin.creating = true;
        }
        self.changed();
    }

    /// Has somebody write a block of 64 KiB of a thin.
    pub fn write(&self, owner: ThinOwner, block: u64) {
        self.host().write(owner, block);
    }

    /// Forgets a thin, as a pool does that was put back to an older state.
    pub fn forget_thin(&self, owner: ThinOwner) {
        self.host().thins.remove(&owner);
        self.changed();
    }

    /// Gives the node a thin that nobody ordered, after another one; its owner.
    ///
    /// # Panics
    ///
    /// When the node has no thin.
    pub fn copy_thin(&self) -> ThinOwner {
        let owner = ThinOwner::from(VolumeId::mint());
        let mut host = self.host();
        let mut thin = host.thins.values().next().expect("a thin").clone();
        thin.order.owner = owner;
        host.thins.insert(owner, thin);
        owner
    }

    /// What the kernel says of a pool from now on.
    pub fn set_pool(&self, pool: PoolId, mode: PoolMode, used: Bytes, total: Bytes) {
        if let Some(pool) = self.host().pools.get_mut(&pool) {
            (pool.mode, pool.used, pool.total) = (mode, used, total);
        }
        self.changed();
    }

    /// What it keeps of a store.
    #[must_use]
    pub fn kept_records(&self) -> Option<KeptText> {
        self.host().kept_records.clone()
    }

    /// Starts the host anew: devices of the host's own volumes come back, others are gone.
    pub fn reboot(&self) {
        self.host().reboot();
        self.changed();
    }

    /// Every pool that the node has, closed ones too.
    #[must_use]
    pub fn pools(&self) -> Vec<PoolId> {
        self.host().pools.keys().copied().collect()
    }

    /// Every file that was exported on the node.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        self.host().files.iter().cloned().collect()
    }

    /// Every image's content that the node has.
    #[must_use]
    pub fn images(&self) -> Vec<Digest> {
        self.host().images.keys().copied().collect()
    }

    /// Every thin that the node has, those of closed pools too.
    #[must_use]
    pub fn thins(&self) -> Vec<ThinOwner> {
        self.host().thins.keys().copied().collect()
    }

    /// When a thin was made, or which time a snapshot's shows.
    #[must_use]
    pub fn created(&self, owner: ThinOwner) -> Option<jiff::Timestamp> {
        self.host().thins.get(&owner).map(|thin| thin.created)
    }

    /// Every volume that has a device.
    #[must_use]
    pub fn active(&self) -> Vec<ThinOwner> {
        let host = self.host();
        let live = host.thins.iter().filter(|(_, thin)| thin.live.is_some());
        live.map(|(owner, _)| *owner).collect()
    }
}
