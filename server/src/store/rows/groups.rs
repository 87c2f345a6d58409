//! A group's row.

use goldleaf_types::{
    Digest, GroupId, Labels, Name, NodeId, PoolId, SnapshotId, VolumeId, VolumeSize,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::parts::{ConditionV1, PhaseV1, all};
use super::shapes::{read, write};
use super::{BadRow, Row, placed};
use crate::domain::{GroupMember, GroupSnapshot};
use crate::store::Revision;

#[derive(Serialize, Deserialize)]
#[serde(tag = "v")]
enum GroupRow {
    #[serde(rename = "1")]
    V1(GroupV1),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupV1 {
    id: GroupId,
    name: Name,
    labels: Labels,
    phase: PhaseV1,
    conditions: Vec<ConditionV1>,
    created: Timestamp,
    pool: PoolId,
    node: NodeId,
    asked_volumes: Vec<String>,
    deadline_ms: u32,
    members: Vec<MemberV1>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberV1 {
    snapshot: SnapshotId,
    name: Name,
    source: VolumeId,
    size_bytes: VolumeSize,
    image: Option<Digest>,
}

impl From<GroupMember> for MemberV1 {
    fn from(member: GroupMember) -> Self {
        Self {
            snapshot: member.snapshot,
            name: member.name,
            source: member.source,
            size_bytes: member.size,
            image: member.image,
        }
    }
}

impl From<MemberV1> for GroupMember {
    fn from(row: MemberV1) -> Self {
        Self {
            snapshot: row.snapshot,
            name: row.name,
            source: row.source,
            size: row.size_bytes,
            image: row.image,
        }
    }
}

impl Row for GroupSnapshot {
    type Id = GroupId;
    type Name = Name;
    const KIND: &'static str = "group";

    fn id(&self) -> GroupId {
        self.id
    }

    fn name(&self) -> &Name {
        &self.name
    }

    fn encode(&self) -> Vec<u8> {
        let noun = self.clone();
        write(&GroupRow::V1(GroupV1 {
            id: noun.id,
            name: noun.name,
            labels: noun.labels,
            phase: noun.phase.into(),
            conditions: all(noun.conditions),
            created: noun.created,
            pool: noun.pool,
            node: noun.node,
            asked_volumes: noun.asked_volumes,
            deadline_ms: noun.deadline_ms,
            members: all(noun.members),
        }))
    }

    fn decode(key: &str, value: &[u8], modified: Revision) -> Result<Self, BadRow> {
        let GroupRow::V1(row) = read(key, value)?;
        placed(
            key,
            Self {
                id: row.id,
                name: row.name,
                labels: row.labels,
                revision: modified,
                phase: row.phase.into(),
                conditions: all(row.conditions),
                created: row.created,
                pool: row.pool,
                node: row.node,
                asked_volumes: row.asked_volumes,
                deadline_ms: row.deadline_ms,
                members: all(row.members),
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Phase;
    use crate::store::rows::key;

    const GROUP_V1: &str = include_str!("../../../tests/golden/group-v1.json");

    fn group() -> GroupSnapshot {
        GroupSnapshot {
            id: GroupId::from_bytes([0x66; 16]),
            name: "nightly".parse().unwrap(),
            labels: Labels::default(),
            revision: 7,
            phase: Phase::Ready,
            conditions: Vec::new(),
            created: "2026-11-24T06:00:00Z".parse().unwrap(),
            pool: PoolId::from_bytes([0x33; 16]),
            node: NodeId::from_bytes([0x44; 16]),
            asked_volumes: vec!["vm1".into()],
            deadline_ms: 5000,
            members: vec![GroupMember {
                snapshot: SnapshotId::from_bytes([0x22; 16]),
                name: "nightly.vm1".parse().unwrap(),
                source: VolumeId::from_bytes([0x11; 16]),
                size: VolumeSize::new(512).unwrap(),
                image: Some(Digest::from_bytes([0xab; 32])),
            }],
        }
    }

    #[test]
    fn a_groups_row_of_version_1_is_read_and_written_as_ever() {
        let row = GROUP_V1.trim_end();
        let key = key::<GroupSnapshot>(group().id);
        let read = GroupSnapshot::decode(&key, row.as_bytes(), 7).unwrap();
        assert_eq!(read, group());
        assert_eq!(String::from_utf8(group().encode()).unwrap(), row);
        let strange = row.replacen("\"name\"", "\"colour\":1,\"name\"", 1);
        assert!(GroupSnapshot::decode(&key, strange.as_bytes(), 7).is_err());
    }
}
