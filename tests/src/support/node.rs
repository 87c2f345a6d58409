//! A block device, read and written a piece at a time.
//!
//! Opened anew for each access: nothing is held open that would keep a device from being removed,
//! and what one access cached the next does not see. Whole sectors go past the page cache, so that
//! an error is the answer to the access that met it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use goldleaf_dm::{DevNumber, block, nodes};
use goldleaf_types::{Bytes, SECTOR};
use rustix::fs::OFlags;

const ALIGN: usize = 4096;
const PIECE: usize = 1 << 20;

/// A block device by its node.
#[derive(Clone, Debug)]
pub struct Node {
    dev: DevNumber,
    path: PathBuf,
}

impl Node {
    /// The node of a device.
    ///
    /// # Panics
    ///
    /// When there is no such device.
    #[must_use]
    pub fn of(dev: DevNumber) -> Self {
        let path = nodes::ensure(dev).expect("a node of the device");
        Self { dev, path }
    }

    /// Its number.
    #[must_use]
    pub const fn dev(&self) -> DevNumber {
        self.dev
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size now.
    ///
    /// # Panics
    ///
    /// When it is gone.
    #[must_use]
    pub fn size(&self) -> Bytes {
        let file = File::open(&self.path).expect("the device");
        block::size(&file).expect("its size")
    }

    /// Reads `len` bytes at `offset`.
    ///
    /// # Panics
    ///
    /// When the device refuses.
    #[must_use]
    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        self.try_read(offset, len)
            .unwrap_or_else(|error| panic!("read of {len} at {offset} of {self:?}: {error}"))
    }

    /// As [`Node::read`].
    ///
    /// # Errors
    ///
    /// What the device says.
    pub fn try_read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut options = OpenOptions::new();
        options.read(true);
        let file = direct(&mut options, offset, len).open(&self.path)?;
        let mut buffer = Aligned::new(len);
        file.read_exact_at(buffer.bytes(), offset)?;
        Ok(buffer.bytes().to_vec())
    }

    /// Writes bytes at `offset`, and waits until they are safe.
    ///
    /// # Panics
    ///
    /// When the device refuses.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        self.try_write(offset, bytes)
            .unwrap_or_else(|error| panic!("write at {offset} of {self:?}: {error}"));
    }

    /// As [`Node::write`].
    ///
    /// # Errors
    ///
    /// What the device says.
    pub fn try_write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true);
        let file = direct(&mut options, offset, bytes.len()).open(&self.path)?;
        let mut buffer = Aligned::new(bytes.len());
        buffer.bytes().copy_from_slice(bytes);
        file.write_all_at(buffer.bytes(), offset)?;
        file.sync_all()
    }

    /// Writes the same sectors at many offsets, each on its own and without a flush, until the
    /// device refuses one: how many it took, and why no more.
    ///
    /// # Panics
    ///
    /// When it cannot be opened.
    pub fn write_until_refused(
        &self,
        offsets: impl IntoIterator<Item = u64>,
        bytes: &[u8],
    ) -> (u64, Option<io::Error>) {
        let mut options = OpenOptions::new();
        options.write(true);
        let file = direct(&mut options, 0, bytes.len())
            .open(&self.path)
            .expect("the device");
        let mut buffer = Aligned::new(bytes.len());
        buffer.bytes().copy_from_slice(bytes);
        let mut taken = 0;
        for offset in offsets {
            if let Err(error) = file.write_all_at(buffer.bytes(), offset) {
                return (taken, Some(error));
            }
            taken += 1;
        }
        (taken, None)
    }

    /// The whole of it is compared, a piece at a time: each byte with what `expected` says of the
    /// piece at that offset and of that length.
    ///
    /// # Panics
    ///
    /// At the first byte that differs.
    pub fn assert_reads(&self, expected: impl Fn(u64, usize) -> Vec<u8>) {
        let size = self.size().0;
        let mut offset = 0;
        while offset < size {
            let len = usize::try_from(size - offset).map_or(PIECE, |left| left.min(PIECE));
            let (found, wanted) = (self.read(offset, len), expected(offset, len));
            assert_eq!(wanted.len(), len, "the test expects as much as there is");
            if found != wanted {
                let at = found
                    .iter()
                    .zip(&wanted)
                    .position(|(a, b)| a != b)
                    .expect("a difference");
                let at = offset + u64::try_from(at).expect("within a piece");
                panic!(
                    "{self:?} differs at byte {at} (sector {}) of {size}",
                    at / SECTOR
                );
            }
            offset += u64::try_from(len).expect("within a piece");
        }
    }
}

/// Past the page cache where offset and length are whole sectors.
fn direct(options: &mut OpenOptions, offset: u64, len: usize) -> &mut OpenOptions {
    let len = u64::try_from(len).expect("a length");
    if offset.is_multiple_of(SECTOR) && len.is_multiple_of(SECTOR) {
        let flag = i32::try_from(OFlags::DIRECT.bits()).expect("a flag of open");
        options.custom_flags(flag);
    }
    options
}

/// Memory that direct I/O takes.
struct Aligned {
    room: Vec<u8>,
    from: usize,
    len: usize,
}

impl Aligned {
    fn new(len: usize) -> Self {
        let room = vec![0; len + ALIGN];
        let from = room.as_ptr().align_offset(ALIGN);
        Self { room, from, len }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.room[self.from..self.from + self.len]
    }
}
