//! One open pool: its devices, its catalogue, its live tables, its locks.
//!
//! Made by `ops::pools`, used by every operation on a thin. While it exists this process holds the
//! pool's devices against other agents. Dropping it touches nothing in the kernel: volumes go on.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use goldleaf_dm::{PoolMode, PoolStatus};
use goldleaf_types::{BlockSize, Bytes, Incarnation, Name, PoolId, ThinOwner};

use super::caller;
use super::devices::HeldDevice;
use super::error::{OtherIncarnation, ThinError};
use super::forming::catalogue_places;
use super::locks::{Held, Locks};
use super::opening::labelled;
use crate::catalogue::{Catalogue, NoSpace, PoolRecord};
use crate::kernel::Kernel;

/// Why a pool is open for reading and rescue only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The metadata's transaction id is neither the one recorded nor the one wished for.
    RolledBack {
        /// What the catalogue recorded.
        recorded: u64,
        /// What the metadata says.
        found: u64,
    },
    /// The kernel lets nothing be changed in it.
    NotWritable {
        /// Why, in words.
        why: &'static str,
    },
}

impl Doubt {
    /// One word for it, for machines.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::RolledBack { .. } => "MetadataRolledBack",
            Self::NotWritable { .. } => "MetadataNotWritable",
        }
    }
}

impl std::fmt::Display for Doubt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::RolledBack { recorded, found } => write!(
                f,
                "its metadata is at transaction {found} and its catalogue at {recorded}: one of \
                 them was put back to an older state behind our back; nothing is changed until \
                 an administrator has compared them"
            ),
            Self::NotWritable { why } => write!(
                f,
                "{why}: close it, run thin_check on its metadata, and open it again"
            ),
        }
    }
}

/// An open pool.
#[derive(Debug)]
pub struct OpenPool {
    /// Whose.
    pub id: PoolId,
    /// Its name, for links and people.
    pub name: Name,
    /// Its record. Dropped before the devices, whose locks guard it.
    pub catalogue: Catalogue,
    /// Its devices, held.
    pub devices: Arc<Vec<HeldDevice>>,
    /// One call at a time for each thin.
    pub locks: Locks<ThinOwner>,
    /// Why it takes no change, if so.
    pub doubt: Option<Doubt>,
    /// Rows that are `Ready` while the kernel has no such thin: lost data, shown everywhere.
    pub missing: RwLock<BTreeSet<ThinOwner>>,
}

impl OpenPool {
    /// The pool's record now.
    #[must_use]
    pub fn record(&self) -> PoolRecord {
        self.catalogue.pool()
    }

    /// What it allocates at a time.
    #[must_use]
    pub fn block(&self) -> BlockSize {
        self.record().block_size
    }

    /// Whether a full pool lets writers wait.
    #[must_use]
    pub fn queues_when_full(&self) -> bool {
        match self.record().no_space {
            NoSpace::Queue => true,
            NoSpace::Error => false,
        }
    }

    /// Sum of the sizes of its volumes.
    #[must_use]
    pub fn provisioned(&self) -> Bytes {
        let volumes = self
            .catalogue
            .all()
            .into_iter()
            .filter(|t| t.owner.volume().is_some());
        Bytes(volumes.fold(0, |sum, t| sum.saturating_add(t.size.bytes().0)))
    }

    /// Whether the row's data is known to be lost.
    #[must_use]
    pub fn is_missing(&self, owner: ThinOwner) -> bool {
        self.missing
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&owner)
    }

    /// Forgets lost data whose row is gone: somebody deleted it.
    pub(super) fn refresh_missing(&self) -> Vec<ThinOwner> {
        let mut missing = self.missing.write().unwrap_or_else(PoisonError::into_inner);
        missing.retain(|owner| self.catalogue.find(*owner).is_some());
        missing.iter().copied().collect()
    }

    /// What is wrong with one copy of its catalogue, if anything, and what to do.
    #[must_use]
    pub fn degraded(&self) -> Option<String> {
        let degraded = self.catalogue.degraded()?;
        let places = catalogue_places(labelled(&self.devices));
        let device = places.get(degraded.copy).map_or_else(
            || "a device".to_owned(),
            |(device, _)| device.path.display().to_string(),
        );
        Some(format!(
            "the copy of its catalogue on {device} cannot be used ({}); the other one has \
             everything, but nothing would replace it: see to the device, then start the agent \
             again or close and open the pool, which makes the copy anew",
            degraded.why
        ))
    }

    /// Refuses a change by another store than the one that made the pool.
    ///
    /// # Errors
    ///
    /// [`OtherIncarnation`].
    pub fn admit(&self, caller: Option<Incarnation>) -> Result<(), OtherIncarnation> {
        match self.record().incarnation {
            Some(owner) if caller != Some(owner) => Err(OtherIncarnation {
                pool: self.id,
                owner,
                caller: caller.map_or_else(|| "none".to_owned(), |c| c.to_string()),
            }),
            Some(_) | None => Ok(()),
        }
    }

    /// Takes the locks of thins for a call, in its turn. Blocks.
    ///
    /// # Errors
    ///
    /// [`ThinError::Abandoned`] when its caller went away meanwhile: nothing is changed then.
    pub(super) fn lock(&self, owners: &[ThinOwner]) -> Result<Held<'_, ThinOwner>, ThinError> {
        let held = self.locks.take(owners);
        match owners.first() {
            Some(owner) if caller::is_gone() => Err(ThinError::Abandoned(*owner)),
            Some(_) | None => Ok(held),
        }
    }

    /// Refuses a change while the pool can take none, before anything is written.
    ///
    /// # Errors
    ///
    /// [`ThinError::PoolReadOnly`] with the reason; [`ThinError::Kernel`] when nobody can say.
    pub fn check_writable(&self, kernel: &dyn Kernel) -> Result<(), ThinError> {
        self.writable_mode(kernel).map(drop)
    }

    /// As [`Self::check_writable`], and refuses what needs a data block when there is none.
    ///
    /// # Errors
    ///
    /// [`ThinError::PoolFull`] besides.
    pub fn check_room(&self, kernel: &dyn Kernel) -> Result<(), ThinError> {
        match self.writable_mode(kernel)? {
            PoolMode::OutOfDataSpace => Err(ThinError::PoolFull(self.id)),
            PoolMode::ReadWrite | PoolMode::ReadOnly => Ok(()),
        }
    }

    /// As [`Self::check_writable`], and refuses to suspend anything in a pool that is out of space:
    /// the suspension would wait for writes that wait for room.
    ///
    /// # Errors
    ///
    /// [`ThinError::PoolReadOnly`] with the reason.
    pub fn check_calm(&self, kernel: &dyn Kernel) -> Result<(), ThinError> {
        match self.writable_mode(kernel)? {
            PoolMode::ReadWrite => Ok(()),
            PoolMode::OutOfDataSpace | PoolMode::ReadOnly => Err(ThinError::PoolReadOnly {
                pool: self.id,
                why: "it is out of data space, and an active volume is only frozen in one that \
                      is read-write: make room first"
                    .into(),
            }),
        }
    }

    /// What the pool can do, if it takes changes.
    fn writable_mode(&self, kernel: &dyn Kernel) -> Result<PoolMode, ThinError> {
        let no = |why: String| Err(ThinError::PoolReadOnly { pool: self.id, why });
        if let Some(doubt) = &self.doubt {
            return no(doubt.to_string());
        }
        match kernel.pool_status(self.id).map_err(ThinError::Kernel)? {
            PoolStatus::Fail => no("the kernel gave it up (status Fail): close it, run \
                                    thin_check on its metadata, and open it again"
                .into()),
            PoolStatus::Working(status) if status.needs_check => {
                no("its metadata needs a check (needs_check): close it and run thin_check".into())
            }
            PoolStatus::Working(status) => match status.mode {
                PoolMode::ReadWrite | PoolMode::OutOfDataSpace => Ok(status.mode),
                PoolMode::ReadOnly => no("the kernel made it read-only".into()),
            },
        }
    }
}
