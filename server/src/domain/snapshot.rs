//! A snapshot: a volume frozen at a time, on one thin that nobody writes.

use goldleaf_types::{
    Digest, GroupId, Labels, Name, NodeId, PoolId, SnapshotId, ThinOwner, VolumeSize,
};
use jiff::Timestamp;

use super::{Begin, Condition, First, Marks, Phase, ThinOrder, VolumeAsked};

/// A snapshot's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its id.
    pub id: SnapshotId,
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
    /// Size of what it froze.
    pub size: VolumeSize,
    /// The pool that holds it.
    pub pool: PoolId,
    /// The node that has that pool.
    pub node: NodeId,
    /// The image that shows through.
    pub image: Option<Digest>,
    /// What it froze; may be gone by now.
    pub source: ThinOwner,
    /// The source as it was asked for.
    pub asked_source: String,
    /// What its user marked it with.
    pub marks: Marks,
    /// The group that it was taken with.
    pub group: Option<GroupId>,
}

impl Snapshot {
    /// Whether a request with these parameters asks for this very snapshot.
    ///
    /// # Errors
    ///
    /// The name of the first field that differs.
    pub fn same_or_conflict(&self, source: &str, first: &First) -> Result<(), &'static str> {
        if self.asked_source != source {
            Err("source")
        } else {
            self.marks.same_or_conflict(&self.labels, first)
        }
    }

    /// What its node is told to make.
    #[must_use]
    pub fn order(&self) -> ThinOrder {
        ThinOrder {
            owner: self.id.into(),
            name: self.name.clone(),
            pool: self.pool,
            size: self.size,
            begin: Begin::Thin(self.source),
            labels: self.marks.first_labels(&self.labels).clone(),
            asked: VolumeAsked {
                source: self.asked_source.clone(),
                ..VolumeAsked::default()
            },
            part: None,
            epoch: 1,
        }
    }
}
