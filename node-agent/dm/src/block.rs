//! What a block device says of itself.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use goldleaf_types::Bytes;

use crate::ioctl;
use crate::number::DevNumber;

/// Its size.
///
/// # Errors
///
/// ENOTTY for what is no block device.
pub fn size(device: &File) -> io::Result<Bytes> {
    Ok(Bytes(ioctl::block_size64(device.as_fd())?))
}

/// Its number.
///
/// # Errors
///
/// `InvalidInput` for what is no block device.
pub fn number(device: &File) -> io::Result<DevNumber> {
    let found = device.metadata()?;
    if !found.file_type().is_block_device() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a block device",
        ));
    }
    Ok(DevNumber::from_raw(found.rdev()))
}

/// Gives a stretch of it up. Blocks until it is.
///
/// # Errors
///
/// EOPNOTSUPP where it takes no discards, EINVAL for what is no multiple of 512.
pub fn discard(device: &File, start: Bytes, len: Bytes) -> io::Result<()> {
    Ok(ioctl::block_discard(device.as_fd(), start.0, len.0)?)
}

/// Whether it refuses writes.
///
/// # Errors
///
/// ENOTTY for what is no block device.
pub fn is_read_only(device: &File) -> io::Result<bool> {
    Ok(ioctl::block_read_only(device.as_fd())?)
}

/// Makes it refuse writes, or take them again. Works while it is in use.
///
/// # Errors
///
/// EACCES without root.
pub fn set_read_only(device: &File, read_only: bool) -> io::Result<()> {
    Ok(ioctl::block_set_read_only(device.as_fd(), read_only)?)
}
