//! What a file or device looks like from outside: cheap to ask for, and other after any change.
//!
//! Used by `folder`. Equal identities mean that the content was not touched since it was hashed;
//! other ones mean only that it must be hashed again. A device has no change time, so what counts
//! is that it is the same attached disk of the same boot and that nothing was written to it since:
//! the kernel counts sectors. Writes to a partition through its whole disk are not seen there, so
//! whoever gives a device gives it for good.

use std::fs::{self, File};
use std::io::{self, Seek};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

/// What content looks like from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A file's.
    File {
        /// Device number of its file system.
        device: u64,
        /// Its inode.
        inode: u64,
        /// Its size in bytes.
        size: u64,
        /// When it or its inode was last changed: seconds since 1970, and nanoseconds.
        changed: (i64, i64),
    },
    /// A block device's.
    Device {
        /// Its number.
        number: u64,
        /// Its size in bytes.
        size: u64,
        /// The boot that saw it.
        boot: String,
        /// Which attached disk this is, counted since the boot; none for partitions.
        disk: Option<u64>,
        /// Sectors written and discarded since the disk was attached, as the kernel counts.
        written: Option<u64>,
    },
}

impl Identity {
    /// What an open file or block device looks like now.
    ///
    /// # Errors
    ///
    /// The host's, and `InvalidInput` for anything else than a file or a block device.
    pub fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        if meta.file_type().is_block_device() {
            let number = meta.rdev();
            let sys = format!(
                "/sys/dev/block/{}:{}",
                rustix::fs::major(number),
                rustix::fs::minor(number)
            );
            let read = |name: &str| fs::read_to_string(format!("{sys}/{name}")).ok();
            return Ok(Self::Device {
                number,
                size: device_size(file)?,
                boot: fs::read_to_string("/proc/sys/kernel/random/boot_id")?
                    .trim()
                    .to_owned(),
                disk: read("diskseq").and_then(|text| text.trim().parse().ok()),
                written: read("stat").and_then(|text| written(&text)),
            });
        }
        if !meta.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "neither a file nor a block device",
            ));
        }
        Ok(Self::File {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.len(),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }

    /// Size in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        match self {
            Self::File { size, .. } | Self::Device { size, .. } => *size,
        }
    }
}

/// Sectors written and discarded, from a block device's `stat`.
///
/// Source: Linux `Documentation/block/stat.rst`: the seventh field is write sectors, the
/// fourteenth discard sectors.
fn written(stat: &str) -> Option<u64> {
    let fields: Vec<u64> = stat
        .split_whitespace()
        .map_while(|f| f.parse().ok())
        .collect();
    Some(
        fields
            .get(6)?
            .saturating_add(fields.get(13).copied().unwrap_or(0)),
    )
}

/// A block device's size: where its end is. Leaves the file at its beginning.
fn device_size(mut device: &File) -> io::Result<u64> {
    let size = device.seek(io::SeekFrom::End(0))?;
    device.rewind()?;
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_and_a_discard_both_show_in_a_devices_counter() {
        let before = "  10 0 80 1  3 0 24 2 0 5 5 1 0 16 0 2 3";
        let after_write = "  10 0 80 1  4 0 32 2 0 5 5 1 0 16 0 2 3";
        let after_discard = "  10 0 80 1  3 0 24 2 0 5 5 2 0 32 0 2 3";
        assert_eq!(written(before), Some(40));
        assert_ne!(written(before), written(after_write));
        assert_ne!(written(before), written(after_discard));
        // Kernels before discards were counted have eleven fields.
        assert_eq!(written("1 0 8 1 3 0 24 2 0 5 5"), Some(24));
        assert_eq!(written("not a stat"), None);
    }

    #[test]
    fn a_files_identity_differs_after_a_write_of_the_same_length() {
        let path = tempfile::NamedTempFile::new().unwrap();
        fs::write(path.path(), b"one").unwrap();
        let before = Identity::of(&File::open(path.path()).unwrap()).unwrap();
        assert_eq!(
            before,
            Identity::of(&File::open(path.path()).unwrap()).unwrap()
        );
        let later = File::open(path.path()).unwrap();
        // Change times are as coarse as the kernel's tick: a few writes may share one.
        let seen = (0..1_000_000).any(|_| {
            fs::write(path.path(), b"two").unwrap();
            Identity::of(&later).unwrap() != before
        });
        assert!(seen, "no write showed");
        assert_eq!(Identity::of(&later).unwrap().size(), 3);
        assert!(Identity::of(&File::open("/proc").unwrap()).is_err());
    }
}
