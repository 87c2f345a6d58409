//! Nodes: their agents say where they serve; people look.
//!
//! Called by `grpc`. A node is never deleted here: its volumes would be forgotten with it.

use goldleaf_types::{Incarnation, NodeId};
use jiff::Timestamp;

use super::placing::trusted;
use super::{Listed, Listing, Reach, Service, ServiceError, Unkept, conflict};
use crate::domain::{Check, Node, NodeAsked, Phase, Ref};
use crate::failpoint::{Point, hit};

/// A node with whether it answers.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// The record.
    pub node: Node,
    /// Whether it answers; none before that was tried.
    pub reach: Option<Reach>,
    /// Why it does not keep our records, if that is so.
    pub unkept: Option<Unkept>,
}

impl Service {
    /// Takes note of where a node's agent serves. The same again changes nothing.
    ///
    /// # Errors
    ///
    /// A conflict when another node has that name; [`ServiceError::NodeLost`] for one that was
    /// given up.
    pub async fn register(&self, asked: NodeAsked) -> Result<Incarnation, ServiceError> {
        let _held = self.hold_nodes().await;
        let known = self.records.by_id::<Node>(asked.id).await?;
        if let Some(other) = self.records.by_name::<Node>(&asked.name).await?
            && other.id != asked.id
        {
            return Err(conflict(&other, "id"));
        }
        match known {
            // Whatever it says: an administrator takes it back, nobody else does.
            Some(node) if node.lost.is_some() => trusted(&node)?,
            Some(node) if node.says(&asked) => {}
            Some(mut node) => {
                let old = node.name.clone();
                take_over(&mut node, asked);
                if node.name == old {
                    self.records.update(&mut node).await?;
                } else {
                    self.records.rename(&mut node, &old).await?;
                }
                tracing::info!(node = %node.id, name = %node.name, address = %node.address, "node changed");
            }
            None => {
                let mut node = fresh(asked);
                self.records.insert(&mut node, Vec::new()).await?;
                tracing::info!(node = %node.id, name = %node.name, address = %node.address, "node registered");
            }
        }
        hit(Point::NodeRecorded);
        self.live.registered.notify_one();
        Ok(self.records.store().incarnation())
    }

    /// Names and ids of nodes are so few that one lock serves them all.
    pub(super) async fn hold_nodes(&self) -> super::Held {
        self.locks.take_inner("nodes").await
    }

    /// A node with whether it answers.
    pub(super) fn view_node(&self, node: Node) -> NodeView {
        let reach = self.live.reach(node.id);
        let unkept = self.live.unkept(node.id);
        NodeView {
            node,
            reach,
            unkept,
        }
    }

    /// One node.
    ///
    /// # Errors
    ///
    /// When there is none, or the store is away.
    pub async fn get_node(&self, what: &Ref<NodeId>) -> Result<NodeView, ServiceError> {
        Ok(self.view_node(self.records.get::<Node>(what, "target").await?))
    }

    /// Nodes in order of registration.
    ///
    /// # Errors
    ///
    /// For a token that no page answered, or when the store is away.
    pub async fn list_nodes(&self, listing: &Listing) -> Result<Listed<NodeView>, ServiceError> {
        let listed = self.list::<Node>(listing).await?;
        let items = listed
            .items
            .into_iter()
            .map(|node| self.view_node(node))
            .collect();
        Ok(Listed {
            items,
            next: listed.next,
        })
    }

    /// What a node's host lacks, asked now.
    ///
    /// # Errors
    ///
    /// When there is no such node, it counts as lost, or it does not answer.
    pub async fn preflight(&self, what: Option<&Ref<NodeId>>) -> Result<Vec<Check>, ServiceError> {
        let node = self.node_named(what).await?;
        Ok(self.agent_of(node.id).await?.preflight().await?)
    }
}

fn fresh(asked: NodeAsked) -> Node {
    Node {
        id: asked.id,
        name: asked.name,
        labels: asked.labels,
        revision: 0,
        phase: Phase::Ready,
        created: Timestamp::now(),
        address: asked.address,
        agent_version: asked.agent_version,
        kernel_release: asked.kernel_release,
        drained: None,
        lost: None,
    }
}

fn take_over(node: &mut Node, asked: NodeAsked) {
    node.name = asked.name;
    node.labels = asked.labels;
    node.address = asked.address;
    node.agent_version = asked.agent_version;
    node.kernel_release = asked.kernel_release;
}
