//! What the agent answers: a record beside what the kernel says of it now.
//!
//! Made afresh for each answer, never stored: the kernel's side of it is only ever observed.

use std::path::PathBuf;

use std::time::Duration;

use goldleaf_dm::PoolStatus;
use goldleaf_types::{BlockSize, Bytes, Incarnation, Name, PoolId, ThinOwner};

use super::Agent;
use super::admission::Policy;
use super::error::ThinError;
use super::open_pool::{Doubt, OpenPool};
use super::pools::Opening;
use crate::catalogue::ThinRecord;
use crate::kernel::LiveThin;

/// A thin as it is now.
#[derive(Clone, Debug)]
pub struct ThinView {
    /// Its record.
    pub record: ThinRecord,
    /// The pool that has it.
    pub pool: PoolId,
    /// Its device, if there is one.
    pub live: Option<LiveThin>,
    /// Where people find the device, if there is one.
    pub path: Option<PathBuf>,
    /// Whether the image under it is not on this host.
    pub waiting: bool,
    /// Whether its data is known to be lost.
    pub missing: bool,
}

impl ThinView {
    /// How large it is for its users: a device that did not grow yet counts, not the wish.
    #[must_use]
    pub fn size(&self) -> Bytes {
        let recorded = self.record.size.bytes();
        match &self.live {
            Some(live) if live.thin.is_some() => live.len.bytes().min(recorded),
            Some(_) | None => recorded,
        }
    }
}

/// A pool as it is now.
#[derive(Clone, Debug)]
pub struct PoolView {
    /// Which.
    pub id: PoolId,
    /// Its name.
    pub name: Name,
    /// Paths of its devices that hold something.
    pub devices: Vec<PathBuf>,
    /// Paths of its devices that wait to be used.
    pub spares: Vec<PathBuf>,
    /// Paths of its data devices that were spares, while it is open.
    pub were_spares: Vec<PathBuf>,
    /// Why its spare could not be used, in words.
    pub spare_trouble: Option<String>,
    /// What it allocates at a time.
    pub block: BlockSize,
    /// Whether a full pool lets writers wait.
    pub queue_when_full: bool,
    /// What it does when it fills; none while it is not open.
    pub policy: Option<Policy>,
    /// What it is.
    pub state: PoolState,
    /// Grows with each change here: of two views the one of the larger number is newer.
    pub as_of: u64,
}

/// Whether a pool can be used.
#[derive(Clone, Debug)]
pub enum PoolState {
    /// Its devices are here and it was closed cleanly.
    Closed,
    /// It is being opened.
    Opening {
        /// What that is at.
        at: Opening,
        /// For how long.
        since: Duration,
    },
    /// It cannot be opened; in words.
    Unopenable(String),
    /// It is open.
    Open {
        /// What the kernel says; `None` when it does not say.
        status: Option<PoolStatus>,
        /// Whether it takes no change because its metadata is nearly used up.
        braked: bool,
        /// Why it takes no change, if so.
        doubt: Option<Doubt>,
        /// What is wrong with one copy of its catalogue, if anything.
        degraded: Option<String>,
        /// Sum of the sizes of its volumes.
        provisioned: Bytes,
        /// Volumes and snapshots in it.
        thins: usize,
        /// Ids of thins that nobody owns.
        quarantined: Vec<u32>,
        /// Owners whose data is lost.
        missing: Vec<ThinOwner>,
        /// The store whose changes it takes.
        incarnation: Option<Incarnation>,
    },
}

impl Agent {
    /// The row with what the kernel says of it.
    pub(super) fn view(&self, pool: &OpenPool, row: &ThinRecord) -> Result<ThinView, ThinError> {
        let live = self
            .kernel
            .find_live(row.owner)
            .map_err(ThinError::Kernel)?
            // A device that it is read through is nobody's activation.
            .filter(|_| !self.reads.has(row.owner));
        let path = live
            .as_ref()
            .map(|_| self.links.path(&pool.name(), &row.name));
        let missing = pool.is_missing(row.owner);
        let waiting = row.image.is_some_and(|i| !self.images.has(&i.digest));
        Ok(ThinView {
            record: row.clone(),
            pool: pool.id,
            live,
            path,
            waiting,
            missing,
        })
    }

    /// One thin as it is now.
    ///
    /// # Errors
    ///
    /// [`ThinError::NotFound`] when no open pool has it.
    pub fn thin(&self, owner: ThinOwner) -> Result<ThinView, ThinError> {
        let (pool, row) = self.find_row(owner)?;
        self.view(&pool, &row)
    }

    /// Thins of one pool, or of all, after `after`, in order of owner, at most `limit`; and
    /// whether there are more.
    ///
    /// # Errors
    ///
    /// [`ThinError::NoPool`] when the pool is not open.
    pub fn thins(
        &self,
        pool: Option<PoolId>,
        after: Option<ThinOwner>,
        limit: usize,
    ) -> Result<(Vec<ThinView>, bool), ThinError> {
        let pools = match pool {
            Some(id) => vec![self.pools.open(id).ok_or(ThinError::NoPool(id))?],
            None => self.pools.all_open(),
        };
        let mut rows: Vec<_> = pools
            .iter()
            .flat_map(|pool| pool.catalogue.all().into_iter().map(move |row| (pool, row)))
            .filter(|(_, row)| after.is_none_or(|after| row.owner > after))
            .collect();
        rows.sort_by_key(|(_, row)| row.owner);
        let more = rows.len() > limit;
        rows.truncate(limit);
        let views = rows.iter().map(|(pool, row)| self.view(pool, row));
        Ok((views.collect::<Result<_, _>>()?, more))
    }
}
