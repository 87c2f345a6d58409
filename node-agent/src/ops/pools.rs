//! Pools: made and opened. Closing is in `closing`, deleting in `pool_deletion`.
//!
//! Called by `grpc` and at start. Labels come first and say "being made" (layout generation 0);
//! the catalogue and the cleared metadata come next; the label of data device 0 with a real
//! generation is the one fact that makes it a pool. A crash before that leaves devices that only
//! a repeated create of the same pool accepts. The label's clean flag is the fact of a clean close.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use goldleaf_types::{BlockSize, Bytes, Incarnation, Name, NodeId, PoolId};

use super::Agent;
use super::admission::Policy;
use super::devices::DeviceRules;
use super::error::PoolError;
use super::forming::{HALF, PoolPlan, is_half, mismatch};
use super::open_pool::OpenPool;
use super::opening::labelled;
use super::repair::Reservations;
use super::scan::{FoundDevice, Look, Scanner};
use super::view::{PoolState, PoolView};
use crate::catalogue::{NoSpace, Role};
use crate::failpoint::{Point, hit};
use crate::kernel::KernelError;
use crate::telemetry::Chain;

/// A device to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRequest {
    /// Its path.
    pub path: PathBuf,
    /// If a file is to be made: how large.
    pub create: Option<Bytes>,
}

/// A pool to be.
#[derive(Clone, Debug)]
pub struct CreatePool {
    /// Its id.
    pub id: PoolId,
    /// Its name.
    pub name: Name,
    /// Its data devices, in order.
    pub devices: Vec<DeviceRequest>,
    /// A device for the metadata alone.
    pub metadata: Option<DeviceRequest>,
    /// What it allocates at a time.
    pub block: BlockSize,
    /// What writers meet when it is full.
    pub no_space: NoSpace,
}

/// The pools of this node.
#[derive(Debug)]
pub struct Pools {
    /// Which paths may serve.
    pub rules: DeviceRules,
    /// Finds pools by their labels.
    pub(super) scanner: Scanner,
    open: RwLock<BTreeMap<PoolId, Arc<OpenPool>>>,
    /// Why a pool that was found did not open, in words.
    refused: RwLock<BTreeMap<PoolId, String>>,
    /// Pools are made, opened and closed one at a time; those that a start brings back, together, and
    /// one that is reserved beside whoever has the turn.
    pub(super) turn: Mutex<()>,
    /// The pools that are repaired, which whoever has the turn leaves alone.
    pub(super) reserved: Reservations,
    /// The pools that are at work: half made or half gone, they are shown to nobody, except that
    /// they are being opened, how far, and since when.
    busy: Mutex<BTreeMap<PoolId, Turn>>,
}

/// What is known of a pool that is at work.
#[derive(Debug, Default)]
struct Turn {
    /// What its opening is at, and since when.
    opening: Option<(Opening, Instant)>,
    /// Its name, which no other may have that is opened beside it.
    name: Option<String>,
}

/// What the opening of a pool is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Its metadata is checked, if it was not closed, and loaded.
    Metadata,
    /// Records and metadata are compared, and volumes come back.
    Volumes,
    /// Its metadata is repaired, or what a repair made is put in place.
    Repair,
}

/// A pool that is being made, opened, closed or deleted.
#[must_use = "the pool is shown again as soon as this is dropped"]
pub(super) struct Busy<'a> {
    pools: &'a Pools,
    id: PoolId,
    untouched: Cell<bool>,
}

impl Busy<'_> {
    /// No label was written, so what was seen on the devices still counts.
    pub(super) fn nothing_written(&self) {
        self.untouched.set(true);
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        if !self.untouched.get() {
            self.pools.scanner.forget(); // its labels were written
        }
        self.pools.busy_pools().remove(&self.id);
    }
}

impl Pools {
    /// No pool open.
    #[must_use]
    pub fn new(rules: DeviceRules) -> Self {
        Self {
            scanner: Scanner::new(rules.pool_dir.clone()),
            rules,
            open: RwLock::default(),
            refused: RwLock::default(),
            turn: Mutex::new(()),
            reserved: Reservations::default(),
            busy: Mutex::default(),
        }
    }

    /// The turn to make, open, close or delete a pool. Blocks.
    pub(super) fn take_turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hides a pool while it is changed. The caller has the turn, or has reserved the pool.
    pub(super) fn begin(&self, id: PoolId) -> Busy<'_> {
        self.busy_pools().insert(id, Turn::default());
        Busy {
            pools: self,
            id,
            untouched: Cell::new(false),
        }
    }

    fn is_busy(&self, id: PoolId) -> bool {
        self.busy_pools().contains_key(&id)
    }

    fn busy_pools(&self) -> MutexGuard<'_, BTreeMap<PoolId, Turn>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what the opening of a busy pool is at.
    pub(super) fn says(&self, id: PoolId, at: Opening) {
        if let Some(turn) = self.busy_pools().get_mut(&id) {
            turn.opening = Some((at, Instant::now()));
        }
    }

    /// The pools that are being opened: what that is at, and for how long.
    #[must_use]
    pub fn opening(&self) -> BTreeMap<PoolId, (Opening, Duration)> {
        let busy = self.busy_pools();
        let said = busy.iter().filter_map(|(id, turn)| {
            let (at, since) = turn.opening?;
            Some((*id, (at, since.elapsed())))
        });
        let mut said: BTreeMap<_, _> = said.collect();
        for (id, since) in self.reserved.repaired() {
            // Begun long before it came to what it says itself.
            let at = said.get(&id).map_or(Opening::Repair, |(at, _)| *at);
            if at == Opening::Repair {
                said.insert(id, (at, since.elapsed()));
            }
        }
        said
    }

    /// An open pool.
    #[must_use]
    pub fn open(&self, id: PoolId) -> Option<Arc<OpenPool>> {
        self.open
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned()
    }

    /// Every open pool.
    #[must_use]
    pub fn all_open(&self) -> Vec<Arc<OpenPool>> {
        self.open
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    pub(super) fn insert(&self, pool: Arc<OpenPool>) {
        self.refused
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&pool.id);
        self.open
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(pool.id, pool);
    }

    pub(super) fn remove(&self, id: PoolId) {
        self.open
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id);
    }

    /// Refuses a name that another pool has that is open, or that is opened or repaired now. The
    /// caller has the turn, or has reserved the pool; a pool that is being opened keeps the name from
    /// those that are opened beside it.
    pub(super) fn name_is_free(&self, id: PoolId, name: &str) -> Result<(), PoolError> {
        let mut busy = self.busy_pools();
        let of_busy = |(other, turn): (&PoolId, &Turn)| {
            (*other != id && turn.name.as_deref() == Some(name)).then_some(*other)
        };
        let open = self.all_open().into_iter();
        let mut open = open.filter(|o| o.id != id && o.name().as_str() == name);
        match busy
            .iter()
            .find_map(of_busy)
            .or_else(|| open.next().map(|o| o.id))
            .or_else(|| self.reserved.named(name, id))
        {
            None => {
                if let Some(turn) = busy.get_mut(&id) {
                    turn.name = Some(name.to_owned());
                }
                Ok(())
            }
            Some(other) => Err(PoolError::NameTaken {
                pool: id,
                name: name.to_owned(),
                other,
            }),
        }
    }

    pub(super) fn refuse(&self, id: PoolId, why: String) {
        self.refused
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, why);
    }

    pub(super) fn why_refused(&self, id: PoolId) -> Option<String> {
        self.refused
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned()
    }
}

impl Agent {
    /// Makes a pool on blank devices and opens it. Asking again changes nothing. Blocks.
    ///
    /// # Errors
    ///
    /// Every [`PoolError`]; a device that holds anything is refused before anything is written.
    pub fn create_pool(
        &self,
        caller: Option<Incarnation>,
        request: CreatePool,
    ) -> Result<PoolView, PoolError> {
        let _turn = self.pools.take_turn();
        self.pools.reserved.is_free(request.id)?;
        if let Some(pool) = self.pools.open(request.id) {
            pool.admit(caller)?;
            same_pool(&pool, &request)?;
            return self.pool_view(&pool);
        }
        self.pools.name_is_free(request.id, request.name.as_str())?;
        let plan = PoolPlan::new(&*self.kernel, &self.pools.rules, &self.host, &request)?;
        plan.check_places()?;
        if plan.formed() {
            // Made before and not open: as good as an open of it, if it is the same.
            drop(plan);
            let view = self.open_found(request.id, caller)?;
            if let Some(pool) = self.pools.open(request.id) {
                pool.admit(caller)?;
                same_pool(&pool, &request)?;
            }
            return Ok(view);
        }
        let busy = self.pools.begin(request.id);
        plan.label()?;
        hit(Point::PoolLabelled);
        plan.fill(caller)?;
        hit(Point::PoolCatalogued);
        let devices = plan.commit()?;
        let pool = self.bring_up(request.id, devices)?;
        drop(busy);
        self.changed();
        self.pool_view(&pool)
    }

    /// Opens a pool by its devices' labels. Asking again changes nothing. Blocks.
    ///
    /// # Errors
    ///
    /// [`PoolError::MissingDevice`] and its like: no table is built before all devices fit.
    pub fn open_pool(
        &self,
        id: PoolId,
        caller: Option<Incarnation>,
    ) -> Result<PoolView, PoolError> {
        let _turn = self.pools.take_turn();
        self.open_found(id, caller)
    }

    /// As [`Self::open_pool`]; the caller has the turn.
    pub(super) fn open_found(
        &self,
        id: PoolId,
        caller: Option<Incarnation>,
    ) -> Result<PoolView, PoolError> {
        self.pools.reserved.is_free(id)?;
        if let Some(pool) = self.pools.open(id) {
            pool.admit(caller)?;
            if pool.shown().is_some() {
                return Err(mismatch(id, "it is open for rescue: close it first"));
            }
            return self.pool_view(&pool);
        }
        let found = self.pools.scanner.scan(Look::Everywhere).remove(&id);
        let found = found.ok_or(PoolError::NotFound(id))?;
        let pool = self.open_own(id, &found).inspect_err(|error| {
            self.pools.refuse(id, Chain(error).to_string());
        })?;
        self.pool_view(&pool)
    }

    /// Opens a pool that was found, whoever asks: a host brings back what it had by itself. The
    /// caller has the turn.
    pub(super) fn open_own(
        &self,
        id: PoolId,
        found: &[FoundDevice],
    ) -> Result<Arc<OpenPool>, PoolError> {
        self.open_forced(id, found, None)
    }

    /// As [`Self::open_own`], also of a host that did not release it, if it is that one.
    pub(super) fn open_forced(
        &self,
        id: PoolId,
        found: &[FoundDevice],
        force_from: Option<NodeId>,
    ) -> Result<Arc<OpenPool>, PoolError> {
        self.end_rescue(id)?;
        let busy = self.pools.begin(id);
        let devices = self
            .hold_all(id, found, force_from)
            .and_then(|devices| {
                labelled(&devices)
                    .try_for_each(|(_, label)| self.pools.name_is_free(id, &label.pool_name))?;
                Ok(devices)
            })
            .inspect_err(|_| busy.nothing_written())?;
        let pool = self.bring_up(id, devices)?;
        drop(busy);
        self.changed();
        Ok(pool)
    }

    /// Every pool of this node: open ones, closed ones, and ones that do not open. Blocks.
    #[must_use]
    pub fn pools(&self, look: Look) -> Vec<PoolView> {
        let as_of = self.now();
        let mut views: Vec<_> = Vec::new();
        for pool in self
            .pools
            .all_open()
            .into_iter()
            .filter(|p| !self.pools.is_busy(p.id))
        {
            match self.pool_view(&pool) {
                Ok(view) => views.push(view),
                Err(error) => tracing::warn!(pool = %pool.id,
                    error = %Chain(&error), "a pool that cannot be seen"),
            }
        }
        let opening = self.pools.opening();
        for (id, found) in self.pools.scanner.scan(look) {
            let hidden = self.pools.is_busy(id) && !opening.contains_key(&id);
            if self.pools.open(id).is_none()
                && !hidden
                && let Some(view) = self.view_found(id, &found)
            {
                views.push(view);
            }
        }
        views.sort_by_key(|view| view.id);
        views.iter_mut().for_each(|view| view.as_of = as_of);
        views
    }

    pub(super) fn closed_view(&self, id: PoolId) -> Option<PoolView> {
        let found = self.pools.scanner.scan(Look::Everywhere).remove(&id)?;
        self.view_found(id, &found)
    }

    fn view_found(&self, id: PoolId, found: &[FoundDevice]) -> Option<PoolView> {
        let as_of = self.now();
        let first = found.first()?;
        let opening = self.pools.opening().remove(&id);
        let state = match (opening, self.pools.why_refused(id)) {
            (Some((at, since)), _) => PoolState::Opening { at, since },
            (None, Some(why)) => PoolState::Unopenable(why),
            (None, None) if found.iter().all(|d| d.label.clean) => PoolState::Closed,
            (None, None) if is_half(found.iter().map(|d| &d.label)) => {
                PoolState::Unopenable(HALF.into())
            }
            (None, None) => PoolState::Unopenable("it was not opened: open it to see why".into()),
        };
        Some(PoolView {
            id,
            name: first.label.pool_name.parse().ok()?,
            devices: paths(found, |role| role != Role::Spare),
            spares: paths(found, |role| role == Role::Spare),
            were_spares: Vec::new(),
            spare_trouble: None,
            block: first.label.block_size,
            queue_when_full: false,
            policy: None,
            state,
            as_of,
        })
    }

    pub(super) fn pool_view(&self, pool: &OpenPool) -> Result<PoolView, PoolError> {
        let as_of = self.now();
        let record = pool.record();
        let status = match self.kernel.pool_status(pool.id) {
            Ok(status) => Some(status),
            Err(KernelError::NoPool(_)) => None,
            Err(error) => return Err(PoolError::Kernel(error)),
        };
        Ok(PoolView {
            id: pool.id,
            name: pool.name(),
            devices: pool.in_use(),
            spares: pool.spares(),
            were_spares: pool.were_spares(),
            spare_trouble: pool.spare_trouble(),
            block: record.block_size,
            queue_when_full: pool.queues_when_full(),
            policy: Some(Policy::of(&record)),
            state: PoolState::Open {
                status,
                braked: pool.is_braked(),
                doubt: pool.doubt.clone(),
                degraded: pool.degraded(),
                provisioned: pool.provisioned(),
                thins: pool.catalogue.all().len(),
                quarantined: record.quarantined,
                incarnation: record.incarnation,
                missing: pool.refresh_missing(),
            },
            as_of,
        })
    }
}

fn paths(found: &[FoundDevice], wanted: impl Fn(Role) -> bool) -> Vec<PathBuf> {
    let wanted = found.iter().filter(|d| wanted(d.label.role));
    wanted.map(|d| d.path.clone()).collect()
}

fn same_pool(pool: &OpenPool, request: &CreatePool) -> Result<(), PoolError> {
    let conflict = |field| {
        Err(PoolError::Conflict {
            pool: pool.id,
            field,
        })
    };
    let devices = pool.devices();
    let data = devices.iter().filter(|d| {
        d.label
            .as_ref()
            .is_some_and(|label| label.role == Role::Data)
    });
    if pool.name() != request.name {
        conflict("name")
    } else if pool.block() != request.block {
        conflict("block_size_bytes")
    } else if pool.record().no_space != request.no_space {
        conflict("when_full")
    } else if data.count() != request.devices.len() {
        conflict("devices")
    } else {
        Ok(())
    }
}
