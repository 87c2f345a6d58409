//! Forming a pool on blank devices, and telling whether found devices make one.
//!
//! Called by `ops::pools`. Everything is decided and checked before the first byte is written.
//! Labels say generation 0 until catalogue and metadata are ready; data device 0 is labelled last
//! with generation 1, which is the moment the pool exists. A crash before leaves labels of
//! generation 0, which only a repeated create of the same pool accepts.

use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use goldleaf_types::{Bytes, Incarnation, NodeId, PoolId};

use super::devices::{DeviceRules, HeldDevice, in_use};
use super::error::PoolError;
use super::import::foreign;
use super::pools::{CreatePool, DeviceRequest};
use crate::catalogue::{
    Catalogue, Label, Layout, PlannedDevice, PoolRecord, Region, RegionKind, RegionStorage, Role,
    foreign_signature, plan_layout, write_label,
};
use crate::host::Host;
use crate::kernel::Kernel;

/// Devices that are held, blank and large enough, and what will be written on them.
#[derive(Debug)]
pub(super) struct PoolPlan {
    devices: Vec<HeldDevice>,
    labels: Vec<Label>,
    record: PoolRecord,
}

impl PoolPlan {
    /// Holds and examines every device. Writes nothing but the files that it was asked to make,
    /// and those go again with a plan that is not committed.
    pub(super) fn new(
        kernel: &dyn Kernel,
        rules: &DeviceRules,
        host: &Host,
        request: &CreatePool,
    ) -> Result<Self, PoolError> {
        let devices = hold_planned(kernel, rules, request)?;
        let (data, metadata) = devices.split_at(request.devices.len());
        let sizes: Vec<_> = data.iter().map(|d| d.size).collect();
        let layout = plan(&sizes, metadata.first().map(|d| d.size), request)?;
        let labels = layout.labels(request.id, &request.name, host.owner);
        let record = PoolRecord {
            id: request.id,
            name: request.name.clone(),
            block_size: request.block,
            incarnation: None,
            transaction_id: 0,
            next_thin: 1,
            no_space: request.no_space,
            wait_seconds: 0,
            overcommit_percent: 0,
            created: jiff::Timestamp::now(),
            quarantined: Vec::new(),
            home: Some(NodeId::from_bytes(host.owner)),
            repair: None,
        };
        Ok(Self {
            devices,
            labels,
            record,
        })
    }

    /// Whether the devices carry the finished pool already.
    pub(super) fn formed(&self) -> bool {
        self.devices
            .first()
            .and_then(|d| d.label.as_ref())
            .is_some_and(|l| l.layout_generation > 0)
    }

    /// Refuses devices of the finished pool in other places than theirs, and others beside them: they
    /// would be made anew. When its making was cut short at the last label, data device 0 alone is not
    /// finished.
    pub(super) fn check_places(&self) -> Result<(), PoolError> {
        let finished = |d: &HeldDevice| d.label.as_ref().is_some_and(|l| l.layout_generation > 0);
        if !self.devices.iter().any(finished) {
            return Ok(());
        }
        for (at, (device, planned)) in self.devices.iter().zip(&self.labels).enumerate() {
            let place = (planned.role, planned.index);
            let there = device.label.as_ref().map(|l| (l.role, l.index));
            if there != Some(place) || (at > 0 && self.formed() && !finished(device)) {
                let problem = format!(
                    "it is made already, and {} is not its {} device {}: open it, or name its own \
                     devices in their order",
                    device.path.display(),
                    planned.role,
                    planned.index
                );
                return Err(mismatch(self.record.id, &problem));
            }
        }
        Ok(())
    }

    /// Claims every device: labels of generation 0.
    pub(super) fn label(&self) -> Result<(), PoolError> {
        for (device, label) in self.devices.iter().zip(&self.labels) {
            put(
                device,
                &Label {
                    layout_generation: 0,
                    ..label.clone()
                },
            )?;
        }
        Ok(())
    }

    /// Makes the catalogue, and the metadata such that the kernel formats it.
    pub(super) fn fill(&self, caller: Option<Incarnation>) -> Result<(), PoolError> {
        let id = self.record.id;
        for (device, label) in self.devices.iter().zip(&self.labels) {
            for region in label
                .regions
                .iter()
                .filter(|r| r.kind == RegionKind::Metadata)
            {
                // A superblock of zeroes is what makes the kernel begin afresh.
                device
                    .file
                    .write_all_at(&[0; 4096], region.start.bytes().0)
                    .and_then(|()| device.file.sync_data())
                    .map_err(PoolError::io("clear the metadata"))?;
            }
        }
        let record = PoolRecord {
            incarnation: caller,
            ..self.record.clone()
        };
        let regions = catalogue_regions(id, self.devices.iter().zip(&self.labels))?;
        for region in &regions {
            region
                .erase()
                .map_err(PoolError::io("clear the catalogue"))?;
        }
        Catalogue::create(regions, &record)
            .and_then(|catalogue| catalogue.close())
            .map_err(|source| PoolError::Catalogue { pool: id, source })
    }

    /// Makes it a pool: real labels, data device 0 last.
    pub(super) fn commit(mut self) -> Result<Vec<HeldDevice>, PoolError> {
        self.devices.iter_mut().for_each(HeldDevice::keep);
        for (device, label) in self.devices.iter_mut().zip(&self.labels).rev() {
            put(device, label)?;
            device.label = Some(label.clone());
        }
        Ok(self.devices)
    }
}

/// Where the copies of a pool's catalogue are, in the order of its devices: at most two.
pub(super) fn catalogue_regions<'a>(
    id: PoolId,
    devices: impl Iterator<Item = (&'a HeldDevice, &'a Label)>,
) -> Result<Vec<RegionStorage>, PoolError> {
    let places = catalogue_places(devices);
    if places.is_empty() {
        return Err(mismatch(id, "it has no catalogue region"));
    }
    let storage = |(device, region): (&HeldDevice, Region)| {
        // Opened anew: a failed write is told once to each opening, and the copies share none.
        let again = format!("/proc/self/fd/{}", device.file.as_raw_fd());
        let file = OpenOptions::new().read(true).write(true).open(again);
        let file = file.map_err(PoolError::io("hold a device twice"))?;
        let (start, len) = (region.start.bytes(), region.len.bytes());
        Ok(RegionStorage::new(file, start, len))
    };
    places.into_iter().map(storage).collect()
}

/// As [`catalogue_regions`]: the devices and the stretches of them.
pub(super) fn catalogue_places<'a>(
    devices: impl Iterator<Item = (&'a HeldDevice, &'a Label)>,
) -> Vec<(&'a HeldDevice, Region)> {
    let data = devices.filter(|(_, label)| label.role == Role::Data);
    let regions = data.flat_map(|(device, label)| label.regions.iter().map(move |r| (device, *r)));
    regions
        .filter(|(_, region)| region.kind == RegionKind::Catalogue)
        .take(2)
        .collect()
}

fn put(device: &HeldDevice, label: &Label) -> Result<(), PoolError> {
    write_label(&device.file, label).map_err(|source| PoolError::Label {
        path: device.path.clone(),
        source,
    })
}

/// Holds all devices of a pool to be. What exists is held and examined, and the layout is planned
/// over the sizes that were asked for, before any file is made.
fn hold_planned(
    kernel: &dyn Kernel,
    rules: &DeviceRules,
    request: &CreatePool,
) -> Result<Vec<HeldDevice>, PoolError> {
    let data = request.devices.iter().enumerate();
    let wanted: Vec<(String, &DeviceRequest)> = data
        .map(|(index, device)| (format!("devices[{index}].path"), device))
        .chain(
            request
                .metadata
                .iter()
                .map(|device| ("metadata_device.path".to_owned(), device)),
        )
        .collect();
    let mut there = Vec::new();
    let mut sizes = Vec::new();
    for (field, device) in &wanted {
        match device.create {
            Some(size) => {
                rules.check_create(field, &device.path, size)?;
                there.push(None);
                sizes.push(size);
            }
            None => {
                let held = hold_blank(kernel, rules, field, device, request.id)?;
                sizes.push(held.size);
                there.push(Some(held));
            }
        }
    }
    let (data, metadata) = sizes.split_at(request.devices.len());
    plan(data, metadata.first().copied(), request)?;
    let mut devices: Vec<HeldDevice> = Vec::new();
    for ((field, device), held) in wanted.into_iter().zip(there) {
        let held = match held {
            Some(held) => held,
            None => hold_blank(kernel, rules, &field, device, request.id)?,
        };
        if let Some(twin) = devices.iter().find(|d| d.dev == held.dev) {
            return Err(PoolError::BadDevice {
                field,
                path: device.path.clone(),
                problem: format!("is the same device as {}", twin.path.display()),
            });
        }
        devices.push(held);
    }
    Ok(devices)
}

fn plan(
    data: &[Bytes],
    metadata: Option<Bytes>,
    request: &CreatePool,
) -> Result<Layout, PoolError> {
    let planned = |size: &Bytes| PlannedDevice { size: *size };
    plan_layout(
        &data.iter().map(planned).collect::<Vec<_>>(),
        metadata.as_ref().map(planned),
        request.block,
    )
    .map_err(PoolError::Layout)
}

/// Holds a device that is blank or was claimed by an earlier call for the same pool.
pub(super) fn hold_blank(
    kernel: &dyn Kernel,
    rules: &DeviceRules,
    field: &str,
    device: &DeviceRequest,
    pool: PoolId,
) -> Result<HeldDevice, PoolError> {
    let held = rules.hold(kernel, field, &device.path, device.create)?;
    let not_blank = |holds: String| PoolError::NotBlank {
        field: field.to_owned(),
        path: device.path.clone(),
        holds,
    };
    match &held.label {
        // A finished pool's own tables use its devices.
        Some(label) if label.pool == pool && label.layout_generation > 0 => Ok(held),
        Some(label) if label.pool == pool => unused(kernel, held),
        Some(label) => Err(not_blank(format!(
            "the label of pool {} ({:?}), {} device {}",
            label.pool, label.pool_name, label.role, label.index
        ))),
        None => match foreign_signature(&held.file).map_err(|source| PoolError::Label {
            path: device.path.clone(),
            source,
        })? {
            Some(holds) => Err(not_blank(holds)),
            None => unused(kernel, held),
        },
    }
}

/// The lock keeps out agents only: the disk under a mapping of somebody's may look blank.
fn unused(kernel: &dyn Kernel, held: HeldDevice) -> Result<HeldDevice, PoolError> {
    match kernel.check_unused(held.dev) {
        Ok(()) => Ok(held),
        Err(error) => Err(in_use(&held.path, error)),
    }
}

/// What a pool says that is being made or deleted.
pub(super) const HALF: &str =
    "its making or deleting was cut short: repeat the call that makes or deletes it";

/// Whether labels are those of a pool whose making or deleting was cut short: data device 0 alone
/// says that it is a pool.
pub(super) fn is_half<'a>(labels: impl Iterator<Item = &'a Label>) -> bool {
    let (first, others): (Vec<_>, Vec<_>) =
        labels.partition(|label| label.role == Role::Data && label.index == 0);
    let telling = if first.is_empty() { others } else { first };
    telling.iter().all(|label| label.layout_generation == 0)
}

/// Sees that held devices are one whole pool, of this host or free to take. `force_from`: a host
/// whose pool is taken although it did not release it.
pub(super) fn check_complete(
    id: PoolId,
    (host, force_from): (&Host, Option<NodeId>),
    devices: &[HeldDevice],
) -> Result<(), PoolError> {
    let labels: Vec<&Label> = devices.iter().filter_map(|d| d.label.as_ref()).collect();
    let newest = labels
        .iter()
        .filter(|l| l.role != Role::Spare)
        .max_by_key(|l| l.layout_generation)
        .ok_or(PoolError::NotFound(id))?;
    if is_half(labels.iter().copied()) {
        return Err(mismatch(id, HALF));
    }
    let held_by_another = labels.iter().find(|label| {
        let forced = force_from == Some(NodeId::from_bytes(label.owner_host));
        // A spare holds nothing, and counts for nothing.
        label.role != Role::Spare && label.owner_host != host.owner && !label.clean && !forced
    });
    if let Some(label) = held_by_another {
        return Err(foreign(id, label));
    }
    check_present(id, newest, &labels)?;
    for device in devices {
        let Some(label) = &device.label else { continue };
        // A spare may have been away when the others grew.
        let stale = label.layout_generation != newest.layout_generation;
        if stale && label.role != Role::Spare {
            return Err(mismatch(
                id,
                &format!(
                    "{} is of layout generation {} and the newest is {}",
                    device.path.display(),
                    label.layout_generation,
                    newest.layout_generation
                ),
            ));
        }
        if device.size < label.device_size.bytes() {
            return Err(mismatch(
                id,
                &format!(
                    "{} has {} and its label says {}: it shrank",
                    device.path.display(),
                    device.size,
                    label.device_size.bytes()
                ),
            ));
        }
    }
    Ok(())
}

/// Sees that each device that the newest label counts is there, once.
pub(super) fn check_present(
    id: PoolId,
    newest: &Label,
    labels: &[&Label],
) -> Result<(), PoolError> {
    let mut missing = Vec::new();
    for (role, count) in [
        (Role::Data, newest.data_count),
        (Role::Metadata, newest.metadata_count),
    ] {
        for index in 0..count {
            let here = labels.iter().filter(|l| l.role == role && l.index == index);
            match here.count() {
                0 => missing.push(format!("{role} device {index}")),
                1 => {}
                n => {
                    return Err(mismatch(
                        id,
                        &format!("{n} devices say: {role} device {index}"),
                    ));
                }
            }
        }
    }
    if !missing.is_empty() {
        return Err(PoolError::MissingDevice {
            pool: id,
            missing: missing.join(", "),
        });
    }
    Ok(())
}

pub(super) fn mismatch(pool: PoolId, problem: &str) -> PoolError {
    PoolError::Mismatch {
        pool,
        problem: problem.to_owned(),
    }
}
