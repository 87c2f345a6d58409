//! The port on the real kernel. Holds the control node and nothing else that lasts.
//!
//! Made by `app`. Each verb is in the file of its noun: `pool`, `thin`, `origin`; what they share,
//! a device brought to its table, is here. What the kernel has is asked for each time, never
//! remembered: devices outlive this process.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use goldleaf_dm::{
    Commit, Control, DevNumber, Device, DmError, Flush, Owned, PoolMessage, PoolStatus, Removal,
    Table, Target, nodes, swap_table,
};
use goldleaf_types::{Digest, PoolId, Sectors, ThinId, ThinOwner};

use super::turns::Turns;
use super::{
    Attached, BlockQuery, BlockRuns, GroupMember, ImageSpec, Kernel, KernelError, LiveThin,
    LoadedPool, Outcome, PoolSpec, PrivateSpec, PrivateThin, Ran, ThinSpec, ThinUse, group,
    metadata, origin, pool, pool_tables, private, stopped, thin,
};

/// Device-mapper of this host.
#[derive(Debug)]
pub struct DmKernel {
    pub(super) control: Control,
    /// Two callers must not both find an image's device missing and make it.
    pub(super) image_turn: Mutex<()>,
    turns: Turns,
}

impl DmKernel {
    /// Opens the control node.
    ///
    /// # Errors
    ///
    /// When the kernel has no device-mapper, or without root.
    pub fn open() -> Result<Self, DmError> {
        Ok(Self {
            control: Control::open()?,
            image_turn: Mutex::new(()),
            turns: Turns::default(),
        })
    }
}

/// What is under a name now.
pub(super) struct Found {
    pub(super) device: Device,
    /// Its live table; `None` when a target is of a type that we never make.
    pub(super) targets: Option<Vec<Target>>,
    /// The same in the kernel's words.
    pub(super) text: String,
}

/// The device with its live table, if it is there.
pub(super) fn find(control: &Control, owned: Owned) -> Result<Option<Found>, KernelError> {
    match control.table(&owned.name()) {
        Ok(status) => {
            let words: Vec<String> = status
                .targets
                .iter()
                .map(|t| format!("{} {}", t.kind, t.text))
                .collect();
            Ok(Some(Found {
                targets: status.parsed(),
                text: words.join("; "),
                device: status.device,
            }))
        }
        Err(error) if error.is_not_found() => Ok(None),
        Err(source) => Err(KernelError::Dm {
            what: "read a table",
            source,
        }),
    }
}

/// Leaves the device live with exactly this table, running.
pub(super) fn ensure_table(
    control: &Control,
    owned: Owned,
    what: &'static str,
    table: &Table,
) -> Result<(DevNumber, Outcome), KernelError> {
    let found = find(control, owned)?;
    ensure_table_over(control, owned, found, (what, table))
}

/// As [`ensure_table`], for a caller that has just looked.
pub(super) fn ensure_table_over(
    control: &Control,
    owned: Owned,
    found: Option<Found>,
    (what, table): (&'static str, &Table),
) -> Result<(DevNumber, Outcome), KernelError> {
    let name = owned.name();
    match found {
        None => {
            let device = control
                .create(&name, &owned.uuid())
                .map_err(KernelError::dm(what))?;
            if let Err(source) = control
                .load(&name, table)
                .and_then(|()| control.resume(&name))
            {
                // Half made is worse than not made: the error is the caller's, not this removal's.
                let _ = control.remove(&name, Removal::Now);
                return Err(KernelError::Dm { what, source });
            }
            Ok((device.dev, Outcome::Done))
        }
        Some(found) if !found.device.has_active_table => {
            // A crash between making it and its first resume.
            control
                .load(&name, table)
                .and_then(|()| control.resume(&name))
                .map_err(KernelError::dm(what))?;
            Ok((found.device.dev, Outcome::Done))
        }
        Some(found) => {
            if found.targets.as_deref() != Some(&table.targets)
                || found.device.read_only != table.read_only
            {
                return Err(KernelError::OtherTable {
                    what: name.to_string(),
                    found: found.text,
                });
            }
            settle(control, owned, &found.device)?;
            Ok((found.device.dev, Outcome::AlreadySo))
        }
    }
}

/// Lets a live device run that a crash left suspended, and drops a table that it left loaded.
pub(super) fn settle(control: &Control, owned: Owned, device: &Device) -> Result<(), KernelError> {
    let name = owned.name();
    if device.has_inactive_table {
        control
            .clear(&name)
            .map_err(KernelError::dm("drop a stale table"))?;
    }
    if device.suspended {
        control
            .resume(&name)
            .map_err(KernelError::dm("resume a device"))?;
    }
    Ok(())
}

/// Replaces a live table by a longer one; I/O in flight waits and goes on.
pub(super) fn grow(control: &Control, owned: Owned, table: &Table) -> Result<(), KernelError> {
    swap_table(control, &owned.name(), table, Flush::No).map_err(KernelError::dm("grow a device"))
}

/// Leaves no such device.
pub(super) fn ensure_none(control: &Control, owned: Owned) -> Result<Outcome, KernelError> {
    let name = owned.name();
    match control.remove(&name, Removal::Now) {
        Ok(()) => Ok(Outcome::Done),
        Err(error) if error.is_not_found() => Ok(Outcome::AlreadySo),
        Err(error) if error.is_busy() => {
            let openers = control
                .find(&name)
                .map_err(KernelError::dm("look at a device"))?
                .map_or(0, |d| d.open_count);
            Err(KernelError::Busy {
                what: name.to_string(),
                openers,
            })
        }
        Err(source) => Err(KernelError::Dm {
            what: "remove a device",
            source,
        }),
    }
}

impl Kernel for DmKernel {
    fn attach(&self, file: &File) -> Result<Attached, KernelError> {
        pool::attach(file)
    }

    fn check_unused(&self, dev: DevNumber) -> Result<(), KernelError> {
        pool::check_unused(dev)
    }

    fn ensure_pool(&self, spec: &PoolSpec) -> Result<Outcome, KernelError> {
        let outcome = pool_tables::ensure(&self.control, spec)?;
        thin::ensure_no_probe(&self.control, spec.id)?;
        Ok(outcome)
    }

    fn reload_pool(&self, spec: &PoolSpec) -> Result<Outcome, KernelError> {
        let turns = self.turns.of(spec.id);
        let _turn = turns.over_thins();
        pool_tables::reload(&self.control, spec)
    }

    fn loaded_pool(&self, pool: PoolId) -> Result<LoadedPool, KernelError> {
        pool_tables::loaded(&self.control, pool)
    }

    fn renew_wait(&self, pool: PoolId) -> Result<(), KernelError> {
        let turns = self.turns.of(pool);
        let _turn = turns.over_thins();
        pool_tables::renew_wait(&self.control, pool)
    }

    fn wait_limit(&self) -> Option<Duration> {
        pool_tables::wait_limit()
    }

    fn ensure_no_pool(&self, pool: PoolId) -> Result<Outcome, KernelError> {
        thin::ensure_no_probe(&self.control, pool)?;
        pool::ensure_none(&self.control, pool)
    }

    fn pool_status(&self, pool: PoolId) -> Result<PoolStatus, KernelError> {
        pool::status(&self.control, pool, Commit::No)
    }

    fn pool_message(&self, pool: PoolId, message: &PoolMessage) -> Result<(), KernelError> {
        pool::message(&self.control, pool, message).map_err(pool::Refused::into_error)
    }

    fn known_thins(&self, pool: PoolId) -> Result<Vec<ThinId>, KernelError> {
        let turns = self.turns.of(pool);
        let _turn = turns.to_read();
        metadata::known_thins(&self.control, pool)
    }

    fn thin_usage(&self, pool: PoolId) -> Result<Vec<ThinUse>, KernelError> {
        let turns = self.turns.of(pool);
        let _turn = turns.to_read();
        metadata::usage(&self.control, pool)
    }

    fn blocks(&self, pool: PoolId, query: &BlockQuery) -> Result<BlockRuns, KernelError> {
        let turns = self.turns.of(pool);
        let _turn = turns.to_read();
        metadata::blocks(&self.control, pool, query)
    }

    fn ensure_thin(
        &self,
        pool: PoolId,
        thin: ThinId,
        owner: ThinOwner,
    ) -> Result<Outcome, KernelError> {
        let turns = self.turns.of(pool);
        let _turn = turns.under_pool();
        thin::ensure(&self.control, pool, thin, owner)
    }

    fn ensure_snapshot(
        &self,
        pool: PoolId,
        thin: ThinId,
        source: ThinId,
        live: Option<ThinOwner>,
    ) -> Result<Outcome, KernelError> {
        thin::ensure_snapshot(&self.control, pool, thin, source, live)
    }

    fn create_group(
        &self,
        pool: PoolId,
        members: &[GroupMember],
        limit: Duration,
    ) -> Result<(), KernelError> {
        group::create(&self.control, pool, members, limit)
    }

    fn ensure_no_thin(&self, pool: PoolId, thin: ThinId) -> Result<Outcome, KernelError> {
        thin::ensure_none(&self.control, pool, thin)
    }

    fn open_private<'k>(
        &'k self,
        spec: &PrivateSpec,
    ) -> Result<Box<dyn PrivateThin + 'k>, KernelError> {
        let turns = self.turns.of(spec.pool);
        let _turn = turns.under_pool();
        private::open(&self.control, spec)
    }

    fn ensure_active(&self, spec: &ThinSpec) -> Result<DevNumber, KernelError> {
        let turns = self.turns.of(spec.pool);
        let _turn = turns.under_pool();
        thin::ensure_active(&self.control, spec)
    }

    fn ensure_inactive(&self, owner: ThinOwner) -> Result<Outcome, KernelError> {
        ensure_none(&self.control, Owned::Thin(owner))
    }

    fn find_live(&self, owner: ThinOwner) -> Result<Option<LiveThin>, KernelError> {
        thin::find_live(&self.control, owner)
    }

    fn live_owners(&self) -> Result<Vec<ThinOwner>, KernelError> {
        let owner = |owned| match owned {
            Owned::Thin(owner) => Some(owner),
            Owned::Pool(_)
            | Owned::PoolMetadata(_)
            | Owned::PoolData(_)
            | Owned::Image(_)
            | Owned::Probe(..) => None,
        };
        Ok(self.ours()?.into_iter().filter_map(owner).collect())
    }

    fn ensure_image(&self, image: &ImageSpec<'_>) -> Result<DevNumber, KernelError> {
        // A live one needs no turn: activations of one image do not wait for each other.
        if let Some(dev) = origin::find(&self.control, image)? {
            return Ok(dev);
        }
        let _turn = self
            .image_turn
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        origin::ensure(&self.control, image)
    }

    fn ensure_no_image(&self, digest: Digest) -> Result<Outcome, KernelError> {
        ensure_none(&self.control, Owned::Image(digest))
    }

    fn live_images(&self) -> Result<Vec<Digest>, KernelError> {
        let digest = |owned| match owned {
            Owned::Image(digest) => Some(digest),
            Owned::Pool(_)
            | Owned::PoolMetadata(_)
            | Owned::PoolData(_)
            | Owned::Thin(_)
            | Owned::Probe(..) => None,
        };
        Ok(self.ours()?.into_iter().filter_map(digest).collect())
    }

    fn let_all_run(&self) -> Result<Ran, KernelError> {
        Ok(stopped::let_run(&self.control, self.devices()?))
    }

    fn devices(&self) -> Result<Vec<(Owned, DevNumber)>, KernelError> {
        let listed = self
            .control
            .list()
            .map_err(KernelError::dm("list devices"))?;
        Ok(listed
            .into_iter()
            .filter_map(|l| Some((Owned::from_uuid(&l.uuid?)?, l.dev)))
            .collect())
    }

    fn ensure_no_probe(&self, pool: PoolId) -> Result<(), KernelError> {
        thin::ensure_no_probe(&self.control, pool)
    }

    fn node(&self, dev: DevNumber) -> Result<PathBuf, KernelError> {
        nodes::ensure(dev).map_err(KernelError::io("make a device's node"))
    }
}

impl DmKernel {
    /// Every device of ours.
    fn ours(&self) -> Result<Vec<Owned>, KernelError> {
        let devices = self.devices()?;
        Ok(devices.into_iter().map(|(owned, _)| owned).collect())
    }
}

/// The pool's device, which thins' tables name.
pub(super) fn pool_dev(control: &Control, pool: PoolId) -> Result<DevNumber, KernelError> {
    control
        .find(&Owned::Pool(pool).name())
        .map_err(KernelError::dm("look at a pool"))?
        .map(|device| device.dev)
        .ok_or(KernelError::NoPool(pool))
}

/// The sum of some lengths.
pub(super) fn total(lengths: impl Iterator<Item = Sectors>) -> Sectors {
    Sectors(lengths.map(|len| len.0).sum())
}
