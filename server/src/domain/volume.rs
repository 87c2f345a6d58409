//! A volume: what a user owns, on exactly one thin.

use goldleaf_types::{
    Bytes, Digest, Labels, Name, NodeId, PoolId, ThinOwner, VolumeId, VolumeSize,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Condition, First, GroupPart, Marks, Phase, Progress};

/// What a thin begins as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Begin {
    /// Zeroes.
    Blank,
    /// An image, which shows through where nothing was written.
    Image(Digest),
    /// Another thin of the same pool.
    Thin(ThinOwner),
}

/// The parameters of a volume as its user gave them: with the labels, what makes a repeated
/// request the same one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeAsked {
    /// Bytes; 0 took the source's size.
    pub size_bytes: u64,
    /// The image's name, id or digest; empty for none.
    pub image: String,
    /// What to clone; empty for nothing.
    pub source: String,
}

/// A volume's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its id.
    pub id: VolumeId,
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
    /// Its size.
    pub size: VolumeSize,
    /// The size it is to get; a wish.
    pub wanted_size: Option<VolumeSize>,
    /// It is to be independent of its image, copied at this many bytes a second; a wish.
    pub decoupling: Option<Bytes>,
    /// The pool that holds it.
    pub pool: PoolId,
    /// The node that has that pool.
    pub node: NodeId,
    /// What its thin begins as.
    pub begin: Begin,
    /// The image that shows through, directly or through what it was cloned from.
    pub image: Option<Digest>,
    /// What was asked for.
    pub asked: VolumeAsked,
    /// Grows when it moves between nodes.
    pub epoch: u64,
    /// What its user marked it with.
    pub marks: Marks,
}

impl Volume {
    /// Whether a request with these parameters asks for this very volume.
    ///
    /// # Errors
    ///
    /// The name of the first field that differs.
    pub fn same_or_conflict(&self, asked: &VolumeAsked, first: &First) -> Result<(), &'static str> {
        if self.asked.size_bytes != asked.size_bytes {
            Err("size_bytes")
        } else if self.asked.image != asked.image {
            Err("image")
        } else if self.asked.source != asked.source {
            Err("source")
        } else {
            self.marks.same_or_conflict(&self.labels, first)
        }
    }

    /// Whether something was asked of a ready one that its node has not done yet.
    #[must_use]
    pub const fn wishes(&self) -> bool {
        self.wanted_size.is_some() || self.decoupling.is_some()
    }

    /// What its node is told to make.
    #[must_use]
    pub fn order(&self) -> ThinOrder {
        ThinOrder {
            owner: self.id.into(),
            name: self.name.clone(),
            pool: self.pool,
            size: self.size,
            begin: self.begin,
            labels: self.marks.first_labels(&self.labels).clone(),
            asked: self.asked.clone(),
            part: None,
            epoch: self.epoch,
        }
    }
}

/// What a node is told about a thin to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThinOrder {
    /// Whose it is.
    pub owner: ThinOwner,
    /// The owner's name.
    pub name: Name,
    /// Where.
    pub pool: PoolId,
    /// How large.
    pub size: VolumeSize,
    /// What it begins as.
    pub begin: Begin,
    /// The owner's labels.
    pub labels: Labels,
    /// The request's parameters, kept on the pool for when our store is lost.
    pub asked: VolumeAsked,
    /// The group that it is a part of, kept there too.
    pub part: Option<GroupPart>,
    /// The owner's epoch.
    pub epoch: u64,
}

/// Who an activation is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Holder {
    /// The host itself.
    #[default]
    Host,
    /// The container orchestrator.
    Csi,
}

/// How to activate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActivateOptions {
    /// For whom.
    pub holder: Holder,
    /// Refuse writes.
    pub read_only: bool,
}

/// A volume made visible on its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activation {
    /// The block device's stable path on its node.
    pub device_path: String,
    /// Who wanted it.
    pub holder: Holder,
    /// Whether it refuses writes.
    pub read_only: bool,
}

/// A thin as its node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThinReport {
    /// Whose it is.
    pub owner: ThinOwner,
    /// Where.
    pub pool: PoolId,
    /// Where it is in its life there.
    pub phase: Phase,
    /// How large.
    pub size: Bytes,
    /// The image that shows through.
    pub image: Option<Digest>,
    /// When its node wished for it; of a snapshot, the time it shows.
    pub created: Timestamp,
    /// Its device, if that is there.
    pub activation: Option<Activation>,
    /// Bytes the pool keeps for it; only known while active.
    pub owned: Option<Bytes>,
    /// How far long work on it has come, while there is some.
    pub progress: Option<Progress>,
    /// What it takes in its pool; only when that was asked for.
    pub usage: Option<ThinUsage>,
    /// What its node finds worth knowing.
    pub conditions: Vec<Condition>,
}

/// What a thin takes in its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThinUsage {
    /// Size of its device.
    pub provisioned: Bytes,
    /// What it maps.
    pub owned: Bytes,
    /// What nothing else maps.
    pub exclusive: Bytes,
}
