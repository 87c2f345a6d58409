//! Draining a node: new volumes keep off it, and an administrator sees what is still active there.
//!
//! Called by `grpc`. The mark in the node's record is all there is to keeping volumes off: each
//! creation is written over the revision of its node. Taking idle devices away is the agent's own
//! deactivation, one volume at a time, so a crash in between leaves some of them taken away.

use std::collections::BTreeMap;

use goldleaf_types::{NodeId, ThinOwner, VolumeId};

use super::placing::trusted;
use super::{NodeView, Service, ServiceError};
use crate::domain::{Activation, Holder, Node, Ref, ThinReport, Volume};
use crate::failpoint::{Point, hit};

/// A drained node.
#[derive(Clone, Debug)]
pub struct Drained {
    /// The node.
    pub node: NodeView,
    /// What is active there, in order of creation; an error when nobody knows.
    pub active: Result<Vec<Active>, String>,
    /// How many devices were taken away.
    pub deactivated: u32,
}

/// A volume that has a device on a drained node.
#[derive(Clone, Debug)]
pub struct Active {
    /// Which.
    pub volume: VolumeId,
    /// Its name; empty when there is no record of it.
    pub name: String,
    /// Its device.
    pub activation: Activation,
    /// Why it was not taken away, if that was asked for.
    pub kept_because: String,
}

impl Service {
    /// Keeps new volumes off a node; takes devices away that nobody needs, if asked. The same again
    /// changes nothing more.
    ///
    /// # Errors
    ///
    /// When there is no such node, it counts as lost, or the store is away. A node that does not
    /// answer is drained all the same.
    pub async fn drain(&self, what: &Ref<NodeId>, idle: bool) -> Result<Drained, ServiceError> {
        let node = self.mark(what, Some(jiff::Timestamp::now())).await?;
        hit(Point::NodeDrained);
        let mut drained = Drained {
            active: self.active_on(&node).await,
            node: self.view_node(node),
            deactivated: 0,
        };
        if let (Ok(active), true) = (&mut drained.active, idle) {
            let before = active.len();
            for found in std::mem::take(active) {
                active.extend(self.without_device(found).await);
            }
            drained.deactivated = u32::try_from(before - active.len()).unwrap_or(u32::MAX);
        }
        Ok(drained)
    }

    /// Lets new volumes go to a node again. One that is not drained is as good.
    ///
    /// # Errors
    ///
    /// When there is no such node, it counts as lost, or the store is away.
    pub async fn resume_node(&self, what: &Ref<NodeId>) -> Result<NodeView, ServiceError> {
        let node = self.mark(what, None).await?;
        hit(Point::NodeResumed);
        Ok(self.view_node(node))
    }

    async fn mark(
        &self,
        what: &Ref<NodeId>,
        drained: Option<jiff::Timestamp>,
    ) -> Result<Node, ServiceError> {
        let _held = self.hold_nodes().await;
        let mut node = self.records.get::<Node>(what, "node").await?;
        trusted(&node)?;
        if node.drained.is_some() != drained.is_some() {
            node.drained = drained;
            self.records.update(&mut node).await?;
            tracing::info!(node = %node.id, name = %node.name, drained = drained.is_some(), "node marked");
        }
        Ok(node)
    }

    /// The volumes that have a device on a node, or why nobody knows.
    async fn active_on(&self, node: &Node) -> Result<Vec<Active>, String> {
        let agent = self.agents.of(node);
        let thins = agent.thins().await.map_err(|error| error.to_string())?;
        let records = self.records.all::<Volume>().await;
        let names: BTreeMap<VolumeId, String> = records
            .map_err(|error| error.to_string())?
            .into_iter()
            .map(|volume| (volume.id, volume.name.to_string()))
            .collect();
        let active = |thin: ThinReport| match (thin.owner, thin.activation) {
            (ThinOwner::Volume(volume), Some(activation)) => Some(Active {
                volume,
                name: names.get(&volume).cloned().unwrap_or_default(),
                activation,
                kept_because: String::new(),
            }),
            (ThinOwner::Volume(_) | ThinOwner::Snapshot(_), _) => None,
        };
        let mut active: Vec<_> = thins.into_iter().filter_map(active).collect();
        active.sort_by_key(|found| found.volume);
        Ok(active)
    }

    /// Takes one device away if the host has it and nobody uses it; else says why it stays.
    async fn without_device(&self, found: Active) -> Option<Active> {
        let why = match found.activation.holder {
            Holder::Csi => "Kubernetes has it: drain the node there too".to_owned(),
            Holder::Host => match self.deactivate(&Ref::Id(found.volume)).await {
                Ok(_) => return None,
                Err(error) => error.to_string(),
            },
        };
        Some(Active {
            kept_because: why,
            ..found
        })
    }
}
