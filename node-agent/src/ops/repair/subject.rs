//! The pool that is to be repaired, open or not, as far as it can be known without changing it.
//!
//! Used by `repair`. The catalogue of a pool that is not open is read into memory and opened there:
//! opening one writes.

use std::sync::Arc;

use goldleaf_types::{Bytes, Incarnation, PoolId};

use crate::catalogue::{Catalogue, InMemory, PoolRecord, RegionStorage, ThinRecord};
use crate::kernel::{KernelError, PoolSpec, Unwritable};
use crate::ops::Agent;
use crate::ops::devices::HeldDevice;
use crate::ops::error::PoolError;
use crate::ops::forming::{catalogue_places, mismatch};
use crate::ops::open_pool::{OpenPool, admit};
use crate::ops::opening::{labelled, spec_of};
use crate::ops::scan::Look;

/// Whether a pool's metadata may change while it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stillness {
    /// It is not live, or takes no change.
    Still,
    /// It takes changes.
    Writable,
}

/// A pool to repair.
pub(super) struct Subject {
    /// Its open form, if it is open.
    pub(super) pool: Option<Arc<OpenPool>>,
    /// Its devices, held, if it is not.
    pub(super) devices: Vec<HeldDevice>,
    pub(super) record: PoolRecord,
    pub(super) rows: Vec<ThinRecord>,
    pub(super) spec: PoolSpec,
    pub(super) stillness: Stillness,
}

impl Subject {
    /// Lets go of its devices: from here on it is only known what it was.
    pub(super) fn let_go(&mut self) {
        self.devices.clear();
        self.pool = None;
    }

    pub(super) fn metadata_len(&self) -> Bytes {
        Bytes(self.spec.metadata.iter().map(|s| s.len.bytes().0).sum())
    }

    pub(super) fn block_sectors(&self) -> u64 {
        self.spec.block.bytes().0 / 512
    }

    pub(super) fn data_blocks(&self) -> u64 {
        let data: u64 = self.spec.data.iter().map(|s| s.len.bytes().0).sum();
        data / self.spec.block.bytes().0
    }

    pub(super) fn not_now(&self, why: &str) -> PoolError {
        PoolError::NotRepairable {
            pool: self.record.id,
            why: why.to_owned(),
        }
    }
}

impl Agent {
    /// The pool of this id, for a store that it takes changes from. Nothing is changed.
    pub(super) fn subject(
        &self,
        id: PoolId,
        caller: Option<Incarnation>,
    ) -> Result<Subject, PoolError> {
        let stillness = match self.kernel.pool_status(id) {
            Err(KernelError::NoPool(_)) => Stillness::Still,
            Err(error) => return Err(PoolError::Kernel(error)),
            Ok(status) => match Unwritable::of(&status) {
                Some(_) => Stillness::Still,
                None => Stillness::Writable,
            },
        };
        if let Some(pool) = self.pools.open(id) {
            pool.admit(caller)?;
            if pool.shown().is_some() {
                let why = "it is open for rescue: close it first (goldleaf pool close)".to_owned();
                return Err(PoolError::NotRepairable { pool: id, why });
            }
            return Ok(Subject {
                record: pool.record(),
                rows: pool.catalogue.all(),
                spec: pool.spec(false, 0),
                devices: Vec::new(),
                pool: Some(pool),
                stillness,
            });
        }
        let found = self.pools.scanner.scan(Look::Everywhere).remove(&id);
        let found = found.ok_or(PoolError::NotFound(id))?;
        let devices = self.hold_found(id, &found, None)?;
        let (record, rows) = look(id, &devices)?;
        admit(&record, caller)?;
        Ok(Subject {
            pool: None,
            spec: spec_of(&record, &devices, false),
            devices,
            record,
            rows,
            stillness,
        })
    }

    /// The names of its volumes and snapshots that have a device.
    pub(super) fn names_in_use(&self, subject: &Subject) -> Result<Vec<String>, PoolError> {
        let live = self.kernel.live_owners().map_err(PoolError::Kernel)?;
        let rows = subject.rows.iter().filter(|row| live.contains(&row.owner));
        Ok(rows.map(|row| row.name.to_string()).collect())
    }
}

/// What a pool's catalogue says.
fn look(id: PoolId, devices: &[HeldDevice]) -> Result<(PoolRecord, Vec<ThinRecord>), PoolError> {
    let places = catalogue_places(labelled(devices));
    if places.is_empty() {
        return Err(mismatch(id, "it has no catalogue region"));
    }
    let copy = |(device, region): (&HeldDevice, crate::catalogue::Region)| {
        let (start, len) = (region.start.bytes().0, region.len.bytes().0);
        let file: &std::fs::File = &device.file;
        let copy = InMemory::read(file, start, len);
        let copy = copy.map_err(PoolError::io("read a pool's catalogue"))?;
        Ok(RegionStorage::new(copy, Bytes(0), Bytes(len)))
    };
    let regions = places
        .into_iter()
        .map(copy)
        .collect::<Result<_, PoolError>>()?;
    let catalogue =
        Catalogue::open(regions, id).map_err(|source| PoolError::Catalogue { pool: id, source })?;
    Ok((catalogue.pool(), catalogue.all()))
}
