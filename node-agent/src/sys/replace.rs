//! A file that is replaced whole: a crash leaves the old bytes or the new ones, and perhaps a file
//! beside it that the next time writes over.
//!
//! Used for what the agent keeps in files of its own. They are its owner's alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Makes these the bytes of the file at `path`, durably. Blocks.
///
/// # Errors
///
/// The host's. The old file, if any, is then as it was, or whole as it is to be.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    sync_folder(path.parent().unwrap_or(path))
}

/// Makes what was renamed or removed in a folder durable. Blocks.
///
/// # Errors
///
/// The host's.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
