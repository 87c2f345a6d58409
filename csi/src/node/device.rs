//! Volumes' devices as the kernel shows them.
//!
//! Called by all of `node`. A device is known by its device-mapper UUID, which carries the volume's
//! id: neither names nor links nor numbers, which another device may have by now, are trusted. So
//! it works with the agent away too. Device-mapper is asked for the UUID, which takes as long whether
//! the host has one volume or thousands; what sysfs says of that device is then read.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use goldleaf_dm::{Control, DmError, Owned};
use goldleaf_types::{DEVICE_UUID_PREFIX, VolumeId};
use rustix::fs::{major, minor};

use super::mounts::{self, Number};
use crate::status::CsiError;

/// A volume's device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Whose it is.
    pub volume: VolumeId,
    /// Its number.
    pub number: Number,
    /// The kernel's name for it: "dm-3".
    pub kernel_name: String,
    /// Its node.
    pub path: PathBuf,
    /// Whether it refuses writes.
    pub read_only: bool,
    /// Its size, in bytes.
    pub size: u64,
}

fn text(path: &Path) -> io::Result<String> {
    fs::read_to_string(path).map(|text| text.trim().to_owned())
}

/// What a folder of sysfs says of a device; `None` when it is no volume's.
fn read(folder: &Path) -> Option<Device> {
    let uuid = text(&folder.join("dm/uuid")).ok()?;
    let volume = uuid.strip_prefix(DEVICE_UUID_PREFIX)?.parse().ok()?;
    let (major, minor) = text(&folder.join("dev"))
        .ok()?
        .split_once(':')
        .map(|(a, b)| {
            let number = |text: &str| text.parse::<u32>().ok();
            Some((number(a)?, number(b)?))
        })??;
    let folder = fs::canonicalize(folder).ok()?;
    let kernel_name = folder.file_name()?.to_str()?.to_owned();
    let sectors: u64 = text(&folder.join("size")).ok()?.parse().ok()?;
    Some(Device {
        volume,
        number: Number { major, minor },
        path: Path::new("/dev").join(&kernel_name),
        kernel_name,
        read_only: text(&folder.join("ro")).ok()? != "0",
        size: sectors.checked_mul(512)?,
    })
}

/// The volume's device, if it is there.
pub fn find(volume: VolumeId) -> Option<Device> {
    asked(volume).unwrap_or_else(|error| {
        tracing::warn!(%error, %volume, "device-mapper does not answer: its devices are searched");
        searched(volume)
    })
}

fn asked(volume: VolumeId) -> Result<Option<Device>, DmError> {
    let there = Control::open()?.find_uuid(&Owned::Thin(volume.into()).uuid())?;
    Ok(there.and_then(|there| {
        let (major, minor) = (there.dev.major, there.dev.minor);
        // It may have gone meanwhile, and another have its number.
        numbered(Number { major, minor }).filter(|device| device.volume == volume)
    }))
}

/// As [`find`], by a look at every device.
fn searched(volume: VolumeId) -> Option<Device> {
    let blocks = fs::read_dir("/sys/class/block").ok()?;
    let mut devices = blocks.flatten().filter_map(|entry| {
        let is_dm = entry.file_name().to_str()?.starts_with("dm-");
        is_dm.then(|| read(&entry.path())).flatten()
    });
    devices.find(|device| device.volume == volume)
}

/// The device of this number, if it is a volume's.
pub fn numbered(number: Number) -> Option<Device> {
    let Number { major, minor } = number;
    read(Path::new(&format!("/sys/dev/block/{major}:{minor}")))
}

/// The number that a device node has; `None` for anything else.
pub fn node_number(path: &Path) -> Option<Number> {
    let there = fs::metadata(path).ok()?;
    there.file_type().is_block_device().then(|| Number {
        major: major(there.rdev()),
        minor: minor(there.rdev()),
    })
}

/// What a volume is seen as at a path.
#[derive(Clone, Debug)]
pub enum Seen {
    /// As a block device.
    Block(Device),
    /// As a mounted file system.
    Mount(Device, mounts::Mount),
}

/// The volume as it is seen at a path where it was staged or published.
///
/// # Errors
///
/// [`CsiError::NotFound`] when something else is there, or nothing.
pub fn at(volume: VolumeId, path: &Path) -> Result<Seen, CsiError> {
    let missing = || CsiError::NotFound {
        what: "volume at this path",
        id: volume.to_string(),
    };
    let ours = |number| numbered(number).filter(|device| device.volume == volume);
    if let Some(number) = node_number(path) {
        return ours(number).map(Seen::Block).ok_or_else(missing);
    }
    let mount = mounts::on(path)?.ok_or_else(missing)?;
    let device = ours(mount.number).ok_or_else(missing)?;
    Ok(Seen::Mount(device, mount))
}
