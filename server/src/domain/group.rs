//! A group: snapshots of several volumes as they were at one instant.

use goldleaf_types::{
    Digest, GroupId, Labels, Name, NodeId, PoolId, SnapshotId, VolumeId, VolumeSize,
};
use jiff::Timestamp;

use super::{Condition, Marks, Phase, Snapshot, ThinOrder};

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

/// What each snapshot's own row on its pool says of the group, for the day our store is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPart {
    /// The group's id.
    pub group: GroupId,
    /// Its name.
    pub name: Name,
    /// The volume as it was asked for.
    pub asked_volume: String,
    /// Which of the group's snapshots this is, from 0.
    pub index: u32,
    /// How many there are.
    pub count: u32,
    /// As in the group's record.
    pub deadline_ms: u32,
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
        // What was asked for of a snapshot that was gone when its store was lost is not known any more.
        let same = |(ours, asked): (&String, &String)| ours.is_empty() || ours == asked;
        if self.asked_volumes.len() != volumes.len()
            || !self.asked_volumes.iter().zip(volumes).all(same)
        {
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

    /// What its node is told to make: each snapshot says which part of the group it is.
    #[must_use]
    pub fn orders(&self) -> Vec<ThinOrder> {
        let count = u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        let asked = self.asked_volumes.iter();
        let parts = (0..).zip(self.members.iter().zip(asked));
        let order = |(index, (member, asked)): (u32, (&GroupMember, &String))| ThinOrder {
            part: Some(GroupPart {
                group: self.id,
                name: self.name.clone(),
                asked_volume: asked.clone(),
                index,
                count,
                deadline_ms: self.deadline_ms,
            }),
            ..self.snapshot(member).order()
        };
        parts.map(order).collect()
    }
}
