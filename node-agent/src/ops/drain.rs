//! Deleting a large thin without stalling its pool.
//!
//! The kernel deletes a thin in one message, however much it maps, and holds the pool's metadata
//! meanwhile: every first write of every other volume waits. So what a large thin maps is given up
//! in steps first, through a private device, and the message finds next to nothing. Called by
//! `thins`, the sweep and `work`. A thin whose mappings a relative in the pool may share is deleted by
//! the message alone: the kernel then mostly counts one owner less, while steps would copy what is
//! shared. A crash leaves the row in `Deleting` and the steps that were done; doing them again is
//! nothing.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use goldleaf_types::{Bytes, ThinOwner};

use super::Agent;
use super::error::ThinError;
use super::open_pool::OpenPool;
use super::thins::length;
use super::work::{Halted, Job, WorkProgress};
use crate::catalogue::{Phase, ThinRecord};
use crate::failpoint::{Point, hit};
use crate::kernel::{KernelError, PrivateSpec};

/// Up to so much mapped, one message is short enough: 4096 blocks of 64 KiB take it under 2 ms, a
/// million 360 ms (Linux 6.1 in User-Mode Linux).
pub(super) const LARGE: Bytes = Bytes(256 << 20);
/// Blocks that one step gives up: as many as the kernel takes in one discard.
const STEP: u64 = 1024;
/// How long a caller waits for the end.
const PATIENCE: Duration = Duration::from_secs(20);

/// What inactive thins mapped when they were last looked at: they cannot grow since.
#[derive(Debug, Default)]
pub(crate) struct Mapped(Mutex<HashMap<ThinOwner, Bytes>>);

impl Mapped {
    fn known(&self) -> MutexGuard<'_, HashMap<ThinOwner, Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what a thin maps that has no device any more.
    pub(super) fn note(&self, owner: ThinOwner, mapped: Bytes) {
        self.known().insert(owner, mapped);
    }

    /// Its device comes, or it goes.
    pub(super) fn forget(&self, owner: ThinOwner) {
        self.known().remove(&owner);
    }

    fn of(&self, owner: ThinOwner) -> Option<Bytes> {
        self.known().get(&owner).copied()
    }
}

impl Agent {
    /// Deletion is done in steps from so much mapped on; 256 MiB unless said.
    #[must_use]
    pub fn deleting_in_steps_from(mut self, large: Bytes) -> Self {
        self.work.large = large;
        self
    }

    /// Whether deleting it in one message could stall its pool. The caller holds the row's lock.
    pub(super) fn is_large(&self, pool: &OpenPool, row: &ThinRecord) -> bool {
        if self.progress(row.owner).is_some() {
            return true; // whoever is at work on it ends that first
        }
        if row.size.bytes() <= self.work.large || shares(pool, row) {
            return false;
        }
        let mapped = self.mapped.of(row.owner).or_else(|| {
            // Whatever is in the way of a look is in the way of the deletion, and is said there.
            self.ensure_no_device(pool, row).ok()?;
            let device = self.kernel.open_private(&private(pool, row)).ok()?;
            let mapped = device.mapping().ok()?.mapped;
            self.mapped.note(row.owner, mapped);
            Some(mapped)
        });
        mapped.is_some_and(|mapped| mapped > self.work.large)
    }

    /// Effect and fact of a deletion, in steps.
    pub(super) fn delete_in_steps(
        &self,
        pool: &OpenPool,
        row: &ThinRecord,
        job: &Job<'_>,
    ) -> Result<(), ThinError> {
        match self.drain(pool, row, job) {
            Ok(Err(Halted)) => return Ok(()),
            Ok(Ok(())) | Err(KernelError::ThinMissing { .. }) => {}
            Err(error) => return Err(ThinError::Kernel(error)),
        }
        let _held = pool.locks.take(&[row.owner]);
        match pool.catalogue.find(row.owner) {
            Some(row) if row.phase == Phase::Deleting => self.finish_deleting(pool, &row),
            Some(_) | None => Ok(()),
        }
    }

    /// Gives up what a thin maps, if that is much.
    fn drain(
        &self,
        pool: &OpenPool,
        row: &ThinRecord,
        job: &Job<'_>,
    ) -> Result<Result<(), Halted>, KernelError> {
        if shares(pool, row) {
            return Ok(Ok(()));
        }
        let device = self.kernel.open_private(&private(pool, row))?;
        let first = device.mapping()?;
        if first.mapped <= self.work.large {
            return Ok(Ok(()));
        }
        tracing::info!(owner = %row.owner, mapped = %first.mapped, "deleting a large thin in steps");
        let step = pool.block().bytes().0.saturating_mul(STEP);
        let end = first.end.0.min(row.size.bytes().0);
        let mut at = 0;
        while at < end {
            let began = Instant::now();
            let len = step.min(end - at);
            device.discard(Bytes(at), Bytes(len))?;
            at += len;
            hit(Point::DeletionStepped);
            let left = device.mapping()?.mapped;
            if left == Bytes(0) {
                break;
            }
            let now = WorkProgress {
                done: Bytes(first.mapped.0.saturating_sub(left.0)),
                total: first.mapped,
            };
            if let Err(halted) = job.rest(now, began) {
                return Ok(Err(halted));
            }
        }
        Ok(Ok(()))
    }

    /// Waits a while until a thin is gone that is deleted in steps.
    pub(super) fn await_deletion(
        &self,
        pool: &OpenPool,
        owner: ThinOwner,
    ) -> Result<(), ThinError> {
        let gone = || pool.catalogue.find(owner).is_none();
        match self.await_work(PATIENCE, gone) {
            true => Ok(()),
            false => Err(ThinError::Deleting(owner)),
        }
    }
}

fn private(pool: &OpenPool, row: &ThinRecord) -> PrivateSpec {
    PrivateSpec {
        pool: pool.id,
        thin: row.thin,
        len: length(row),
        origin: None,
    }
}

/// Whether another thin began as this one, or as what this one began as.
pub(super) fn shares(pool: &OpenPool, row: &ThinRecord) -> bool {
    let related = |other: &ThinRecord| {
        other.owner != row.owner
            && (other.parent == Some(row.owner)
                || row.parent == Some(other.owner)
                || (row.parent.is_some() && other.parent == row.parent))
    };
    pool.catalogue.all().iter().any(related)
}
