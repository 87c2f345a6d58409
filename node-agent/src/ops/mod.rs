//! The agent's operations: pools, thins, activations, images of one node.
//!
//! [`Agent`] is made once by `app` and shared. `grpc` calls it and so does the sweep; neither calls
//! the other. Arrows: `ops` -> `catalogue`, `images`, `kernel`, `links`. Every method that says
//! "Blocks" does ioctls or commits and belongs on a blocking thread.

mod activation;
mod admission;
mod adoption;
mod blocks;
pub mod caller;
mod closing;
mod decouple;
mod deleted;
mod deletion;
mod devices;
pub mod doctor;
mod drain;
mod error;
mod extension;
mod forming;
mod groups;
mod holding;
mod import;
mod kept_records;
mod locks;
mod marks;
mod news;
mod open_pool;
mod opening;
mod pool_deletion;
mod pools;
mod reading;
mod renaming;
mod repair;
mod rescue;
mod scan;
mod snapshots;
mod space;
pub mod space_rules;
mod spares;
mod sweep;
mod thins;
mod usage;
mod view;
mod waiting;
mod work;

#[cfg(test)]
mod adoption_tests;
#[cfg(test)]
mod blocks_tests;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod doctor_tests;
#[cfg(test)]
mod drain_tests;
#[cfg(test)]
mod extension_tests;
#[cfg(test)]
mod frozen_tests;
#[cfg(test)]
mod group_tests;
#[cfg(test)]
mod image_tests;
#[cfg(test)]
mod import_tests;
#[cfg(test)]
mod name_tests;
#[cfg(test)]
mod policy_tests;
#[cfg(test)]
mod pool_tests;
#[cfg(test)]
mod reading_tests;
#[cfg(test)]
mod repair_beside_tests;
#[cfg(test)]
mod repair_caller_tests;
#[cfg(test)]
mod repair_tests;
#[cfg(test)]
mod rescue_tests;
#[cfg(test)]
mod rig;
#[cfg(test)]
mod space_tests;
#[cfg(test)]
mod spare_tests;
#[cfg(test)]
mod sweep_tests;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{Notify, watch};

use crate::host::Host;
use crate::images::{ExportFolder, ImageFolder};
use crate::kernel::Kernel;
use crate::links::Links;

pub use admission::{Policy, SetPolicy};
pub use blocks::{BlockPart, ByteRange, WantedBlocks};
pub use devices::DeviceRules;
pub use error::{ImageOpError, OtherIncarnation, PoolError, ReadError, ThinError};
pub use extension::{ExtendPool, GrowDevice};
pub use groups::CreateGroup;
pub use import::ImportPool;
pub use kept_records::{KeepError, KeptRecords, RecordsFile};
pub use open_pool::{BRAKED, Doubt, OpenPool};
pub use pool_deletion::Which;
pub use pools::{CreatePool, DeviceRequest, Opening, Pools};
pub use repair::{
    Fate, RepairFolder, RepairOutcome, RepairPool, RepairReport, RepairStep, RepairedThin,
};
pub use rescue::Shown;
pub use scan::Look;
pub use snapshots::CreateSnapshot;
pub use thins::{Activation, CreateThin};
pub use usage::Usage;
pub use view::{PoolState, PoolView, ThinView};
pub use work::{Lane, WorkProgress};

/// A hint that there is something to sweep. The record says what.
#[derive(Debug, Default)]
pub struct Bell(Notify);

impl Bell {
    /// Wakes the sweep, now or when it next waits.
    pub fn ring(&self) {
        self.0.notify_one();
    }

    /// Waits for a ring.
    pub async fn rung(&self) {
        self.0.notified().await;
    }
}

/// Many use the images' devices at once, or one takes them away.
#[derive(Debug, Default)]
pub(crate) struct ImageUse(std::sync::RwLock<()>);

impl ImageUse {
    pub(crate) fn read(&self) -> std::sync::RwLockReadGuard<'_, ()> {
        self.0
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> std::sync::RwLockWriteGuard<'_, ()> {
        self.0
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// One node's agent.
pub struct Agent {
    pub(crate) kernel: Arc<dyn Kernel>,
    /// This host's copies of images.
    pub images: Arc<ImageFolder>,
    exports: ExportFolder,
    pub(crate) image_use: ImageUse,
    /// Rings when an image's device may have become idle.
    pub image_bell: Bell,
    /// Rings when a pool's room may have become scarce.
    pub space_bell: Bell,
    pub(crate) links: Links,
    /// Who this host is.
    pub host: Host,
    pub(crate) pools: Pools,
    pub(crate) work: work::Work,
    mapped: drain::Mapped,
    changes: watch::Sender<u64>,
    thin_news: news::ThinNews,
    deleted: deleted::Deleted,
    reads: reading::Reads,
    repairs: RepairFolder,
    kept_records: RecordsFile,
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent")
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

impl Agent {
    /// An agent with no pool open yet.
    #[must_use]
    pub fn new(
        kernel: Arc<dyn Kernel>,
        (images, exports): (Arc<ImageFolder>, ExportFolder),
        host: Host,
        (pool_dir, repairs, kept_records): (PathBuf, RepairFolder, RecordsFile),
        device_dir: PathBuf,
    ) -> Self {
        Self {
            kernel,
            images,
            exports,
            image_use: ImageUse::default(),
            image_bell: Bell::default(),
            space_bell: Bell::default(),
            links: Links::new(device_dir),
            host,
            pools: Pools::new(DeviceRules { pool_dir }),
            work: work::Work::default(),
            mapped: drain::Mapped::default(),
            // Begun with the time, so that it grows across restarts too.
            changes: watch::Sender::new(
                u64::try_from(jiff::Timestamp::now().as_microsecond()).unwrap_or(0),
            ),
            thin_news: news::ThinNews::default(),
            deleted: deleted::Deleted::default(),
            reads: reading::Reads::default(),
            repairs,
            kept_records,
        }
    }

    /// Says that something a watcher may see has changed.
    pub fn changed(&self) {
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Grows with each [`Self::changed`]. Read before what it is to date.
    pub(crate) fn now(&self) -> u64 {
        *self.changes.borrow()
    }

    /// Follows [`Self::changed`].
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
