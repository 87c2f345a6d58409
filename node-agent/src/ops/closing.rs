//! Closing pools: nothing of one stays in the kernel, and its labels say so.
//!
//! Called by `grpc`, and for its tables by whatever takes a pool down. The tables go first, then the
//! catalogue is flushed, and the labels' clean flags are the fact. A crash or a failure after the first
//! leaves a pool that is closed and not clean: its metadata is checked when it opens again.

use std::sync::Arc;

use goldleaf_types::{Incarnation, PoolId};

use super::Agent;
use super::devices::HeldDevice;
use super::error::PoolError;
use super::open_pool::{Doubt, OpenPool};
use super::view::PoolView;
use crate::catalogue::write_label;
use crate::failpoint::{Point, hit};
use crate::kernel::KernelError;
use crate::telemetry::Chain;

impl Agent {
    /// Closes a pool: nothing of it stays in the kernel, and its labels say so. Blocks.
    ///
    /// # Errors
    ///
    /// [`PoolError::Active`] while a volume of it is active.
    pub fn close_pool(
        &self,
        id: PoolId,
        caller: Option<Incarnation>,
    ) -> Result<PoolView, PoolError> {
        let _turn = self.pools.take_turn();
        self.pools.reserved.is_free(id)?;
        let Some(pool) = self.pools.open(id) else {
            return self.close_unopened(id);
        };
        pool.admit(caller)?;
        let busy = self.pools.begin(id);
        self.take_down(&pool)?;
        let rescued = match &pool.doubt {
            Some(Doubt::Rescue { why, .. }) => Some(why.clone()),
            Some(Doubt::RolledBack { .. } | Doubt::NotWritable { .. }) | None => None,
        };
        let devices = pool.devices();
        // What was opened for rescue was not opened, as far as its devices know.
        if rescued.is_none() {
            mark_clean(&devices).inspect_err(|error| self.not_open_any_more(id, error))?;
        }
        self.pools.remove(id);
        if let Some(why) = rescued {
            self.pools.refuse(id, why);
        }
        // Who is told that it is closed may use its devices at once.
        devices.iter().for_each(|device| device.file.release());
        drop((devices, pool));
        drop(busy);
        self.changed();
        self.closed_view(id).ok_or(PoolError::NotFound(id))
    }

    /// A pool that did not open may have tables of an earlier agent: closed means that none stay.
    fn close_unopened(&self, id: PoolId) -> Result<PoolView, PoolError> {
        let view = self.closed_view(id).ok_or(PoolError::NotFound(id))?;
        self.remove_tables(id)?;
        Ok(view)
    }

    pub(super) fn remove_tables(&self, pool: PoolId) -> Result<(), PoolError> {
        match self.kernel.ensure_no_pool(pool) {
            Ok(_) => {
                // If they were a rescue's: no more.
                self.repairs.unmark_rescued(pool);
                Ok(())
            }
            Err(KernelError::Busy { .. }) => Err(PoolError::Active { pool, count: 1 }),
            Err(error) => Err(PoolError::Kernel(error)),
        }
    }

    /// Removes the pool's tables and flushes its catalogue. Once the tables are gone it is not open any
    /// more, whatever else fails: its labels are still those of an open pool, so it is checked when it
    /// opens again.
    pub(super) fn take_down(&self, pool: &Arc<OpenPool>) -> Result<(), PoolError> {
        // First, for what is refused is not to wait for a step of long work to end.
        self.check_inactive(pool)?;
        let _barred = self.work.bar(pool.id);
        self.check_inactive(pool)?;
        // Its metadata may be another's work when it comes back.
        for row in pool.catalogue.all() {
            self.mapped.forget(row.owner);
        }
        self.sweep_images();
        self.remove_tables(pool.id)?;
        hit(Point::PoolTablesGone);
        let links = self.clear_links(&pool.name(), &pool.catalogue.all());
        let closed = pool.catalogue.close();
        let closed = closed.map_err(|source| PoolError::Catalogue {
            pool: pool.id,
            source,
        });
        closed
            .and(links)
            .inspect_err(|error| self.not_open_any_more(pool.id, error))
    }

    /// A pool whose tables are gone is not shown as open, though its closing failed.
    fn not_open_any_more(&self, pool: PoolId, why: &PoolError) {
        self.pools.remove(pool);
        self.pools.refuse(pool, Chain(why).to_string());
    }
}

/// The fact of a clean close.
fn mark_clean(devices: &[HeldDevice]) -> Result<(), PoolError> {
    for device in devices {
        let Some(label) = &device.label else { continue };
        let mut label = label.clone();
        label.clean = true;
        write_label(&device.file, &label).map_err(|source| PoolError::Label {
            path: device.path.clone(),
            source,
        })?;
    }
    Ok(())
}
