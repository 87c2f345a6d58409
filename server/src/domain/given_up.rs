//! A thin that its user gave up while its node counted as lost.

use goldleaf_types::{Labels, Name, NodeId, PoolId, ThinOwner};

/// What is left to be done about a thin whose record is gone: should its pool come back, it is
/// deleted there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// Whose thin.
    pub owner: ThinOwner,
    /// What its owner was called.
    pub name: Name,
    /// The pool that has it, or may have it.
    pub pool: PoolId,
    /// The node that had the pool then.
    pub node: NodeId,
    /// None: it has no user any more.
    pub labels: Labels,
    /// The transaction that wrote it.
    pub revision: u64,
}
