//! Extending a pool onto its spares when its room gets scarce.
//!
//! Called by `app` when `space` rings: the kernel's event came, or a sweep looked. A spare is a
//! device that carries a label of the pool and is counted nowhere, so that a pool opens without it.
//! Taking one is an extension like any other: a crash before its last label leaves a spare again.

use std::sync::{Arc, PoisonError};

use goldleaf_dm::METADATA_BLOCK;
use goldleaf_types::{Bytes, PoolId};

use super::Agent;
use super::devices::HeldDevice;
use super::error::PoolError;
use super::extension::ExtendPool;
use super::open_pool::OpenPool;
use super::space_rules::{Scarcity, data, metadata, working};
use crate::catalogue::{Role, WAS_SPARE};
use crate::telemetry::Chain;

impl OpenPool {
    /// Its devices of a role, or its data devices that were spares.
    fn devices_where(&self, wanted: impl Fn(Role, u64) -> bool) -> Vec<std::path::PathBuf> {
        let devices = self.devices();
        let fits = |d: &&HeldDevice| {
            let label = d.label.as_ref();
            label.is_some_and(|l| wanted(l.role, l.compatible))
        };
        devices
            .iter()
            .filter(fits)
            .map(|d| d.path.clone())
            .collect()
    }

    /// Paths of its devices that hold something.
    #[must_use]
    pub fn in_use(&self) -> Vec<std::path::PathBuf> {
        self.devices_where(|role, _| role != Role::Spare)
    }

    /// Paths of its devices that wait.
    #[must_use]
    pub fn spares(&self) -> Vec<std::path::PathBuf> {
        self.devices_where(|role, _| role == Role::Spare)
    }

    /// Paths of its data devices that were spares once.
    #[must_use]
    pub fn were_spares(&self) -> Vec<std::path::PathBuf> {
        self.devices_where(|role, marks| role == Role::Data && marks & WAS_SPARE != 0)
    }
}

impl Agent {
    /// Extends every pool whose room is scarce and that has a spare. A failure is shown as a
    /// condition and tried again at the next event or sweep. Blocks.
    pub fn use_spares(&self) {
        for pool in self.pools.all_open() {
            if pool.spares().is_empty() && pool.spare_trouble().is_none() {
                continue;
            }
            let trouble = match self.use_spare(pool.id) {
                Ok(()) => None,
                Err(error) => {
                    tracing::error!(pool = %pool.id, error = %Chain(&error),
                        "its room is scarce and its spare cannot be used");
                    Some(Chain(&error).to_string())
                }
            };
            if pool.set_spare_trouble(trouble) {
                self.changed();
            }
        }
    }

    /// Takes one spare after the other until there is enough, or none is left.
    fn use_spare(&self, id: PoolId) -> Result<(), PoolError> {
        let _turn = self.pools.take_turn();
        // Closed or deleted meanwhile, or being repaired: nothing is to be done.
        let usable = |pool: &Arc<OpenPool>| pool.doubt.is_none() && !self.pools.reserved.has(id);
        let Some(pool) = self.pools.open(id).filter(usable) else {
            return Ok(());
        };
        let _space = pool.space.lock().unwrap_or_else(PoisonError::into_inner);
        // Labels may be ahead of the tables.
        self.bring_in_order(&pool)?;
        while let Some((place, metadata)) = self.wanted_spare(&pool)? {
            let request = ExtendPool {
                metadata,
                ..ExtendPool::nothing(id)
            };
            self.extend(&pool, &request, Some(place))?;
            tracing::info!(pool = %id, left = pool.spares().len(),
                "its room was scarce: a spare is in use");
            self.changed();
        }
        Ok(())
    }

    /// The place of the spare that is to be used now, and how much of it becomes metadata at least.
    fn wanted_spare(&self, pool: &OpenPool) -> Result<Option<(usize, Bytes)>, PoolError> {
        let status = self
            .kernel
            .pool_status(pool.id)
            .map_err(PoolError::Kernel)?;
        let Some(status) = working(&status).filter(|s| !s.needs_check) else {
            return Ok(None); // no room helps it
        };
        let devices = pool.devices();
        let is_spare = |d: &HeldDevice| d.label.as_ref().is_some_and(|l| l.role == Role::Spare);
        let Some(place) = devices.iter().position(is_spare) else {
            return Ok(None);
        };
        Ok(match (metadata(status), data(status)) {
            (Scarcity::Enough, Scarcity::Enough) => None,
            (Scarcity::Enough, Scarcity::Low | Scarcity::Out) => Some((place, Bytes(0))),
            (Scarcity::Low | Scarcity::Out, _) => {
                // As much again as there is, but the spare is for data too.
                let half = devices[place].size.0 / 2 / METADATA_BLOCK;
                let more = status.total_metadata_blocks.min(half);
                Some((place, Bytes(more * METADATA_BLOCK)))
            }
        })
    }
}
