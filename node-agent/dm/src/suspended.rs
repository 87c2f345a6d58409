//! Suspended devices never outlive what suspended them, and a bad table never stays.

use crate::control::{Control, Flush, LockFs};
use crate::error::DmError;
use crate::names::DmName;
use crate::table::Table;

/// Stops I/O to a device. [`Self::resume`] lets it flow again; dropping it does too, on every other
/// path out, where a failure is only logged.
#[must_use = "the device resumes as soon as this is dropped"]
#[derive(Debug)]
pub struct Suspended<'c> {
    control: &'c Control,
    name: &'c DmName,
    stopped: bool,
}

impl<'c> Suspended<'c> {
    /// Suspends a device.
    ///
    /// # Errors
    ///
    /// ENXIO when there is no such device.
    pub fn new(
        control: &'c Control,
        name: &'c DmName,
        flush: Flush,
        lockfs: LockFs,
    ) -> Result<Self, DmError> {
        control.suspend(name, flush, lockfs)?;
        Ok(Self {
            control,
            name,
            stopped: true,
        })
    }

    /// Lets I/O flow again.
    ///
    /// # Errors
    ///
    /// The kernel's, tried twice: its users may hang, and whoever waits for them has to know.
    pub fn resume(mut self) -> Result<(), DmError> {
        let resumed = self.control.resume(self.name).map(drop);
        self.stopped = resumed.is_err();
        resumed
    }
}

impl Drop for Suspended<'_> {
    fn drop(&mut self) {
        if self.stopped
            && let Err(error) = self.control.resume(self.name)
        {
            tracing::error!(device = %self.name, %error, "its I/O is stuck");
        }
    }
}

/// Replaces a live table. When the kernel refuses the new one, the previous table is put back and
/// I/O goes on through it.
///
/// # Errors
///
/// What refused the new table. Should the old one not come back either, that is in the log and the
/// device stays suspended.
pub fn swap_table(
    control: &Control,
    name: &DmName,
    table: &Table,
    flush: Flush,
) -> Result<(), DmError> {
    let before = control.table(name)?;
    control.load(name, table)?;
    if let Err(error) = control.suspend(name, flush, LockFs::No) {
        let _ = control.clear(name);
        return Err(error);
    }
    let Err(refused) = control.resume(name) else {
        return Ok(());
    };
    let put_back = match before.parsed() {
        Some(targets) => {
            let table = Table {
                targets,
                read_only: before.device.read_only,
            };
            control
                .load(name, &table)
                .and_then(|()| control.resume(name))
                .map(drop)
        }
        None => control.resume(name).map(drop),
    };
    if let Err(error) = put_back {
        tracing::error!(device = %name, %error, "neither table is accepted; its I/O is stuck");
    }
    Err(refused)
}
