//! Holding the devices that were found of a pool: all of it, and nothing else.
//!
//! Called by `pools` and `repair`. What a scan saw may be over, so each label is read again once its
//! device is locked.

use goldleaf_types::{NodeId, PoolId};

use super::Agent;
use super::devices::HeldDevice;
use super::error::PoolError;
use super::extension::{store_taken_back, take_back};
use super::forming::check_complete;
use super::scan::FoundDevice;

impl Agent {
    /// Holds every device of a pool and sees that they are all of it and nothing else. Labels of an
    /// extension that a crash cut short are put back.
    pub(super) fn hold_all(
        &self,
        id: PoolId,
        found: &[FoundDevice],
        force_from: Option<NodeId>,
    ) -> Result<Vec<HeldDevice>, PoolError> {
        let devices = self.hold_found(id, found, force_from)?;
        store_taken_back(&devices)?;
        Ok(devices)
    }

    /// As [`Self::hold_all`]; nothing is written.
    pub(super) fn hold_found(
        &self,
        id: PoolId,
        found: &[FoundDevice],
        force_from: Option<NodeId>,
    ) -> Result<Vec<HeldDevice>, PoolError> {
        let mut devices = Vec::new();
        for device in found {
            let held = self
                .pools
                .rules
                .hold(&*self.kernel, "devices", &device.path, None)?;
            if held.label.as_ref().is_some_and(|label| label.pool == id) {
                devices.push(held);
            }
        }
        take_back(&mut devices);
        check_complete(id, (&self.host, force_from), &devices)?;
        devices.sort_by_key(|d| d.label.as_ref().map(|l| (l.role, l.index)));
        Ok(devices)
    }
}
