//! Loop devices: a file as a block device.
//!
//! Attached in one step (`LOOP_CONFIGURE`, Linux 5.8), so that no half-made device is ever seen.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::block;
use crate::buffer::{text, u32_at, u64_at};
use crate::ioctl::{self, Aligned, LOOP_CONFIG, LOOP_INFO};
use crate::number::DevNumber;

/// Whether the device takes writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// No.
    ReadOnly,
    /// Yes.
    ReadWrite,
}

/// Whether the device goes with its last user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Autoclear {
    /// Yes.
    Yes,
    /// No.
    No,
}

/// Whether I/O bypasses the page cache of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectIo {
    /// Yes: writes are cached once, above.
    Yes,
    /// No: many readers share one cache.
    No,
}

/// An open loop device. With [`Autoclear::Yes`] it goes when this and every table over it are gone.
#[derive(Debug)]
pub struct LoopDevice {
    file: File,
    path: PathBuf,
    dev: DevNumber,
}

impl LoopDevice {
    /// Its number.
    #[must_use]
    pub const fn dev(&self) -> DevNumber {
        self.dev
    }

    /// Its node.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open node.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Makes it as large as its file is now; what uses it goes on.
    ///
    /// # Errors
    ///
    /// ENXIO when nothing is attached.
    pub fn follow_size(&self) -> io::Result<()> {
        Ok(ioctl::loop_set_capacity(self.file.as_fd())?)
    }

    /// Detaches it, at its last close if it is in use.
    ///
    /// # Errors
    ///
    /// ENXIO when nothing is attached.
    pub fn detach(&self) -> io::Result<()> {
        Ok(ioctl::loop_clear(self.file.as_fd())?)
    }
}

/// What is attached to a loop device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoopStatus {
    /// The file system that has the file, as `stat` says it.
    pub backing_dev: u64,
    /// The file's inode.
    pub backing_inode: u64,
    /// Where the device begins in it, in bytes.
    pub offset: u64,
    /// Its longest length in bytes; 0 for the whole file.
    pub size_limit: u64,
    /// Whether it refuses writes.
    pub read_only: bool,
    /// Whether it goes with its last user.
    pub autoclear: bool,
    /// The file's name at the time, cut at 63 bytes.
    pub file_name: String,
}

impl LoopStatus {
    /// Whether the device is the file, byte for byte, and takes writes.
    #[must_use]
    pub const fn is_whole_and_writable(&self) -> bool {
        self.offset == 0 && self.size_limit == 0 && !self.read_only
    }
}

const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;
/// Where `lo_flags` is in `struct loop_info64`, and the info in `struct loop_config`.
const FLAGS_AT: usize = 52;
const INFO_AT: usize = 8;

/// Attaches a file to a free loop device.
///
/// # Errors
///
/// EINVAL when the file cannot do direct I/O and it was asked for.
pub fn attach(
    file: &File,
    access: Access,
    autoclear: Autoclear,
    direct: DirectIo,
) -> io::Result<LoopDevice> {
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/loop-control")?;
    let mut flags = 0;
    flags |= if access == Access::ReadOnly {
        READ_ONLY
    } else {
        0
    };
    flags |= if autoclear == Autoclear::Yes {
        AUTOCLEAR
    } else {
        0
    };
    flags |= if direct == DirectIo::Yes {
        DIRECT_IO
    } else {
        0
    };
    let fd = u32::try_from(file.as_raw_fd()).map_err(|_| Errno::BADF)?;
    loop {
        let number = ioctl::loop_get_free(control.as_fd())?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let minor = u32::try_from(number).map_err(|_| Errno::RANGE)?;
        // The node may lag behind the device where no devtmpfs makes it.
        let path = crate::nodes::ensure(DevNumber { major: 7, minor }).unwrap_or(path);
        let mut open = OpenOptions::new();
        let device = open
            .read(true)
            .write(access == Access::ReadWrite)
            .open(&path)?;
        let mut config = Aligned([0; LOOP_CONFIG]);
        config.0[..4].copy_from_slice(&fd.to_ne_bytes());
        config.0[INFO_AT + FLAGS_AT..INFO_AT + FLAGS_AT + 4].copy_from_slice(&flags.to_ne_bytes());
        match ioctl::loop_configure(device.as_fd(), &mut config) {
            Ok(()) => {
                let dev = block::number(&device)?;
                return Ok(LoopDevice {
                    file: device,
                    path,
                    dev,
                });
            }
            // Somebody else took it between the two calls: there is another.
            Err(Errno::BUSY) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// What is attached; `None` when nothing is, or it is no loop device.
///
/// # Errors
///
/// As opening it says.
pub fn status(path: &Path) -> io::Result<Option<LoopStatus>> {
    let name = path
        .file_name()
        .and_then(|n| n.to_str())
        .unwrap_or_default();
    if !name.starts_with("loop") {
        return Ok(None);
    }
    let device = File::open(path)?;
    let mut info = Aligned([0; LOOP_INFO]);
    match ioctl::loop_status(device.as_fd(), &mut info) {
        Ok(()) => Ok(parse(&info.0)),
        Err(Errno::NXIO | Errno::NOTTY) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn parse(info: &[u8]) -> Option<LoopStatus> {
    let flags = u32_at(info, FLAGS_AT)?;
    // The kernel encodes device numbers here as `stat` does.
    Some(LoopStatus {
        backing_dev: u64_at(info, 0)?,
        backing_inode: u64_at(info, 8)?,
        offset: u64_at(info, 24)?,
        size_limit: u64_at(info, 32)?,
        read_only: flags & READ_ONLY != 0,
        autoclear: flags & AUTOCLEAR != 0,
        file_name: text(info.get(56..120)?),
    })
}

/// Every loop device over a file, or over a part of it, with what is attached to it.
///
/// # Errors
///
/// When /sys cannot be read.
pub fn find_by_backing(dev: u64, inode: u64) -> io::Result<Vec<(LoopDevice, LoopStatus)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/sys/class/block")?.flatten() {
        if !entry.path().join("loop").is_dir() {
            continue;
        }
        let path = Path::new("/dev").join(entry.file_name());
        let Ok(file) = File::open(&path) else {
            continue;
        };
        // Asked through the file that is kept: it cannot be detached and reused in between.
        let mut info = Aligned([0; LOOP_INFO]);
        let attached = ioctl::loop_status(file.as_fd(), &mut info)
            .ok()
            .and_then(|()| parse(&info.0));
        if let Some(status) = attached.filter(|s| (s.backing_dev, s.backing_inode) == (dev, inode))
        {
            let dev = block::number(&file)?;
            found.push((LoopDevice { file, path, dev }, status));
        }
    }
    Ok(found)
}
