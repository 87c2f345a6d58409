//! A pool's disks, its status and its messages. Its tables are in `pool_tables`.
//!
//! Used by `dm`. Nothing is remembered: what the kernel says now is asked for each time.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use goldleaf_dm::{
    Access, Autoclear, Commit, Control, DevNumber, DirectIo, DmError, LoopDevice, Owned,
    PoolMessage, PoolStatus, loopdev, nodes,
};
use goldleaf_types::PoolId;
use rustix::fs::OFlags;

use super::dm::ensure_none as no_device;
use super::{Attached, KernelError, Outcome, Unwritable};

/// The loop device over a pool's file: the one that a table already uses, or a new one. One over a
/// part of the file, or that takes no writes, is somebody's: over it every table would be shifted.
pub(super) fn attach(file: &File) -> Result<Attached, KernelError> {
    let failed = |source| KernelError::io("attach a loop device")(source);
    let identity = file.metadata().map_err(failed)?;
    let found = loopdev::find_by_backing(identity.dev(), identity.ino()).map_err(failed)?;
    if let Some((other, how)) = found.iter().find(|(_, s)| !s.is_whole_and_writable()) {
        return Err(KernelError::Busy {
            what: format!(
                "the file behind {} (offset {}, size limit {}, read-only {})",
                other.path().display(),
                how.offset,
                how.size_limit,
                how.read_only
            ),
            openers: 1,
        });
    }
    let device = match found.into_iter().next() {
        Some((device, _)) => {
            // The file may have grown since it was attached.
            device.follow_size().map_err(failed)?;
            device
        }
        None => attach_whole(file, Access::ReadWrite).map_err(failed)?,
    };
    Ok(Attached {
        dev: device.dev(),
        keep: Some(device),
    })
}

/// Sees that no device is over this one and that nobody has it for himself.
pub(super) fn check_unused(dev: DevNumber) -> Result<(), KernelError> {
    let looking = || format!("see who uses device {dev}");
    let busy = |what: String, openers| Err(KernelError::Busy { what, openers });
    let holders = format!("/sys/dev/block/{}:{}/holders", dev.major, dev.minor);
    let names: Vec<String> = std::fs::read_dir(holders)
        .map_err(KernelError::io(looking()))?
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    if !names.is_empty() {
        let openers = u32::try_from(names.len()).unwrap_or(u32::MAX);
        return busy(format!("it is under {}", names.join(", ")), openers);
    }
    let node = nodes::ensure(dev).map_err(KernelError::io(looking()))?;
    let excl = i32::try_from(OFlags::EXCL.bits()).unwrap_or(0);
    match File::options().read(true).custom_flags(excl).open(node) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => busy(
            "the kernel says it is mounted, swapped on or in a set of disks".into(),
            1,
        ),
        Err(error) => Err(KernelError::io(looking())(error)),
    }
}

/// A new loop device over all of a file, which goes with its last user.
pub(super) fn attach_whole(file: &File, access: Access) -> io::Result<LoopDevice> {
    // Opened anew: the loop device outlives this process, and with the caller's own open file it
    // would keep the caller's lock.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let own = File::options().read(true).write(true).open(path)?;
    // Direct, where the file system can: the pool's writes are cached once, above.
    loopdev::attach(&own, access, Autoclear::Yes, DirectIo::Yes)
        .or_else(|_| loopdev::attach(&own, access, Autoclear::Yes, DirectIo::No))
}

/// Leaves none of the three. The pool goes first: it holds the other two.
pub(super) fn ensure_none(control: &Control, pool: PoolId) -> Result<Outcome, KernelError> {
    let mut outcome = Outcome::AlreadySo;
    for owned in [
        Owned::Pool(pool),
        Owned::PoolMetadata(pool),
        Owned::PoolData(pool),
    ] {
        if no_device(control, owned)? == Outcome::Done {
            outcome = Outcome::Done;
        }
    }
    Ok(outcome)
}

/// The pool's status.
pub(super) fn status(
    control: &Control,
    pool: PoolId,
    commit: Commit,
) -> Result<PoolStatus, KernelError> {
    let status = match control.status(&Owned::Pool(pool).name(), commit) {
        Ok(status) => status,
        Err(error) if error.is_not_found() => return Err(KernelError::NoPool(pool)),
        Err(source) => {
            return Err(KernelError::Dm {
                what: "read a pool's status",
                source,
            });
        }
    };
    let Some(line) = status.targets.first() else {
        return Err(KernelError::NoPool(pool));
    };
    line.text.parse().map_err(|_| KernelError::Metadata {
        pool,
        why: format!("its status is unknown to this version: {:?}", line.text),
    })
}

/// Why a message did nothing.
pub(super) enum Refused {
    /// The kernel's own answer, which a caller may take for an outcome.
    Answer(DmError),
    /// Anything else.
    Error(KernelError),
}

impl Refused {
    pub(super) fn into_error(self) -> KernelError {
        match self {
            Self::Answer(source) => KernelError::Dm {
                what: "send a pool a message",
                source,
            },
            Self::Error(error) => error,
        }
    }
}

/// Sends a message, and believes a success only when the pool still takes changes: the kernel
/// ignores the result of the commit behind it.
pub(super) fn message(
    control: &Control,
    pool: PoolId,
    message: &PoolMessage,
) -> Result<(), Refused> {
    let name = Owned::Pool(pool).name();
    match control.pool_message(&name, message) {
        Ok(_) => {}
        Err(error) if error.is_not_found() => {
            return Err(Refused::Error(KernelError::NoPool(pool)));
        }
        Err(error) if error.is_refused_by_mode() => {
            return Err(Refused::Error(not_writable(control, pool)));
        }
        Err(error) => return Err(Refused::Answer(error)),
    }
    let status = status(control, pool, Commit::No).map_err(Refused::Error)?;
    match Unwritable::of(&status) {
        None => Ok(()),
        Some(why) => Err(Refused::Error(KernelError::NotWritable {
            pool,
            why: why.to_string(),
        })),
    }
}

fn not_writable(control: &Control, pool: PoolId) -> KernelError {
    match status(control, pool, Commit::No) {
        Ok(status) => KernelError::NotWritable {
            pool,
            why: Unwritable::of(&status)
                .map_or_else(|| "the kernel refuses messages".into(), |w| w.to_string()),
        },
        Err(error) => error,
    }
}
