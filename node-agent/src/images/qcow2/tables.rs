//! A qcow2 file's mapping tables: every entry that the content needs, looked at before it is used.
//!
//! Source: QEMU `docs/interop/qcow2.txt`, "Cluster mapping". An entry that points past the end of
//! the file means that the file was cut off, never that there are zeroes.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::header::{BadQcow2, Header, within};
use crate::images::error::ImageError;
use crate::images::meter::Meter;

/// Bits 9 to 55: where a table or a cluster is.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Set in an entry whose cluster has one user; no matter to a reader.
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
/// Version 3: reads as zeroes whatever the cluster holds.
const ZERO: u64 = 1;

const NO_CLUSTER: &str = "which is where no cluster begins";
const NO_MEANING: &str = "with bits that mean nothing";

/// The tables of a file of `len` bytes that `field` named.
pub(super) struct Tables<'a> {
    pub(super) file: &'a File,
    pub(super) header: &'a Header,
    pub(super) len: u64,
    pub(super) field: &'static str,
}

impl Tables<'_> {
    /// Looks at both levels. Blocks.
    ///
    /// # Errors
    ///
    /// [`ImageError::Format`] for the first entry that is wrong.
    pub(super) fn check(&self, meter: &Meter) -> Result<(), ImageError> {
        let l1 = self.table(self.header.l1_offset, self.header.l1_used)?;
        for (index, entry) in (0_u64..).zip(l1) {
            meter.go_on()?;
            let refuse = |bad: BadQcow2| ImageError::format(self.field, bad.to_string());
            if let Some(offset) = self.second_level(index, entry).map_err(refuse)? {
                let first = index * self.header.l2_entries();
                let needed = self.header.size.div_ceil(self.header.cluster()) - first;
                let l2 = self.table(offset, needed.min(self.header.l2_entries()))?;
                for (slot, entry) in (0_u64..).zip(l2) {
                    self.cluster(index, slot, entry).map_err(refuse)?;
                }
            }
        }
        Ok(())
    }

    /// Where the second-level table is that an entry of the first level points to.
    fn second_level(&self, index: u64, entry: u64) -> Result<Option<u64>, BadQcow2> {
        let bad = |problem| {
            let table = "its first-level table".into();
            Err(BadQcow2::Entry {
                table,
                index,
                value: entry,
                problem,
            })
        };
        if entry & !(OFFSET | COPIED) != 0 {
            return bad(NO_MEANING);
        }
        let offset = entry & OFFSET;
        if offset == 0 {
            return Ok(None);
        }
        if !offset.is_multiple_of(self.header.cluster()) {
            return bad(NO_CLUSTER);
        }
        let what = format!("its second-level table {index}");
        within(what, offset, self.header.cluster(), self.len)?;
        Ok(Some(offset))
    }

    /// Looks at an entry of a second-level table.
    fn cluster(&self, table: u64, index: u64, entry: u64) -> Result<(), BadQcow2> {
        let header = self.header;
        let at = (table * header.l2_entries() + index) * header.cluster();
        let what = || format!("what it stores for byte {at} of its content");
        let bad = |problem| {
            let table = format!("its second-level table {table}");
            Err(BadQcow2::Entry {
                table,
                index,
                value: entry,
                problem,
            })
        };
        if entry & COMPRESSED != 0 {
            if entry & COPIED != 0 {
                return bad("compressed and not shared, which is not possible");
            }
            let (offset, count) = compressed(header, entry);
            return within(what(), offset, count, self.len);
        }
        let reads_zero = entry & ZERO != 0;
        if entry & !(OFFSET | COPIED | ZERO) != 0 || (reads_zero && header.version == 2) {
            return bad(NO_MEANING);
        }
        let offset = entry & OFFSET;
        if !offset.is_multiple_of(header.cluster()) {
            return bad(NO_CLUSTER);
        }
        if offset == 0 || reads_zero {
            return Ok(());
        }
        // The content may end within its last cluster, and the file then does not need the rest.
        within(
            what(),
            offset,
            header.cluster().min(header.size - at),
            self.len,
        )
    }

    /// `count` big-endian entries at `offset`, which lie within the file.
    fn table(&self, offset: u64, count: u64) -> Result<Vec<u64>, ImageError> {
        // Bounded by the header's limits: 32 MiB, or a cluster.
        let len = usize::try_from(count * 8).unwrap_or(usize::MAX);
        let mut bytes = vec![0; len];
        self.file
            .read_exact_at(&mut bytes, offset)
            .map_err(ImageError::io("read the qcow2 file"))?;
        let (entries, _) = bytes.as_chunks();
        Ok(entries
            .iter()
            .map(|entry| u64::from_be_bytes(*entry))
            .collect())
    }
}

/// Where a compressed cluster's data is, and how many bytes it has at most.
fn compressed(header: &Header, entry: u64) -> (u64, u64) {
    let offset_bits = 62 - (header.cluster_bits - 8);
    let offset = entry & ((1 << offset_bits) - 1);
    let more_sectors = (entry & (COMPRESSED - 1)) >> offset_bits;
    (offset, (more_sectors + 1) * 512 - offset % 512)
}
