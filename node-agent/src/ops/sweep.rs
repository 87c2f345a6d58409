//! The sweep: every row brought to what it says. Recovery after a crash is this and nothing else.
//!
//! Called when a pool is opened and by the loop. What a row wishes is finished; what it does not
//! wish is taken away, unless somebody uses it. A row that fails is logged and tried again.

use std::sync::Arc;
use std::time::Duration;

use goldleaf_types::{PoolId, ThinOwner};

use super::Agent;
use super::error::ThinError;
use super::forming::is_half;
use super::open_pool::OpenPool;
use super::scan::{FoundDevice, Look};
use super::thins::{Activation, Attempt, Course};
use crate::catalogue::{Holder, Phase, ThinRecord};
use crate::images::Checked;
use crate::telemetry::Chain;

/// How often a sweep comes without a bell: what failed for a passing reason is tried again.
const EVERY: Duration = Duration::from_secs(30);

impl Agent {
    /// One pass over a pool. Blocks.
    pub(super) fn sweep_pool(&self, pool: &Arc<OpenPool>) {
        pool.refresh_missing();
        self.mind_space(pool);
        if pool.doubt.is_some() || pool.check_writable(&*self.kernel).is_err() {
            self.revive_only(pool);
            return;
        }
        for row in pool.catalogue.all() {
            if let Err(error) = self.sweep_row(pool, row.owner) {
                tracing::warn!(pool = %pool.id, owner = %row.owner, error = %Chain(&error),
                    "not as its record says; tried again later");
            }
        }
    }

    /// A pool that takes no change can still be read: the host's volumes come back.
    fn revive_only(&self, pool: &Arc<OpenPool>) {
        for row in pool.catalogue.all() {
            let image = self.image_for_sweep(&row);
            let _held = pool.locks.take(&[row.owner]);
            // Whoever it is for: what a crash left suspended must not hang.
            self.let_run(pool, row.owner);
            // Looked at again: who had the lock may have deactivated it.
            let Some(row) = pool.catalogue.find(row.owner) else {
                continue;
            };
            if row.phase == Phase::Ready && row.holder == Some(Holder::Host) && !row.sealed {
                let how = Activation {
                    holder: Holder::Host,
                    read_only: self.revived_read_only(pool, &row),
                };
                if let Err(error) = self.ensure_device_over(pool, &row, how, image) {
                    tracing::warn!(owner = %row.owner, error = %Chain(&error), "not active");
                }
            }
        }
    }

    /// The image of a row that the sweep may need it for, compared before the row's lock is taken:
    /// nobody waits while an image is read.
    fn image_for_sweep(&self, row: &ThinRecord) -> Option<Checked> {
        let needed = row.holder.is_some() || row.phase == Phase::Creating;
        needed.then(|| self.compared(row)).flatten()
    }

    /// What is live stays as it is: under it the pool refuses what would change it.
    fn revived_read_only(&self, pool: &OpenPool, row: &ThinRecord) -> bool {
        match self.kernel.find_live(row.owner) {
            Ok(Some(live)) if live.thin.is_some() => live.read_only,
            Ok(_) | Err(_) => row.read_only || pool.doubt.is_some(),
        }
    }

    pub(super) fn sweep_row(
        &self,
        pool: &Arc<OpenPool>,
        owner: ThinOwner,
    ) -> Result<(), ThinError> {
        let Some(before) = pool.catalogue.find(owner) else {
            return Ok(());
        };
        if let Some(group) = super::groups::unfinished(&before) {
            return self.sweep_group(pool, group);
        }
        let image = self.image_for_sweep(&before);
        let keys: Vec<_> = std::iter::once(owner).chain(before.parent).collect();
        let _held = pool.locks.take(&keys);
        let Some(row) = pool.catalogue.find(owner) else {
            return Ok(());
        };
        match row.phase {
            Phase::Creating => {
                tracing::info!(%owner, "finishing what a crash cut short");
                self.finish_again(pool, row, image)
            }
            Phase::Deleting if self.is_large(pool, &row) => {
                self.work.ring();
                Ok(())
            }
            Phase::Deleting => self.finish_deleting(pool, &row),
            // Its device is nobody's activation, and goes when it was read.
            Phase::Ready if self.reads.has(owner) => Ok(()),
            // What is gone is not brought back, nor what moves to another node.
            Phase::Ready if row.sealed || pool.is_missing(owner) => {
                self.let_run(pool, owner);
                Ok(())
            }
            Phase::Ready => self.sweep_device(pool, &row, image),
        }
    }

    /// Effect and fact of a row in `Creating`. A live source is looked at first, as by the call
    /// that was cut short. The caller holds the locks of the row and of its source.
    fn finish_again(
        &self,
        pool: &Arc<OpenPool>,
        row: ThinRecord,
        image: Option<Checked>,
    ) -> Result<(), ThinError> {
        let source = row.parent.and_then(|parent| pool.catalogue.find(parent));
        let image = match source {
            Some(source) => self.check_source(pool, &source, row.holder.is_some(), image)?,
            None => image,
        };
        let course = Course {
            attempt: Attempt::Again,
            activate: None,
            image,
        };
        self.carry_out(pool, row, course).map(drop)
    }

    /// The device of a `Ready` row: finished, mended, revived or taken away.
    fn sweep_device(
        &self,
        pool: &OpenPool,
        row: &ThinRecord,
        image: Option<Checked>,
    ) -> Result<(), ThinError> {
        let live = self
            .kernel
            .find_live(row.owner)
            .map_err(ThinError::Kernel)?;
        match (row.holder, live) {
            (Some(holder), Some(live)) => {
                if live.suspended {
                    tracing::warn!(owner = %row.owner, "its device was found suspended; resumed");
                }
                let how = Activation {
                    holder,
                    read_only: row.read_only,
                };
                self.ensure_device_over(pool, row, how, image).map(drop)
            }
            // Kubelet asks again for its own after a reboot; the host's come back by themselves.
            (Some(Holder::Host), None) => {
                let how = Activation {
                    holder: Holder::Host,
                    read_only: row.read_only,
                };
                self.ensure_device_over(pool, row, how, image).map(drop)
            }
            (None, Some(_)) => match self.ensure_no_device(pool, row) {
                Err(ThinError::InUse { openers, .. }) => {
                    tracing::warn!(owner = %row.owner, openers, "unwanted and held open; left");
                    Ok(())
                }
                other => other,
            },
            (Some(Holder::Csi) | None, None) => Ok(()),
        }
    }

    /// Lets run what a crash left suspended, then opens every pool that this host had and did not
    /// close, wherever it lies. Blocks.
    pub fn start(&self) {
        self.let_all_run();
        self.open_ours(Look::Everywhere);
    }

    /// Before any pool is looked for: one that does not open, or whose opening takes long, is not to
    /// leave its volumes' users hanging.
    fn let_all_run(&self) {
        let left = self.kernel.let_all_run().unwrap_or_else(|error| {
            tracing::error!(error = %Chain(&error), "what a crash left suspended is not known");
            Vec::new()
        });
        for (owned, resumed) in left {
            let device = owned.name();
            match resumed {
                Ok(()) => tracing::warn!(%device, "its device was found suspended; resumed"),
                Err(error) => {
                    tracing::error!(%device, error = %Chain(&error), "suspended, and stays so");
                }
            }
        }
    }

    fn open_ours(&self, look: Look) {
        let _turn = self.pools.take_turn();
        let mut due = Vec::new();
        for (id, found) in self.pools.scanner.scan(look) {
            let was_open = found
                .iter()
                .any(|d| d.label.owner_host == self.host.owner && !d.label.clean)
                && !is_half(found.iter().map(|d| &d.label));
            let has_it = self.pools.open(id).is_some() || self.pools.reserved.has(id);
            if !(was_open || self.repairs.is_rescued(id)) || has_it {
                continue;
            }
            due.push((id, found));
        }
        // Together: one whose metadata takes long to check keeps no other back.
        std::thread::scope(|scope| {
            for (id, found) in &due {
                scope.spawn(move || self.open_one(*id, found));
            }
        });
    }

    fn open_one(&self, id: PoolId, found: &[FoundDevice]) {
        // No caller's store is asked for: a host brings back what it had by itself.
        let opened = match self.repairs.is_rescued(id) {
            true => self.rescue(id, found, |_| Ok(())),
            false => self.open_own(id, found),
        };
        match opened {
            Ok(_) => tracing::info!(pool = %id, "open"),
            Err(error) => {
                tracing::error!(pool = %id, error = %Chain(&error), "did not open");
                self.pools.refuse(id, Chain(&error).to_string());
            }
        }
    }

    /// One pass over everything that is open, and another try at what did not open.
    pub fn sweep(&self) {
        self.open_ours(Look::AtNew);
        for pool in self.pools.all_open() {
            self.sweep_pool(&pool);
        }
        self.sweep_images();
        // How full a pool is moves without an event; watchers hear of it now and then.
        self.changed();
    }

    /// How long the loop waits for a bell.
    #[must_use]
    pub fn sweep_interval(&self) -> Duration {
        EVERY
    }
}
