//! Minding a pool's room: the metadata brake, and where the kernel is to tell us next.
//!
//! Called on the kernel's events, at each opening, sweep and extension, one at a time for a pool.
//! Nothing is recorded: the live table says whether the brake is on and what the kernel counts says
//! whether it has to be. So a crash anywhere leaves what the next look brings to the same end.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use goldleaf_dm::{NoSpacePolicy, PoolMode, WorkingPool};

use super::Agent;
use super::error::PoolError;
use super::open_pool::OpenPool;
use super::space_rules::{data_free, mark_is_stale, may_release, must_brake, next_mark, working};
use super::waiting::{Patience, Waiting, patience};
use crate::catalogue::NoSpace;
use crate::failpoint::{Point, hit};
use crate::kernel::{KernelError, LoadedPool, PoolSpec};
use crate::telemetry::Chain;

/// What is to be done about a pool's room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Brake,
    Release,
    Mark(u64),
    /// Lets writers of a full pool wait, or not.
    Queue(bool),
    /// Has the kernel count anew how long they wait.
    Renew,
    Nothing,
}

impl Agent {
    /// Looks at a pool's room and does what it takes. A failure is logged and tried again at the
    /// next event or sweep. Blocks.
    pub fn mind_space(&self, pool: &OpenPool) {
        let _turn = pool.space.lock().unwrap_or_else(PoisonError::into_inner);
        match self.bring_in_order(pool) {
            // Being closed at this moment: there is nothing to mind.
            Ok(()) | Err(PoolError::Kernel(KernelError::NoPool(_))) => {}
            Err(error) => tracing::warn!(pool = %pool.id, error = %Chain(&error),
                "its room is not minded; tried again later"),
        }
        // Taking a spare needs the turn, which whoever called may have.
        self.space_bell.ring();
    }

    /// As [`Self::mind_space`]; the caller has the pool's `space`.
    pub(super) fn bring_in_order(&self, pool: &OpenPool) -> Result<(), PoolError> {
        if pool.doubt.is_some() {
            return Ok(());
        }
        // Each step shows in the next look: grown, braked, released, marked, queueing at most.
        for _ in 0..5 {
            let status = self
                .kernel
                .pool_status(pool.id)
                .map_err(PoolError::Kernel)?;
            let Some(status) = working(&status) else {
                return Ok(());
            };
            let loaded = self
                .kernel
                .loaded_pool(pool.id)
                .map_err(PoolError::Kernel)?;
            let mark = loaded.low_water_blocks;
            if pool.is_longer_than(status) {
                // An extension came as far as its labels.
                self.load(pool, &pool.spec(loaded.read_only, mark))?;
                continue;
            }
            let spec = |read_only, mark| PoolSpec {
                queue_when_full: loaded.queue_when_full,
                ..pool.spec(read_only, mark)
            };
            let step = match next_step(status, pool.is_braked(), mark) {
                Step::Nothing => self.next_of_writers(pool, status, loaded),
                step @ (Step::Brake
                | Step::Release
                | Step::Mark(_)
                | Step::Queue(_)
                | Step::Renew) => step,
            };
            match step {
                Step::Brake => self.brake(pool, spec(true, mark))?,
                Step::Release => self.release(pool, spec(false, next_mark(status)))?,
                Step::Mark(mark) => self.load(pool, &spec(false, mark))?,
                Step::Queue(queue_when_full) => {
                    let spec = PoolSpec {
                        queue_when_full,
                        ..spec(loaded.read_only, mark)
                    };
                    self.let_wait(pool, &spec)?;
                }
                Step::Renew => {
                    self.kernel.renew_wait(pool.id).map_err(PoolError::Kernel)?;
                    hit(Point::WaitRenewed);
                }
                Step::Nothing => return Ok(()),
            }
        }
        Ok(())
    }

    /// What is to be done for writers that wait, or that would.
    fn next_of_writers(&self, pool: &OpenPool, status: &WorkingPool, loaded: LoadedPool) -> Step {
        let record = pool.record();
        let wait = Duration::from_secs(record.wait_seconds.into());
        let full = status.mode == PoolMode::OutOfDataSpace;
        let before = pool.waiting();
        pool.forget_waiting();
        match (record.no_space, loaded.queue_when_full) {
            (NoSpace::Error, true) => Step::Queue(false),
            // Their time had come, and there is room again.
            (NoSpace::Queue, false)
                if status.mode == PoolMode::ReadWrite && data_free(status) > 0 =>
            {
                Step::Queue(true)
            }
            (NoSpace::Queue, true) if full && !wait.is_zero() => {
                let now = Instant::now();
                let (since, renewed) = before.map_or((now, now), |w| (w.since, w.renewed));
                let kernel = self.kernel.wait_limit();
                let refuses = status.no_space == NoSpacePolicy::Error;
                let (renewed, due, step) =
                    match patience(now, (since, renewed), wait, (kernel, refuses)) {
                        Patience::Ends => return Step::Queue(false),
                        Patience::Renews => (now, now, Step::Renew),
                        Patience::Lasts(due) => (renewed, due, Step::Nothing),
                    };
                let waiting = Some(Waiting {
                    since,
                    renewed,
                    due,
                });
                pool.set_waiting(waiting);
                if waiting != before {
                    self.space_bell.ring(); // somebody has to look in time
                }
                step
            }
            (NoSpace::Error | NoSpace::Queue, _) => Step::Nothing,
        }
    }

    /// Loads what the pool's policy says now. The caller has the pool's `space`.
    pub(super) fn load_policy(&self, pool: &OpenPool) -> Result<(), PoolError> {
        let loaded = self
            .kernel
            .loaded_pool(pool.id)
            .map_err(PoolError::Kernel)?;
        self.let_wait(pool, &pool.spec(loaded.read_only, loaded.low_water_blocks))
    }

    fn let_wait(&self, pool: &OpenPool, spec: &PoolSpec) -> Result<(), PoolError> {
        self.load(pool, spec)?;
        hit(Point::PolicyLoaded);
        tracing::info!(pool = %pool.id, wait = spec.queue_when_full,
            "what writers meet when it is full has changed");
        self.changed();
        Ok(())
    }

    fn brake(&self, pool: &OpenPool, spec: PoolSpec) -> Result<(), PoolError> {
        self.load(pool, &spec)?;
        hit(Point::PoolBraked);
        pool.set_braked(true);
        tracing::error!(pool = %pool.id, "its metadata is nearly used up: it takes no change until \
            it is extended (goldleaf pool extend); reads and rewrites go on");
        self.changed();
        Ok(())
    }

    fn release(&self, pool: &OpenPool, spec: PoolSpec) -> Result<(), PoolError> {
        self.load(pool, &spec)?;
        hit(Point::PoolReleased);
        let agreed = self.agree(&spec, &pool.catalogue, false)?;
        if let Some(doubt) = agreed.doubt {
            tracing::error!(pool = %pool.id, %doubt, "released and in doubt: open it anew");
        }
        *pool.missing.write().unwrap_or_else(PoisonError::into_inner) = agreed.missing;
        pool.set_braked(agreed.braked);
        tracing::info!(pool = %pool.id, "its metadata has room again: it takes changes");
        self.changed();
        Ok(())
    }

    fn load(&self, pool: &OpenPool, spec: &PoolSpec) -> Result<(), PoolError> {
        let _ = self.kernel.reload_pool(spec).map_err(PoolError::Kernel)?;
        tracing::debug!(pool = %pool.id, mark = spec.low_water_blocks, "loaded");
        Ok(())
    }
}

/// The next step, of what the kernel says alone.
fn next_step(status: &WorkingPool, braked: bool, mark: u64) -> Step {
    if status.needs_check {
        return Step::Nothing; // somebody has to check it first
    }
    match (status.mode, braked) {
        (PoolMode::ReadWrite | PoolMode::OutOfDataSpace, false) if must_brake(status) => {
            Step::Brake
        }
        // The kernel was faster, and refuses by itself.
        (PoolMode::ReadOnly, false) if !may_release(status) => Step::Brake,
        (PoolMode::ReadOnly, true) if may_release(status) => Step::Release,
        // A crash between loading it again and saying so.
        (PoolMode::ReadWrite | PoolMode::OutOfDataSpace, true) => Step::Release,
        (PoolMode::ReadWrite, false) if mark_is_stale(status, mark) => {
            Step::Mark(next_mark(status))
        }
        (PoolMode::ReadOnly | PoolMode::ReadWrite | PoolMode::OutOfDataSpace, _) => Step::Nothing,
    }
}
