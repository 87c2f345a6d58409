//! Thins in a pool's metadata, and their devices.
//!
//! Used by `dm`. An answer of the kernel that says "already so" is compared with what was asked
//! before it counts.

use goldleaf_dm::DevNumber;
use goldleaf_dm::{
    Commit, Control, Flush, LockFs, Owned, PoolMessage, Suspended, Table, Target, Thin, ThinStatus,
};
use goldleaf_types::{PoolId, Sectors, ThinId, ThinOwner};

use super::dm::{self, ensure_table, ensure_table_over, find, grow, pool_dev, settle};
use super::pool::{Refused, message};
use super::{KernelError, LiveThin, Outcome, ThinSpec};

/// Leaves the thin present and empty.
pub(super) fn ensure(
    control: &Control,
    pool: PoolId,
    thin: ThinId,
    owner: ThinOwner,
) -> Result<Outcome, KernelError> {
    match message(control, pool, &PoolMessage::CreateThin(thin)) {
        Ok(()) => Ok(Outcome::Done),
        Err(Refused::Answer(error)) if error.exists() => {
            // Ours from before a crash, or somebody's. Ours is empty: nothing could write to it
            // unless its device is live, which only its owner can be.
            match mapped(control, pool, thin, owner)? {
                Sectors(0) => Ok(Outcome::AlreadySo),
                sectors => Err(KernelError::ForeignThin {
                    pool,
                    thin,
                    mapped: Some(sectors.bytes()),
                }),
            }
        }
        Err(refused) => Err(refused.into_error()),
    }
}

/// What a thin maps, seen through a read-only device that is there for the look alone. It has a
/// name of its own: one that a crash leaves is never taken for its owner's.
fn mapped(
    control: &Control,
    pool: PoolId,
    thin: ThinId,
    owner: ThinOwner,
) -> Result<Sectors, KernelError> {
    if let Some(live) = find_live(control, owner)?
        && live.thin == Some(thin)
    {
        // Live over this thin: it is the owner's, whatever it holds by now.
        return Ok(Sectors(0));
    }
    let target = Target::Thin(Thin {
        len: Sectors(8),
        pool: pool_dev(control, pool)?,
        id: thin,
        origin: None,
    });
    let what = "look into a thin";
    let probe = Owned::Probe(pool, thin);
    // What a crash left may lie over a pool's device of before.
    let _ = dm::ensure_none(control, probe)?;
    let _ = ensure_table(control, probe, what, &Table::of(target).read_only())?;
    let status = control.status(&probe.name(), Commit::No);
    let _ = dm::ensure_none(control, probe)?;
    let status = status.map_err(KernelError::dm(what))?;
    match status
        .targets
        .first()
        .and_then(|line| line.text.parse().ok())
    {
        Some(ThinStatus::Mapped { sectors, .. }) => Ok(Sectors(sectors)),
        Some(ThinStatus::Fail) | None => Err(KernelError::NotWritable {
            pool,
            why: format!("the kernel does not say what thin {thin} holds"),
        }),
    }
}

/// Leaves no private device of the pool that nobody uses: a crash may have left one, and it keeps
/// the pool.
pub(super) fn ensure_no_probe(control: &Control, pool: PoolId) -> Result<(), KernelError> {
    let listed = control.list().map_err(KernelError::dm("list devices"))?;
    for uuid in listed.into_iter().filter_map(|device| device.uuid) {
        if let Some(probe @ Owned::Probe(of, _)) = Owned::from_uuid(&uuid)
            && of == pool
        {
            match dm::ensure_none(control, probe) {
                // Somebody is at work over it, and takes it away himself.
                Ok(_) | Err(KernelError::Busy { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Leaves the thin present as a snapshot of `source`.
pub(super) fn ensure_snapshot(
    control: &Control,
    pool: PoolId,
    thin: ThinId,
    source: ThinId,
    live: Option<ThinOwner>,
) -> Result<Outcome, KernelError> {
    let name = live.map(|owner| Owned::Thin(owner).name());
    // The kernel does not check: a snapshot of a running thin is corrupt. Resumed on every way out.
    let suspended = name
        .as_ref()
        .map(|name| Suspended::new(control, name, Flush::Yes, LockFs::Yes))
        .transpose()
        .map_err(KernelError::dm("suspend a snapshot's source"))?;
    let sent = message(
        control,
        pool,
        &PoolMessage::CreateSnap {
            id: thin,
            origin: source,
        },
    );
    let resumed = suspended.map_or(Ok(()), Suspended::resume);
    let outcome = match sent {
        Ok(()) => Ok(Outcome::Done),
        Err(Refused::Answer(error)) if error.exists() => Ok(Outcome::AlreadySo),
        Err(Refused::Answer(error)) if error.is_no_data() => {
            Err(KernelError::ThinMissing { pool, thin: source })
        }
        Err(refused) => Err(refused.into_error()),
    }?;
    resumed.map_err(KernelError::dm("resume a snapshot's source"))?;
    Ok(outcome)
}

/// Leaves the thin absent.
pub(super) fn ensure_none(
    control: &Control,
    pool: PoolId,
    thin: ThinId,
) -> Result<Outcome, KernelError> {
    match message(control, pool, &PoolMessage::Delete(thin)) {
        Ok(()) => Ok(Outcome::Done),
        Err(Refused::Answer(error)) if error.is_no_data() => Ok(Outcome::AlreadySo),
        Err(Refused::Answer(error)) if error.is_busy() => Err(KernelError::Busy {
            what: format!("thin {thin} of pool {pool}"),
            openers: 1,
        }),
        Err(refused) => Err(refused.into_error()),
    }
}

/// Leaves the device live over its thin and origin.
pub(super) fn ensure_active(control: &Control, spec: &ThinSpec) -> Result<DevNumber, KernelError> {
    let owned = Owned::Thin(spec.owner);
    let wanted = Thin {
        len: spec.len,
        pool: pool_dev(control, spec.pool)?,
        id: spec.thin,
        origin: spec.origin,
    };
    let table = Table::of(Target::Thin(wanted));
    let table = if spec.read_only {
        table.read_only()
    } else {
        table
    };
    let found = find(control, owned)?;
    if let Some(found) = &found
        && let Some([Target::Thin(live)]) = found.targets.as_deref()
        && live.len < wanted.len
        && (Thin {
            len: wanted.len,
            ..*live
        }) == wanted
        && found.device.read_only == spec.read_only
    {
        settle(control, owned, &found.device)?;
        grow(control, owned, &table)?;
        return Ok(found.device.dev);
    }
    match ensure_table_over(control, owned, found, ("activate a volume", &table)) {
        Ok((dev, _)) => Ok(dev),
        Err(KernelError::Dm { source, .. }) if source.is_no_data() => {
            Err(KernelError::ThinMissing {
                pool: spec.pool,
                thin: spec.thin,
            })
        }
        Err(error) => Err(error),
    }
}

/// The owner's device, if there is one.
pub(super) fn find_live(
    control: &Control,
    owner: ThinOwner,
) -> Result<Option<LiveThin>, KernelError> {
    let owned = Owned::Thin(owner);
    let Some(found) = find(control, owned)? else {
        return Ok(None);
    };
    let table = match found.targets.as_deref() {
        Some([Target::Thin(thin)]) => Some(*thin),
        Some(_) | None => None,
    };
    let mapped = match &table {
        None => None,
        Some(_) => match control.status(&owned.name(), Commit::No) {
            Ok(status) => status
                .targets
                .first()
                .and_then(|l| match l.text.parse().ok()? {
                    ThinStatus::Mapped { sectors, .. } => Some(Sectors(sectors).bytes()),
                    ThinStatus::Fail => None,
                }),
            Err(error) if error.is_not_found() => return Ok(None),
            Err(source) => {
                return Err(KernelError::Dm {
                    what: "read a volume's status",
                    source,
                });
            }
        },
    };
    Ok(Some(LiveThin {
        dev: found.device.dev,
        open_count: found.device.open_count,
        read_only: found.device.read_only,
        suspended: found.device.suspended,
        len: table.map_or(Sectors(0), |t| t.len),
        thin: table.map(|t| t.id),
        origin: table.and_then(|t| t.origin),
        mapped,
    }))
}

#[cfg(test)]
mod tests {
    use goldleaf_types::Bytes;

    use super::*;

    #[test]
    fn a_strangers_thin_is_told_of_with_what_it_holds_if_that_is_known() {
        let of = |mapped| KernelError::ForeignThin {
            pool: PoolId::from_bytes([1; 16]),
            thin: ThinId::new(7).unwrap(),
            mapped,
        };
        let known = of(Some(Sectors(256).bytes())).to_string();
        assert!(
            known.ends_with("has an unknown owner, and maps 128 KiB"),
            "{known}"
        );
        let unknown = of(None::<Bytes>).to_string();
        assert!(
            unknown.ends_with("exists and has an unknown owner"),
            "{unknown}"
        );
    }
}
