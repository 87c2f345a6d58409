//! File systems on volumes: found, checked, made where nothing can be lost, grown.
//!
//! Called by `stage` and `mod`. A file system is made only on a device that is proved blank: it
//! began as nothing, and the pool keeps no block for it. Making one is not one step, so marks are
//! written first, at places that `mkfs` leaves alone: a device with a mark is one that a crash left
//! half made, whatever it looks like, and is made again, also when it has grown since or was cloned. The
//! marks are gone before the first mount, so no user's data ever lies beside them.
//!
//! From the first look on all of it happens under a lock on the device, which `mkfs` and `e2fsck` hold
//! too: one that goes on when the plugin alone was killed is waited for, and never has a second beside
//! it. Marks are written and taken away by who has the device for itself, so never under a mount.

use std::ffi::OsString;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use goldleaf_proto::agent::v1 as agent;
use rustix::fs::{FlockOperation, OFlags, flock};
use tokio::time::Instant;

use super::device::Device;
use super::{blocking, mounts};
use crate::convert::capability::FileSystem;
use crate::failpoint::{Point, hit, inside};
use crate::run::{check_holding, run, run_holding, said};
use crate::status::CsiError;

/// The least device that a file system is made on, in bytes.
const LEAST: u64 = 1 << 20;

/// How long a program that outlived its plugin is waited for. One that was killed as well needs a
/// moment to end.
const OUTLIVED: Duration = Duration::from_secs(5);

/// What a device holds.
enum Content {
    Nothing,
    FileSystem(FileSystem),
    /// Something else, in words.
    Other(String),
}

/// The file system of a volume: the one that is there, or a new one where nothing can be lost. One
/// that is to be `written` is sound.
pub async fn ensure(
    device: &Device,
    thin: &agent::AgentThin,
    wanted: Option<FileSystem>,
    written: bool,
) -> Result<FileSystem, CsiError> {
    let volume = device.volume;
    let refuse = |why: String| Err(CsiError::Unfit(format!("volume {volume} {why}")));
    let lock = locked(device).await?;
    // Looked at first: `blkid` takes an xfs for whole from the first moments of its making.
    if off(device, is_marked).await? {
        return make(device, wanted, false, &lock).await;
    }
    match content(device).await? {
        Content::FileSystem(there) => match wanted {
            Some(wanted) if wanted != there => refuse(format!(
                "holds {}, and {} is asked for: ask for what is there",
                there.name(),
                wanted.name()
            )),
            Some(_) | None if written => sound(device, there, &lock).await.map(|()| there),
            Some(_) | None => Ok(there),
        },
        Content::Other(what) => refuse(format!(
            "holds {what}, which is not mounted: use it as a block device (volumeMode: Block)"
        )),
        Content::Nothing if !thin.image_digest.is_empty() => refuse(
            "began as an image in which no file system is found: use it as a block device \
             (volumeMode: Block)"
                .into(),
        ),
        Content::Nothing if thin.owned_bytes != Some(0) => refuse(
            "has been written, and no file system is found on it: none is made over it; use it \
             as a block device (volumeMode: Block), or delete it"
                .into(),
        ),
        Content::Nothing => make(device, wanted, true, &lock).await,
    }
}

/// Reads and writes of a device, off the threads that serve.
async fn off<T: Send + 'static>(
    device: &Device,
    work: fn(&Device) -> Result<T, CsiError>,
) -> Result<T, CsiError> {
    let device = device.clone();
    blocking(move || work(&device)).await
}

/// Makes a file system. Of a `fresh` device no block was ever written.
async fn make(
    device: &Device,
    wanted: Option<FileSystem>,
    fresh: bool,
    lock: &File,
) -> Result<FileSystem, CsiError> {
    let fs = wanted.unwrap_or(FileSystem::Ext4);
    if device.size < LEAST {
        let size = device.size;
        let why = format!("{size} bytes are too few for a file system");
        return Err(CsiError::OutOfRange(why));
    }
    off(device, mark).await?;
    hit(Point::StageMarked);
    let (program, plain): (_, &[&str]) = match fs {
        FileSystem::Ext4 => ("mkfs.ext4", &["-q", "-F", "-m", "0", "-E", "nodiscard"]),
        FileSystem::Xfs => ("mkfs.xfs", &["-q", "-f", "-K"]),
    };
    let mut made = None;
    if fs == FileSystem::Ext4 && fresh {
        // A fresh thin reads zeroes, so nothing needs to be zeroed and no block is taken for it. An
        // older mke2fs does not know this option.
        let zeroed = "nodiscard,assume_storage_prezeroed=1";
        let arguments = ["-q", "-F", "-m", "0", "-E", zeroed];
        let tried = mkfs(device, program, &arguments, lock).await?;
        made = tried.status.success().then_some(tried);
    }
    let made = match made {
        Some(made) => made,
        None => mkfs(device, program, plain, lock).await?,
    };
    if !made.status.success() {
        return Err(CsiError::Tool {
            program,
            volume: device.volume.to_string(),
            said: said(&made),
        });
    }
    hit(Point::StageMade);
    off(device, unmark).await?;
    hit(Point::StageUnmarked);
    Ok(fs)
}

/// Has errors repaired that the kernel noticed when an ext4 was last in use, and its journal replayed; of
/// one that was left in order this reads a few blocks. An xfs does that by itself when it is mounted, and
/// what is mounted already was sound then.
async fn sound(device: &Device, fs: FileSystem, lock: &File) -> Result<(), CsiError> {
    let number = device.number;
    let mounted = move || Ok(mounts::all()?.iter().any(|mount| mount.number == number));
    if fs != FileSystem::Ext4 || blocking(mounted).await? {
        return Ok(());
    }
    let (arguments, held) = (on(device, &["-p"]), hold(device, lock)?);
    let checked = check_holding("e2fsck", &arguments, held).await;
    let checked = checked.map_err(CsiError::Run)?;
    let (volume, said) = (device.volume, said(&checked));
    match checked.status.code() {
        Some(0) => Ok(()),
        // Repaired; for the root of a running system it would ask for a reboot besides.
        Some(code) if code & !3 == 0 => {
            tracing::warn!(%volume, said, "errors in an ext4 were repaired");
            Ok(())
        }
        Some(code) if code & 4 == 0 => {
            // Nothing was checked, for one that is newer than the program: the kernel may know it.
            tracing::warn!(%volume, code, said, "an ext4 could not be checked");
            Ok(())
        }
        Some(_) | None => Err(CsiError::Unfit(format!(
            "volume {volume} holds an ext4 with errors that only a person can repair ({said}): take a \
             snapshot of it, activate it on the host when nobody uses it (`goldleaf volume activate`) \
             and run `e2fsck -f` on its device there"
        ))),
    }
}

/// The device's lock, for a program that holds it as long as it lives.
fn hold(device: &Device, lock: &File) -> Result<File, CsiError> {
    lock.try_clone()
        .map_err(CsiError::host("hold", &device.path))
}

/// Arguments of a program that works on the device.
fn on(device: &Device, options: &[&str]) -> Vec<OsString> {
    let options = options.iter().map(OsString::from);
    options.chain([device.path.clone().into()]).collect()
}

/// Runs `mkfs`, which holds the device's lock as long as it lives.
async fn mkfs(
    device: &Device,
    program: &'static str,
    options: &[&str],
    lock: &File,
) -> Result<Output, CsiError> {
    let (arguments, held) = (on(device, options), hold(device, lock)?);
    let running = run_holding(program, &arguments, held);
    inside(Point::StageMaking, running)
        .await
        .map_err(CsiError::Run)
}

/// The device, locked against everybody else who makes or checks a file system on it; waits a little for them.
async fn locked(device: &Device) -> Result<File, CsiError> {
    let file = off(device, open).await?;
    let end = Instant::now() + OUTLIVED;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(errno) if errno.kind() != ErrorKind::WouldBlock => {
                return Err(CsiError::errno("lock", &device.path)(errno));
            }
            Err(_) if Instant::now() >= end => {
                return Err(CsiError::Locked(device.volume.to_string()));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Grows a mounted file system to its device.
pub async fn grow(device: &Device, mount: &mounts::Mount) -> Result<(), CsiError> {
    let (program, on): (_, &Path) = match FileSystem::named(&mount.fs_type) {
        Some(FileSystem::Ext4) => ("resize2fs", &device.path),
        Some(FileSystem::Xfs) => ("xfs_growfs", &mount.target),
        None => return Ok(()),
    };
    let grown = run(program, &[on]).await.map_err(CsiError::Run)?;
    if grown.status.success() {
        return Ok(());
    }
    Err(CsiError::Tool {
        program,
        volume: device.volume.to_string(),
        said: said(&grown),
    })
}

/// What is on the device, as `blkid` finds it by reading.
async fn content(device: &Device) -> Result<Content, CsiError> {
    let arguments = on(device, &["-p", "-o", "export"]);
    let output = run("blkid", &arguments).await.map_err(CsiError::Run)?;
    match output.status.code() {
        Some(0) => Ok(found(&String::from_utf8_lossy(&output.stdout))),
        Some(2) => Ok(Content::Nothing),
        Some(8) => Ok(Content::Other("several kinds of content at once".into())),
        Some(_) | None => Err(CsiError::Tool {
            program: "blkid",
            volume: device.volume.to_string(),
            said: said(&output),
        }),
    }
}

fn found(text: &str) -> Content {
    let value = |key: &str| {
        let mut pairs = text.lines().filter_map(|line| line.split_once('='));
        pairs.find(|(k, _)| *k == key).map(|(_, value)| value)
    };
    match (value("TYPE"), value("PTTYPE")) {
        (Some(name), _) => match FileSystem::named(name) {
            Some(fs) => Content::FileSystem(fs),
            None => Content::Other(name.into()),
        },
        (None, Some(table)) => Content::Other(format!("a partition table ({table})")),
        (None, None) => Content::Nothing,
    }
}

/// What a mark says. It is the same on every device, for a clone is as half made as its source.
const MARK: &[u8; 512] = &{
    let text = b"goldleaf: a file system is being made on this device\n";
    let mut mark = [0; 512];
    mark.split_at_mut(text.len()).0.copy_from_slice(text);
    mark
};

/// A place for a mark between `2^power` and its double. Neither of the beginning of a group of ext4's
/// blocks, where copies of its superblock are, nor of 16 of them, where its bitmaps and inodes are: odd
/// parts of a power of two are never there. Odd parts that differ never fall on the beginnings of xfs's
/// allocation groups together, which are a small part of the device each.
const fn place(power: u32) -> u64 {
    // 16 groups of ext4 have 2 GiB.
    let span = if power < 31 { power } else { 31 };
    let part = 37 + 2 * (power % 3) as u64;
    let at = (1 << power) + (part << span) / 64;
    at - at % 4096
}

/// Every place of a mark on a device of this size, of any size that it had before too, the last one last.
fn places(size: u64) -> Vec<u64> {
    let powers = LEAST.ilog2() - 3..u64::BITS - 1;
    powers
        .map(place)
        .take_while(|at| at + 512 <= size)
        .collect()
}

/// The places where marks are written: they depend on the size as little as can be, so that they are
/// among [`places`] of any larger one. Both kinds of `mkfs` write at the beginning, the end, and, for
/// their journal, somewhere after the middle: at least one place is before it, and the last of them is
/// after it where the device is so small that the journal comes first.
fn marked(size: u64) -> [u64; 3] {
    let power = size.max(LEAST).ilog2();
    [power - 3, power - 2, power - 1].map(place)
}

/// The device, for reading.
fn open(device: &Device) -> Result<File, CsiError> {
    File::open(&device.path).map_err(CsiError::host("open", &device.path))
}

/// The device, for writing; refused by the kernel while it is mounted, or another has it so.
fn open_alone(device: &Device) -> Result<File, CsiError> {
    let mut options = File::options();
    let alone = OFlags::EXCL.bits().cast_signed();
    options.read(true).write(true).custom_flags(alone);
    let opened = options.open(&device.path);
    opened.map_err(CsiError::host("have alone", &device.path))
}

fn is_there(device: &Device, file: &File, at: u64) -> Result<bool, CsiError> {
    let mut there = [0; MARK.len()];
    file.read_exact_at(&mut there, at)
        .map_err(CsiError::host("read", &device.path))?;
    Ok(there == *MARK)
}

fn is_marked(device: &Device) -> Result<bool, CsiError> {
    let file = open(device)?;
    for at in places(device.size) {
        if is_there(device, &file, at)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn mark(device: &Device) -> Result<(), CsiError> {
    let file = open_alone(device)?;
    let written = marked(device.size)
        .into_iter()
        .try_for_each(|at| file.write_all_at(MARK, at))
        .and_then(|()| file.sync_all());
    written.map_err(CsiError::host("mark", &device.path))
}

/// Takes the marks away, where they are still there: never anything else.
fn unmark(device: &Device) -> Result<(), CsiError> {
    let file = open_alone(device)?;
    for at in places(device.size) {
        if is_there(device, &file, at)? {
            file.write_all_at(&[0; MARK.len()], at)
                .map_err(CsiError::host("unmark", &device.path))?;
        }
    }
    file.sync_all()
        .map_err(CsiError::host("unmark", &device.path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_a_disk_and_nothing_are_told_apart() {
        assert!(matches!(
            found("TYPE=xfs\nUSAGE=filesystem\n"),
            Content::FileSystem(FileSystem::Xfs)
        ));
        assert!(matches!(found("PTTYPE=gpt\n"), Content::Other(what) if what.contains("gpt")));
        assert!(
            matches!(found("TYPE=LVM2_member\n"), Content::Other(what) if what == "LVM2_member")
        );
        assert!(matches!(found("DEVNAME=/dev/dm-1\n"), Content::Nothing));
    }

    #[test]
    fn a_mark_is_found_at_every_size_that_its_device_comes_to_have() {
        for size in
            (20..=50).flat_map(|power| [1 << power, (1 << power) + 4096, (2 << power) - 512])
        {
            let marks = marked(size);
            assert!(marks.is_sorted() && marks[2] + 512 <= size, "{size}");
            assert!(marks.iter().all(|at| at % 4096 == 0), "{size}");
            for grown in [size, size + 512, 2 * size, 5 * size, 1000 * size] {
                let all = places(grown);
                assert!(marks.iter().all(|at| all.contains(at)), "{size} {grown}");
            }
        }
    }
}
