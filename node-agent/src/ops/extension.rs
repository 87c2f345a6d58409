//! Extending a pool while it runs: onto new devices, or to the end of ones that grew.
//!
//! Called by `grpc`, one pool at a time. Labels first, durable, data device 0 last: its generation
//! is the fact that the pool has the new room. Then the longer tables, without a flush. A crash
//! before the last label leaves labels of a generation that device 0 does not have: the next opening
//! takes them back. A crash after it leaves shorter tables live, which the next opening grows.

use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use goldleaf_dm::block;
use goldleaf_types::{Bytes, Incarnation, PoolId, SECTOR};

use super::Agent;
use super::devices::{HeldDevice, in_use};
use super::error::PoolError;
use super::forming::{hold_blank, mismatch};
use super::open_pool::OpenPool;
use super::pools::DeviceRequest;
use super::scan::Look;
use super::view::PoolView;
use crate::catalogue::{
    Growth, Label, RegionKind, Role, WAS_SPARE, plan_growth, taken_back, wipe_label, write_label,
};
use crate::failpoint::{Point, hit};

/// More room for a pool.
#[derive(Clone, Debug)]
pub struct ExtendPool {
    /// Which.
    pub id: PoolId,
    /// New devices for data.
    pub devices: Vec<DeviceRequest>,
    /// New devices for metadata alone.
    pub metadata_devices: Vec<DeviceRequest>,
    /// New devices that wait until the pool fills.
    pub spares: Vec<DeviceRequest>,
    /// Devices of the pool to be used to their end.
    pub grow: Vec<GrowDevice>,
    /// How much more metadata at least.
    pub metadata: Bytes,
}

impl ExtendPool {
    /// No more room.
    #[must_use]
    pub const fn nothing(id: PoolId) -> Self {
        Self {
            id,
            devices: Vec::new(),
            metadata_devices: Vec::new(),
            spares: Vec::new(),
            grow: Vec::new(),
            metadata: Bytes(0),
        }
    }
}

/// A device to be used to its end.
#[derive(Clone, Debug)]
pub struct GrowDevice {
    /// Its path.
    pub path: PathBuf,
    /// How large a file is to be made first.
    pub size: Option<Bytes>,
}

impl Agent {
    /// Gives an open pool more room. Asking again changes nothing. Blocks.
    ///
    /// # Errors
    ///
    /// Every [`PoolError`]; what is refused is refused before anything is written.
    pub fn extend_pool(
        &self,
        caller: Option<Incarnation>,
        request: &ExtendPool,
    ) -> Result<PoolView, PoolError> {
        let _turn = self.pools.take_turn();
        let pool = self.pool_to_change(request.id, caller)?;
        if let Some(doubt) = &pool.doubt {
            return Err(mismatch(request.id, &doubt.to_string()));
        }
        {
            let _space = pool.space.lock().unwrap_or_else(PoisonError::into_inner);
            self.extend(&pool, request, None)?;
        }
        self.changed();
        self.pool_view(&pool)
    }

    /// Also onto one of its spares, by its place among the devices. The caller has the turn and the
    /// pool's `space`.
    pub(super) fn extend(
        &self,
        pool: &OpenPool,
        request: &ExtendPool,
        spare: Option<usize>,
    ) -> Result<(), PoolError> {
        let devices = pool.devices();
        let sizes = grown_sizes(&devices, &request.grow)?;
        let mut added = self.hold_added(pool, request)?;
        let labels: Vec<Label> = devices.iter().filter_map(|d| d.label.clone()).collect();
        let growth = Growth {
            sizes: sizes.clone(),
            added: added.iter().map(|(role, d)| (*role, d.size)).collect(),
            spare,
            metadata: request.metadata,
        };
        if let Some(planned) = plan_growth(&labels, &growth).map_err(PoolError::Layout)? {
            self.forget_unfinished(pool, &added)?;
            self.lengthen_files(&devices, &sizes)?;
            hit(Point::PoolGrown);
            added.iter_mut().for_each(|(_, device)| device.keep());
            let all = devices
                .iter()
                .map(HeldDevice::again)
                .chain(added.into_iter().map(|(_, device)| device));
            let all = put_labels(all.collect(), planned)?;
            self.pools.scanner.forget();
            pool.set_devices(all);
            tracing::info!(pool = %pool.id, "extended");
        }
        // Also when a crash came between the labels and this.
        let loaded = self
            .kernel
            .loaded_pool(pool.id)
            .map_err(PoolError::Kernel)?;
        // Writable, braked or not: metadata grows in a writable pool alone. If what came is too little
        // for the brake to be released, it is put on again below.
        let spec = pool.spec(false, loaded.low_water_blocks);
        let _ = self.kernel.reload_pool(&spec).map_err(PoolError::Kernel)?;
        hit(Point::PoolExtended);
        self.bring_in_order(pool)
    }

    /// Holds the new devices; those that the pool has already are left out.
    fn hold_added(
        &self,
        pool: &OpenPool,
        request: &ExtendPool,
    ) -> Result<Vec<(Role, HeldDevice)>, PoolError> {
        let devices = pool.devices();
        let data = request
            .devices
            .iter()
            .enumerate()
            .map(|(i, d)| (Role::Data, "devices", i, d));
        let metadata = request
            .metadata_devices
            .iter()
            .enumerate()
            .map(|(i, d)| (Role::Metadata, "metadata_devices", i, d));
        let spares = request
            .spares
            .iter()
            .enumerate()
            .map(|(i, d)| (Role::Spare, "spares", i, d));
        let mut added: Vec<(Role, HeldDevice)> = Vec::new();
        for (role, list, index, device) in data.chain(metadata).chain(spares) {
            if member(&devices, &device.path).is_some() {
                continue;
            }
            let field = format!("{list}[{index}].path");
            let held = hold_blank(&*self.kernel, &self.pools.rules, &field, device, pool.id)?;
            let finished = |l: &&Label| {
                l.layout_generation > 0 && l.role != Role::Spare && !is_left_over(l, &devices)
            };
            if let Some(label) = held.label.as_ref().filter(finished) {
                return Err(copied(&device.path, label));
            }
            let others = devices.iter().chain(added.iter().map(|(_, d)| d));
            if let Some(twin) = others.into_iter().find(|d| d.dev == held.dev) {
                return Err(PoolError::BadDevice {
                    field,
                    path: device.path.clone(),
                    problem: format!("is the same device as {}", twin.path.display()),
                });
            }
            added.push((role, held));
        }
        Ok(added)
    }

    /// Wipes devices that an earlier extension labelled and did not finish: two devices of one
    /// number would keep the pool from opening.
    fn forget_unfinished(
        &self,
        pool: &OpenPool,
        added: &[(Role, HeldDevice)],
    ) -> Result<(), PoolError> {
        let found = self.pools.scanner.scan(Look::Everywhere).remove(&pool.id);
        let devices = pool.devices();
        for device in found.unwrap_or_default() {
            let known = devices.iter().chain(added.iter().map(|(_, d)| d));
            let known: Vec<_> = known.map(|d| real(&d.path)).collect();
            if known.contains(&real(&device.path)) {
                continue;
            }
            let rules = &self.pools.rules;
            let held = rules.hold(&*self.kernel, "devices", &device.path, None)?;
            let of_pool = |l: &&Label| l.pool == pool.id && l.role != Role::Spare;
            let Some(label) = held.label.as_ref().filter(of_pool) else {
                continue;
            };
            if !is_left_over(label, &devices) {
                return Err(copied(&device.path, label));
            }
            let used = self.kernel.check_unused(held.dev);
            used.map_err(|error| in_use(&device.path, error))?;
            tracing::warn!(pool = %pool.id, device = %device.path.display(),
                "labelled by an extension that was not finished; wiped");
            wipe_label(&held.file).map_err(label_error(&device.path))?;
        }
        Ok(())
    }

    fn lengthen_files(&self, devices: &[HeldDevice], sizes: &[Bytes]) -> Result<(), PoolError> {
        for (device, size) in devices.iter().zip(sizes).filter(|(d, _)| d.is_file()) {
            let len = device
                .file
                .metadata()
                .map_err(PoolError::io("look at a pool file"))?
                .len();
            if len < size.0 {
                device
                    .file
                    .set_len(size.0)
                    .and_then(|()| device.file.sync_all())
                    .map_err(PoolError::io("lengthen a pool file"))?;
            }
            // Its loop device is to have the new size.
            let _ = self
                .kernel
                .attach(&device.file)
                .map_err(PoolError::Kernel)?;
        }
        Ok(())
    }
}

/// Whether a label is of an extension that was not finished: of the next layout, and counted nowhere.
fn is_left_over(label: &Label, devices: &[HeldDevice]) -> bool {
    let labels = devices.iter().filter_map(|d| d.label.as_ref());
    let first = |l: &&Label| (l.role, l.index) == (Role::Data, 0);
    labels.into_iter().find(first).is_some_and(|truth| {
        label.layout_generation == truth.layout_generation + 1 && !is_counted(label, truth)
    })
}

/// Whether the label of data device 0 counts a device of this label.
fn is_counted(label: &Label, truth: &Label) -> bool {
    match label.role {
        Role::Data => label.index < truth.data_count,
        Role::Metadata => label.index < truth.metadata_count,
        Role::Spare => true,
    }
}

/// A device that says that it is of the pool, and is not the one that the pool has.
fn copied(path: &Path, label: &Label) -> PoolError {
    let problem = format!(
        "{} says that it is {} device {} of layout generation {}, and the pool is not on it: take it \
         off this host if it is a copy or another path to a device of the pool, or make it blank if \
         nobody needs what it holds",
        path.display(),
        label.role,
        label.index,
        label.layout_generation
    );
    mismatch(label.pool, &problem)
}

/// The size that each device is to have.
fn grown_sizes(devices: &[HeldDevice], grow: &[GrowDevice]) -> Result<Vec<Bytes>, PoolError> {
    let labelled = |d: &HeldDevice| d.label.as_ref().map_or(d.size, |l| l.device_size.bytes());
    let mut sizes: Vec<Bytes> = devices.iter().map(labelled).collect();
    for (index, wanted) in grow.iter().enumerate() {
        let bad = |problem: String| PoolError::BadDevice {
            field: format!("grow[{index}].path"),
            path: wanted.path.clone(),
            problem,
        };
        let at = member(devices, &wanted.path)
            .ok_or_else(|| bad("is no device of this pool: `pool get` shows them".into()))?;
        let device = &devices[at];
        let now = if device.is_file() {
            device.file.metadata().map(|m| Bytes(m.len()))
        } else {
            block::size(&device.file)
        };
        let now = now.map_err(PoolError::io("read a device's size"))?;
        let size = match wanted.size {
            None => now,
            Some(_) if !device.is_file() => {
                return Err(bad(
                    "file_bytes is for files; grow the block device itself".into()
                ));
            }
            Some(size) if !size.0.is_multiple_of(Bytes::MIB.0) => {
                return Err(bad("file_bytes is not a multiple of 1 MiB".into()));
            }
            // As it was asked before, or somebody made it larger still.
            Some(size) => size.max(now),
        };
        if size < sizes[at] {
            return Err(bad(format!("has {size} and had {}: it shrank", sizes[at])));
        }
        sizes[at] = Bytes(size.0 / SECTOR * SECTOR);
    }
    Ok(sizes)
}

fn real(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

fn member(devices: &[HeldDevice], path: &Path) -> Option<usize> {
    let wanted = real(path);
    devices.iter().position(|d| real(&d.path) == wanted)
}

fn label_error(path: &Path) -> impl FnOnce(crate::catalogue::LabelError) -> PoolError {
    let path = path.to_owned();
    move |source| PoolError::Label { path, source }
}

/// Writes the labels, data device 0 last, and answers the devices with them, in order.
fn put_labels(devices: Vec<HeldDevice>, labels: Vec<Label>) -> Result<Vec<HeldDevice>, PoolError> {
    let mut all: Vec<_> = devices.into_iter().zip(labels).collect();
    all.sort_by_key(|(_, label)| (label.role, label.index));
    for (device, label) in all.iter().rev() {
        if (label.role, label.index) == (Role::Data, 0) {
            hit(Point::PoolRelabelled);
        }
        clear_twin(device, label)?;
        write_label(&device.file, label).map_err(label_error(&device.path))?;
    }
    hit(Point::PoolRelaid);
    Ok(all
        .into_iter()
        .map(|(device, label)| device.relabelled(label))
        .collect())
}

/// A new device's place for the catalogue's twin has nothing of an earlier life in it.
fn clear_twin(device: &HeldDevice, label: &Label) -> Result<(), PoolError> {
    if device.label.as_ref().is_some_and(|l| l.role != Role::Spare) {
        return Ok(());
    }
    for region in label
        .regions
        .iter()
        .filter(|r| r.kind == RegionKind::Catalogue)
    {
        let file = device
            .file
            .try_clone()
            .map_err(PoolError::io("hold a device twice"))?;
        crate::catalogue::RegionStorage::new(file, region.start.bytes(), region.len.bytes())
            .erase()
            .map_err(PoolError::io("clear the place of the catalogue's twin"))?;
    }
    Ok(())
}

/// What an extension that was cut short left is not of the pool: devices that data device 0 does
/// not count, and labels of the generation after its own. In memory only.
pub(super) fn take_back(devices: &mut Vec<HeldDevice>) {
    let first = |l: &&Label| (l.role, l.index) == (Role::Data, 0) && l.layout_generation > 0;
    let Some(truth) = devices
        .iter()
        .filter_map(|d| d.label.as_ref())
        .find(first)
        .cloned()
    else {
        return;
    };
    let unfinished = |l: &Label| l.layout_generation == truth.layout_generation + 1;
    let was_spare = |l: &Label| l.compatible & WAS_SPARE != 0;
    devices.retain(|d| {
        d.label
            .as_ref()
            .is_none_or(|l| is_counted(l, &truth) || !unfinished(l) || was_spare(l))
    });
    for device in devices {
        if let Some(label) = device.label.as_mut().filter(|l| unfinished(l)) {
            *label = taken_back(label, &truth);
            device.taken_back = true;
        }
    }
}

/// Writes what [`take_back`] decided, once it is known that the pool is whole and ours.
pub(super) fn store_taken_back(devices: &[HeldDevice]) -> Result<(), PoolError> {
    for device in devices.iter().filter(|d| d.taken_back) {
        if let Some(label) = &device.label {
            write_label(&device.file, label).map_err(label_error(&device.path))?;
        }
    }
    Ok(())
}
