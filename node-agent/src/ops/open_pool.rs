//! One open pool: its devices, its catalogue, its live tables, its locks.
//!
//! Made by `ops::pools`, used by every operation on a thin. While it exists this process holds the
//! pool's devices against other agents. Dropping it touches nothing in the kernel: volumes go on.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use goldleaf_dm::{PoolMode, PoolStatus, WorkingPool};
use goldleaf_types::{BlockSize, Bytes, Incarnation, Name, PoolId, ThinOwner};

use super::Agent;
use super::caller;
use super::devices::HeldDevice;
use super::error::{OtherIncarnation, PoolError, ThinError};
use super::forming::{catalogue_places, mismatch};
use super::locks::{Held, Locks};
use super::opening::{labelled, stretches};
use super::rescue::Shown;
use super::scan::Look;
use super::space_rules::{Scarcity, data_free, metadata, working};
use super::waiting::Waiting;
use crate::catalogue::{Catalogue, NoSpace, PoolRecord, RegionKind};
use crate::kernel::{CHECK_IT, Kernel, PoolSpec, Unwritable};

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
        /// Why.
        why: Unwritable,
    },
    /// It does not open otherwise, and somebody asked for what can be read of it.
    Rescue {
        /// Why it does not, in words.
        why: String,
        /// Which catalogue it shows.
        shown: Shown,
    },
}

impl Doubt {
    /// One word for it, for machines.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::RolledBack { .. } => "MetadataRolledBack",
            Self::NotWritable { .. } => "MetadataNotWritable",
            Self::Rescue { .. } => "OpenForRescue",
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
            Self::NotWritable { why } => write!(f, "{why}: {CHECK_IT}"),
            Self::Rescue { why, shown } => {
                let catalogue = match shown {
                    Shown::Whole => "",
                    Shown::Older => {
                        " It shows an older copy of its catalogue, for the newest cannot be read: what \
                         was made or changed since is not in it."
                    }
                    Shown::MadeUp => {
                        " No copy of its catalogue can be read: each thin is shown by its number, as \
                         long as it is known to be, and nobody knows whose it is or over which image."
                    }
                };
                write!(
                    f,
                    "it is open for rescue: what can be read of it is, and nothing is written. Export \
                     its volumes, or activate them for reading; close it to end that.{catalogue} It did \
                     not open otherwise: {why}"
                )
            }
        }
    }
}

/// What a braked pool says, and what helps.
pub const BRAKED: &str = "its metadata is nearly used up, and was it used up, reads would fail too; \
    extend it (goldleaf pool extend): it takes changes again by itself";

impl Agent {
    /// An open pool, for a change by a store that it takes changes from. The caller has the turn.
    pub(super) fn pool_to_change(
        &self,
        id: PoolId,
        caller: Option<Incarnation>,
    ) -> Result<Arc<OpenPool>, PoolError> {
        self.pools.reserved.is_free(id)?;
        let Some(pool) = self.pools.open(id) else {
            return match self.pools.scanner.scan(Look::Everywhere).get(&id) {
                Some(_) => Err(mismatch(id, "it is not open: open it first")),
                None => Err(PoolError::NotFound(id)),
            };
        };
        pool.admit(caller)?;
        if let Some(doubt) = pool.doubt.as_ref().filter(|_| pool.shown().is_some()) {
            return Err(mismatch(id, &doubt.to_string()));
        }
        Ok(pool)
    }
}

/// Refuses a change by another store than the one that made the pool.
pub(super) fn admit(
    record: &PoolRecord,
    caller: Option<Incarnation>,
) -> Result<(), OtherIncarnation> {
    match record.incarnation {
        Some(owner) if caller != Some(owner) => Err(OtherIncarnation {
            pool: record.id,
            owner,
            caller: caller.map_or_else(|| "none".to_owned(), |c| c.to_string()),
        }),
        Some(_) | None => Ok(()),
    }
}

/// An open pool.
#[derive(Debug)]
pub struct OpenPool {
    /// Whose.
    pub id: PoolId,
    /// Its record. Dropped before the devices, whose locks guard it.
    pub catalogue: Catalogue,
    /// Its devices, held.
    held: RwLock<Arc<Vec<HeldDevice>>>,
    /// One call at a time for each thin.
    pub locks: Locks<ThinOwner>,
    /// Why it takes no change, if so.
    pub doubt: Option<Doubt>,
    /// Rows that are `Ready` while the kernel has no such thin: lost data, shown everywhere.
    pub missing: RwLock<BTreeSet<ThinOwner>>,
    /// One look at its room, or change of its tables, at a time.
    pub(super) space: Mutex<()>,
    /// Whether it takes no change because its metadata is nearly used up.
    braked: AtomicBool,
    /// Why its spare could not be used, in words.
    spare_trouble: Mutex<Option<String>>,
    /// Its writers wait for room, and something is to be done for them in time.
    pub(super) waiting: Mutex<Option<Waiting>>,
}

/// What an opening found out.
#[derive(Debug, Default)]
pub(super) struct Agreed {
    /// Why it takes no change, if so.
    pub(super) doubt: Option<Doubt>,
    /// Owners whose data is lost; none are known while nothing may be changed.
    pub(super) missing: BTreeSet<ThinOwner>,
    /// Its metadata is nearly used up.
    pub(super) braked: bool,
}

impl OpenPool {
    /// A pool whose tables are live.
    pub(super) fn new(
        id: PoolId,
        devices: Arc<Vec<HeldDevice>>,
        catalogue: Catalogue,
        agreed: Agreed,
    ) -> Self {
        Self {
            id,
            held: RwLock::new(devices),
            catalogue,
            locks: Locks::new(),
            doubt: agreed.doubt,
            missing: RwLock::new(agreed.missing),
            space: Mutex::new(()),
            braked: AtomicBool::new(agreed.braked),
            spare_trouble: Mutex::default(),
            waiting: Mutex::default(),
        }
    }

    /// Everything from which its tables are made, if the kernel is to let writers wait as its policy
    /// says; that may be over.
    pub(super) fn spec(&self, read_only: bool, low_water_blocks: u64) -> PoolSpec {
        let (record, devices) = (self.record(), self.devices());
        PoolSpec {
            id: self.id,
            metadata: stretches(&devices, RegionKind::Metadata),
            data: stretches(&devices, RegionKind::Data),
            block: record.block_size,
            queue_when_full: record.no_space == NoSpace::Queue,
            read_only,
            low_water_blocks,
            unclean: false,
        }
    }

    /// Whether its labels give it more than the kernel knows of.
    pub(super) fn is_longer_than(&self, status: &WorkingPool) -> bool {
        let spec = self.spec(false, 0);
        let data: u64 = spec.data.iter().map(|s| s.len.bytes().0).sum();
        data / spec.block.bytes().0 > status.total_data_blocks
            || spec.metadata_blocks() > status.total_metadata_blocks
    }

    /// Its devices, held: data devices in order, then metadata devices, then spares.
    #[must_use]
    pub fn devices(&self) -> Arc<Vec<HeldDevice>> {
        Arc::clone(&self.held.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_devices(&self, devices: Vec<HeldDevice>) {
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(devices);
    }

    /// Which catalogue it shows, if it is open for rescue.
    #[must_use]
    pub fn shown(&self) -> Option<Shown> {
        match &self.doubt {
            Some(Doubt::Rescue { shown, .. }) => Some(*shown),
            Some(Doubt::RolledBack { .. } | Doubt::NotWritable { .. }) | None => None,
        }
    }

    /// Whether it takes no change because its metadata is nearly used up.
    #[must_use]
    pub fn is_braked(&self) -> bool {
        self.braked.load(Ordering::Relaxed)
    }

    pub(super) fn set_braked(&self, braked: bool) {
        self.braked.store(braked, Ordering::Relaxed);
    }

    /// Why its spare could not be used, in words.
    #[must_use]
    pub fn spare_trouble(&self) -> Option<String> {
        self.spare_trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// True when that is news.
    pub(super) fn set_spare_trouble(&self, trouble: Option<String>) -> bool {
        let mut now = self
            .spare_trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let news = *now != trouble;
        *now = trouble;
        news
    }

    /// The pool's record now.
    #[must_use]
    pub fn record(&self) -> PoolRecord {
        self.catalogue.pool()
    }

    /// Its name now, for links and people.
    #[must_use]
    pub fn name(&self) -> Name {
        self.record().name
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
        let devices = self.devices();
        let places = catalogue_places(labelled(&devices));
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
        admit(&self.record(), caller)
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
    /// [`ThinError::PoolFull`] and [`ThinError::MetadataLow`] besides.
    pub fn check_room(&self, kernel: &dyn Kernel) -> Result<(), ThinError> {
        let status = kernel.pool_status(self.id).map_err(ThinError::Kernel)?;
        if let Some(status) = working(&status).filter(|s| !s.needs_check) {
            match metadata(status) {
                Scarcity::Enough => {}
                Scarcity::Low | Scarcity::Out => return Err(ThinError::MetadataLow(self.id)),
            }
        }
        // A table that was loaded since makes the kernel forget its mode until the next write.
        let none_left = working(&status).is_some_and(|s| data_free(s) == 0);
        match (self.writable_mode(kernel)?, none_left) {
            (PoolMode::OutOfDataSpace, _) | (_, true) => Err(ThinError::PoolFull(self.id)),
            (PoolMode::ReadWrite | PoolMode::ReadOnly, false) => Ok(()),
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
        self.mode_of(&kernel.pool_status(self.id).map_err(ThinError::Kernel)?)
    }

    /// As [`Self::writable_mode`], of a status that was just read.
    fn mode_of(&self, status: &PoolStatus) -> Result<PoolMode, ThinError> {
        let no = |why: String| Err(ThinError::PoolReadOnly { pool: self.id, why });
        if let Some(doubt) = &self.doubt {
            return no(doubt.to_string());
        }
        match (Unwritable::of(status), status) {
            (Some(Unwritable::ReadOnly), _) if self.is_braked() => no(BRAKED.into()),
            (Some(why), _) => no(format!("{why}: {CHECK_IT}")),
            (None, PoolStatus::Working(status)) => Ok(status.mode),
            (None, PoolStatus::Fail) => no(Unwritable::GivenUp.to_string()),
        }
    }
}
