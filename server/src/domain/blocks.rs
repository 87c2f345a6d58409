//! Ranges of a snapshot, as its node tells of them.

use goldleaf_types::{Bytes, SnapshotId};

/// What of a snapshot is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockOrder {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Another one: what differs from it; none: all that the snapshot holds.
    pub base: Option<SnapshotId>,
    /// The first byte that matters.
    pub from: u64,
    /// Most ranges in one part; 0 leaves it to the node.
    pub most: u32,
}

/// Some bytes of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRange {
    /// Where they begin.
    pub offset: u64,
    /// How many.
    pub len: u64,
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockPart {
    /// Size of the snapshot's device.
    pub size: Bytes,
    /// The ranges, in order.
    pub ranges: Vec<BlockRange>,
}
