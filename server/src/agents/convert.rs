//! The one conversion between the agents' wire and the domain.
//!
//! Used by the client. Onto the wire nothing can fail. From it, a missing or strange field is an
//! agent's bug and refused by name: nothing is filled in for it.

use std::collections::BTreeMap;
use std::str::FromStr;

use goldleaf_proto::agent::v1 as pb;
use goldleaf_proto::v1 as api;
use goldleaf_types::{Bytes, Digest, Labels, PoolId, ThinOwner};
use jiff::Timestamp;

use super::refusal::bad_answer;
use super::{AgentError, ImportStep};
use crate::domain::{
    ActivateOptions, Activation, BlockPart, BlockRange, Check, Condition, GroupMember,
    GroupSnapshot, Holder, ImageAsked, ImageFormat, ImageReport, ImageSource, MoreRoom, Parameters,
    Phase, PolicyChange, Pool, PoolDevice, PoolMode, PoolPolicy, PoolReport, PoolUsage, Progress,
    ThinOrder, ThinReport, ThinUsage, WhenFull,
};

/// Labels on the wire.
pub(crate) fn labels(labels: &Labels) -> std::collections::HashMap<String, String> {
    BTreeMap::from(labels.clone()).into_iter().collect()
}

fn parameters(order: &ThinOrder) -> String {
    Parameters {
        kind: order.owner.into(),
        asked: order.asked.clone(),
        part: order.part.clone(),
    }
    .encode()
}

fn device(device: &PoolDevice) -> api::PoolDevice {
    api::PoolDevice {
        path: device.path.clone(),
        create_file_bytes: device.create_file_bytes,
    }
}

/// A pool to make.
pub(super) fn create_pool(pool: &Pool) -> pb::AgentCreatePoolRequest {
    pb::AgentCreatePoolRequest {
        id: pool.id.to_string(),
        name: pool.name.to_string(),
        devices: pool.asked.devices.iter().map(device).collect(),
        metadata_device: pool.asked.metadata_device.as_ref().map(device),
        block_size_bytes: pool.asked.block_size.bytes().0,
        when_full: when_full(pool.asked.when_full).into(),
    }
}

/// What a full pool does, on the wire.
pub(crate) const fn when_full(choice: WhenFull) -> api::WhenFull {
    match choice {
        WhenFull::Error => api::WhenFull::Error,
        WhenFull::Queue => api::WhenFull::Queue,
    }
}

/// A pool's policy to be.
pub(super) fn set_policy(pool: PoolId, change: &PolicyChange) -> pb::AgentSetPoolPolicyRequest {
    pb::AgentSetPoolPolicyRequest {
        pool: pool.to_string(),
        when_full: change.when_full.map(|choice| when_full(choice).into()),
        wait_seconds: change.wait_seconds,
        overcommit_percent: change.overcommit_percent,
    }
}

fn policy(node: &str, found: api::PoolPolicy) -> Result<PoolPolicy, AgentError> {
    Ok(PoolPolicy {
        when_full: match api::WhenFull::try_from(found.when_full) {
            Ok(api::WhenFull::Error | api::WhenFull::Unspecified) => WhenFull::Error,
            Ok(api::WhenFull::Queue) => WhenFull::Queue,
            Err(error) => return Err(bad_answer(node, "policy.when_full", &error.to_string())),
        },
        wait_seconds: found.wait_seconds,
        overcommit_percent: found.overcommit_percent,
    })
}

/// More room for a pool.
pub(super) fn extend_pool(pool: PoolId, more: &MoreRoom) -> pb::AgentExtendPoolRequest {
    let grow = more.grow.iter().map(|(path, bytes)| api::GrowPoolDevice {
        path: path.clone(),
        file_bytes: *bytes,
    });
    pb::AgentExtendPoolRequest {
        pool: pool.to_string(),
        devices: more.devices.iter().map(device).collect(),
        metadata_devices: more.metadata_devices.iter().map(device).collect(),
        spares: more.spares.iter().map(device).collect(),
        grow: grow.collect(),
        metadata_bytes: more.metadata.0,
    }
}

/// An image to bring.
pub(super) fn import_image(
    asked: &ImageAsked,
    thin: Option<ThinOwner>,
) -> pb::AgentImportImageRequest {
    use pb::agent_import_image_request::Source;
    pb::AgentImportImageRequest {
        source: match asked.source.clone() {
            ImageSource::File(path) => Some(Source::File(path)),
            ImageSource::Device(path) => Some(Source::Device(path)),
            ImageSource::Url(url) => Some(Source::Url(url)),
            ImageSource::Volume(_) => thin.map(|owner| Source::Thin(owner.to_string())),
        },
        format: match asked.format {
            ImageFormat::Guess => api::ImageFormat::Unspecified.into(),
            ImageFormat::Raw => api::ImageFormat::Raw.into(),
            ImageFormat::Qcow2 => api::ImageFormat::Qcow2.into(),
        },
        source_sha256: asked.source_sha256.clone(),
        digest: asked
            .digest
            .map(|digest| digest.to_string())
            .unwrap_or_default(),
    }
}

/// How to activate.
pub(super) fn activate(options: ActivateOptions) -> api::ActivateOptions {
    api::ActivateOptions {
        holder: match options.holder {
            Holder::Host => api::Holder::Host.into(),
            Holder::Csi => api::Holder::Csi.into(),
        },
        read_only: options.read_only,
    }
}

/// A thin to make, blank or over an image.
pub(super) fn create_thin(
    order: &ThinOrder,
    image: Option<Digest>,
    options: Option<ActivateOptions>,
) -> pb::AgentCreateThinRequest {
    pb::AgentCreateThinRequest {
        volume: order.owner.to_string(),
        name: order.name.to_string(),
        pool: order.pool.to_string(),
        size_bytes: order.size.bytes().0,
        image_digest: image.map(|digest| digest.to_string()).unwrap_or_default(),
        labels: labels(&order.labels),
        parameters: parameters(order),
        epoch: order.epoch,
        activate: options.map(activate),
    }
}

/// A thin to make that begins as another.
pub(super) fn create_snapshot(
    order: &ThinOrder,
    source: ThinOwner,
    options: Option<ActivateOptions>,
) -> pb::AgentCreateSnapshotRequest {
    pb::AgentCreateSnapshotRequest {
        owner: order.owner.to_string(),
        name: order.name.to_string(),
        source: source.to_string(),
        size_bytes: order.size.bytes().0,
        labels: labels(&order.labels),
        parameters: parameters(order),
        epoch: order.epoch,
        activate: options.map(activate),
    }
}

/// Snapshots of one instant to make.
pub(super) fn create_group(group: &GroupSnapshot) -> pb::AgentCreateGroupSnapshotRequest {
    let member = |(member, order): (&GroupMember, ThinOrder)| pb::AgentCreateSnapshotRequest {
        size_bytes: 0, // its source's, whatever that is
        ..create_snapshot(&order, member.source.into(), None)
    };
    pb::AgentCreateGroupSnapshotRequest {
        group: group.id.to_string(),
        pool: group.pool.to_string(),
        members: group
            .members
            .iter()
            .zip(group.orders())
            .map(member)
            .collect(),
        deadline_ms: group.deadline_ms,
    }
}

pub(super) fn parse<T: FromStr>(node: &str, field: &str, text: &str) -> Result<T, AgentError>
where
    T::Err: std::fmt::Display,
{
    text.parse()
        .map_err(|error: T::Err| bad_answer(node, field, &error.to_string()))
}

pub(super) fn optional<T: FromStr>(
    node: &str,
    field: &str,
    text: &str,
) -> Result<Option<T>, AgentError>
where
    T::Err: std::fmt::Display,
{
    if text.is_empty() {
        Ok(None)
    } else {
        parse(node, field, text).map(Some)
    }
}

fn phase(node: &str, number: i32) -> Result<Phase, AgentError> {
    match api::Phase::try_from(number) {
        Ok(api::Phase::Creating) => Ok(Phase::Creating),
        Ok(api::Phase::Ready) => Ok(Phase::Ready),
        Ok(api::Phase::Deleting) => Ok(Phase::Deleting),
        Ok(api::Phase::Failed) => Ok(Phase::Failed),
        Ok(api::Phase::Closed) => Ok(Phase::Closed),
        Ok(api::Phase::Unspecified) => Err(bad_answer(node, "phase", "unset")),
        Err(error) => Err(bad_answer(node, "phase", &error.to_string())),
    }
}

fn conditions(node: &str, list: Vec<api::Condition>) -> Result<Vec<Condition>, AgentError> {
    let one = |condition: api::Condition| {
        let since = condition
            .since
            .ok_or_else(|| bad_answer(node, "condition.since", "unset"))?;
        Ok(Condition {
            kind: condition.r#type,
            status: condition.status,
            reason: condition.reason,
            message: condition.message,
            since: jiff::Timestamp::new(since.seconds, since.nanos)
                .map_err(|error| bad_answer(node, "condition.since", &error.to_string()))?,
        })
    };
    list.into_iter().map(one).collect()
}

/// What a host lacks.
pub(super) fn checks(answer: api::PreflightResponse) -> Vec<Check> {
    let one = |check: api::PreflightCheck| Check {
        subject: check.subject,
        ok: check.ok,
        found: check.found,
        remedy: check.remedy,
    };
    answer.checks.into_iter().map(one).collect()
}

fn usage(node: &str, usage: api::PoolUsage) -> Result<PoolUsage, AgentError> {
    Ok(PoolUsage {
        data_used: Bytes(usage.data_used_bytes),
        data_total: Bytes(usage.data_total_bytes),
        metadata_used: Bytes(usage.metadata_used_bytes),
        metadata_total: Bytes(usage.metadata_total_bytes),
        mode: match api::PoolMode::try_from(usage.mode) {
            Ok(api::PoolMode::Unspecified) => PoolMode::Unknown,
            Ok(api::PoolMode::ReadWrite) => PoolMode::ReadWrite,
            Ok(api::PoolMode::ReadOnly) => PoolMode::ReadOnly,
            Ok(api::PoolMode::OutOfDataSpace) => PoolMode::OutOfDataSpace,
            Ok(api::PoolMode::Failed) => PoolMode::Failed,
            Err(error) => return Err(bad_answer(node, "usage.mode", &error.to_string())),
        },
        needs_check: usage.needs_check,
        provisioned: Bytes(usage.provisioned_bytes),
        thin_count: usage.thin_count,
    })
}

/// A pool as its node sees it.
pub(super) fn pool(node: &str, answer: pb::AgentPool) -> Result<PoolReport, AgentError> {
    Ok(PoolReport {
        id: parse(node, "pool.id", &answer.id)?,
        as_of: answer.as_of,
        devices: answer.devices,
        spares: answer.spares,
        phase: phase(node, answer.phase)?,
        conditions: conditions(node, answer.conditions)?,
        usage: answer.usage.map(|found| usage(node, found)).transpose()?,
        policy: answer.policy.map(|found| policy(node, found)).transpose()?,
        incarnation: optional(node, "pool.incarnation", &answer.incarnation)?,
    })
}

/// Every pool of a node.
pub(super) fn pools(
    node: &str,
    answer: pb::ListAgentPoolsResponse,
) -> Result<Vec<PoolReport>, AgentError> {
    answer
        .pools
        .into_iter()
        .map(|found| pool(node, found))
        .collect()
}

/// An image's content as a node has it.
pub(super) fn image(node: &str, answer: pb::AgentImage) -> Result<ImageReport, AgentError> {
    Ok(ImageReport {
        digest: parse(node, "image.digest", &answer.digest)?,
        size: Bytes(answer.size_bytes),
    })
}

/// One step of an import.
pub(super) fn import_step(
    node: &str,
    event: pb::ImportImageEvent,
) -> Result<ImportStep, AgentError> {
    match (event.image, event.progress) {
        (Some(found), _) => image(node, found).map(ImportStep::Done),
        (None, Some(step)) => Ok(ImportStep::Progress(progress(step))),
        (None, None) => Err(bad_answer(
            node,
            "import event",
            "neither progress nor image",
        )),
    }
}

fn progress(found: api::Progress) -> Progress {
    Progress {
        done: Bytes(found.done_bytes),
        total: Bytes(found.total_bytes),
    }
}

fn activation(
    node: &str,
    found: Option<api::Activation>,
) -> Result<Option<Activation>, AgentError> {
    let Some(found) = found.filter(|found| found.active) else {
        return Ok(None);
    };
    if found.device_path.is_empty() {
        return Err(bad_answer(node, "activation.device_path", "empty"));
    }
    Ok(Some(Activation {
        device_path: found.device_path,
        holder: match api::Holder::try_from(found.holder) {
            // A device whose holder was taken back and that is still there is the host's.
            Ok(api::Holder::Host | api::Holder::Unspecified) => Holder::Host,
            Ok(api::Holder::Csi) => Holder::Csi,
            Err(error) => {
                return Err(bad_answer(node, "activation.holder", &error.to_string()));
            }
        },
        read_only: found.read_only,
    }))
}

/// The instant that a group's snapshots show.
pub(super) fn instant(node: &str, answer: pb::AgentThinGroup) -> Result<Timestamp, AgentError> {
    let first = answer.thins.into_iter().next();
    let first = first.ok_or_else(|| bad_answer(node, "thins", "empty"))?;
    thin(node, first).map(|report| report.created)
}

/// A thin as its node sees it.
pub(super) fn thin(node: &str, answer: pb::AgentThin) -> Result<ThinReport, AgentError> {
    let created = answer
        .created
        .ok_or_else(|| bad_answer(node, "thin.created", "unset"))?;
    Ok(ThinReport {
        created: Timestamp::new(created.seconds, created.nanos)
            .map_err(|error| bad_answer(node, "thin.created", &error.to_string()))?,
        owner: parse(node, "thin.owner", &answer.owner)?,
        pool: parse(node, "thin.pool", &answer.pool)?,
        phase: phase(node, answer.phase)?,
        size: Bytes(answer.size_bytes),
        image: optional(node, "thin.image_digest", &answer.image_digest)?,
        activation: activation(node, answer.activation)?,
        owned: answer.owned_bytes.map(Bytes),
        progress: answer.progress.map(progress),
        usage: answer.usage.map(|usage| ThinUsage {
            provisioned: Bytes(usage.provisioned_bytes),
            owned: Bytes(usage.owned_bytes),
            exclusive: Bytes(usage.exclusive_bytes),
        }),
        conditions: conditions(node, answer.conditions)?,
    })
}

/// Some ranges of a snapshot.
pub(super) fn block_part(node: &str, part: api::BlockRanges) -> Result<BlockPart, AgentError> {
    let range = |range: api::BlockRange| {
        let end = range.offset_bytes.checked_add(range.length_bytes);
        let within = end.is_some_and(|end| end <= part.size_bytes);
        if range.length_bytes == 0 || !within {
            return Err(bad_answer(node, "ranges", "a range is not of the device"));
        }
        Ok(BlockRange {
            offset: range.offset_bytes,
            len: range.length_bytes,
        })
    };
    Ok(BlockPart {
        size: Bytes(part.size_bytes),
        ranges: part
            .ranges
            .into_iter()
            .map(range)
            .collect::<Result<_, _>>()?,
    })
}
