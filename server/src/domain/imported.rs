//! A pool that a node took over, as what is on its devices says.

use goldleaf_types::{BlockSize, Labels, Name, ThinOwner};

use super::{GroupPart, KeptMarks, PoolReport, ThinReport, VolumeAsked, WhenFull};

/// A pool that a node imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedPool {
    /// What the node says of it.
    pub report: PoolReport,
    /// The name that it was given when it was made.
    pub name: Name,
    /// Its devices' paths on that node.
    pub devices: Vec<String>,
    /// What it allocates at a time.
    pub block_size: BlockSize,
    /// What writers meet when it is full.
    pub when_full: WhenFull,
}

/// A thin as its pool's own catalogue has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogueRow {
    /// What the node says of it.
    pub report: ThinReport,
    /// Its owner's name.
    pub name: Name,
    /// Its owner's labels when it was made.
    pub labels: Labels,
    /// What it began as, if not blank or an image.
    pub source: Option<ThinOwner>,
    /// What was asked for.
    pub asked: VolumeAsked,
    /// The group that it was frozen with, if with one.
    pub part: Option<GroupPart>,
    /// Its owner's epoch.
    pub epoch: u64,
    /// Its labels and marks, if its user changed any since it was made.
    pub marks: Option<KeptMarks>,
}
