//! Long work on thins: in steps, off the calls' threads, one thin at a time for each kind of work.
//!
//! `app` runs [`Agent::work`] on a thread for each [`Lane`]; `thins` and the sweep ring. What is to
//! be done the rows say, so a crash or a stop costs the step that was under way: the next start goes
//! on. Only how far it has come lives here. Between two steps the thread rests as long as the step
//! took, for the pool's other users. Nobody waits for it at a lock: it holds none between its steps,
//! and what must not happen meanwhile the row's own wish refuses.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use goldleaf_types::{Bytes, PoolId, ThinId, ThinOwner};

use super::Agent;
use super::error::ThinError;
use super::open_pool::OpenPool;
use crate::catalogue::{Phase, ThinRecord};
use crate::telemetry::Chain;

/// How often the rows are looked at without a ring: what failed is tried again.
const EVERY: Duration = Duration::from_secs(30);
/// The longest rest between two steps, unless a rate wants more.
pub(super) const LONGEST_REST: Duration = Duration::from_millis(200);

/// A kind of work. Kinds do not wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Emptying what is deleted.
    Deletions,
    /// Copying images under volumes that are to be independent of them.
    Copies,
}

impl Lane {
    /// Every kind.
    pub const ALL: &'static [Self] = &[Self::Deletions, Self::Copies];
}

/// How far work has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkProgress {
    /// Done so far.
    pub done: Bytes,
    /// In all.
    pub total: Bytes,
}

/// Work that is under way.
#[derive(Debug)]
struct Running {
    lane: Lane,
    pool: PoolId,
    thin: ThinId,
    progress: WorkProgress,
    halted: bool,
}

#[derive(Debug, Default)]
struct State {
    running: HashMap<ThinOwner, Running>,
    /// Pools in which none begins now.
    barred: HashSet<PoolId>,
    rings: u64,
    stopping: bool,
}

/// What the threads do now.
#[derive(Debug)]
pub(crate) struct Work {
    state: Mutex<State>,
    news: Condvar,
    /// From how much on a deletion is done in steps.
    pub(super) large: Bytes,
}

impl Default for Work {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            news: Condvar::new(),
            large: super::drain::LARGE,
        }
    }
}

/// The rest is for another time: the agent stops, the pool is about to close, or nobody wants it
/// any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Halted;

/// Work on one thin, from its first step to its last.
#[must_use = "others take it for ended as soon as this is dropped"]
pub(super) struct Job<'a> {
    work: &'a Work,
    owner: ThinOwner,
}

impl Job<'_> {
    /// A step is done that began at `began`: says how far the work is, and rests as long.
    pub(super) fn rest(&self, now: WorkProgress, began: Instant) -> Result<(), Halted> {
        self.rest_for(now, began.elapsed().min(LONGEST_REST))
    }

    /// As [`Self::rest`], so long.
    pub(super) fn rest_for(&self, now: WorkProgress, rest: Duration) -> Result<(), Halted> {
        let until = Instant::now() + rest;
        let halted = |state: &State| {
            let of_this = state.running.get(&self.owner);
            state.stopping || of_this.is_none_or(|running| running.halted)
        };
        if let Some(running) = self.work.state().running.get_mut(&self.owner) {
            running.progress = now;
        }
        self.work.wait(until, |state| !halted(state));
        match halted(&self.work.state()) {
            true => Err(Halted),
            false => Ok(()),
        }
    }
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        let mut state = self.work.state();
        let ended = state.running.remove(&self.owner);
        if ended.is_some_and(|running| running.halted) {
            // Whoever ended it may want something else of the thin.
            state.rings = state.rings.wrapping_add(1);
        }
        self.work.news.notify_all();
    }
}

/// A pool in which no work goes on as long as this is held.
#[must_use = "work goes on as soon as this is dropped"]
pub(super) struct Barred<'a> {
    work: &'a Work,
    pool: PoolId,
}

impl Drop for Barred<'_> {
    fn drop(&mut self) {
        self.work.state().barred.remove(&self.pool);
        self.work.ring();
    }
}

impl Work {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for news as long as `on` holds, at most until `deadline`.
    fn wait(&self, deadline: Instant, on: impl Fn(&State) -> bool) {
        let mut state = self.state();
        while on(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let woken = self.news.wait_timeout(state, left);
            (state, _) = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Says that there is something to do.
    pub(super) fn ring(&self) {
        let mut state = self.state();
        state.rings = state.rings.wrapping_add(1);
        self.news.notify_all();
    }

    /// How far the work on a thin has come, while it is under way.
    fn of(&self, owner: ThinOwner) -> Option<WorkProgress> {
        let state = self.state();
        state.running.get(&owner).map(|running| running.progress)
    }

    /// Whether a private device over this thin is ours.
    pub(super) fn is_at(&self, pool: PoolId, thin: ThinId) -> bool {
        let state = self.state();
        let mut running = state.running.values();
        running.any(|running| (running.pool, running.thin) == (pool, thin))
    }

    /// Begins work on a thin, unless some is under way or none may begin.
    fn begin(&self, lane: Lane, pool: PoolId, row: &ThinRecord) -> Option<Job<'_>> {
        let mut state = self.state();
        let busy = state.running.contains_key(&row.owner);
        if busy || state.stopping || state.barred.contains(&pool) {
            return None;
        }
        let running = Running {
            lane,
            pool,
            thin: row.thin,
            progress: WorkProgress::default(),
            halted: false,
        };
        state.running.insert(row.owner, running);
        Some(Job {
            work: self,
            owner: row.owner,
        })
    }

    /// Ends the copying to a thin after the step that is under way. Whether some work is under way
    /// on it now.
    pub(super) fn end_copy(&self, owner: ThinOwner) -> bool {
        let mut state = self.state();
        let Some(running) = state.running.get_mut(&owner) else {
            return false;
        };
        running.halted |= running.lane == Lane::Copies;
        self.news.notify_all();
        true
    }

    /// Ends the work in a pool after the steps that are under way, and lets none begin there.
    pub(super) fn bar(&self, pool: PoolId) -> Barred<'_> {
        let mut state = self.state();
        state.barred.insert(pool);
        let of_pool = |running: &&mut Running| running.pool == pool;
        let running = state.running.values_mut().filter(of_pool);
        running.for_each(|running| running.halted = true);
        drop(state);
        self.news.notify_all();
        let ended = |state: &State| !state.running.values().any(|of| of.pool == pool);
        while !ended(&self.state()) {
            self.wait(Instant::now() + EVERY, |state| !ended(state));
        }
        Barred { work: self, pool }
    }
}

impl Agent {
    /// Does what rows want done at length, until [`Self::stop_work`]. Blocks.
    pub fn work(&self, lane: Lane) {
        loop {
            let seen = self.work.state().rings;
            if catch_unwind(AssertUnwindSafe(|| self.work_once(lane))).is_err() {
                // What it held was let go; the rows say what is to be done still.
                tracing::error!(
                    ?lane,
                    "long work panicked; it begins anew with the next look"
                );
            }
            let idle = |state: &State| state.rings == seen && !state.stopping;
            self.work.wait(Instant::now() + EVERY, idle);
            if self.work.state().stopping {
                return;
            }
        }
    }

    /// Ends [`Self::work`] after the steps that are under way.
    pub fn stop_work(&self) {
        self.work.state().stopping = true;
        self.work.news.notify_all();
    }

    /// How far long work on a thin has come, while it is under way.
    #[must_use]
    pub fn progress(&self, owner: ThinOwner) -> Option<WorkProgress> {
        self.work.of(owner)
    }

    /// One pass over all rows.
    pub(super) fn work_once(&self, lane: Lane) {
        // By id: work in one pool is not to keep another's devices, which may be closed meanwhile.
        let ids: Vec<_> = self.pools.all_open().iter().map(|pool| pool.id).collect();
        for pool in ids.into_iter().filter_map(|id| self.pools.open(id)) {
            for row in pool.catalogue.all() {
                if !wants_work(lane, &row) || pool.check_writable(&*self.kernel).is_err() {
                    continue;
                }
                if let Err(error) = self.work_on(lane, &pool, row.owner) {
                    tracing::warn!(pool = %pool.id, owner = %row.owner, error = %Chain(&error),
                        "work on it was cut short; it goes on later");
                }
            }
        }
    }

    fn work_on(&self, lane: Lane, pool: &Arc<OpenPool>, owner: ThinOwner) -> Result<(), ThinError> {
        let (row, job) = {
            let _held = pool.locks.take(&[owner]);
            let found = pool.catalogue.find(owner);
            let Some(row) = found.filter(|row| wants_work(lane, row)) else {
                return Ok(());
            };
            let Some(job) = self.work.begin(lane, pool.id, &row) else {
                return Ok(());
            };
            self.ensure_no_device(pool, &row)?;
            (row, job)
        };
        match lane {
            Lane::Deletions => self.delete_in_steps(pool, &row, &job),
            Lane::Copies => self.decouple_in_steps(pool, &row, &job),
        }
    }

    /// Rings, and waits a while until `ended` says so.
    pub(super) fn await_work(&self, limit: Duration, ended: impl Fn() -> bool) -> bool {
        self.work.ring();
        self.work.wait(Instant::now() + limit, |_| !ended());
        ended()
    }
}

/// Whether a row wants something that may take long.
fn wants_work(lane: Lane, row: &ThinRecord) -> bool {
    match lane {
        Lane::Deletions => row.phase == Phase::Deleting,
        Lane::Copies => super::decouple::wants_copy(row),
    }
}
