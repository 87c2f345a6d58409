//! The kernel's devices against rows.
//!
//! A device's row outlives it, so a device is looked at again after its row was not found.

use std::collections::BTreeMap;
use std::sync::Arc;

use goldleaf_dm::{DevNumber, Owned};
use goldleaf_types::{Digest, PoolId, ThinId, ThinOwner};

use super::{Code, Finding, Remedy, Severity};
use crate::catalogue::{Phase, ThinRecord};
use crate::kernel::LiveThin;
use crate::ops::Agent;
use crate::ops::open_pool::OpenPool;
use crate::ops::thins::length;
use crate::telemetry::Chain;

impl Agent {
    pub(super) fn examine_devices(&self) -> Vec<Finding> {
        let devices = match self.kernel.devices() {
            Ok(devices) => devices,
            Err(error) => {
                return vec![Finding {
                    code: Code::HostLacks,
                    severity: Severity::Error,
                    subject: "device-mapper".into(),
                    reason: format!("it does not list its devices: {}", Chain(&error)),
                    advice: "look at the agent's log and at dmesg".into(),
                    remedy: None,
                }];
            }
        };
        let images: BTreeMap<Digest, DevNumber> = devices
            .iter()
            .filter_map(|(owned, dev)| match owned {
                Owned::Image(digest) => Some((*digest, *dev)),
                Owned::Pool(_)
                | Owned::PoolMetadata(_)
                | Owned::PoolData(_)
                | Owned::Thin(_)
                | Owned::Probe(..) => None,
            })
            .collect();
        devices
            .iter()
            .filter_map(|(owned, _)| match owned {
                Owned::Thin(owner) => self.thin_device(*owner, &images),
                Owned::Pool(pool) if self.pools.open(*pool).is_none() => Some(stray(
                    *owned,
                    "its pool is not open on this host".to_owned(),
                )),
                Owned::Probe(pool, thin) => self.private_device(*owned, *pool, *thin),
                // The pool's own three come and go together, and an image's goes with its last user.
                Owned::Pool(_) | Owned::PoolMetadata(_) | Owned::PoolData(_) | Owned::Image(_) => {
                    None
                }
            })
            .collect()
    }

    /// A private device is there for a moment, or as long as somebody is at work over it.
    fn private_device(&self, owned: Owned, pool: PoolId, thin: ThinId) -> Option<Finding> {
        let open = self.pools.open(pool);
        let rows = open.as_ref().map(|pool| pool.catalogue.all());
        let row = rows.and_then(|rows| rows.into_iter().find(|row| row.thin == thin));
        if row.as_ref().is_some_and(|row| self.reads.has(row.owner)) {
            return None; // an export needs it
        }
        let _held = open
            .as_ref()
            .zip(row)
            .map(|(pool, row)| pool.locks.take(&[row.owner]));
        let still = self.kernel.devices().ok()?;
        let left = still.iter().any(|(now, _)| *now == owned) && !self.work.is_at(pool, thin);
        left.then(|| {
            stray(
                owned,
                "it was made for work on a thin, and the work was cut short".to_owned(),
            )
        })
    }

    fn thin_device(
        &self,
        owner: ThinOwner,
        images: &BTreeMap<Digest, DevNumber>,
    ) -> Option<Finding> {
        match self.find_row(owner) {
            Ok((pool, _)) => {
                // Whoever works on it is waited for: a snapshot suspends its source for a moment.
                let _held = pool.locks.take(&[owner]);
                let row = pool.catalogue.find(owner)?;
                if self.reads.has(owner) {
                    return None;
                }
                let live = self.kernel.find_live(owner).ok()??;
                self.device_of(&pool, &row, &live, images)
            }
            Err(_) => {
                let live = self.kernel.find_live(owner).ok()??;
                if self.find_row(owner).is_ok() {
                    return None;
                }
                if live.suspended {
                    return Some(Finding {
                        code: Code::SuspendedDevice,
                        severity: Severity::Error,
                        subject: owner.to_string(),
                        reason: format!(
                            "the device of {owner} is suspended, so that its users hang, and no \
                             open pool has a record of it"
                        ),
                        advice: "start this host's agent again: it lets the device run with the \
                                 table that it has"
                            .into(),
                        remedy: None,
                    });
                }
                Some(stray(
                    Owned::Thin(owner),
                    format!(
                        "no open pool has a record of {owner}; {} hold the device open",
                        live.open_count
                    ),
                ))
            }
        }
    }

    fn device_of(
        &self,
        pool: &Arc<OpenPool>,
        row: &ThinRecord,
        live: &LiveThin,
        images: &BTreeMap<Digest, DevNumber>,
    ) -> Option<Finding> {
        let settle = Some(Remedy::Settle(pool.id, row.owner));
        let finding = |code, severity, reason: String, advice: &str, remedy| {
            Some(Finding {
                code,
                severity,
                subject: row.owner.to_string(),
                reason,
                advice: advice.into(),
                remedy,
            })
        };
        if live.suspended {
            return finding(
                Code::SuspendedDevice,
                Severity::Error,
                format!("the device of {} is suspended: its users hang", row.name),
                "mend this finding to let it run with the table that it has",
                settle,
            );
        }
        if let Some(problem) = wrong(row, live, images) {
            return finding(
                Code::WrongDevice,
                Severity::Error,
                format!("the device of {} {problem}", row.name),
                "stop its users, deactivate it and activate it again",
                None,
            );
        }
        // Of a pool that is open for rescue no row is written.
        if row.phase == Phase::Ready && row.holder.is_none() && pool.shown().is_none() {
            return finding(
                Code::UnwantedDevice,
                Severity::Warning,
                format!(
                    "{} is not wanted active and has a device, which {} hold open",
                    row.name, live.open_count
                ),
                "close what uses it: lsof and fuser say who; the agent then removes it by itself",
                settle,
            );
        }
        None
    }
}

/// How a live device differs from its row, in words.
fn wrong(
    row: &ThinRecord,
    live: &LiveThin,
    images: &BTreeMap<Digest, DevNumber>,
) -> Option<String> {
    let thin = live.thin?; // without a table it is half made, which its row's sweep finishes
    if thin != row.thin {
        return Some(format!(
            "lies over thin {thin} and its record says {}",
            row.thin
        ));
    }
    let wanted = row.image.map(|image| image.digest);
    match (wanted, live.origin) {
        (Some(digest), Some(origin)) if images.get(&digest) != Some(&origin) => Some(format!(
            "has device {origin} as its origin, which is not the one of image {digest}"
        )),
        (Some(digest), None) => Some(format!(
            "has no origin: unwritten blocks read as zeroes and not as image {digest}"
        )),
        (None, Some(origin)) => Some(format!("has origin {origin} and its record says none")),
        (Some(_), Some(_)) | (None, None) if live.len != length(row) => Some(format!(
            "is {} sectors long and its record says {}",
            live.len.0,
            length(row).0
        )),
        (Some(_), Some(_)) | (None, None) => None,
    }
}

fn stray(owned: Owned, reason: String) -> Finding {
    Finding {
        code: Code::StrayDevice,
        severity: Severity::Warning,
        subject: owned.name().to_string(),
        reason,
        advice: "open the pool that it belongs to, or mend this finding to remove the device; \
                 the data in the pool stays"
            .into(),
        remedy: Some(Remedy::RemoveDevice(owned)),
    }
}
