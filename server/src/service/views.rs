//! What an answer adds to a record: what its node says of it now.
//!
//! Called by every rule that answers a volume or snapshot. A node that is away costs the answer its
//! live part, never the answer. Data that a node should have and does not is said here, always.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use goldleaf_types::{NodeId, PoolId, ThinOwner, VolumeId};
use jiff::Timestamp;

use super::{Listed, Listing, Page, Revised, Service, ServiceError, tokens};
use crate::agents::AgentError;
use crate::domain::{Condition, Phase, Ref, Snapshot, ThinReport, Volume};
use crate::store::rows;

/// A volume with what its node says of it.
#[derive(Clone, Debug)]
pub struct VolumeView {
    /// The record, and conditions of the moment.
    pub volume: Volume,
    /// What its node said, if it did.
    pub report: Option<ThinReport>,
}

/// What a node said of one thin.
#[derive(Clone, Debug)]
pub(super) enum Seen {
    /// This.
    There(Box<ThinReport>),
    /// It does not have it; whether the pool that should have it is open there.
    Missing {
        /// Only then does its absence say anything.
        open: bool,
    },
    /// Nothing.
    Away(String),
}

/// What a node has.
#[derive(Debug)]
pub(super) struct NodeHas {
    thins: BTreeMap<ThinOwner, ThinReport>,
    open: Vec<PoolId>,
}

/// What each node said of all its thins, or why it did not.
pub(super) type Nodes = BTreeMap<NodeId, Result<NodeHas, String>>;

/// A record that lies on a thin.
pub(super) trait OnThin {
    fn phase(&self) -> Phase;
    fn conditions(&mut self) -> &mut Vec<Condition>;
}

impl OnThin for Volume {
    fn phase(&self) -> Phase {
        self.phase
    }
    fn conditions(&mut self) -> &mut Vec<Condition> {
        &mut self.conditions
    }
}

impl OnThin for Snapshot {
    fn phase(&self) -> Phase {
        self.phase
    }
    fn conditions(&mut self) -> &mut Vec<Condition> {
        &mut self.conditions
    }
}

/// A condition of this moment.
pub(super) fn condition(kind: &str, status: bool, reason: &str, message: String) -> Condition {
    Condition {
        kind: kind.into(),
        status,
        reason: reason.into(),
        message,
        since: Timestamp::now(),
    }
}

/// Says that a node does not answer.
pub(super) fn unreachable(why: &str) -> Condition {
    condition(
        "NodeReachable",
        false,
        "NodeAway",
        format!("{why}; what it last said may be old"),
    )
}

impl Service {
    /// A volume with what its node says of it now.
    pub(super) async fn view_volume(&self, mut volume: Volume) -> Result<VolumeView, ServiceError> {
        let seen = self
            .look((volume.pool, volume.node), volume.id.into())
            .await?;
        add_conditions(&mut volume, &seen);
        Ok(VolumeView {
            volume,
            report: seen.report(),
        })
    }

    pub(super) async fn view_snapshot(
        &self,
        mut snapshot: Snapshot,
    ) -> Result<Snapshot, ServiceError> {
        let seen = self
            .look((snapshot.pool, snapshot.node), snapshot.id.into())
            .await?;
        add_conditions(&mut snapshot, &seen);
        Ok(snapshot)
    }

    /// One volume.
    ///
    /// # Errors
    ///
    /// When there is none, or the store is away.
    pub async fn get_volume(&self, what: &Ref<VolumeId>) -> Result<VolumeView, ServiceError> {
        let volume = self.records.get::<Volume>(what, "target").await?;
        self.view_volume(volume).await
    }

    /// Volumes in order of creation.
    ///
    /// # Errors
    ///
    /// For a token that no page answered, or when the store is away.
    pub async fn list_volumes(
        &self,
        listing: &Listing,
    ) -> Result<Listed<VolumeView>, ServiceError> {
        let listed = self.list::<Volume>(listing).await?;
        let nodes = self.thins_of(listed.items.iter().map(|v| v.node)).await;
        let view = |mut volume: Volume| {
            let seen = seen_in(&nodes, (volume.pool, volume.node), volume.id.into());
            add_conditions(&mut volume, &seen);
            VolumeView {
                volume,
                report: seen.report(),
            }
        };
        Ok(Listed {
            items: listed.items.into_iter().map(view).collect(),
            next: listed.next,
        })
    }

    /// A page of records, for every kind the same.
    pub(super) async fn list<T: Revised>(
        &self,
        listing: &Listing,
    ) -> Result<Listed<T>, ServiceError> {
        let incarnation = self.records.store().incarnation();
        let after = tokens::read_page(incarnation, &listing.token, &rows::prefix::<T>())?;
        let page: Page<T> = self
            .records
            .page(after, listing.size, &listing.labels)
            .await?;
        let next = page
            .next
            .map(|key| tokens::page(incarnation, &key))
            .unwrap_or_default();
        Ok(Listed {
            items: page.items,
            next,
        })
    }

    async fn look(
        &self,
        (pool, node): (PoolId, NodeId),
        owner: ThinOwner,
    ) -> Result<Seen, ServiceError> {
        let agent = match self.agent_of(node).await {
            Ok(agent) => agent,
            Err(lost @ ServiceError::NodeLost { .. }) => return Ok(Seen::Away(lost.to_string())),
            Err(error) => return Err(error),
        };
        match agent.thin(owner).await {
            Ok(report) => Ok(Seen::There(Box::new(report))),
            Err(error) if error.is_not_found() => Ok(Seen::Missing {
                open: self.require_open(pool, node).await.is_ok(),
            }),
            Err(error @ (AgentError::Away { .. } | AgentError::Refused { .. })) => {
                Ok(Seen::Away(error.to_string()))
            }
        }
    }

    /// Every thin of each of these nodes; each is asked once, all of them at once.
    pub(super) async fn thins_of(&self, nodes: impl Iterator<Item = NodeId>) -> Nodes {
        let nodes: BTreeSet<NodeId> = nodes.collect();
        let asked = nodes.into_iter().map(|node| async move {
            let has = self.node_has(node).await;
            (node, has.map_err(|error| error.to_string()))
        });
        join_all(asked).await.into_iter().collect()
    }

    async fn node_has(&self, node: NodeId) -> Result<NodeHas, ServiceError> {
        let thins = self.agent_of(node).await?.thins().await?;
        let open = match self.live.open_pools(node) {
            Some(open) => open,
            None => {
                let reports = self.ask_pools(node).await?;
                let open = reports
                    .into_iter()
                    .filter(|report| report.phase == Phase::Ready);
                open.map(|report| report.id).collect()
            }
        };
        Ok(NodeHas {
            thins: thins.into_iter().map(|thin| (thin.owner, thin)).collect(),
            open,
        })
    }
}

pub(super) fn seen_in(nodes: &Nodes, (pool, node): (PoolId, NodeId), owner: ThinOwner) -> Seen {
    match nodes.get(&node) {
        Some(Ok(has)) => match has.thins.get(&owner) {
            Some(report) => Seen::There(Box::new(report.clone())),
            None => Seen::Missing {
                open: has.open.contains(&pool),
            },
        },
        Some(Err(why)) => Seen::Away(why.clone()),
        None => Seen::Away("its node was not asked".into()),
    }
}

/// What a node said becomes conditions of the answer.
pub(super) fn add_conditions(record: &mut impl OnThin, seen: &Seen) {
    let more = match seen {
        Seen::There(report) => report.conditions.clone(),
        Seen::Away(why) => vec![unreachable(why)],
        Seen::Missing { .. } if record.phase() != Phase::Ready => Vec::new(),
        Seen::Missing { open: true } => vec![condition(
            "DataPresent",
            false,
            "NodeDoesNotHaveIt",
            "its pool is open and does not have it: the data is lost; delete it, or bring the \
             pool's right devices back"
                .into(),
        )],
        Seen::Missing { open: false } => vec![condition(
            "PoolOpen",
            false,
            "PoolNotOpen",
            "its pool is not open on its node: open it to see the data".into(),
        )],
    };
    let conditions = record.conditions();
    for new in more {
        conditions.retain(|old| old.kind != new.kind);
        conditions.push(new);
    }
}

impl Seen {
    pub(super) fn report(self) -> Option<ThinReport> {
        match self {
            Self::There(report) => Some(*report),
            Self::Missing { .. } | Self::Away(_) => None,
        }
    }
}
