//! The kernel's own device nodes: `/dev/dm-N` and its like.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::number::DevNumber;

/// The node of a block device, made here if nothing else did. A node of that name with another
/// number is never used.
///
/// # Errors
///
/// When the kernel knows no such device, or the node has another number.
pub fn ensure(dev: DevNumber) -> io::Result<PathBuf> {
    let link = fs::read_link(format!("/sys/dev/block/{dev}"))?;
    let name = link.file_name().ok_or(io::ErrorKind::InvalidData)?;
    let path = Path::new("/dev").join(name);
    match fs::metadata(&path) {
        Ok(found) => check(&path, &found, dev)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(&path, dev)?,
        Err(error) => return Err(error),
    }
    Ok(path)
}

fn check(path: &Path, found: &fs::Metadata, dev: DevNumber) -> io::Result<()> {
    if found.file_type().is_block_device() && found.rdev() == dev.raw() {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{} is not {dev}", path.display()),
    ))
}

fn make(path: &Path, dev: DevNumber) -> io::Result<()> {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(
        CWD,
        path,
        FileType::BlockDevice,
        Mode::RUSR | Mode::WUSR,
        dev.raw(),
    )?;
    Ok(())
}
