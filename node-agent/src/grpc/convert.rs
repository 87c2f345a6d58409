//! The one conversion between the wire and the agent's own types.
//!
//! Called by the handlers. Into the domain: every field is checked here and a wrong one is named.
//! Out of it: nothing can fail.

use std::collections::BTreeMap;
use std::path::PathBuf;

use goldleaf_dm::{PoolMode, PoolStatus};
use goldleaf_proto::agent::v1 as pb;
use goldleaf_proto::v1 as api;
use goldleaf_rpc::field::{BadField, bad};
pub use goldleaf_rpc::field::{field, optional};
use goldleaf_types::{
    BlockSize, Bytes, Digest, Incarnation, Labels, Name, ThinOwner, VolumeId, VolumeSize,
};

use crate::catalogue::{Holder, NoSpace, Phase};
use crate::images::{ExportTarget, Exported, Format, ImageRecord, ImportRequest, Place, Source};
use crate::ops::{
    Activation, CreatePool, CreateSnapshot, CreateThin, DeviceRequest, Opening, PoolState,
    PoolView, ThinView,
};

fn size(name: &str, bytes: u64) -> Result<VolumeSize, BadField> {
    VolumeSize::new(bytes).map_err(|e| bad(name, e))
}

fn labels(map: std::collections::HashMap<String, String>) -> Result<Labels, BadField> {
    Labels::try_from(BTreeMap::from_iter(map))
        .map_err(|e| bad("labels", format!("{:?} is no label", e.0)))
}

fn parameters(text: String) -> Result<String, BadField> {
    if text.len() > 16 << 10 {
        return Err(bad("parameters", "more than 16 KiB"));
    }
    Ok(text)
}

/// The store that calls, from the call's metadata.
///
/// # Errors
///
/// [`BadField`] when it is there and is none.
pub fn incarnation(
    metadata: &tonic::metadata::MetadataMap,
) -> Result<Option<Incarnation>, BadField> {
    match metadata.get(goldleaf_proto::INCARNATION_KEY) {
        None => Ok(None),
        Some(value) => {
            let text = value
                .to_str()
                .map_err(|e| bad(goldleaf_proto::INCARNATION_KEY, e))?;
            field(goldleaf_proto::INCARNATION_KEY, text).map(Some)
        }
    }
}

/// How to activate.
///
/// # Errors
///
/// [`BadField`] for an unknown holder.
pub fn activation(options: Option<api::ActivateOptions>) -> Result<Activation, BadField> {
    let options = options.unwrap_or_default();
    let holder = match api::Holder::try_from(options.holder) {
        Ok(api::Holder::Unspecified | api::Holder::Host) => Holder::Host,
        Ok(api::Holder::Csi) => Holder::Csi,
        Err(_) => return Err(bad("holder", "is no known holder")),
    };
    Ok(Activation {
        holder,
        read_only: options.read_only,
    })
}

pub(super) fn device(device: api::PoolDevice) -> DeviceRequest {
    DeviceRequest {
        path: PathBuf::from(device.path),
        create: (device.create_file_bytes != 0).then_some(Bytes(device.create_file_bytes)),
    }
}

impl TryFrom<pb::AgentCreatePoolRequest> for CreatePool {
    type Error = BadField;

    fn try_from(r: pb::AgentCreatePoolRequest) -> Result<Self, BadField> {
        let block = match r.block_size_bytes {
            0 => BlockSize::DEFAULT,
            bytes => BlockSize::new(bytes).map_err(|e| bad("block_size_bytes", e))?,
        };
        let no_space = super::convert_pools::no_space(r.when_full)?.unwrap_or(NoSpace::Error);
        if r.devices.is_empty() {
            return Err(bad("devices", "is empty: name at least one device"));
        }
        Ok(Self {
            id: field("id", &r.id)?,
            name: field("name", &r.name)?,
            devices: r.devices.into_iter().map(device).collect(),
            metadata: r.metadata_device.map(device),
            block,
            no_space,
        })
    }
}

impl TryFrom<pb::AgentCreateThinRequest> for CreateThin {
    type Error = BadField;

    fn try_from(r: pb::AgentCreateThinRequest) -> Result<Self, BadField> {
        Ok(Self {
            owner: field::<VolumeId>("volume", &r.volume)?.into(),
            name: field("name", &r.name)?,
            pool: field("pool", &r.pool)?,
            size: size("size_bytes", r.size_bytes)?,
            image: optional("image_digest", &r.image_digest)?,
            labels: labels(r.labels)?,
            parameters: parameters(r.parameters)?,
            epoch: r.epoch,
            activate: r.activate.map(|a| activation(Some(a))).transpose()?,
        })
    }
}

impl TryFrom<pb::AgentCreateSnapshotRequest> for CreateSnapshot {
    type Error = BadField;

    fn try_from(r: pb::AgentCreateSnapshotRequest) -> Result<Self, BadField> {
        let owner: goldleaf_types::ThinOwner = field("owner", &r.owner)?;
        if owner.volume().is_none() && r.activate.is_some() {
            return Err(bad(
                "activate",
                "a snapshot has no device: clone it and activate that",
            ));
        }
        let name: Name = field("name", &r.name)?;
        Ok(Self {
            owner,
            name,
            source: field("source", &r.source)?,
            size: (r.size_bytes != 0)
                .then(|| size("size_bytes", r.size_bytes))
                .transpose()?,
            labels: labels(r.labels)?,
            parameters: parameters(r.parameters)?,
            epoch: r.epoch,
            activate: r.activate.map(|a| activation(Some(a))).transpose()?,
        })
    }
}

/// A size to grow to.
///
/// # Errors
///
/// [`BadField`] for a size that no volume can have.
pub fn resize(r: &pb::AgentResizeRequest) -> Result<(VolumeId, VolumeSize, u64), BadField> {
    Ok((
        field("volume", &r.volume)?,
        size("size_bytes", r.size_bytes)?,
        r.epoch,
    ))
}

/// What an image is to be made of.
#[derive(Debug)]
pub enum Import {
    /// Something outside of Goldleaf.
    Source(ImportRequest),
    /// A thin of this node, and the digest that is expected of it, if known.
    Thin(ThinOwner, Option<Digest>),
}

impl TryFrom<pb::AgentImportImageRequest> for Import {
    type Error = BadField;

    fn try_from(r: pb::AgentImportImageRequest) -> Result<Self, BadField> {
        use pb::agent_import_image_request::Source as Wire;
        let source = match r.source {
            Some(Wire::Thin(owner)) => {
                let expect = optional::<Digest>("digest", &r.digest)?;
                return Ok(Self::Thin(field("thin", &owner)?, expect));
            }
            Some(Wire::File(path)) => Source::File(path.into()),
            Some(Wire::Device(path)) => Source::Device(path.into()),
            Some(Wire::Url(text)) => Source::Url(field("url", &text)?),
            None => return Err(bad("source", "is unset: give file, device, url or thin")),
        };
        let format = match api::ImageFormat::try_from(r.format) {
            Ok(api::ImageFormat::Unspecified) => Format::Detect,
            Ok(api::ImageFormat::Raw) => Format::Raw,
            Ok(api::ImageFormat::Qcow2) => Format::Qcow2,
            Err(_) => return Err(bad("format", "is no known format")),
        };
        Ok(Self::Source(ImportRequest {
            source,
            format,
            source_sha256: optional::<Digest>("source_sha256", &r.source_sha256)?,
            expect: optional::<Digest>("digest", &r.digest)?,
        }))
    }
}

/// A thin, and the file to write it to.
///
/// # Errors
///
/// [`BadField`] that names the field.
pub fn export(r: pb::AgentExportThinRequest) -> Result<(ThinOwner, ExportTarget), BadField> {
    let format = match api::ExportFormat::try_from(r.format) {
        Ok(api::ExportFormat::Unspecified | api::ExportFormat::Raw) => Format::Raw,
        Ok(api::ExportFormat::Qcow2) => Format::Qcow2,
        Err(_) => return Err(bad("format", "is no known format")),
    };
    let target = ExportTarget {
        file: r.file.into(),
        format,
        replace: r.replace,
    };
    Ok((field("owner", &r.owner)?, target))
}

/// An exported file for the wire.
#[must_use]
pub fn exported(e: &Exported) -> api::ExportedFile {
    api::ExportedFile {
        path: e.path.display().to_string(),
        node: String::new(),
        digest: e.digest.to_string(),
        size_bytes: e.size.0,
        file_sha256: hex::encode(e.file_digest.as_bytes()),
        file_size_bytes: e.file_size.0,
        stored_bytes: e.stored.0,
    }
}

/// An image's copy for the wire.
#[must_use]
pub fn image(record: &ImageRecord) -> pb::AgentImage {
    let path = match &record.place {
        Place::File(path) | Place::Device(path) => path.display().to_string(),
    };
    pb::AgentImage {
        digest: record.digest.to_string(),
        size_bytes: record.size.0,
        stored_bytes: record.owned_bytes.0,
        source: record.source.clone(),
        path,
    }
}

pub(super) fn condition(kind: &str, status: bool, reason: &str, message: String) -> api::Condition {
    api::Condition {
        r#type: kind.into(),
        status,
        reason: reason.into(),
        message,
        since: Some(timestamp(jiff::Timestamp::now())),
    }
}

fn timestamp(at: jiff::Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: at.as_second(),
        nanos: at.subsec_nanosecond(),
    }
}

/// A process's start for the wire.
#[must_use]
pub fn started(at: jiff::Timestamp) -> prost_types::Timestamp {
    timestamp(at)
}

/// What is worth knowing about a thin.
fn thin_conditions(view: &ThinView) -> Vec<api::Condition> {
    let row = &view.record;
    let mut conditions = Vec::new();
    if view.missing {
        conditions.push(condition(
            "DataPresent",
            false,
            "ThinMissing",
            format!(
                "the pool's metadata has no thin {}: its data is lost",
                row.thin
            ),
        ));
    }
    if row.lost_blocks > 0 {
        conditions.push(condition(
            "DataWhole",
            false,
            "LostInRepair",
            format!(
                "a repair of the pool's metadata did not bring back {} blocks of it, which read as if \
                 they had never been written: restore it from a backup, or look through it and mend \
                 the finding (goldleaf doctor)",
                row.lost_blocks
            ),
        ));
    }
    if view
        .live
        .as_ref()
        .is_some_and(|live| live.mapped.is_none() && live.thin.is_some())
    {
        conditions.push(condition(
            "DeviceUsable",
            false,
            "KernelGaveUp",
            "the kernel answers Fail for its device: look at its pool".into(),
        ));
    }
    if let Some(image) = row.image.filter(|_| view.waiting) {
        conditions.push(condition(
            "ImagePresent",
            false,
            "WaitingForImage",
            format!(
                "image {} is not on this node, so the volume cannot be activated: create an image \
                 of this content here",
                image.digest
            ),
        ));
    }
    conditions
}

/// A thin for the wire.
#[must_use]
pub fn thin(view: &ThinView) -> pb::AgentThin {
    let row = &view.record;
    pb::AgentThin {
        owner: row.owner.to_string(),
        name: row.name.to_string(),
        pool: view.pool.to_string(),
        phase: phase(row.phase).into(),
        conditions: thin_conditions(view),
        size_bytes: view.size().0,
        image_digest: row.image.map(|i| i.digest.to_string()).unwrap_or_default(),
        source: row.parent.map(|p| p.to_string()).unwrap_or_default(),
        thin_id: row.thin.get(),
        activation: Some(api::Activation {
            active: view.live.is_some(),
            device_path: view
                .path
                .as_ref()
                .map(|p| p.display().to_string())
                .unwrap_or_default(),
            holder: match row.holder {
                Some(Holder::Host) => api::Holder::Host.into(),
                Some(Holder::Csi) => api::Holder::Csi.into(),
                None => api::Holder::Unspecified.into(),
            },
            read_only: view.live.as_ref().is_some_and(|live| live.read_only),
        }),
        owned_bytes: view
            .live
            .as_ref()
            .and_then(|live| live.mapped)
            .map(|bytes| bytes.0),
        labels: BTreeMap::from(row.labels.clone()).into_iter().collect(),
        parameters: row.request.clone(),
        created: Some(timestamp(row.created)),
        epoch: row.epoch,
        usage: None,
        // Its turn may be still to come.
        progress: row
            .decouple
            .zip(row.image)
            .map(|(wish, image)| api::Progress {
                done_bytes: wish.done.0,
                total_bytes: image.size.min(row.size.bytes()).0,
            }),
        marks: row.marks.clone(),
    }
}

fn phase(phase: Phase) -> api::Phase {
    match phase {
        Phase::Creating => api::Phase::Creating,
        Phase::Ready => api::Phase::Ready,
        Phase::Deleting => api::Phase::Deleting,
    }
}

/// A pool for the wire.
#[must_use]
pub fn pool(view: &PoolView) -> pb::AgentPool {
    let (phase, conditions, usage) = match &view.state {
        PoolState::Closed => (api::Phase::Closed, Vec::new(), None),
        PoolState::Opening { at, since } => {
            let (reason, doing) = match at {
                Opening::Metadata => (
                    "CheckingMetadata",
                    "being opened: its metadata is checked and loaded",
                ),
                Opening::Volumes => ("BringingBackVolumes", "being opened: its volumes come back"),
                Opening::Repair => ("RepairingMetadata", "not open: its metadata is repaired"),
            };
            let why = format!("it is {doing}, for {} s now", since.as_secs());
            let open = condition("PoolOpen", false, reason, why);
            (api::Phase::Closed, vec![open], None)
        }
        PoolState::Unopenable(why) => (
            api::Phase::Failed,
            vec![condition("PoolOpen", false, "CannotOpen", why.clone())],
            None,
        ),
        PoolState::Open { .. } => (
            api::Phase::Ready,
            open_conditions(view),
            usage(&view.state, view.block),
        ),
    };
    pb::AgentPool {
        id: view.id.to_string(),
        name: view.name.to_string(),
        phase: phase.into(),
        conditions,
        devices: view
            .devices
            .iter()
            .map(|p| p.display().to_string())
            .collect(),
        spares: view
            .spares
            .iter()
            .map(|p| p.display().to_string())
            .collect(),
        block_size_bytes: view.block.bytes().0,
        when_full: if view.queue_when_full {
            api::WhenFull::Queue.into()
        } else {
            api::WhenFull::Error.into()
        },
        usage,
        as_of: view.as_of,
        policy: view.policy.map(|policy| policy.into()),
        incarnation: match &view.state {
            PoolState::Open {
                incarnation: Some(store),
                ..
            } => store.to_string(),
            PoolState::Open { .. }
            | PoolState::Opening { .. }
            | PoolState::Closed
            | PoolState::Unopenable(_) => String::new(),
        },
    }
}

fn open_conditions(view: &PoolView) -> Vec<api::Condition> {
    let PoolState::Open {
        status,
        braked,
        doubt,
        degraded,
        quarantined,
        missing,
        ..
    } = &view.state
    else {
        return Vec::new();
    };
    let mut conditions = super::convert_space::writable(status.as_ref(), *braked, doubt.as_ref());
    conditions.extend(super::convert_space::conditions(status.as_ref()));
    conditions.extend(super::convert_space::of_spares(view));
    if let Some(why) = degraded {
        conditions.push(condition(
            "CatalogueWhole",
            false,
            "CatalogueDegraded",
            why.clone(),
        ));
    }
    if !missing.is_empty() {
        let owners: Vec<_> = missing.iter().map(ToString::to_string).collect();
        conditions.push(condition(
            "DataPresent",
            false,
            "ThinMissing",
            format!("the pool's metadata has no thin for {}", owners.join(", ")),
        ));
    }
    if !quarantined.is_empty() {
        conditions.push(condition(
            "NothingForeign",
            false,
            "UnknownThins",
            format!("thins that nobody owns here, left untouched: {quarantined:?}"),
        ));
    }
    conditions
}

fn usage(state: &PoolState, block: BlockSize) -> Option<api::PoolUsage> {
    let PoolState::Open {
        status,
        provisioned,
        thins,
        ..
    } = state
    else {
        return None;
    };
    let mut usage = api::PoolUsage {
        provisioned_bytes: provisioned.0,
        thin_count: u64::try_from(*thins).unwrap_or(u64::MAX),
        ..Default::default()
    };
    match status {
        None => {}
        Some(PoolStatus::Fail) => usage.set_mode(api::PoolMode::Failed),
        Some(PoolStatus::Working(status)) => {
            let block = block.bytes().0;
            // Metadata blocks are 4 KiB whatever the pool's block (dm-thin metadata format).
            usage.metadata_used_bytes = status.used_metadata_blocks.saturating_mul(4096);
            usage.metadata_total_bytes = status.total_metadata_blocks.saturating_mul(4096);
            usage.data_used_bytes = status.used_data_blocks.saturating_mul(block);
            usage.data_total_bytes = status.total_data_blocks.saturating_mul(block);
            usage.needs_check = status.needs_check;
            usage.set_mode(match status.mode {
                PoolMode::ReadWrite => api::PoolMode::ReadWrite,
                PoolMode::ReadOnly => api::PoolMode::ReadOnly,
                PoolMode::OutOfDataSpace => api::PoolMode::OutOfDataSpace,
            });
        }
    }
    Some(usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_field_of_a_create_is_named() {
        let good = pb::AgentCreateThinRequest {
            volume: VolumeId::mint().to_string(),
            name: "v".into(),
            pool: goldleaf_types::PoolId::mint().to_string(),
            size_bytes: 512,
            ..Default::default()
        };
        assert!(CreateThin::try_from(good.clone()).is_ok());
        type Spoil = fn(&mut pb::AgentCreateThinRequest);
        let cases: [(&str, Spoil); 6] = [
            ("volume", |r| r.volume = "x".into()),
            ("name", |r| r.name = "../x".into()),
            ("pool", |r| r.pool.clear()),
            ("size_bytes", |r| r.size_bytes = 513),
            ("image_digest", |r| r.image_digest = "sha256:zz".into()),
            ("parameters", |r| r.parameters = "x".repeat(20_000)),
        ];
        for (name, spoil) in cases {
            let mut request = good.clone();
            spoil(&mut request);
            assert_eq!(CreateThin::try_from(request).unwrap_err().field, name);
        }
    }
}
