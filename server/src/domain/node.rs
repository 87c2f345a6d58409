//! A node: one host with one agent.

use goldleaf_types::{Labels, Name, NodeId};
use jiff::Timestamp;

use super::Phase;

/// What an agent says when it registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAsked {
    /// Its id, minted from the host's identity.
    pub id: NodeId,
    /// Its name.
    pub name: Name,
    /// Its labels.
    pub labels: Labels,
    /// Where it serves, as a URI.
    pub address: String,
    /// Its version.
    pub agent_version: String,
    /// Its kernel's release.
    pub kernel_release: String,
}

/// A node's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: Name,
    /// Its labels.
    pub labels: Labels,
    /// Grows with each change.
    pub revision: u64,
    /// Ready once registered.
    pub phase: Phase,
    /// When it registered first.
    pub created: Timestamp,
    /// Where its agent serves, as a URI.
    pub address: String,
    /// Its agent's version.
    pub agent_version: String,
    /// Its kernel's release.
    pub kernel_release: String,
    /// Since when new volumes keep off it.
    pub drained: Option<Timestamp>,
    /// Since when it counts as lost: nothing is asked of it and nothing that it says counts.
    pub lost: Option<Timestamp>,
}

/// Whether a node can be given new volumes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// It can.
    #[default]
    Open,
    /// An administrator keeps them off it.
    Drained,
    /// It counts as lost.
    Lost,
    /// The pool on it takes no changes from this store.
    Foreign,
}

impl Node {
    /// Whether it can be given new volumes.
    #[must_use]
    pub const fn standing(&self) -> Standing {
        match (self.lost, self.drained) {
            (Some(_), _) => Standing::Lost,
            (None, Some(_)) => Standing::Drained,
            (None, None) => Standing::Open,
        }
    }

    /// Whether a registration says nothing new.
    #[must_use]
    pub fn says(&self, asked: &NodeAsked) -> bool {
        self.name == asked.name
            && self.labels == asked.labels
            && self.address == asked.address
            && self.agent_version == asked.agent_version
            && self.kernel_release == asked.kernel_release
    }
}

/// One thing a host needs, as its agent found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub subject: String,
    /// Whether it is as it must be.
    pub ok: bool,
    /// What was found.
    pub found: String,
    /// How to get what lacks.
    pub remedy: String,
}
