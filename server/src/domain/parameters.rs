//! What an agent keeps of a request for the day our store is lost.

use goldleaf_types::ThinOwner;

use super::{GroupPart, VolumeAsked};

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThinKind {
    /// A volume.
    Volume,
    /// A snapshot.
    Snapshot,
}

impl From<ThinOwner> for ThinKind {
    fn from(owner: ThinOwner) -> Self {
        match owner {
            ThinOwner::Volume(_) => Self::Volume,
            ThinOwner::Snapshot(_) => Self::Snapshot,
        }
    }
}

/// A request's parameters with what they were for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// What was asked for.
    pub kind: ThinKind,
    /// How.
    pub asked: VolumeAsked,
    /// The group that it is a part of.
    pub part: Option<GroupPart>,
}
