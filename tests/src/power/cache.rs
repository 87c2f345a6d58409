//! A disk's volatile cache: what was written and not flushed, until the power goes.
//!
//! Used by [`super::Power`]. A write is safe once a flush after it has been answered, or at once
//! when it asks for that itself; any other may be on the medium after a cut, or not, or in part, in
//! whole sectors. A sector itself is never torn, as dm-thin, ext4 and redb may all rely on.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::model::Dice;

const SECTOR: u64 = 512;

/// Where a disk begins on its medium, so that nobody takes the medium for the disk: the agent looks
/// at every device for its labels.
pub const BEGIN: u64 = 1 << 20;

/// More than this is written out before anybody asks, as every disk does.
const MOST_SECTORS: usize = 64 << 10;

type Sector = Box<[u8]>;

/// A medium and what is not on it yet.
#[derive(Debug)]
pub struct CachedDisk {
    medium: File,
    /// For each sector what was written to it since the last flush, the newest last, and by which
    /// write.
    pending: BTreeMap<u64, Vec<(u64, Sector)>>,
    writes: u64,
}

/// What becomes of one write that was not flushed.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Kept,
    Lost,
    /// Its first sectors, up to here, are kept.
    Begun(u64),
    /// Each of its sectors for itself.
    Shredded(u64),
}

impl CachedDisk {
    /// A disk with an empty cache.
    #[must_use]
    pub const fn new(medium: File) -> Self {
        Self {
            medium,
            pending: BTreeMap::new(),
            writes: 0,
        }
    }

    /// How many sectors a cut would decide about.
    #[must_use]
    pub fn unflushed(&self) -> usize {
        self.pending.len()
    }

    /// Reads whole sectors, as they would be without a cut.
    ///
    /// # Errors
    ///
    /// The medium's.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.medium.read_exact_at(bytes, BEGIN + offset)?;
        let first = offset / SECTOR;
        let end = first + u64::try_from(bytes.len()).unwrap_or(0) / SECTOR;
        for (sector, versions) in self.pending.range(first..end) {
            let at = place((sector - first) * SECTOR);
            if let Some((_, newest)) = versions.last() {
                bytes[at..at + newest.len()].copy_from_slice(newest);
            }
        }
        Ok(())
    }

    /// Takes whole sectors; with `safe` they are on the medium before this returns.
    ///
    /// # Errors
    ///
    /// The medium's.
    pub fn write(&mut self, offset: u64, bytes: &[u8], safe: bool) -> io::Result<()> {
        self.writes += 1;
        let sectors = (offset / SECTOR..).zip(bytes.chunks(place(SECTOR)));
        if safe {
            for (sector, _) in sectors {
                self.pending.remove(&sector);
            }
            self.medium.write_all_at(bytes, BEGIN + offset)?;
            return self.medium.sync_data();
        }
        for (sector, content) in sectors {
            let versions = self.pending.entry(sector).or_default();
            versions.push((self.writes, content.into()));
        }
        if self.pending.len() > MOST_SECTORS {
            return self.flush();
        }
        Ok(())
    }

    /// Leaves nothing that a cut could lose.
    ///
    /// # Errors
    ///
    /// The medium's.
    pub fn flush(&mut self) -> io::Result<()> {
        let pending = std::mem::take(&mut self.pending);
        let newest = pending
            .into_iter()
            .filter_map(|(sector, mut versions)| Some((sector, versions.pop()?.1)));
        self.put(newest)
    }

    /// The power goes: what was not flushed is lost, kept or torn, as `dice` say. In one cut of
    /// four all of it is lost.
    ///
    /// # Errors
    ///
    /// The medium's.
    pub fn cut(&mut self, dice: &mut Dice) -> io::Result<()> {
        let pending = std::mem::take(&mut self.pending);
        if dice.below(4) == 0 {
            return Ok(());
        }
        let mut fates = BTreeMap::new();
        let mut begins = BTreeMap::new();
        for (sector, versions) in &pending {
            for (write, _) in versions {
                fates.entry(*write).or_insert_with(|| Fate::thrown(dice));
                begins.entry(*write).or_insert(*sector);
            }
        }
        let kept = pending.into_iter().filter_map(|(sector, mut versions)| {
            versions.retain(|(write, _)| fates[write].keeps(sector - begins[write]));
            Some((sector, versions.pop()?.1))
        });
        self.put(kept)
    }

    fn put(&self, sectors: impl Iterator<Item = (u64, Sector)>) -> io::Result<()> {
        for (sector, content) in sectors {
            self.medium
                .write_all_at(&content, BEGIN + sector * SECTOR)?;
        }
        self.medium.sync_data()
    }
}

impl Fate {
    const fn thrown(dice: &mut Dice) -> Self {
        match dice.below(4) {
            0 => Self::Kept,
            1 => Self::Begun(dice.below(16)),
            2 => Self::Shredded(dice.number()),
            _ => Self::Lost,
        }
    }

    const fn keeps(self, index: u64) -> bool {
        match self {
            Self::Kept => true,
            Self::Lost => false,
            Self::Begun(sectors) => index < sectors,
            Self::Shredded(seed) => Dice::new(seed ^ index).below(2) == 0,
        }
    }
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).expect("within one request")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::Pattern;

    const LEN: usize = 1 << 20;

    fn disk() -> (CachedDisk, File) {
        let path = std::env::temp_dir().join(format!(
            "gl-cache-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(true);
        let medium = options.open(&path).unwrap();
        medium.set_len(BEGIN + LEN as u64).unwrap();
        std::fs::remove_file(path).unwrap();
        (CachedDisk::new(medium.try_clone().unwrap()), medium)
    }

    fn on(medium: &File) -> Vec<u8> {
        let mut bytes = vec![0; LEN];
        medium.read_exact_at(&mut bytes, BEGIN).unwrap();
        bytes
    }

    #[test]
    fn what_was_written_is_read_before_it_is_on_the_medium_and_is_there_after_a_flush() {
        let (mut disk, medium) = disk();
        let (old, new) = (Pattern(1).bytes(0, 4096), Pattern(2).bytes(0, 1024));
        disk.write(8192, &old, false).unwrap();
        disk.write(8192 + 512, &new, false).unwrap();
        let mut read = vec![0; 4096];
        disk.read(8192, &mut read).unwrap();
        assert_eq!(read[..512], old[..512]);
        assert_eq!(read[512..1536], new);
        assert_eq!(read[1536..], old[1536..]);
        assert_eq!(on(&medium), vec![0; LEN]);
        disk.flush().unwrap();
        assert_eq!(on(&medium)[8192..12288], read);
        assert_eq!(disk.unflushed(), 0);
    }

    #[test]
    fn a_cut_loses_nothing_that_was_flushed_or_asked_to_be_safe() {
        for seed in 0..50 {
            let (mut disk, medium) = disk();
            disk.write(0, &Pattern(1).bytes(0, 65536), false).unwrap();
            disk.flush().unwrap();
            disk.write(4096, &Pattern(2).bytes(0, 4096), false).unwrap();
            disk.write(4096, &Pattern(3).bytes(0, 2048), true).unwrap();
            disk.cut(&mut Dice::new(seed)).unwrap();
            let found = on(&medium);
            assert_eq!(found[..4096], Pattern(1).bytes(0, 4096));
            assert_eq!(found[4096..6144], Pattern(3).bytes(0, 2048));
            assert_eq!(found[8192..65536], Pattern(1).bytes(8192, 65536 - 8192));
        }
    }

    #[test]
    fn cuts_keep_lose_and_tear_what_was_not_flushed_sector_by_sector() {
        let (mut kept, mut lost, mut torn) = (0, 0, 0);
        for seed in 0..200 {
            let (mut disk, medium) = disk();
            let (old, new) = (Pattern(1).bytes(0, 16384), Pattern(2).bytes(0, 16384));
            disk.write(0, &old, true).unwrap();
            disk.write(0, &new, false).unwrap();
            disk.cut(&mut Dice::new(seed)).unwrap();
            let found = on(&medium);
            let sectors = (0..32).map(|s| s * 512..(s + 1) * 512);
            let news = sectors
                .filter(|at| {
                    let is_new = found[at.clone()] == new[at.clone()];
                    assert!(is_new || found[at.clone()] == old[at.clone()]);
                    is_new
                })
                .count();
            match news {
                0 => lost += 1,
                32 => kept += 1,
                _ => torn += 1,
            }
        }
        assert!(kept > 20 && lost > 20 && torn > 20, "{kept} {lost} {torn}");
    }
}
