//! The wire's form of what happens to a thin after it was made: a part of `convert`.
//!
//! Called by the handlers. As there: into the domain every field is checked and a wrong one is
//! named; out of it nothing can fail.

use std::time::Duration;

use goldleaf_proto::agent::v1 as pb;
use goldleaf_proto::v1 as api;
use goldleaf_rpc::field::{BadField, bad, field};
use goldleaf_types::ThinOwner;

use super::convert;
use crate::catalogue::ThinRecord;
use crate::ops::{CreateGroup, CreateSnapshot, ThinView, Usage, WorkProgress};

impl TryFrom<pb::AgentCreateGroupSnapshotRequest> for CreateGroup {
    type Error = BadField;

    fn try_from(r: pb::AgentCreateGroupSnapshotRequest) -> Result<Self, BadField> {
        if r.members.is_empty() {
            return Err(bad("members", "is empty: name at least one snapshot"));
        }
        if r.deadline_ms == 0 {
            return Err(bad("deadline_ms", "is 0: nothing is frozen in no time"));
        }
        let member = |member: pb::AgentCreateSnapshotRequest| {
            let member = CreateSnapshot::try_from(member)?;
            let plain = member.size.is_none() && member.activate.is_none();
            if member.owner.volume().is_some() || !plain {
                return Err(bad(
                    "members",
                    "a group is of snapshots of their sources' size",
                ));
            }
            Ok(member)
        };
        let members: Vec<_> = r
            .members
            .into_iter()
            .map(member)
            .collect::<Result<_, _>>()?;
        let mut owners: Vec<_> = members.iter().map(|member| member.owner).collect();
        owners.sort_unstable();
        owners.dedup();
        if owners.len() < members.len() {
            return Err(bad("members", "names a snapshot twice"));
        }
        Ok(Self {
            group: field("group", &r.group)?,
            pool: field("pool", &r.pool)?,
            members,
            limit: Duration::from_millis(r.deadline_ms.into()),
        })
    }
}

/// What a thin is marked with.
pub(super) fn marks(r: &pb::AgentMarkThinRequest) -> Result<(ThinOwner, String), BadField> {
    if r.marks.len() > ThinRecord::MARKS_MAX {
        return Err(bad("marks", "more than 64 KiB"));
    }
    Ok((field("owner", &r.owner)?, r.marks.clone()))
}

/// A thin for the wire, with what it takes in its pool.
pub(super) fn thin_with_usage(view: &ThinView, usage: Usage) -> pb::AgentThin {
    pb::AgentThin {
        usage: Some(api::ThinUsage {
            provisioned_bytes: view.record.size.bytes().0,
            owned_bytes: usage.owned.0,
            exclusive_bytes: usage.exclusive.0,
            shared_bytes: usage.owned.0.saturating_sub(usage.exclusive.0),
        }),
        ..convert::thin(view)
    }
}

/// A thin for the wire, with how far long work on it has come.
pub(super) fn thin_at_work(view: &ThinView, progress: Option<WorkProgress>) -> pb::AgentThin {
    let mut thin = convert::thin(view);
    if let Some(progress) = progress {
        thin.progress = Some(api::Progress {
            done_bytes: progress.done.0,
            total_bytes: progress.total.0,
        });
    }
    thin
}
