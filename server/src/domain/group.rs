//! A group: snapshots of several volumes as they were at one instant.

use goldleaf_types::{
    Digest, GroupId, Labels, Name, NodeId, PoolId, SnapshotId, VolumeId, VolumeSize,
};
use jiff::Timestamp;

use super::{Condition, Marks, Phase, Snapshot};

/// A group's record. Its snapshots have records of their own from the moment it is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSnapshot {
    /// Its id.
    pub id: GroupId,
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
    /// When it was asked for; of a ready one, the instant that its snapshots show.
    pub created: Timestamp,
    /// The pool that holds it.
    pub pool: PoolId,
    /// The node that has that pool.
    pub node: NodeId,
    /// The volumes as they were asked for.
    pub asked_volumes: Vec<String>,
    /// How long writers may wait, in milliseconds.
    pub deadline_ms: u32,
    /// Its snapshots.
    pub members: Vec<GroupMember>,
}

/// One snapshot of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// The snapshot's id.
    pub snapshot: SnapshotId,
    /// The snapshot's name.
    pub name: Name,
    /// What it freezes.
    pub source: VolumeId,
    /// Size of that.
    pub size: VolumeSize,
    /// The image that shows through.
    pub image: Option<Digest>,
}

impl GroupSnapshot {
    /// Whether a request with these parameters asks for this very group.
    ///
    /// # Errors
    ///
    /// The name of the first field that differs.
    pub fn same_or_conflict(
        &self,
        volumes: &[String],
        labels: &Labels,
    ) -> Result<(), &'static str> {
        if self.asked_volumes != volumes {
            Err("volumes")
        } else if self.labels != *labels {
            Err("labels")
        } else {
            Ok(())
        }
    }

    /// The record of one of its snapshots.
    #[must_use]
    pub fn snapshot(&self, member: &GroupMember) -> Snapshot {
        Snapshot {
            id: member.snapshot,
            name: member.name.clone(),
            labels: self.labels.clone(),
            revision: 0,
            phase: Phase::Ready,
            conditions: Vec::new(),
            created: self.created,
            size: member.size,
            pool: self.pool,
            node: self.node,
            image: member.image,
            source: member.source.into(),
            asked_source: member.source.to_string(),
            marks: Marks::new(false),
            group: Some(self.id),
        }
    }
}
