//! The domain's values become answers. Nothing can fail here.
//!
//! Called by the handlers. What comes in is converted in `convert`.

use goldleaf_proto::v1 as api;
use goldleaf_types::{Digest, NodeId};

use crate::agents::ExportStep;
pub(super) use crate::agents::convert::labels;
use crate::agents::convert::when_full;
use crate::domain::{
    Activation, Begin, BlockPart, BlockRange, Channel, Condition, GroupMember, GroupSnapshot,
    Holder, Phase, PoolMode, PoolPolicy, PoolReport, PoolUsage, Progress, Snapshot, ThinReport,
    ThinUsage, Volume,
};
use crate::service::{Event, ImageView, PoolView, VolumeView};

pub(super) fn timestamp(at: jiff::Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: at.as_second(),
        nanos: at.subsec_nanosecond(),
    }
}

fn digest(digest: Option<Digest>) -> String {
    digest.map(|d| d.to_string()).unwrap_or_default()
}

pub(super) fn phase(phase: Phase) -> i32 {
    match phase {
        Phase::Creating => api::Phase::Creating,
        Phase::Ready => api::Phase::Ready,
        Phase::Deleting => api::Phase::Deleting,
        Phase::Failed => api::Phase::Failed,
        Phase::Closed => api::Phase::Closed,
    }
    .into()
}

fn condition(c: &Condition) -> api::Condition {
    api::Condition {
        r#type: c.kind.clone(),
        status: c.status,
        reason: c.reason.clone(),
        message: c.message.clone(),
        since: Some(timestamp(c.since)),
    }
}

fn conditions(all: &[Condition]) -> Vec<api::Condition> {
    all.iter().map(condition).collect()
}

fn activation(a: &Activation) -> api::Activation {
    api::Activation {
        active: true,
        device_path: a.device_path.clone(),
        holder: match a.holder {
            Holder::Host => api::Holder::Host.into(),
            Holder::Csi => api::Holder::Csi.into(),
        },
        read_only: a.read_only,
    }
}

/// What is live of a volume; unset when its node did not say.
fn live(report: &ThinReport) -> api::Activation {
    report
        .activation
        .as_ref()
        .map(activation)
        .unwrap_or_default()
}

/// A volume for the wire.
#[must_use]
pub fn volume(view: &VolumeView) -> api::Volume {
    let v = &view.volume;
    api::Volume {
        id: v.id.to_string(),
        name: v.name.to_string(),
        labels: labels(&v.labels),
        revision: v.revision,
        phase: phase(v.phase),
        conditions: volume_conditions(v, view.report.as_ref()),
        created: Some(timestamp(v.created)),
        size_bytes: v.size.bytes().0,
        pool: v.pool.to_string(),
        node: v.node.to_string(),
        image_digest: digest(v.image),
        asked_image: v.asked.image.clone(),
        source: match v.begin {
            Begin::Blank | Begin::Image(_) => String::new(),
            Begin::Thin(owner) => owner.to_string(),
        },
        activation: view.report.as_ref().map(live),
        owned_bytes: view
            .report
            .as_ref()
            .and_then(|r| r.owned)
            .map(|bytes| bytes.0),
        epoch: v.epoch,
        deletion_protection: v.marks.deletion_protection,
        usage: view
            .report
            .as_ref()
            .and_then(|r| r.usage)
            .map(usage_of_thin),
        progress: view.report.as_ref().and_then(|r| r.progress).map(progress),
    }
}

fn progress(p: Progress) -> api::Progress {
    api::Progress {
        done_bytes: p.done.0,
        total_bytes: p.total.0,
    }
}

/// What a thin takes, for the wire.
#[must_use]
pub fn usage_of_thin(usage: ThinUsage) -> api::ThinUsage {
    api::ThinUsage {
        provisioned_bytes: usage.provisioned.0,
        owned_bytes: usage.owned.0,
        exclusive_bytes: usage.exclusive.0,
        shared_bytes: usage.owned.0.saturating_sub(usage.exclusive.0),
    }
}

/// The record's conditions, and what its node added in this answer.
fn volume_conditions(v: &Volume, report: Option<&ThinReport>) -> Vec<api::Condition> {
    let mut all = conditions(&v.conditions);
    let more = report.map(|r| r.conditions.as_slice()).unwrap_or_default();
    let new = more
        .iter()
        .filter(|c| !v.conditions.iter().any(|known| known.kind == c.kind));
    all.extend(new.map(condition));
    all
}

/// A snapshot for the wire.
#[must_use]
pub fn snapshot(s: &Snapshot) -> api::Snapshot {
    api::Snapshot {
        id: s.id.to_string(),
        name: s.name.to_string(),
        labels: labels(&s.labels),
        revision: s.revision,
        phase: phase(s.phase),
        conditions: conditions(&s.conditions),
        created: Some(timestamp(s.created)),
        size_bytes: s.size.bytes().0,
        pool: s.pool.to_string(),
        node: s.node.to_string(),
        image_digest: digest(s.image),
        source: s.source.to_string(),
        deletion_protection: s.marks.deletion_protection,
        group: s.group.map(|id| id.to_string()).unwrap_or_default(),
        usage: None,
    }
}

/// Ranges of a snapshot for the wire.
#[must_use]
pub fn block_ranges(part: &BlockPart) -> api::BlockRanges {
    let range = |range: &BlockRange| api::BlockRange {
        offset_bytes: range.offset,
        length_bytes: range.len,
    };
    api::BlockRanges {
        size_bytes: part.size.0,
        ranges: part.ranges.iter().map(range).collect(),
    }
}

/// A group for the wire.
#[must_use]
pub fn group(g: &GroupSnapshot) -> api::GroupSnapshot {
    let member = |member: &GroupMember| api::GroupMember {
        snapshot: member.snapshot.to_string(),
        name: member.name.to_string(),
        source: member.source.to_string(),
    };
    api::GroupSnapshot {
        id: g.id.to_string(),
        name: g.name.to_string(),
        labels: labels(&g.labels),
        revision: g.revision,
        phase: phase(g.phase),
        conditions: conditions(&g.conditions),
        created: Some(timestamp(g.created)),
        pool: g.pool.to_string(),
        node: g.node.to_string(),
        members: g.members.iter().map(member).collect(),
    }
}

/// An image for the wire.
#[must_use]
pub fn image(view: &ImageView) -> api::Image {
    let i = &view.image;
    let copy = |copy: &crate::domain::ImageCopy| api::ImageCopy {
        node: copy.node.to_string(),
        phase: phase(copy.phase),
        progress: view
            .progress
            .iter()
            .find(|(node, _)| *node == copy.node)
            .map(|(_, p)| progress(*p)),
        message: copy.message.clone(),
    };
    api::Image {
        id: i.id.to_string(),
        name: i.name.to_string(),
        labels: labels(&i.labels),
        revision: i.revision,
        phase: phase(i.phase),
        conditions: image_conditions(view),
        created: Some(timestamp(i.created)),
        digest: digest(i.digest),
        size_bytes: i.size.0,
        source: i.asked.source.shown(),
        copies: i.copies.iter().map(copy).collect(),
        deletion_protection: i.marks.deletion_protection,
    }
}

/// A copy that failed, or does not come on, is worth a condition of the whole.
fn image_conditions(view: &ImageView) -> Vec<api::Condition> {
    let i = &view.image;
    let mut all = conditions(&i.conditions);
    let spoken = i.copies.iter().filter(|copy| !copy.message.is_empty());
    all.extend(spoken.map(|copy| api::Condition {
        r#type: "CopyPresent".into(),
        status: false,
        reason: match copy.phase {
            Phase::Failed => "ImportFailed".into(),
            Phase::Creating | Phase::Ready | Phase::Deleting | Phase::Closed => {
                "ImportWaits".into()
            }
        },
        message: format!("node {}: {}", copy.node, copy.message),
        since: None,
    }));
    if i.copies.is_empty() {
        all.push(api::Condition {
            r#type: "CopyPresent".into(),
            status: false,
            reason: "NoCopy".into(),
            message: "no node holds it: place it on one to use it".into(),
            since: None,
        });
    }
    all
}

/// One step of an export on a node, for the wire.
#[must_use]
pub fn export_step(node: NodeId, step: &ExportStep) -> api::ExportEvent {
    match step {
        ExportStep::Progress(p) => api::ExportEvent {
            progress: Some(progress(*p)),
            file: None,
        },
        ExportStep::Done(file) => api::ExportEvent {
            progress: None,
            file: Some(api::ExportedFile {
                path: file.path.clone(),
                node: node.to_string(),
                digest: file.digest.to_string(),
                size_bytes: file.size.0,
                file_sha256: file.file_sha256.clone(),
                file_size_bytes: file.file_size.0,
                stored_bytes: file.stored.0,
            }),
        },
    }
}

/// A channel for the wire.
#[must_use]
pub fn channel(c: &Channel) -> api::Channel {
    api::Channel {
        id: c.id.to_string(),
        name: c.name.to_string(),
        labels: labels(&c.labels),
        revision: c.revision,
        created: Some(timestamp(c.created)),
        moved: Some(timestamp(c.moved)),
        digest: c.digest.to_string(),
    }
}

/// A pool for the wire.
#[must_use]
pub fn pool(view: &PoolView) -> api::Pool {
    let p = &view.pool;
    api::Pool {
        id: p.id.to_string(),
        name: p.name.to_string(),
        labels: labels(&p.labels),
        revision: p.revision,
        phase: phase(p.phase),
        conditions: conditions(&p.conditions),
        created: Some(timestamp(p.created)),
        node: p.node.to_string(),
        devices: match &view.report {
            Some(report) if !report.devices.is_empty() => report.devices.clone(),
            Some(_) | None => p
                .asked
                .devices
                .iter()
                .chain(&p.asked.metadata_device)
                .map(|device| device.path.clone())
                .collect(),
        },
        block_size_bytes: p.asked.block_size.bytes().0,
        when_full: when_full(p.asked.when_full).into(),
        usage: view.report.as_ref().and_then(used),
        deletion_protection: p.marks.deletion_protection,
        spares: view
            .report
            .as_ref()
            .map(|report| report.spares.clone())
            .unwrap_or_default(),
        policy: view.report.as_ref().and_then(|r| r.policy).map(policy),
    }
}

fn policy(policy: PoolPolicy) -> api::PoolPolicy {
    api::PoolPolicy {
        when_full: when_full(policy.when_full).into(),
        wait_seconds: policy.wait_seconds,
        overcommit_percent: policy.overcommit_percent,
    }
}

fn used(report: &PoolReport) -> Option<api::PoolUsage> {
    report.usage.as_ref().map(usage)
}

fn usage(u: &PoolUsage) -> api::PoolUsage {
    api::PoolUsage {
        data_used_bytes: u.data_used.0,
        data_total_bytes: u.data_total.0,
        metadata_used_bytes: u.metadata_used.0,
        metadata_total_bytes: u.metadata_total.0,
        mode: match u.mode {
            PoolMode::Unknown => api::PoolMode::Unspecified,
            PoolMode::ReadWrite => api::PoolMode::ReadWrite,
            PoolMode::ReadOnly => api::PoolMode::ReadOnly,
            PoolMode::OutOfDataSpace => api::PoolMode::OutOfDataSpace,
            PoolMode::Failed => api::PoolMode::Failed,
        }
        .into(),
        needs_check: u.needs_check,
        provisioned_bytes: u.provisioned.0,
        thin_count: u.thin_count,
    }
}

/// The parts of an event: its kind, its item or only that one's id, and the token.
#[must_use]
pub fn event<V, P>(
    event: Event<V>,
    present: impl Fn(&V) -> P,
    gone: impl Fn(String) -> P,
) -> (i32, Option<P>, String) {
    match event {
        Event::Present { item, token } => {
            (api::EventKind::Present.into(), Some(present(&item)), token)
        }
        Event::Gone { id, token } => (api::EventKind::Gone.into(), Some(gone(id)), token),
    }
}
