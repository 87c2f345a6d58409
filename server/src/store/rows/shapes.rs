//! The rows' bytes: JSON that says its version, and the one conversion to and from the nouns.
//!
//! Names here are the store's and never change; nouns may. Shapes are only ever added: the newest is
//! written, every one is read. Golden files of every version are in `tests/golden`.

use goldleaf_types::{
    BlockSize, Bytes, Digest, GroupId, ImageId, Incarnation, Labels, Name, NodeId, PoolId,
    SnapshotId, ThinOwner, VolumeId, VolumeSize,
};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::parts::{
    BeginV1, ConditionV1, CopyV1, DeviceV1, FormatV1, MarksV1, ModeV1, PhaseV1, SourceV1,
    WhenFullV1, all,
};
use super::{BadRow, Row, placed};
use crate::domain::{
    Adopting, Image, ImageAsked, Node, Pool, PoolAsked, Snapshot, Volume, VolumeAsked,
};
use crate::store::Revision;

/// The newest version that is read.
const VERSION: &str = "1";

#[derive(Deserialize)]
struct Version {
    v: String,
}

/// Reads a stored value, and says so plainly when a newer version wrote it.
pub(super) fn read<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, BadRow> {
    let shape = |source| BadRow::Shape {
        key: key.into(),
        source,
    };
    let Version { v } = serde_json::from_slice(bytes).map_err(shape)?;
    if v != VERSION {
        return Err(BadRow::Newer {
            key: key.into(),
            found: v,
        });
    }
    serde_json::from_slice(bytes).map_err(shape)
}

pub(super) fn write<T: Serialize>(row: &T) -> Vec<u8> {
    serde_json::to_vec(row).expect("numbers, texts, lists and maps of texts have a JSON form")
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "v")]
enum VolumeRow {
    #[serde(rename = "1")]
    V1(VolumeV1),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VolumeV1 {
    id: VolumeId,
    name: Name,
    labels: Labels,
    phase: PhaseV1,
    conditions: Vec<ConditionV1>,
    created: Timestamp,
    size_bytes: VolumeSize,
    wanted_size_bytes: Option<VolumeSize>,
    pool: PoolId,
    node: NodeId,
    begin: BeginV1,
    image: Option<Digest>,
    asked: VolumeAskedV1,
    epoch: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    decoupling_bytes_per_second: Option<u64>,
    #[serde(default, skip_serializing_if = "MarksV1::is_none")]
    marks: MarksV1,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VolumeAskedV1 {
    size_bytes: u64,
    image: String,
    source: String,
}

impl Row for Volume {
    type Id = VolumeId;
    type Name = Name;
    const KIND: &'static str = "volume";

    fn id(&self) -> VolumeId {
        self.id
    }

    fn name(&self) -> &Name {
        &self.name
    }

    fn encode(&self) -> Vec<u8> {
        let noun = self.clone();
        write(&VolumeRow::V1(VolumeV1 {
            id: noun.id,
            name: noun.name,
            labels: noun.labels,
            phase: noun.phase.into(),
            conditions: all(noun.conditions),
            created: noun.created,
            size_bytes: noun.size,
            wanted_size_bytes: noun.wanted_size,
            pool: noun.pool,
            node: noun.node,
            begin: noun.begin.into(),
            image: noun.image,
            asked: VolumeAskedV1 {
                size_bytes: noun.asked.size_bytes,
                image: noun.asked.image,
                source: noun.asked.source,
            },
            epoch: noun.epoch,
            decoupling_bytes_per_second: noun.decoupling.map(|rate| rate.0),
            marks: noun.marks.into(),
        }))
    }

    fn decode(key: &str, value: &[u8], modified: Revision) -> Result<Self, BadRow> {
        let VolumeRow::V1(row) = read(key, value)?;
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
                size: row.size_bytes,
                wanted_size: row.wanted_size_bytes,
                pool: row.pool,
                node: row.node,
                begin: row.begin.into(),
                image: row.image,
                asked: VolumeAsked {
                    size_bytes: row.asked.size_bytes,
                    image: row.asked.image,
                    source: row.asked.source,
                },
                epoch: row.epoch,
                decoupling: row.decoupling_bytes_per_second.map(Bytes),
                marks: row.marks.into(),
            },
        )
    }
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "v")]
enum SnapshotRow {
    #[serde(rename = "1")]
    V1(SnapshotV1),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SnapshotV1 {
    id: SnapshotId,
    name: Name,
    labels: Labels,
    phase: PhaseV1,
    conditions: Vec<ConditionV1>,
    created: Timestamp,
    size_bytes: VolumeSize,
    pool: PoolId,
    node: NodeId,
    image: Option<Digest>,
    source: ThinOwner,
    asked_source: String,
    #[serde(default, skip_serializing_if = "MarksV1::is_none")]
    marks: MarksV1,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<GroupId>,
}

impl Row for Snapshot {
    type Id = SnapshotId;
    type Name = Name;
    const KIND: &'static str = "snapshot";

    fn id(&self) -> SnapshotId {
        self.id
    }

    fn name(&self) -> &Name {
        &self.name
    }

    fn encode(&self) -> Vec<u8> {
        let noun = self.clone();
        write(&SnapshotRow::V1(SnapshotV1 {
            id: noun.id,
            name: noun.name,
            labels: noun.labels,
            phase: noun.phase.into(),
            conditions: all(noun.conditions),
            created: noun.created,
            size_bytes: noun.size,
            pool: noun.pool,
            node: noun.node,
            image: noun.image,
            source: noun.source,
            asked_source: noun.asked_source,
            marks: noun.marks.into(),
            group: noun.group,
        }))
    }

    fn decode(key: &str, value: &[u8], modified: Revision) -> Result<Self, BadRow> {
        let SnapshotRow::V1(row) = read(key, value)?;
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
                size: row.size_bytes,
                pool: row.pool,
                node: row.node,
                image: row.image,
                source: row.source,
                asked_source: row.asked_source,
                marks: row.marks.into(),
                group: row.group,
            },
        )
    }
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "v")]
enum ImageRow {
    #[serde(rename = "1")]
    V1(ImageV1),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ImageV1 {
    id: ImageId,
    name: Name,
    labels: Labels,
    phase: PhaseV1,
    conditions: Vec<ConditionV1>,
    created: Timestamp,
    asked: ImageAskedV1,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    thin: Option<ThinOwner>,
    digest: Option<Digest>,
    size_bytes: u64,
    copies: Vec<CopyV1>,
    #[serde(default, skip_serializing_if = "MarksV1::is_none")]
    marks: MarksV1,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ImageAskedV1 {
    source: SourceV1,
    format: FormatV1,
    source_sha256: String,
    digest: Option<Digest>,
}

impl Row for Image {
    type Id = ImageId;
    type Name = Name;
    const KIND: &'static str = "image";

    fn id(&self) -> ImageId {
        self.id
    }

    fn name(&self) -> &Name {
        &self.name
    }

    fn encode(&self) -> Vec<u8> {
        let noun = self.clone();
        write(&ImageRow::V1(ImageV1 {
            id: noun.id,
            name: noun.name,
            labels: noun.labels,
            phase: noun.phase.into(),
            conditions: all(noun.conditions),
            created: noun.created,
            asked: ImageAskedV1 {
                source: noun.asked.source.into(),
                format: noun.asked.format.into(),
                source_sha256: noun.asked.source_sha256,
                digest: noun.asked.digest,
            },
            thin: noun.thin,
            digest: noun.digest,
            size_bytes: noun.size.0,
            copies: all(noun.copies),
            marks: noun.marks.into(),
        }))
    }

    fn decode(key: &str, value: &[u8], modified: Revision) -> Result<Self, BadRow> {
        let ImageRow::V1(row) = read(key, value)?;
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
                asked: ImageAsked {
                    source: row.asked.source.into(),
                    format: row.asked.format.into(),
                    source_sha256: row.asked.source_sha256,
                    digest: row.asked.digest,
                },
                thin: row.thin,
                digest: row.digest,
                size: Bytes(row.size_bytes),
                copies: all(row.copies),
                marks: row.marks.into(),
            },
        )
    }
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "v")]
enum PoolRow {
    #[serde(rename = "1")]
    V1(PoolV1),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PoolV1 {
    id: PoolId,
    name: Name,
    labels: Labels,
    phase: PhaseV1,
    conditions: Vec<ConditionV1>,
    created: Timestamp,
    node: NodeId,
    devices: Vec<DeviceV1>,
    metadata_device: Option<DeviceV1>,
    block_size_bytes: BlockSize,
    when_full: WhenFullV1,
    mode: ModeV1,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wanted_name: Option<Name>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    doomed: bool,
    #[serde(default, skip_serializing_if = "MarksV1::is_none")]
    marks: MarksV1,
    // Left out when there is none, so that older versions read such rows too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    adopting: Option<AdoptingV1>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AdoptingV1 {
    former: Option<Incarnation>,
}

impl Row for Pool {
    type Id = PoolId;
    type Name = Name;
    const KIND: &'static str = "pool";

    fn id(&self) -> PoolId {
        self.id
    }

    fn name(&self) -> &Name {
        &self.name
    }

    fn encode(&self) -> Vec<u8> {
        let noun = self.clone();
        write(&PoolRow::V1(PoolV1 {
            id: noun.id,
            name: noun.name,
            labels: noun.labels,
            phase: noun.phase.into(),
            conditions: all(noun.conditions),
            created: noun.created,
            node: noun.node,
            devices: all(noun.asked.devices),
            metadata_device: noun.asked.metadata_device.map(Into::into),
            block_size_bytes: noun.asked.block_size,
            when_full: noun.asked.when_full.into(),
            mode: noun.mode.into(),
            wanted_name: noun.wanted_name,
            doomed: noun.doomed,
            marks: noun.marks.into(),
            adopting: noun.adopting.map(|a| AdoptingV1 { former: a.former }),
        }))
    }

    fn decode(key: &str, value: &[u8], modified: Revision) -> Result<Self, BadRow> {
        let PoolRow::V1(row) = read(key, value)?;
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
                node: row.node,
                asked: PoolAsked {
                    devices: all(row.devices),
                    metadata_device: row.metadata_device.map(Into::into),
                    block_size: row.block_size_bytes,
                    when_full: row.when_full.into(),
                },
                mode: row.mode.into(),
                wanted_name: row.wanted_name,
                doomed: row.doomed,
                marks: row.marks.into(),
                adopting: row.adopting.map(|a| Adopting { former: a.former }),
            },
        )
    }
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "v")]
enum NodeRow {
    #[serde(rename = "1")]
    V1(NodeV1),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeV1 {
    id: NodeId,
    name: Name,
    labels: Labels,
    phase: PhaseV1,
    created: Timestamp,
    address: String,
    agent_version: String,
    kernel_release: String,
    // Left out when there is none, so that older versions read such rows too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    drained: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lost: Option<Timestamp>,
}

impl Row for Node {
    type Id = NodeId;
    type Name = Name;
    const KIND: &'static str = "node";

    fn id(&self) -> NodeId {
        self.id
    }

    fn name(&self) -> &Name {
        &self.name
    }

    fn encode(&self) -> Vec<u8> {
        let noun = self.clone();
        write(&NodeRow::V1(NodeV1 {
            id: noun.id,
            name: noun.name,
            labels: noun.labels,
            phase: noun.phase.into(),
            created: noun.created,
            address: noun.address,
            agent_version: noun.agent_version,
            kernel_release: noun.kernel_release,
            drained: noun.drained,
            lost: noun.lost,
        }))
    }

    fn decode(key: &str, value: &[u8], modified: Revision) -> Result<Self, BadRow> {
        let NodeRow::V1(row) = read(key, value)?;
        placed(
            key,
            Self {
                id: row.id,
                name: row.name,
                labels: row.labels,
                revision: modified,
                phase: row.phase.into(),
                created: row.created,
                address: row.address,
                agent_version: row.agent_version,
                kernel_release: row.kernel_release,
                drained: row.drained,
                lost: row.lost,
            },
        )
    }
}
