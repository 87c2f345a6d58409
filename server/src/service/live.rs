//! What nodes say now: whether they answer, and how full their pools are. Memory only.
//!
//! Fed by `reconcile/nodes.rs`, one stream per node, and by answers of agents; read by placement
//! and by every answer about a pool or node. A restart begins with nothing and asks.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use goldleaf_types::{NodeId, PoolId};
use jiff::Timestamp;
use tokio::sync::{Notify, broadcast};

use crate::domain::{Phase, PoolReport};

/// Whether a node answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Its stream is open.
    pub up: bool,
    /// What was seen last, for people.
    pub why: String,
    /// Since when.
    pub since: Timestamp,
}

/// Why a node does not keep our records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unkept {
    /// What it said, for people.
    pub why: String,
    /// Since when.
    pub since: Timestamp,
}

#[derive(Debug, Default)]
struct NodeLive {
    reach: Option<Reach>,
    unkept: Option<Unkept>,
    pools: HashMap<PoolId, PoolReport>,
    /// The newest report of each pool since the stream was opened, by stream or by answer: those
    /// two overtake each other.
    newest: HashMap<PoolId, u64>,
}

/// What every node says now.
#[derive(Debug)]
pub struct Live {
    nodes: Mutex<HashMap<NodeId, NodeLive>>,
    changed: broadcast::Sender<NodeId>,
    pools_changed: broadcast::Sender<PoolId>,
    /// Rung when a node registered: its stream is to be opened.
    pub registered: Notify,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            nodes: Mutex::default(),
            changed: broadcast::channel(256).0,
            pools_changed: broadcast::channel(256).0,
            registered: Notify::new(),
        }
    }
}

impl Live {
    fn open(&self) -> MutexGuard<'_, HashMap<NodeId, NodeLive>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node's stream told of every pool it has. True when the node was away before.
    pub fn set(&self, node: NodeId, reports: Vec<PoolReport>) -> bool {
        let mut changed = Vec::new();
        let came = {
            let mut nodes = self.open();
            let live = nodes.entry(node).or_default();
            // What was known before the stream broke says nothing: another process may count anew.
            let newest = |report: PoolReport| match live.pools.get(&report.id) {
                Some(known)
                    if live
                        .newest
                        .get(&report.id)
                        .is_some_and(|n| *n > report.as_of) =>
                {
                    known.clone()
                }
                Some(_) | None => report,
            };
            let new: HashMap<_, _> = reports.into_iter().map(|r| (r.id, newest(r))).collect();
            live.newest.extend(new.values().map(|r| (r.id, r.as_of)));
            changed.extend(
                new.iter()
                    .filter(|(id, report)| live.pools.get(id) != Some(report))
                    .map(|(id, _)| *id),
            );
            changed.extend(live.pools.keys().filter(|id| !new.contains_key(id)));
            live.pools = new;
            let came = !live.reach.as_ref().is_some_and(|r| r.up);
            if came {
                let why = "its agent answers".into();
                live.reach = Some(Reach {
                    up: true,
                    why,
                    since: Timestamp::now(),
                });
            }
            came
        };
        if came {
            let _ = self.changed.send(node); // nobody may be watching
        }
        for pool in changed {
            let _ = self.pools_changed.send(pool);
        }
        came
    }

    /// One pool's report, from an answer; nothing if a newer one is known.
    pub fn merge(&self, node: NodeId, report: &PoolReport) {
        {
            let mut nodes = self.open();
            let live = nodes.entry(node).or_default();
            let newest = live.newest.get(&report.id);
            if newest.is_some_and(|newest| *newest > report.as_of) {
                return;
            }
            live.newest.insert(report.id, report.as_of);
            live.pools.insert(report.id, report.clone());
        }
        let _ = self.pools_changed.send(report.id);
    }

    /// Whether a newer report of the same pool is known by now.
    #[must_use]
    pub fn is_overtaken(&self, node: NodeId, report: &PoolReport) -> bool {
        let nodes = self.open();
        let newest = nodes
            .get(&node)
            .and_then(|live| live.newest.get(&report.id));
        newest.is_some_and(|newest| *newest > report.as_of)
    }

    /// A pool is gone.
    pub fn forget_pool(&self, node: NodeId, pool: PoolId) {
        if let Some(live) = self.open().get_mut(&node) {
            live.pools.remove(&pool);
        }
    }

    /// A node's stream broke or does not open.
    pub fn away(&self, node: NodeId, why: &str) {
        let went = {
            let mut nodes = self.open();
            let live = nodes.entry(node).or_default();
            live.newest.clear(); // another process may count anew
            live.unkept = None; // asked again when it is back
            let was_up = live.reach.as_ref().is_none_or(|r| r.up);
            let since = match &live.reach {
                Some(reach) if !reach.up => reach.since,
                Some(_) | None => Timestamp::now(),
            };
            live.reach = Some(Reach {
                up: false,
                why: why.to_owned(),
                since,
            });
            was_up
        };
        if went {
            let _ = self.changed.send(node);
        }
    }

    /// Whether a node answers; none before its stream was tried.
    #[must_use]
    pub fn reach(&self, node: NodeId) -> Option<Reach> {
        self.open().get(&node).and_then(|live| live.reach.clone())
    }

    /// Whether a node keeps our records, or why it does not. True when that is news.
    pub fn note_records(&self, node: NodeId, refusal: Option<String>) -> bool {
        let news = {
            let mut nodes = self.open();
            let live = nodes.entry(node).or_default();
            let known = live.unkept.as_ref().map(|unkept| &unkept.why);
            let news = known != refusal.as_ref();
            if news {
                let since = Timestamp::now();
                live.unkept = refusal.map(|why| Unkept { why, since });
            }
            news
        };
        if news {
            let _ = self.changed.send(node); // nobody may be watching
        }
        news
    }

    /// Why a node does not keep our records; none when it does, when it was not asked yet, and while it
    /// is away.
    #[must_use]
    pub fn unkept(&self, node: NodeId) -> Option<Unkept> {
        let nodes = self.open();
        let live = nodes.get(&node)?;
        live.reach.as_ref().filter(|r| r.up)?;
        live.unkept.clone()
    }

    /// What an open stream last said of a pool; none while the stream is not open.
    #[must_use]
    pub fn fresh(&self, node: NodeId, pool: PoolId) -> Option<PoolReport> {
        let nodes = self.open();
        let live = nodes.get(&node)?;
        live.reach.as_ref().filter(|r| r.up)?;
        live.pools.get(&pool).cloned()
    }

    /// The pools that a node has open; none while its stream is not.
    #[must_use]
    pub fn open_pools(&self, node: NodeId) -> Option<Vec<PoolId>> {
        let nodes = self.open();
        let live = nodes.get(&node)?;
        live.reach.as_ref().filter(|r| r.up)?;
        let open = live
            .pools
            .values()
            .filter(|report| report.phase == Phase::Ready);
        Some(open.map(|report| report.id).collect())
    }

    /// Ids of nodes that came or went, from now on.
    #[must_use]
    pub fn node_changes(&self) -> broadcast::Receiver<NodeId> {
        self.changed.subscribe()
    }

    /// Ids of pools whose reports changed, from now on.
    #[must_use]
    pub fn pool_changes(&self) -> broadcast::Receiver<PoolId> {
        self.pools_changed.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId::from_bytes([1; 16]);

    fn report(as_of: u64) -> PoolReport {
        PoolReport {
            id: PoolId::from_bytes([2; 16]),
            as_of,
            devices: Vec::new(),
            spares: Vec::new(),
            phase: Phase::Ready,
            conditions: Vec::new(),
            usage: None,
            policy: None,
            incarnation: None,
        }
    }

    fn known(live: &Live) -> Option<u64> {
        live.fresh(NODE, report(0).id).map(|report| report.as_of)
    }

    #[test]
    fn an_answer_that_comes_late_does_not_take_the_place_of_a_newer_report() {
        let live = Live::default();
        live.set(NODE, vec![report(7)]);
        live.merge(NODE, &report(6));
        assert_eq!(known(&live), Some(7));
        live.merge(NODE, &report(8));
        assert_eq!(known(&live), Some(8));
        live.set(NODE, vec![report(7)]);
        assert_eq!(known(&live), Some(8), "nor does a report that is late");
    }

    #[test]
    fn an_agent_that_counts_anew_is_heard() {
        let live = Live::default();
        live.set(NODE, vec![report(7)]);
        live.away(NODE, "it broke");
        live.set(NODE, vec![report(1)]);
        assert_eq!(known(&live), Some(1));
        live.merge(NODE, &report(2));
        assert_eq!(known(&live), Some(2));
    }
}
