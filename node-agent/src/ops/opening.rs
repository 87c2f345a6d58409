//! Bringing a pool up from its held devices: owner, catalogue, tables, transaction id, thins.
//!
//! Called by `ops::pools` and at start. Safe to run again after any crash, and over live tables:
//! an agent that restarts finds its pool as it left it and touches nothing that runs.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::Arc;

use goldleaf_dm::{PoolMessage, PoolMode, PoolStatus, WorkingPool};
use goldleaf_types::{Name, NodeId, PoolId, ThinId, ThinOwner};

use super::Agent;
use super::devices::HeldDevice;
use super::error::PoolError;
use super::forming::{catalogue_places, catalogue_regions};
use super::open_pool::{Agreed, Doubt, OpenPool};
use super::pools::Opening;
use super::renaming::put_name;
use super::space_rules::{first_mark, may_release};
use crate::catalogue::{
    Catalogue, FEATURE_TWIN, Label, NoSpace, Phase, PoolRecord, RegionKind, ThinRecord, WriteError,
    in_order, write_label,
};
use crate::failpoint::{Point, hit};
use crate::kernel::{KernelError, Outcome, PoolSpec, Stretch, Unwritable};

/// How devices were found before they were claimed. By default as this host closed them itself.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AsFound {
    /// They were another host's.
    arrived: bool,
    /// Nobody closed them.
    unclean: bool,
}

impl Agent {
    /// Everything between held devices and a pool that serves. The caller has the turn, or has reserved
    /// the pool.
    pub(super) fn bring_up(
        &self,
        id: PoolId,
        mut devices: Vec<HeldDevice>,
    ) -> Result<Arc<OpenPool>, PoolError> {
        let found = self.claim_all(&mut devices)?;
        hit(Point::PoolClaimed);
        self.raise(id, Arc::new(devices), found)
    }

    /// Writes this host into every label; how they were found.
    pub(super) fn claim_all(&self, devices: &mut [HeldDevice]) -> Result<AsFound, PoolError> {
        let twin = catalogue_places(labelled(devices)).len() > 1;
        let ours = |label: &Label| label.owner_host == self.host.owner;
        let found = AsFound {
            arrived: !labelled(devices).all(|(_, label)| ours(label)),
            unclean: labelled(devices).any(|(_, label)| !label.clean),
        };
        for device in devices {
            claim(device, self.host.owner, twin)?;
        }
        Ok(found)
    }

    /// As [`Self::bring_up`], of devices that say already that this host has them.
    pub(super) fn raise(
        &self,
        id: PoolId,
        devices: Arc<Vec<HeldDevice>>,
        found: AsFound,
    ) -> Result<Arc<OpenPool>, PoolError> {
        let regions = catalogue_regions(id, labelled(&devices))?;
        let catalogue = Catalogue::open(regions, id)
            .map_err(|source| PoolError::Catalogue { pool: id, source })?;
        // Before the host is recorded: the file of a repair is on the one that began it.
        let repaired = self.finish_repair(id, &devices, &catalogue)?;
        self.repairs.clean(id);
        self.settle_in(id, &catalogue, found.arrived)?;
        hit(Point::PoolSettledIn);
        let record = catalogue.pool();
        // The label's name is for people; this one counts.
        self.pools.name_is_free(id, record.name.as_str())?;
        let devices = relabel(devices, &record.name)?;
        let spec = spec_of(&record, &devices, found.unclean || repaired);
        self.pools.says(id, Opening::Metadata);
        let fresh = self.kernel.ensure_pool(&spec).map_err(PoolError::Kernel)? == Outcome::Done;
        self.pools.says(id, Opening::Volumes);
        hit(Point::PoolLive);
        let agreed = self.agree(&spec, &catalogue, fresh)?;
        let pool = Arc::new(OpenPool::new(id, devices, catalogue, agreed));
        if fresh {
            self.clear_links(&pool.name(), &pool.catalogue.all())?;
        }
        self.pools.insert(Arc::clone(&pool));
        self.mind_space(&pool);
        self.sweep_pool(&pool);
        Ok(pool)
    }

    /// Removes the links of these rows, none of which has a device, and every other of the folder but
    /// to a device that lives: a pool of the same name may not have opened while its volumes go on.
    pub(super) fn clear_links(&self, pool: &Name, rows: &[ThinRecord]) -> Result<(), PoolError> {
        let mut live = BTreeSet::new();
        for owner in self.kernel.live_owners().map_err(PoolError::Kernel)? {
            if let Some(thin) = self.kernel.find_live(owner).map_err(PoolError::Kernel)? {
                match self.kernel.node(thin.dev) {
                    Ok(node) => drop(live.insert(node)),
                    // Of another pool, and being made or taken away: no link leads to it.
                    Err(KernelError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                    }
                    Err(error) => return Err(PoolError::Kernel(error)),
                }
            }
        }
        let mut volumes = rows.iter().filter(|row| row.owner.volume().is_some());
        volumes
            .try_for_each(|row| self.links.ensure_none(pool, &row.name))
            .and_then(|()| self.links.ensure_only(pool, &live))
            .map_err(PoolError::io("remove the pool's stale links"))
    }

    /// Raises the epoch of every volume of a pool that came from another host, before a table is
    /// built: a call that was meant for it there is refused here. Once: the host is recorded in the
    /// same transaction, so that neither a crash nor another opening raises it again.
    fn settle_in(&self, id: PoolId, catalogue: &Catalogue, arrived: bool) -> Result<(), PoolError> {
        let here = NodeId::from_bytes(self.host.owner);
        let former = catalogue.pool().home;
        if former == Some(here) {
            return Ok(());
        }
        let moved = former.is_some() || arrived;
        catalogue
            .write(move |rows| {
                let volumes = rows.all().into_iter();
                for row in volumes.filter(|row| moved && row.owner.volume().is_some()) {
                    let epoch = row.epoch.saturating_add(1);
                    rows.replace(ThinRecord { epoch, ..row });
                }
                let mut pool = rows.pool();
                pool.home = Some(here);
                rows.set_pool(pool);
                Ok::<_, std::convert::Infallible>(())
            })
            .map_err(|error| catalogue_error(id, error))?;
        if moved {
            tracing::info!(pool = %id, ?former, "it came from another host; epochs are raised");
        }
        Ok(())
    }

    /// Brings metadata and catalogue together, if the metadata takes changes and is the one that
    /// the catalogue knows. If not, nothing is changed: the doubt, and no data is called lost.
    pub(super) fn agree(
        &self,
        spec: &PoolSpec,
        catalogue: &Catalogue,
        fresh: bool,
    ) -> Result<Agreed, PoolError> {
        let id = spec.id;
        let status = self.kernel.pool_status(id).map_err(PoolError::Kernel)?;
        let loaded = self.kernel.loaded_pool(id).map_err(PoolError::Kernel)?;
        let recorded = catalogue.pool().transaction_id;
        if is_braked(&status, recorded, loaded.read_only) {
            tracing::error!(pool = %id, "its metadata is nearly used up: it takes no change");
            return Ok(Agreed {
                braked: true,
                ..Agreed::default()
            });
        }
        let status = match examine(&status, recorded) {
            Ok(status) => status,
            Err(doubt) => {
                tracing::error!(pool = %id, %doubt, "open for reading and rescue only");
                if matches!(doubt, Doubt::RolledBack { .. }) {
                    // Whatever is written now may land in blocks that the other state gave away.
                    let spec = PoolSpec {
                        read_only: true,
                        ..spec.clone()
                    };
                    let _ = self.kernel.ensure_pool(&spec).map_err(PoolError::Kernel)?;
                }
                return Ok(Agreed {
                    doubt: Some(doubt),
                    ..Agreed::default()
                });
            }
        };
        self.agree_on_transaction(id, catalogue, (status.transaction_id, fresh))?;
        if status.held_root.is_some() {
            tracing::warn!(pool = %id, "a metadata snapshot was left held; released");
            self.kernel
                .pool_message(id, &PoolMessage::ReleaseMetadataSnap)
                .map_err(PoolError::Kernel)?;
        }
        Ok(Agreed {
            missing: self.compare_thins(id, catalogue)?,
            ..Agreed::default()
        })
    }

    /// Bumps the metadata's transaction id once per opening, wish first, so that metadata that was
    /// put back behind our back is noticed.
    fn agree_on_transaction(
        &self,
        id: PoolId,
        catalogue: &Catalogue,
        (found, fresh): (u64, bool),
    ) -> Result<(), PoolError> {
        let recorded = catalogue.pool().transaction_id;
        if !fresh && found == recorded {
            return Ok(());
        }
        let next = if fresh { found + 1 } else { recorded };
        catalogue
            .write(move |rows| {
                let mut pool = rows.pool();
                pool.transaction_id = next;
                rows.set_pool(pool);
                Ok::<_, std::convert::Infallible>(())
            })
            .map_err(|error| catalogue_error(id, error))?;
        hit(Point::PoolTransactionWished);
        self.kernel
            .pool_message(
                id,
                &PoolMessage::SetTransactionId {
                    old: found,
                    new: next,
                },
            )
            .map_err(PoolError::Kernel)?;
        hit(Point::PoolTransactionSet);
        Ok(())
    }

    /// Compares the catalogue with the metadata: unknown thins are quarantined, rows without a
    /// thin are lost data, and ids are handed out above everything that either side knows. Others may
    /// make and delete meanwhile: what was not the same before and after the look counts for nothing.
    fn compare_thins(
        &self,
        id: PoolId,
        catalogue: &Catalogue,
    ) -> Result<BTreeSet<ThinOwner>, PoolError> {
        let before = catalogue.all();
        let known = self.kernel.known_thins(id).map_err(PoolError::Kernel)?;
        let after = catalogue.all();
        let either = before.iter().chain(&after);
        let owned: BTreeSet<u32> = either.map(|row| row.thin.get()).collect();
        let present: BTreeSet<u32> = known.iter().map(|thin| thin.get()).collect();
        let foreign: Vec<u32> = present.difference(&owned).copied().collect();
        if !foreign.is_empty() {
            tracing::warn!(pool = %id, thins = ?foreign, "thins that nobody owns; quarantined");
        }
        let ready = |rows: &[ThinRecord]| -> BTreeSet<(ThinOwner, u32)> {
            let ready = rows.iter().filter(|row| row.phase == Phase::Ready);
            ready.map(|row| (row.owner, row.thin.get())).collect()
        };
        let missing: BTreeSet<ThinOwner> = ready(&before)
            .intersection(&ready(&after))
            .filter(|(_, thin)| !present.contains(thin))
            .map(|(owner, _)| *owner)
            .collect();
        for owner in &missing {
            tracing::error!(pool = %id, %owner, "its data is gone from the pool's metadata");
        }
        let above = known.last().map_or(0, |thin| next_after(*thin));
        catalogue
            .write(move |rows| {
                let mut pool = rows.pool();
                if pool.quarantined != foreign || pool.next_thin < above {
                    pool.quarantined = foreign;
                    pool.next_thin = pool.next_thin.max(above);
                    rows.set_pool(pool);
                }
                Ok::<_, std::convert::Infallible>(())
            })
            .map_err(|error| catalogue_error(id, error))?;
        Ok(missing)
    }
}

/// Why nothing may be changed, if so. The recorded transaction and the one before it are lawful.
fn examine(status: &PoolStatus, recorded: u64) -> Result<&WorkingPool, Doubt> {
    let not_writable = |why| Doubt::NotWritable { why };
    let PoolStatus::Working(working) = status else {
        return Err(not_writable(Unwritable::GivenUp));
    };
    let found = working.transaction_id;
    if found != recorded && found.checked_add(1) != Some(recorded) {
        return Err(Doubt::RolledBack { recorded, found });
    }
    Unwritable::of(status).map_or(Ok(working), |why| Err(not_writable(why)))
}

/// Whether nothing is wrong with it but that its metadata must not be used up: we loaded it
/// read-only for that, or the kernel found none left.
fn is_braked(status: &PoolStatus, recorded: u64, loaded_read_only: bool) -> bool {
    let PoolStatus::Working(status) = status else {
        return false;
    };
    let lawful =
        status.transaction_id == recorded || status.transaction_id.checked_add(1) == Some(recorded);
    status.mode == PoolMode::ReadOnly
        && lawful
        && !status.needs_check
        && (loaded_read_only || !may_release(status))
}

fn next_after(thin: ThinId) -> u32 {
    if thin.get() == ThinId::MAX {
        0
    } else {
        thin.get() + 1
    }
}

pub(super) fn catalogue_error(
    pool: PoolId,
    error: WriteError<std::convert::Infallible>,
) -> PoolError {
    match error {
        WriteError::Refused(never) => match never {},
        WriteError::Catalogue(source) => PoolError::Catalogue { pool, source },
    }
}

/// Writes this host into the label, durably, before anything of the pool is used; and that there is
/// a twin of the catalogue, so that no version that knows of none leaves it behind.
fn claim(device: &mut HeldDevice, owner: [u8; 16], twin: bool) -> Result<(), PoolError> {
    let Some(label) = &mut device.label else {
        return Ok(());
    };
    let features = label.incompatible | if twin { FEATURE_TWIN } else { 0 };
    if label.owner_host == owner && !label.clean && label.incompatible == features {
        return Ok(());
    }
    label.incompatible = features;
    label.owner_host = owner;
    label.claimed = jiff::Timestamp::now().as_second();
    label.clean = false;
    write_label(&device.file, label).map_err(|source| PoolError::Label {
        path: device.path.clone(),
        source,
    })
}

/// Writes the pool's name into the labels if one has another name: a change of it was cut short.
fn relabel(devices: Arc<Vec<HeldDevice>>, name: &Name) -> Result<Arc<Vec<HeldDevice>>, PoolError> {
    let so_named = labelled(&devices).all(|(_, label)| label.pool_name == name.as_str());
    match so_named {
        true => Ok(devices),
        false => put_name(&devices, name).map(Arc::new),
    }
}

/// Devices with what is written on them.
pub(super) fn labelled(devices: &[HeldDevice]) -> impl Iterator<Item = (&HeldDevice, &Label)> {
    devices
        .iter()
        .filter_map(|device| Some((device, device.label.as_ref()?)))
}

/// Everything from which the tables of a pool that is not live are made.
pub(super) fn spec_of(record: &PoolRecord, devices: &[HeldDevice], unclean: bool) -> PoolSpec {
    let data = stretches(devices, RegionKind::Data);
    let blocks = data.iter().map(|s| s.len.bytes().0).sum::<u64>() / record.block_size.bytes().0;
    PoolSpec {
        id: record.id,
        metadata: stretches(devices, RegionKind::Metadata),
        data,
        block: record.block_size,
        queue_when_full: record.no_space == NoSpace::Queue,
        read_only: false,
        low_water_blocks: first_mark(blocks),
        unclean,
    }
}

/// What a pool's devices give to one kind, in the order in which it is mapped.
pub(super) fn stretches(devices: &[HeldDevice], kind: RegionKind) -> Vec<Stretch> {
    let labelled = devices
        .iter()
        .filter_map(|d| d.label.clone().map(|label| (d, label)));
    let (held, labels): (Vec<_>, Vec<_>) = labelled.unzip();
    let regions = in_order(&labels, kind).into_iter();
    regions
        .map(|(device, region)| {
            let region = labels[device].regions[region];
            held[device].stretch(region.start, region.len)
        })
        .collect()
}
