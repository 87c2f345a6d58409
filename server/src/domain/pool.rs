//! A pool: one dm thin-pool on one node.

use goldleaf_types::{BlockSize, Bytes, Incarnation, Labels, Name, NodeId, PoolId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Condition, First, Marks, Phase};

/// What a write that needs a new block meets in a full pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// It fails at once.
    #[default]
    Error,
    /// It waits for room.
    Queue,
}

/// One device of a pool, as its user gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolDevice {
    /// Path on the node.
    pub path: String,
    /// If not 0, a sparse file of this many bytes is to be made there.
    pub create_file_bytes: u64,
}

/// The parameters of a pool as its user gave them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolAsked {
    /// Its data devices.
    pub devices: Vec<PoolDevice>,
    /// A device for the metadata alone.
    pub metadata_device: Option<PoolDevice>,
    /// What it allocates at a time.
    pub block_size: BlockSize,
    /// What writers meet when it is full.
    pub when_full: WhenFull,
}

/// A pool's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its id.
    pub id: PoolId,
    /// Its user's name for it.
    pub name: Name,
    /// Its user's labels.
    pub labels: Labels,
    /// Grows with each change.
    pub revision: u64,
    /// Where it is in its life.
    pub phase: Phase,
    /// What is worth knowing about it.
    pub conditions: Vec<Condition>,
    /// When it was asked for.
    pub created: Timestamp,
    /// The node that has it.
    pub node: NodeId,
    /// What was asked for.
    pub asked: PoolAsked,
    /// What it could do when its node last said; kept so that a watch sees the change.
    pub mode: PoolMode,
    /// The name it is to get; a wish. It is taken in the index as long as this is here.
    pub wanted_name: Option<Name>,
    /// While it is deleted: whether all that is in it goes too.
    pub doomed: bool,
    /// What its user marked it with.
    pub marks: Marks,
    /// The adoption that is under way: a wish.
    pub adopting: Option<Adopting>,
}

/// An adoption under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adopting {
    /// The store that is to have the pool no more.
    pub former: Option<Incarnation>,
}

impl Pool {
    /// Whether a request with these parameters asks for this very pool.
    ///
    /// # Errors
    ///
    /// The name of the first field that differs.
    pub fn same_or_conflict(&self, asked: &PoolAsked, first: &First) -> Result<(), &'static str> {
        if self.asked.devices != asked.devices {
            Err("devices")
        } else if self.asked.metadata_device != asked.metadata_device {
            Err("metadata_device")
        } else if self.asked.block_size != asked.block_size {
            Err("block_size_bytes")
        } else if self.asked.when_full != asked.when_full {
            Err("when_full")
        } else {
            self.marks.same_or_conflict(&self.labels, first)
        }
    }

    /// Takes over what its node says of it. True when something a watcher cares about changed.
    pub fn follow(&mut self, report: &PoolReport) -> bool {
        let mode = report.usage.map_or(PoolMode::Unknown, |usage| usage.mode);
        let same_conditions = self.conditions.len() == report.conditions.len()
            && self
                .conditions
                .iter()
                .zip(&report.conditions)
                .all(|(a, b)| a.same_claim(b));
        if self.phase == report.phase && self.mode == mode && same_conditions {
            return false;
        }
        self.phase = report.phase;
        self.mode = mode;
        self.conditions.clone_from(&report.conditions);
        true
    }
}

/// What the kernel says a pool can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolMode {
    /// Nobody asked the kernel yet.
    #[default]
    Unknown,
    /// Reads and writes.
    ReadWrite,
    /// Reads, and rewrites of what was written before.
    ReadOnly,
    /// As read-write, but nothing new can be allocated.
    OutOfDataSpace,
    /// Nothing.
    Failed,
}

/// How full a pool is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolUsage {
    /// Data blocks in use.
    pub data_used: Bytes,
    /// Data blocks in all.
    pub data_total: Bytes,
    /// Metadata in use.
    pub metadata_used: Bytes,
    /// Metadata in all.
    pub metadata_total: Bytes,
    /// What it can do now.
    pub mode: PoolMode,
    /// Whether its metadata must be checked first.
    pub needs_check: bool,
    /// Sum of its volumes' sizes.
    pub provisioned: Bytes,
    /// Volumes and snapshots in it.
    pub thin_count: u64,
}

impl PoolUsage {
    /// Whether what is left of the metadata is for what is there already: less than a quarter.
    #[must_use]
    pub const fn is_low_on_metadata(&self) -> bool {
        let free = self.metadata_total.0.saturating_sub(self.metadata_used.0);
        free.saturating_mul(4) < self.metadata_total.0
    }
}

/// What a pool does when it fills.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolPolicy {
    /// What writers meet when it is full.
    pub when_full: WhenFull,
    /// How long they wait, in seconds; 0: as long as the node's kernel lets them.
    pub wait_seconds: u32,
    /// What its volumes' sizes may sum up to, in hundredths of its data; 0: no limit.
    pub overcommit_percent: u32,
}

impl PoolPolicy {
    /// What the sizes of its volumes may sum up to.
    #[must_use]
    pub fn limit(&self, data: Bytes) -> Option<Bytes> {
        match self.overcommit_percent {
            0 => None,
            percent => {
                let limit = u128::from(data.0) * u128::from(percent) / 100;
                Some(Bytes(u64::try_from(limit).unwrap_or(u64::MAX)))
            }
        }
    }
}

/// A change of a pool's policy; what is `None` stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyChange {
    /// What writers meet when it is full.
    pub when_full: Option<WhenFull>,
    /// How long they wait, in seconds.
    pub wait_seconds: Option<u32>,
    /// What its volumes' sizes may sum up to, in hundredths of its data.
    pub overcommit_percent: Option<u32>,
}

/// More room for a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MoreRoom {
    /// New devices for data.
    pub devices: Vec<PoolDevice>,
    /// New devices for metadata alone.
    pub metadata_devices: Vec<PoolDevice>,
    /// New devices that wait until room gets scarce.
    pub spares: Vec<PoolDevice>,
    /// Devices of the pool to be used to their end: path, and what size to give a file first.
    pub grow: Vec<(String, u64)>,
    /// How much more metadata at least.
    pub metadata: Bytes,
}

/// A pool as its node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolReport {
    /// Its id.
    pub id: PoolId,
    /// Grows with each change on its node: of two reports the one of the larger number is newer.
    pub as_of: u64,
    /// Paths of its devices that hold something now.
    pub devices: Vec<String>,
    /// Paths of its devices that wait.
    pub spares: Vec<String>,
    /// Ready, closed or failed.
    pub phase: Phase,
    /// What its node finds worth knowing.
    pub conditions: Vec<Condition>,
    /// How full it is; none while closed.
    pub usage: Option<PoolUsage>,
    /// What it does when it fills; none while closed.
    pub policy: Option<PoolPolicy>,
    /// The store whose changes it takes; none while closed, or when none has it.
    pub incarnation: Option<Incarnation>,
}
