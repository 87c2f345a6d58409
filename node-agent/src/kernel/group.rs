//! Snapshots of several thins at one instant.
//!
//! Used by `dm`. All live sources are suspended, then every message is sent, then all run again:
//! a write is in no snapshot unless whatever was done before it is in the others. Each suspension
//! waits on a thread of its own, so one that hangs keeps no other device stopped past the deadline.
//! A death in between leaves suspended devices and some thins: the sweep lets the ones run and
//! takes the others away.

use std::collections::BTreeSet;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use goldleaf_dm::{Control, Flush, LockFs, Owned, PoolMessage, Suspended};
use goldleaf_types::{PoolId, ThinId};

use super::pool::{Refused, message};
use super::{GroupMember, KernelError, thin};
use crate::failpoint::{Point, hit};

/// Leaves a snapshot of each member's source, all of one instant, or none of them.
pub(super) fn create(
    control: &Control,
    pool: PoolId,
    members: &[GroupMember],
    limit: Duration,
) -> Result<(), KernelError> {
    let live: BTreeSet<_> = members.iter().filter_map(|member| member.live).collect();
    let names: Vec<_> = live
        .iter()
        .map(|owner| Owned::Thin(*owner).name())
        .collect();
    let deadline = Instant::now() + limit;
    let mut made = Vec::new();
    let done = thread::scope(|scope| {
        // Dropped on every way out of here, and with it lets everything run again: what it holds,
        // and what a thread that comes late still hands in.
        let (tell, told) = mpsc::channel();
        for name in &names {
            let tell = tell.clone();
            scope.spawn(move || {
                let _ = tell.send(Suspended::new(control, name, Flush::Yes, LockFs::Yes));
            });
        }
        drop(tell);
        let suspended = all_suspended(&told, names.len(), (deadline, limit))?;
        hit(Point::GroupSuspended);
        let frozen = freeze(control, pool, members, (deadline, limit), &mut made);
        // Every one of them, whatever became of the others.
        let resumed: Vec<_> = suspended.into_iter().map(Suspended::resume).collect();
        frozen?;
        let resumed: Result<(), _> = resumed.into_iter().collect();
        resumed.map_err(KernelError::dm("resume a volume of a group"))
    });
    let Err(error) = done else { return Ok(()) };
    let mut left = Vec::new();
    for thin in made {
        if let Err(why) = thin::ensure_none(control, pool, thin) {
            tracing::warn!(%pool, %thin, error = %crate::telemetry::Chain(&why),
                "a part of a group stays for now");
            left.push(thin);
        }
    }
    if left.is_empty() {
        return Err(error);
    }
    Err(KernelError::PartsLeft {
        pool,
        thins: left,
        source: Box::new(error),
    })
}

type Told<'c> = Result<Suspended<'c>, goldleaf_dm::DmError>;

/// Waits until each device is suspended, no longer than the deadline.
fn all_suspended<'c>(
    told: &mpsc::Receiver<Told<'c>>,
    count: usize,
    (deadline, limit): (Instant, Duration),
) -> Result<Vec<Suspended<'c>>, KernelError> {
    let mut suspended = Vec::new();
    while suspended.len() < count {
        let left = deadline.saturating_duration_since(Instant::now());
        match told.recv_timeout(left) {
            Ok(device) => {
                suspended.push(device.map_err(KernelError::dm("suspend a volume of a group"))?);
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                return Err(KernelError::TooSlow { limit });
            }
        }
    }
    Ok(suspended)
}

/// Every message; what came to be, or may have, is in `made`, also when a later one fails.
fn freeze(
    control: &Control,
    pool: PoolId,
    members: &[GroupMember],
    (deadline, limit): (Instant, Duration),
    made: &mut Vec<ThinId>,
) -> Result<(), KernelError> {
    for member in members {
        if Instant::now() >= deadline {
            return Err(KernelError::TooSlow { limit });
        }
        let wanted = PoolMessage::CreateSnap {
            id: member.thin,
            origin: member.source,
        };
        match message(control, pool, &wanted) {
            Ok(()) => made.push(member.thin),
            Err(Refused::Error(error)) => {
                // No answer to the message itself: it may be there.
                made.push(member.thin);
                return Err(error);
            }
            Err(Refused::Answer(error)) if error.exists() => {
                return Err(KernelError::ForeignThin {
                    pool,
                    thin: member.thin,
                    mapped: None,
                });
            }
            Err(Refused::Answer(error)) if error.is_no_data() => {
                let thin = member.source;
                return Err(KernelError::ThinMissing { pool, thin });
            }
            Err(refused @ Refused::Answer(_)) => return Err(refused.into_error()),
        }
        hit(Point::GroupBegun);
    }
    Ok(())
}
