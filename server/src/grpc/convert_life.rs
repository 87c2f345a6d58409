//! Requests about what happens to volumes after they were made: a part of `convert`.

use goldleaf_proto::v1 as api;

use super::convert::{BadField, bad, field, labels, name};
use crate::service::{CreateGroup, WantedBlocks};

/// Most volumes that are frozen at one instant.
const LARGEST_GROUP: usize = 64;
/// How long writers may wait when nobody says, in milliseconds.
const DEADLINE: u32 = 5_000;
/// How long they may wait at most.
const LONGEST_DEADLINE: u32 = 60_000;

impl TryFrom<api::CreateGroupSnapshotRequest> for CreateGroup {
    type Error = BadField;

    fn try_from(r: api::CreateGroupSnapshotRequest) -> Result<Self, BadField> {
        if !(1..=LARGEST_GROUP).contains(&r.volumes.len()) {
            return Err(bad("volumes", "want 1 to 64 volumes"));
        }
        if r.deadline_ms > LONGEST_DEADLINE {
            return Err(bad("deadline_ms", "is more than 60000"));
        }
        let volumes = r.volumes.iter().map(|text| field("volumes", text));
        Ok(Self {
            name: name(&r.name)?,
            volumes: volumes.collect::<Result<_, _>>()?,
            labels: labels("labels", r.labels)?,
            deadline_ms: match r.deadline_ms {
                0 => DEADLINE,
                asked => asked,
            },
            asked: r.volumes,
        })
    }
}

impl TryFrom<api::ListAllocatedRequest> for WantedBlocks {
    type Error = BadField;

    fn try_from(r: api::ListAllocatedRequest) -> Result<Self, BadField> {
        Ok(Self {
            snapshot: field("snapshot", &r.snapshot)?,
            field: "snapshot",
            base: None,
            from: r.starting_offset,
            most: r.max_results,
        })
    }
}

impl TryFrom<api::ListChangedRequest> for WantedBlocks {
    type Error = BadField;

    fn try_from(r: api::ListChangedRequest) -> Result<Self, BadField> {
        Ok(Self {
            snapshot: field("target", &r.target)?,
            field: "target",
            base: Some(field("base", &r.base)?),
            from: r.starting_offset,
            most: r.max_results,
        })
    }
}
