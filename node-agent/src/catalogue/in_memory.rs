//! A copy of a region in memory, to look at a catalogue without writing where it lies.
//!
//! Used by `ops::repair` and `ops::rescue`. Opening a catalogue may write: an older copy is made anew, and redb notes
//! that it is open. Here all of that goes with the value.

use std::io;
use std::sync::{Mutex, PoisonError};

use super::region::Medium;

/// What a device or file holds in a stretch, as it was once read.
#[derive(Debug)]
pub struct InMemory(Mutex<Vec<u8>>);

impl InMemory {
    /// Reads `len` bytes from `offset` on.
    ///
    /// # Errors
    ///
    /// When the device fails or ends before.
    pub fn read<M: Medium>(from: &M, offset: u64, len: u64) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mut bytes = vec![0; len];
        from.read_exact_at(&mut bytes, offset)?;
        Ok(Self(Mutex::new(bytes)))
    }

    /// Nothing but zeroes.
    ///
    /// # Errors
    ///
    /// When there is no such amount of memory.
    pub fn blank(len: u64) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        Ok(Self(Mutex::new(vec![0; len])))
    }

    fn with<T>(
        &self,
        (offset, len): (u64, usize),
        use_them: impl FnOnce(&mut [u8]) -> T,
    ) -> io::Result<T> {
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let stretch = begin
            .checked_add(len)
            .and_then(|end| bytes.get_mut(begin..end));
        Ok(use_them(stretch.ok_or(io::ErrorKind::UnexpectedEof)?))
    }
}

impl Medium for InMemory {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.with((offset, buf.len()), |bytes| buf.copy_from_slice(bytes))
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.with((offset, buf.len()), |bytes| bytes.copy_from_slice(buf))
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}
