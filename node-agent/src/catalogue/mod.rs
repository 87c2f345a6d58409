//! What a pool knows of itself, on its own devices: labels, layout and the catalogue of its thins.
//!
//! Owns the disk formats (`docs/disk-format.md`). Called by `ops`, the only writer of a pool that
//! it holds; keeping others off the devices is its business. Invariant: what [`Catalogue::write`]
//! has answered is durable, and what reads show is durable. A crash leaves the catalogue as it was
//! after some whole batch of changes, never between two changes of one call.

mod blank;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod growth;
mod in_memory;
mod label;
mod layout;
mod region;
mod rows;
mod shapes;
mod store;
mod twin;
mod writer;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod twin_tests;

use std::panic::resume_unwind;
use std::sync::mpsc::{Sender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;

use goldleaf_types::{PoolId, ThinOwner};

pub use blank::foreign_signature;
pub use error::{CatalogueError, WriteError};
pub use growth::{Growth, in_order, plan_growth, taken_back};
pub use in_memory::InMemory;
pub use label::{
    FEATURE_TWIN, Label, LabelError, Region, RegionKind, Role, WAS_SPARE, read_label, wipe_label,
    write_label,
};
pub use layout::{Layout, LayoutError, PlannedDevice, plan_layout};
pub use region::{Medium, RegionStorage};
pub use rows::{
    Decouple, Holder, ImageRef, NoSpace, NoThinIds, Phase, PoolRecord, Repair, Rows, ThinRecord,
};
pub use twin::Degraded;

use rows::State;
use twin::{Copies, Shown};
use writer::{Answer, Job, Writer};

/// An open catalogue: a pool's record and one row for each of its thins.
///
/// Reads are answered from memory. Changes go through one thread, which puts those that wait
/// together into one durable transaction.
#[derive(Debug)]
pub struct Catalogue {
    state: Arc<RwLock<State>>,
    /// `None` once closed.
    jobs: Mutex<Option<Sender<Job>>>,
    writer: Mutex<Option<JoinHandle<Result<(), CatalogueError>>>>,
    degraded: Shown,
}

impl Catalogue {
    /// Makes a catalogue without thins in erased regions, a copy in each. Blocks until it is
    /// durable.
    ///
    /// # Errors
    ///
    /// [`CatalogueError::NotBlank`] when a region has content; [`CatalogueError::Storage`] when a
    /// device fails.
    pub fn create<M: Medium>(
        regions: Vec<RegionStorage<M>>,
        pool: &PoolRecord,
    ) -> Result<Self, CatalogueError> {
        Self::start(Copies::create(regions, pool)?)
    }

    /// Opens what [`Self::create`] made, the copies in the same order. Blocks; reads all of them
    /// and verifies them. A copy that is older than another or damaged is made anew.
    ///
    /// # Errors
    ///
    /// [`CatalogueError::Newer`], or [`CatalogueError::BadRow`] of a newer version, when any copy
    /// was written by one; [`CatalogueError::NoCopy`], or of a single copy what is wrong with it,
    /// when none can be used; [`CatalogueError::OnlyOlderCopy`] when the newest cannot. Nothing of
    /// it is shown then, and nothing is changed.
    pub fn open<M: Medium>(
        regions: Vec<RegionStorage<M>>,
        pool: PoolId,
    ) -> Result<Self, CatalogueError> {
        Self::start(Copies::open(regions, pool)?)
    }

    fn start((copies, state): (Copies, State)) -> Result<Self, CatalogueError> {
        let state = Arc::new(RwLock::new(state));
        let (jobs, queue) = std::sync::mpsc::channel();
        let degraded = copies.shown();
        let writer = Writer::new(copies, Arc::clone(&state));
        let thread = std::thread::Builder::new()
            .name("catalogue".into())
            .spawn(move || writer.run(&queue))
            .map_err(|e| CatalogueError::storage(redb::Error::Io(e)))?;
        Ok(Self {
            state,
            jobs: Mutex::new(Some(jobs)),
            writer: Mutex::new(Some(thread)),
            degraded,
        })
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which copy of it failed, if one did.
    #[must_use]
    pub fn degraded(&self) -> Option<Degraded> {
        self.degraded
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The pool's record.
    #[must_use]
    pub fn pool(&self) -> PoolRecord {
        self.state().pool.clone()
    }

    /// The row of `owner`.
    #[must_use]
    pub fn find(&self, owner: ThinOwner) -> Option<ThinRecord> {
        self.state()
            .thins
            .get(&owner)
            .map(|stored| stored.record.clone())
    }

    /// Every row, in order of owner.
    #[must_use]
    pub fn all(&self) -> Vec<ThinRecord> {
        self.state()
            .thins
            .values()
            .map(|stored| stored.record.clone())
            .collect()
    }

    /// Makes one change: all that the closure does to the rows, or nothing. Blocks until durable.
    ///
    /// The closure sees every change made before it, those not yet durable included; if those fail
    /// to become durable, so does its answer. It runs on the catalogue's own thread and must not
    /// call `write` itself. A panic in it comes out here and changes nothing.
    ///
    /// # Errors
    ///
    /// [`WriteError::Refused`] with the closure's own error; [`WriteError::Catalogue`] when the
    /// change was not stored. After a failed commit nothing is taken any more
    /// ([`CatalogueError::ReadOnly`]): whether that commit reached the disk shows at the next open.
    pub fn write<T, E, F>(&self, change: F) -> Result<T, WriteError<E>>
    where
        T: Send + 'static,
        E: Send + 'static,
        F: FnOnce(&mut Rows<'_>) -> Result<T, E> + Send + 'static,
    {
        let (answer, answered) = sync_channel(1);
        let job = writer::job(change, answer);
        let sent = match &*self.jobs.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(jobs) => jobs.send(job).is_ok(),
            None => false,
        };
        if !sent {
            return Err(WriteError::Catalogue(CatalogueError::Closed));
        }
        match answered.recv() {
            Ok(Answer::Settled(result)) => result,
            Ok(Answer::Panicked(panic)) => resume_unwind(panic),
            Err(_) => Err(WriteError::Catalogue(CatalogueError::Closed)),
        }
    }

    /// Finishes what is queued and lets go of the device. Reads go on showing the last state,
    /// changes are refused. Closing again does nothing. Blocks.
    ///
    /// # Errors
    ///
    /// [`CatalogueError::Storage`] when the device fails; what was answered before is durable even
    /// so, and the next open takes longer.
    pub fn close(&self) -> Result<(), CatalogueError> {
        self.jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let thread = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match thread.map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(panic)) => resume_unwind(panic),
        }
    }
}

impl Drop for Catalogue {
    fn drop(&mut self) {
        self.jobs
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let thread = self
            .writer
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match thread.map(JoinHandle::join) {
            None | Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) => tracing::error!(%error, "a catalogue did not close cleanly"),
            Some(Err(_)) => tracing::error!("a catalogue's writer panicked"),
        }
    }
}
