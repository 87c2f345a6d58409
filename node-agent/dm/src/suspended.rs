//! Suspended devices never outlive what suspended them, and a bad table never stays.

use crate::control::{Control, Flush, LockFs};
use crate::error::DmError;
use crate::names::DmName;
use crate::table::Table;

/// Stops I/O to a device; dropping it lets I/O flow again, on every path out.
#[must_use = "the device resumes as soon as this is dropped"]
#[derive(Debug)]
pub struct Suspended<'c> {
    control: &'c Control,
    name: &'c DmName,
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
        Ok(Self { control, name })
    }
}

impl Drop for Suspended<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.control.resume(self.name) {
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
