//! What Goldleaf says of volumes, snapshots and images, in CSI's words.

use csi_proto::v1 as csi;
use goldleaf_proto::v1 as api;
use goldleaf_types::{SnapshotId, VolumeId};

use super::topology::place;

/// A size as CSI writes it. None of Goldleaf's reaches the bound.
#[must_use]
pub fn size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// A volume. What it began as is what was asked, or else what its record says.
#[must_use]
pub fn volume(volume: &api::Volume, asked: Option<csi::VolumeContentSource>) -> csi::Volume {
    csi::Volume {
        capacity_bytes: size(volume.size_bytes),
        volume_id: volume.id.clone(),
        volume_context: Default::default(),
        content_source: asked.or_else(|| content_source(&volume.source)),
        accessible_topology: vec![place(&volume.node)],
    }
}

fn content_source(source: &str) -> Option<csi::VolumeContentSource> {
    use csi::volume_content_source::{SnapshotSource, Type, VolumeSource};
    let r#type = if source.parse::<SnapshotId>().is_ok() {
        Type::Snapshot(SnapshotSource {
            snapshot_id: source.into(),
        })
    } else if source.parse::<VolumeId>().is_ok() {
        Type::Volume(VolumeSource {
            volume_id: source.into(),
        })
    } else {
        return None;
    };
    Some(csi::VolumeContentSource {
        r#type: Some(r#type),
    })
}

/// The nodes where a volume is in the orchestrator's use.
#[must_use]
pub fn published_nodes(volume: &api::Volume) -> Vec<String> {
    let active = |a: &api::Activation| a.active && a.holder() == api::Holder::Csi;
    if volume.activation.as_ref().is_some_and(active) {
        vec![volume.node.clone()]
    } else {
        vec![]
    }
}

/// A snapshot.
#[must_use]
pub fn snapshot(snapshot: &api::Snapshot) -> csi::Snapshot {
    csi::Snapshot {
        size_bytes: size(snapshot.size_bytes),
        snapshot_id: snapshot.id.clone(),
        source_volume_id: snapshot.source.clone(),
        creation_time: snapshot.created,
        ready_to_use: snapshot.phase() == api::Phase::Ready,
        group_snapshot_id: snapshot.group.clone(),
        accessible_topology: vec![place(&snapshot.node)],
    }
}

/// A group of snapshots, with those of its snapshots that there are.
#[must_use]
pub fn group(
    group: &api::GroupSnapshot,
    snapshots: Vec<csi::Snapshot>,
) -> csi::VolumeGroupSnapshot {
    let of_group = |snapshot| csi::Snapshot {
        group_snapshot_id: group.id.clone(),
        ..snapshot
    };
    csi::VolumeGroupSnapshot {
        group_snapshot_id: group.id.clone(),
        creation_time: group.created,
        ready_to_use: group.phase() == api::Phase::Ready
            && snapshots.iter().all(|s| s.ready_to_use),
        snapshots: snapshots.into_iter().map(of_group).collect(),
    }
}

/// Some ranges of a snapshot, whichever call they answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranges {
    /// Size of the snapshot.
    pub volume_capacity_bytes: i64,
    /// The ranges, in order.
    pub block_metadata: Vec<csi::BlockMetadata>,
}

impl From<&api::BlockRanges> for Ranges {
    fn from(part: &api::BlockRanges) -> Self {
        let range = |range: &api::BlockRange| csi::BlockMetadata {
            byte_offset: size(range.offset_bytes),
            size_bytes: size(range.length_bytes),
        };
        Self {
            volume_capacity_bytes: size(part.size_bytes),
            block_metadata: part.ranges.iter().map(range).collect(),
        }
    }
}

/// An image as a snapshot: it froze nothing but itself. It has no place of its own, since it can
/// be brought to any node.
#[must_use]
pub fn image(image: &api::Image) -> csi::Snapshot {
    csi::Snapshot {
        size_bytes: size(image.size_bytes),
        snapshot_id: image.id.clone(),
        source_volume_id: image.id.clone(),
        creation_time: image.created,
        ready_to_use: image.phase() == api::Phase::Ready,
        group_snapshot_id: String::new(),
        accessible_topology: vec![],
    }
}

/// What is wrong with a volume, by its conditions.
#[must_use]
pub fn health(volume_id: &str, conditions: &[api::Condition]) -> csi::VolumeHealth {
    let wrong = conditions.iter().filter(|condition| !condition.status);
    let entry = |condition: &api::Condition| {
        let status = match condition.r#type.as_str() {
            "DataPresent" => csi::VolumeHealthErrorType::DataLoss,
            "NodeReachable" | "PoolOpen" | "ImagePresent" => {
                csi::VolumeHealthErrorType::Inaccessible
            }
            _ => csi::VolumeHealthErrorType::Degraded,
        };
        csi::volume_health::VolumeHealthEntry {
            status: status.into(),
            reason: condition.reason.clone(),
            message: condition.message.clone(),
        }
    };
    csi::VolumeHealth {
        volume_id: volume_id.into(),
        health_statuses: wrong.map(entry).collect(),
    }
}
