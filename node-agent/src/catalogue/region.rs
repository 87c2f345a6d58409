//! A stretch of a device as the bounded, growing storage that redb wants.
//!
//! Used by the catalogue alone. The region begins with two copies of a header that says how much
//! of it is in use; the rest is redb's. A new length is durable before anything relies on it, and
//! what it adds reads as zeroes. A crash leaves one whole header at least; the one of the larger
//! generation counts. Growing past the region fails with [`io::ErrorKind::StorageFull`].

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use goldleaf_types::Bytes;
use redb::StorageBackend;
use rustix::fs::FallocateFlags;

/// Bytes of one copy of the header.
const SLOT: u64 = 4096;
/// What the headers take of a region, in bytes.
pub(super) const HEADERS: u64 = 2 * SLOT;
const SLOT_LEN: usize = 4096;
const MAGIC: [u8; 16] = *b"GOLDLEAF REGION\n";
const VERSION: u32 = 1;
const AT_VERSION: usize = 16;
const AT_CHECKSUM: usize = 20;
const AT_GENERATION: usize = 24;
const AT_LENGTH: usize = 32;
const AT_FLAGS: usize = 40;
const FLAG_SOLE: u32 = 1;

/// What a region lies on: a device or file, or a test's disk that loses power.
pub trait Medium: Debug + Send + Sync + 'static {
    /// Fills `buf` from `offset` on.
    ///
    /// # Errors
    ///
    /// When the device fails or ends before.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `buf` at `offset`.
    ///
    /// # Errors
    ///
    /// When the device fails or ends before.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Makes `len` bytes from `offset` on read as zeroes.
    ///
    /// # Errors
    ///
    /// When the device fails or ends before.
    fn write_zeroes_at(&self, offset: u64, len: u64) -> io::Result<()> {
        plain_zeroes(self, offset, len)
    }

    /// Makes every write so far durable.
    ///
    /// # Errors
    ///
    /// When the device fails; what is durable then is unknown.
    fn sync_data(&self) -> io::Result<()>;
}

/// The device may be longer than the region: nothing here changes its length.
impl Medium for File {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, buf, offset)
    }

    fn write_zeroes_at(&self, offset: u64, len: u64) -> io::Result<()> {
        // The device may do it without a transfer; where it cannot, zeroes are written.
        match rustix::fs::fallocate(self, FallocateFlags::ZERO_RANGE, offset, len) {
            Ok(()) => Ok(()),
            Err(_) => plain_zeroes(self, offset, len),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }
}

fn plain_zeroes<M: Medium + ?Sized>(medium: &M, offset: u64, len: u64) -> io::Result<()> {
    let zeroes = [0; 64 << 10];
    let (mut at, end) = (offset, offset + len);
    while at < end {
        let n = (end - at).min(64 << 10);
        let chunk = usize::try_from(n).expect("at most 64 KiB");
        medium.write_all_at(&zeroes[..chunk], at)?;
        at += n;
    }
    Ok(())
}

/// What the newest whole header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    generation: u64,
    /// Bytes in use after the headers.
    length: u64,
    /// This copy alone has every answered change: another one is older.
    sole: bool,
}

/// What a region without content counts as.
const BLANK: Header = Header {
    generation: 0,
    length: 0,
    sole: false,
};

/// A region as storage. Clones are the same storage.
#[derive(Debug)]
pub struct RegionStorage<M: Medium = File>(Arc<Place<M>>);

impl<M: Medium> Clone for RegionStorage<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Place<M> {
    medium: M,
    offset: u64,
    /// Bytes there are after the headers.
    capacity: u64,
    /// `None` until it was first read.
    header: Mutex<Option<Header>>,
}

impl<M: Medium> RegionStorage<M> {
    /// The region of `len` bytes at `offset`. Reads nothing yet.
    #[must_use]
    pub fn new(medium: M, offset: Bytes, len: Bytes) -> Self {
        let capacity = len.0.saturating_sub(HEADERS);
        Self(Arc::new(Place {
            medium,
            offset: offset.0,
            capacity,
            header: Mutex::new(None),
        }))
    }

    /// Bytes that it can hold.
    #[must_use]
    pub fn capacity(&self) -> Bytes {
        Bytes(self.0.capacity)
    }

    /// Leaves the region without content, durably. Blocks.
    ///
    /// # Errors
    ///
    /// When the device fails.
    pub fn erase(&self) -> io::Result<()> {
        let mut header = self.0.header.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.medium.write_zeroes_at(self.0.offset, HEADERS)?;
        self.0.medium.sync_data()?;
        *header = Some(BLANK);
        Ok(())
    }

    /// Whether this copy says that it alone has every answered change. Blocks.
    ///
    /// # Errors
    ///
    /// When no header can be read, or none is whole.
    pub(super) fn is_sole(&self) -> io::Result<bool> {
        Ok(self.header()?.sole)
    }

    /// Writes down, durably, whether this copy alone has every answered change. Blocks.
    ///
    /// # Errors
    ///
    /// When the device fails.
    pub(super) fn set_sole(&self, sole: bool) -> io::Result<()> {
        let before = self.header()?;
        if before.sole == sole {
            return Ok(());
        }
        self.put_header(Header {
            generation: before.generation + 1,
            sole,
            ..before
        })
    }

    /// Makes a header the one that counts, durably.
    fn put_header(&self, header: Header) -> io::Result<()> {
        let slot = header.generation % 2;
        self.0
            .medium
            .write_all_at(&encode(header), self.0.offset + slot * SLOT)?;
        self.0.medium.sync_data()?;
        *self.0.header.lock().unwrap_or_else(PoisonError::into_inner) = Some(header);
        Ok(())
    }

    fn header(&self) -> io::Result<Header> {
        let mut header = self.0.header.lock().unwrap_or_else(PoisonError::into_inner);
        match *header {
            Some(header) => Ok(header),
            None => {
                let read = self.read_header()?;
                *header = Some(read);
                Ok(read)
            }
        }
    }

    fn read_header(&self) -> io::Result<Header> {
        let mut best: Option<Header> = None;
        let mut blank = true;
        for slot in 0..2 {
            let mut bytes = [0; SLOT_LEN];
            self.0
                .medium
                .read_exact_at(&mut bytes, self.0.offset + slot * SLOT)?;
            blank &= bytes.iter().all(|b| *b == 0);
            if let Some(header) = decode(&bytes)?
                && header.length <= self.0.capacity
                && best.is_none_or(|b| header.generation > b.generation)
            {
                best = Some(header);
            }
        }
        match best {
            Some(header) => Ok(header),
            None if blank => Ok(BLANK),
            None => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "neither header of the region is whole",
            )),
        }
    }

    /// Where `len` bytes at `offset` lie on the medium.
    fn place(&self, offset: u64, len: usize) -> io::Result<u64> {
        let end = u64::try_from(len)
            .ok()
            .and_then(|len| offset.checked_add(len));
        match end {
            Some(end) if end <= self.header()?.length => Ok(self.0.offset + HEADERS + offset),
            Some(_) | None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl<M: Medium> StorageBackend for RegionStorage<M> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.header()?.length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0
            .medium
            .read_exact_at(out, self.place(offset, out.len())?)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let before = self.header()?;
        if length == before.length {
            return Ok(());
        }
        if length > self.0.capacity {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!(
                    "the region holds {} bytes and {length} are wanted",
                    self.0.capacity
                ),
            ));
        }
        if length > before.length {
            let start = self.0.offset + HEADERS + before.length;
            self.0
                .medium
                .write_zeroes_at(start, length - before.length)?;
        }
        // What was written under the former length, and the zeroes, before the header that
        // makes them count.
        self.0.medium.sync_data()?;
        self.put_header(Header {
            generation: before.generation + 1,
            length,
            ..before
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.medium.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0
            .medium
            .write_all_at(data, self.place(offset, data.len())?)
    }
}

fn encode(header: Header) -> [u8; SLOT_LEN] {
    let mut bytes = [0; SLOT_LEN];
    bytes[..MAGIC.len()].copy_from_slice(&MAGIC);
    bytes[AT_VERSION..AT_VERSION + 4].copy_from_slice(&VERSION.to_le_bytes());
    bytes[AT_GENERATION..AT_GENERATION + 8].copy_from_slice(&header.generation.to_le_bytes());
    bytes[AT_LENGTH..AT_LENGTH + 8].copy_from_slice(&header.length.to_le_bytes());
    let flags = if header.sole { FLAG_SOLE } else { 0 };
    bytes[AT_FLAGS..AT_FLAGS + 4].copy_from_slice(&flags.to_le_bytes());
    let crc = crc32c::crc32c(&bytes);
    bytes[AT_CHECKSUM..AT_CHECKSUM + 4].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// `None` for a slot that is no whole header; an error for one that a newer version wrote.
fn decode(bytes: &[u8; SLOT_LEN]) -> io::Result<Option<Header>> {
    let number = |at: usize| {
        let mut le = [0; 8];
        le.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(le)
    };
    let half = |at: usize| {
        let mut le = [0; 4];
        le.copy_from_slice(&bytes[at..at + 4]);
        u32::from_le_bytes(le)
    };
    let mut unsummed = *bytes;
    unsummed[AT_CHECKSUM..AT_CHECKSUM + 4].fill(0);
    if !bytes.starts_with(&MAGIC) || crc32c::crc32c(&unsummed) != half(AT_CHECKSUM) {
        return Ok(None);
    }
    match half(AT_VERSION) {
        VERSION => Ok(Some(Header {
            generation: number(AT_GENERATION),
            length: number(AT_LENGTH),
            sole: half(AT_FLAGS) & FLAG_SOLE != 0,
        })),
        newer => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("the region is of format {newer} and this version reads {VERSION}: upgrade"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(len: u64) -> (tempfile::NamedTempFile, RegionStorage) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8192 + len + 4096).unwrap();
        let storage = RegionStorage::new(file.reopen().unwrap(), Bytes(4096), Bytes(len));
        (file, storage)
    }

    fn again(file: &tempfile::NamedTempFile, len: u64) -> RegionStorage {
        RegionStorage::new(file.reopen().unwrap(), Bytes(4096), Bytes(len))
    }

    #[test]
    fn a_length_lasts_and_new_bytes_are_zero() {
        let (file, storage) = region(1 << 20);
        assert_eq!(storage.len().unwrap(), 0);
        storage.set_len(10_000).unwrap();
        storage.write(9_000, &[7; 1000]).unwrap();
        storage.set_len(100).unwrap();
        storage.set_len(10_000).unwrap();
        let storage = again(&file, 1 << 20);
        assert_eq!(storage.len().unwrap(), 10_000);
        let mut bytes = [1; 1000];
        storage.read(9_000, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 1000]);
        assert!(storage.read(9_001, &mut bytes).is_err() && storage.write(9_001, &bytes).is_err());
        storage.erase().unwrap();
        assert_eq!(again(&file, 1 << 20).len().unwrap(), 0);
    }

    #[test]
    fn it_never_leaves_its_region() {
        let (_file, storage) = region(1 << 20);
        let full = storage.set_len((1 << 20) - HEADERS + 1).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        storage.set_len((1 << 20) - HEADERS).unwrap();
    }

    #[test]
    fn one_damaged_header_leaves_the_other_and_two_are_an_error() {
        let (file, storage) = region(1 << 20);
        storage.set_len(1000).unwrap();
        storage.set_len(2000).unwrap();
        // Generation 2 lies in slot 0.
        Medium::write_all_at(file.as_file(), &[9], 4096 + 100).unwrap();
        assert_eq!(again(&file, 1 << 20).len().unwrap(), 1000);
        Medium::write_all_at(file.as_file(), &[9], 4096 + SLOT + 100).unwrap();
        let damaged = again(&file, 1 << 20).len().unwrap_err();
        assert_eq!(damaged.kind(), io::ErrorKind::InvalidData);
    }
}
