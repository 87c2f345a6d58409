//! Deleting a pool: it stops being one first, then its devices become blank.
//!
//! Called by `grpc`. The label of data device 0 is the fact that there is a pool, so it is the
//! first to say "no pool" (layout generation 0); the others follow, then all are wiped, device 0
//! last. A crash in between leaves what a repeated call accepts and no start opens.

use std::sync::Arc;

use goldleaf_types::{Incarnation, PoolId};

use super::Agent;
use super::devices::HeldDevice;
use super::error::PoolError;
use super::forming::{catalogue_regions, check_present, is_half, mismatch};
use super::import::foreign;
use super::open_pool::{OpenPool, admit};
use super::opening::{AsFound, labelled};
use super::scan::{FoundDevice, Look};
use crate::catalogue::{Catalogue, CatalogueError, Label, wipe_label, write_label};
use crate::failpoint::{Point, hit};

impl Agent {
    /// Deletes a pool and wipes its labels. OK when it is not here. Blocks.
    ///
    /// # Errors
    ///
    /// [`PoolError::NotEmpty`] while it holds a volume or snapshot, if only an empty one may go;
    /// [`PoolError::Active`] while a volume of it is active; another store's pool stays, open or not.
    pub fn delete_pool(
        &self,
        id: PoolId,
        caller: Option<Incarnation>,
        which: Which,
    ) -> Result<(), PoolError> {
        let _turn = self.pools.take_turn();
        self.pools.reserved.is_free(id)?;
        let busy = self.pools.begin(id);
        let devices = match self.pools.open(id) {
            Some(pool) => {
                pool.admit(caller)?;
                which.allows(&pool)?;
                self.take_down(&pool)?;
                // Somebody may have made a volume meanwhile; from here on nobody can.
                if let Err(not_empty) = which.allows(&pool) {
                    self.pools.remove(id);
                    self.raise(id, pool.devices(), AsFound::default())?;
                    return Err(not_empty);
                }
                self.pools.remove(id);
                pool.devices()
            }
            None => match self.pools.scanner.scan(Look::Everywhere).remove(&id) {
                Some(found) => {
                    let devices = self.hold_unopened(id, &found, which)?;
                    admit_unopened(id, &devices, caller)?;
                    Arc::new(devices)
                }
                None => return Ok(()),
            },
        };
        disown(&devices)?;
        // Data device 0 last: as long as its label is there, a repeated call finds the others.
        for device in devices.iter().rev() {
            self.blank(device)?;
            hit(Point::PoolPartWiped);
        }
        devices.iter().for_each(|device| device.file.release());
        drop(busy);
        self.changed();
        Ok(())
    }

    /// Holds what the labels say is half a pool; a closed one may hold data. Of a pool that may go
    /// with all that is in it, its devices as they are: nothing of it is in the kernel after this.
    fn hold_unopened(
        &self,
        id: PoolId,
        found: &[FoundDevice],
        which: Which,
    ) -> Result<Vec<HeldDevice>, PoolError> {
        let whole = which == Which::WithAllInIt && !is_half(found.iter().map(|d| &d.label));
        if whole {
            if let Some(device) = found.iter().find(|d| self.is_held_elsewhere(&d.label)) {
                return Err(foreign(id, &device.label));
            }
            self.remove_tables(id)?;
        } else if !is_half(found.iter().map(|d| &d.label)) {
            return Err(mismatch(
                id,
                "it is closed: open it first, so that one can see whether it is empty",
            ));
        }
        let hold = |device: &FoundDevice| {
            self.pools
                .rules
                .hold(&*self.kernel, "devices", &device.path, None)
        };
        let mut devices: Vec<_> = found.iter().map(hold).collect::<Result<_, _>>()?;
        // Read again under the lock: what a scan saw may be over.
        devices.retain(|d| d.label.as_ref().is_some_and(|label| label.pool == id));
        let labels: Vec<&Label> = devices.iter().filter_map(|d| d.label.as_ref()).collect();
        if whole && let Some(taken) = labels.iter().find(|label| self.is_held_elsewhere(label)) {
            return Err(foreign(id, taken));
        }
        if !whole && !is_half(labels.iter().copied()) {
            return Err(mismatch(id, "it was made meanwhile: open it first"));
        }
        // A device that is away would keep a label of a pool that nobody can open or delete.
        if let Some(newest) = labels.iter().max_by_key(|l| l.layout_generation)
            && newest.layout_generation > 0
        {
            check_present(id, newest, &labels)?;
        }
        devices.sort_by_key(|d| d.label.as_ref().map(|l| (l.role, l.index)));
        Ok(devices)
    }

    fn is_held_elsewhere(&self, label: &Label) -> bool {
        label.owner_host != self.host.owner && !label.clean
    }

    /// Leaves nothing of ours on a device; a file in the pool folder goes altogether.
    fn blank(&self, device: &HeldDevice) -> Result<(), PoolError> {
        let in_folder = device.path.parent() == Some(&self.pools.rules.pool_dir);
        if in_folder && device.file.metadata().is_ok_and(|m| m.is_file()) {
            std::fs::remove_file(&device.path).map_err(PoolError::io("remove a pool file"))?;
        }
        wipe_label(&device.file).map_err(|source| PoolError::Label {
            path: device.path.clone(),
            source,
        })
    }
}

/// Refuses another store than the one that made the pool, as far as its catalogue can be read: one
/// that is damaged says nothing against it. One of a newer version, or on a device that fails now,
/// may.
fn admit_unopened(
    id: PoolId,
    devices: &[HeldDevice],
    caller: Option<Incarnation>,
) -> Result<(), PoolError> {
    let whole = |label: &Label| label.layout_generation > 0;
    if !labelled(devices).all(|(_, label)| whole(label)) {
        return Ok(()); // no pool yet, or none any more
    }
    let Ok(regions) = catalogue_regions(id, labelled(devices)) else {
        return Ok(());
    };
    match Catalogue::open(regions, id) {
        Ok(catalogue) => Ok(admit(&catalogue.pool(), caller)?),
        Err(source @ (CatalogueError::Newer(_) | CatalogueError::Storage(_))) => {
            Err(PoolError::Catalogue { pool: id, source })
        }
        Err(_) => Ok(()),
    }
}

/// Which pools may be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// One that holds nothing.
    Empty,
    /// Any, and what it holds goes too.
    WithAllInIt,
}

impl Which {
    fn allows(self, pool: &OpenPool) -> Result<(), PoolError> {
        match (self, pool.catalogue.all().len()) {
            (Self::WithAllInIt, _) | (Self::Empty, 0) => Ok(()),
            (Self::Empty, count) => Err(PoolError::NotEmpty {
                pool: pool.id,
                count,
            }),
        }
    }
}

/// Labels of generation 0 on every device, data device 0 first: the pool is none any more.
fn disown(devices: &[HeldDevice]) -> Result<(), PoolError> {
    for device in devices {
        if let Some(label) = &device.label {
            let label = Label {
                layout_generation: 0,
                ..label.clone()
            };
            write_label(&device.file, &label).map_err(|source| PoolError::Label {
                path: device.path.clone(),
                source,
            })?;
        }
        hit(Point::PoolDisowned);
    }
    hit(Point::PoolUnmade);
    Ok(())
}
