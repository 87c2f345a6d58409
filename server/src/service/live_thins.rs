//! What nodes say of their thins: which are active, what data is lost. Memory only.
//!
//! Fed by `reconcile/nodes.rs`, one stream per node; read by watches of volumes and snapshots, which
//! so hear of what a local caller did on a node too. A node whose stream is not open says nothing.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use goldleaf_types::{NodeId, PoolId, SnapshotId, ThinOwner, VolumeId};
use tokio::sync::broadcast;

use super::Service;
use super::views::{Seen, VolumeView, add_conditions};
use crate::agents::ThinNews;
use crate::domain::{Snapshot, ThinReport, Volume};

type Thins = HashMap<ThinOwner, ThinReport>;

/// What every node says of its thins now.
#[derive(Debug)]
pub struct LiveThins {
    nodes: Mutex<HashMap<NodeId, Thins>>,
    volumes: broadcast::Sender<VolumeId>,
    snapshots: broadcast::Sender<SnapshotId>,
}

impl Default for LiveThins {
    fn default() -> Self {
        Self {
            nodes: Mutex::default(),
            volumes: broadcast::channel(1024).0,
            snapshots: broadcast::channel(1024).0,
        }
    }
}

impl LiveThins {
    fn open(&self) -> MutexGuard<'_, HashMap<NodeId, Thins>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node's stream told something.
    pub fn take(&self, node: NodeId, news: ThinNews) {
        let mut changed = news.gone.clone();
        {
            let mut nodes = self.open();
            let thins = nodes.entry(node).or_default();
            if news.whole {
                changed.extend(thins.drain().map(|(owner, _)| owner));
            }
            news.gone.iter().for_each(|owner| {
                thins.remove(owner);
            });
            for report in news.there {
                changed.push(report.owner);
                thins.insert(report.owner, report);
            }
        }
        self.tell(changed);
    }

    /// A node's stream broke: what it said may be old.
    pub fn away(&self, node: NodeId) {
        let gone = self.open().remove(&node).unwrap_or_default();
        self.tell(gone.into_keys());
    }

    fn tell(&self, changed: impl IntoIterator<Item = ThinOwner>) {
        for owner in changed {
            // Nobody may be watching.
            let _ = match owner {
                ThinOwner::Volume(id) => self.volumes.send(id).is_ok(),
                ThinOwner::Snapshot(id) => self.snapshots.send(id).is_ok(),
            };
        }
    }

    /// Ids of volumes of which a node said something new, from now on.
    #[must_use]
    pub fn volume_changes(&self) -> broadcast::Receiver<VolumeId> {
        self.volumes.subscribe()
    }

    /// Ids of snapshots of which a node said something new, from now on.
    #[must_use]
    pub fn snapshot_changes(&self) -> broadcast::Receiver<SnapshotId> {
        self.snapshots.subscribe()
    }

    /// What a node said of one thin; the outer none when it says nothing of any.
    fn of(&self, node: NodeId, owner: ThinOwner) -> Option<Option<ThinReport>> {
        let nodes = self.open();
        nodes.get(&node).map(|thins| thins.get(&owner).cloned())
    }
}

impl Service {
    /// A volume as a watch tells of it: with what is known without asking.
    pub(super) fn glance_at_volume(&self, mut volume: Volume) -> VolumeView {
        let seen = self.glance((volume.pool, volume.node), volume.id.into());
        let report = seen.and_then(|seen| {
            add_conditions(&mut volume, &seen);
            seen.report()
        });
        VolumeView { volume, report }
    }

    /// As [`Self::glance_at_volume`].
    pub(super) fn glance_at_snapshot(&self, mut snapshot: Snapshot) -> Snapshot {
        if let Some(seen) = self.glance((snapshot.pool, snapshot.node), snapshot.id.into()) {
            add_conditions(&mut snapshot, &seen);
        }
        snapshot
    }

    /// What is known of a thin without asking. That an open pool does not have one is not said
    /// here: the record may be newer than what the node told so far, and nobody is to be alarmed
    /// for that. Whoever asks for the thing itself is told.
    fn glance(&self, (pool, node): (PoolId, NodeId), owner: ThinOwner) -> Option<Seen> {
        match self.live_thins.of(node, owner) {
            Some(Some(report)) => Some(Seen::There(Box::new(report))),
            Some(None) => {
                let open = self.live.open_pools(node)?.contains(&pool);
                (!open).then_some(Seen::Missing { open })
            }
            None => {
                let reach = self.live.reach(node)?;
                (!reach.up).then_some(Seen::Away(reach.why))
            }
        }
    }
}
