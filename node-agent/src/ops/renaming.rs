//! Another name for a pool.
//!
//! Called by `grpc`. The name is in the pool's record; its labels repeat it, for whoever finds the
//! devices, and so do the folders of links. The record is changed first and is what counts: an
//! opening puts labels right that a crash left with the former name.

use std::sync::{Arc, PoisonError};

use goldleaf_types::{Incarnation, Name, PoolId};

use super::Agent;
use super::devices::HeldDevice;
use super::error::PoolError;
use super::open_pool::OpenPool;
use super::view::PoolView;
use crate::catalogue::{Label, WriteError, write_label};
use crate::failpoint::{Point, hit};

impl Agent {
    /// Gives an open pool another name. The same again changes nothing. Blocks.
    ///
    /// # Errors
    ///
    /// [`PoolError::Active`] while a volume of it is active: the paths of devices have the name.
    pub fn rename_pool(
        &self,
        id: PoolId,
        caller: Option<Incarnation>,
        name: &Name,
    ) -> Result<PoolView, PoolError> {
        let _turn = self.pools.take_turn();
        let pool = self.pool_to_change(id, caller)?;
        let old = pool.name();
        if old != *name {
            self.pools.name_is_free(id, name.as_str())?;
            self.check_inactive(&pool)?;
            let new = name.clone();
            let written = pool.catalogue.write(move |rows| {
                let mut record = rows.pool();
                record.name = new;
                rows.set_pool(record);
                Ok::<_, std::convert::Infallible>(())
            });
            written.map_err(|error| match error {
                WriteError::Refused(never) => match never {},
                WriteError::Catalogue(source) => PoolError::Catalogue { pool: id, source },
            })?;
            hit(Point::PoolRenamed);
        }
        {
            // Nobody writes labels, or reads what they are to be, while these are written.
            let _space = pool.space.lock().unwrap_or_else(PoisonError::into_inner);
            pool.set_devices(put_name(&pool.devices(), name)?);
        }
        self.pools.scanner.forget();
        if old != *name {
            self.clear_links(&old, &pool.catalogue.all())?;
            // Whatever was activated meanwhile gets its link anew.
            self.sweep_pool(&pool);
        }
        self.changed();
        self.pool_view(&pool)
    }

    /// Refuses what cannot be while a volume of the pool is active.
    pub(super) fn check_inactive(&self, pool: &Arc<OpenPool>) -> Result<(), PoolError> {
        let live = self.kernel.live_owners().map_err(PoolError::Kernel)?;
        let rows = pool.catalogue.all();
        let count = rows.iter().filter(|row| live.contains(&row.owner)).count();
        if count > 0 {
            let pool = pool.id;
            return Err(PoolError::Active { pool, count });
        }
        Ok(())
    }
}

/// Writes every label with this name, and answers the devices with them.
pub(super) fn put_name(devices: &[HeldDevice], name: &Name) -> Result<Vec<HeldDevice>, PoolError> {
    let put = |device: &HeldDevice| {
        let Some(label) = &device.label else {
            return Ok(device.again());
        };
        let label = Label {
            pool_name: name.to_string(),
            ..label.clone()
        };
        write_label(&device.file, &label).map_err(|source| PoolError::Label {
            path: device.path.clone(),
            source,
        })?;
        hit(Point::PoolNamed);
        Ok(device.relabelled(label))
    };
    devices.iter().map(put).collect()
}
