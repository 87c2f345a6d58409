//! Which bytes of a snapshot hold something, and which differ from an earlier one.
//!
//! Called by `grpc`, part by part. The kernel's metadata is read for each part and let go before
//! anything of it is told; nothing is kept between two parts, which works because nobody writes a
//! snapshot. Where a thin maps nothing its image shows through, as far as that goes: that is data,
//! and no zeroes. A crash leaves at worst a held metadata snapshot, which the next opening of the
//! pool releases.

use std::ops::Range;

use goldleaf_types::{Bytes, SnapshotId};

use super::Agent;
use super::error::ThinError;
use super::thins::usable;
use crate::catalogue::ThinRecord;
use crate::kernel::{BlockQuery, BlockRun, BlockRuns};

/// Most runs of blocks that are read at a time: 4 MiB of memory.
const MOST: usize = 1 << 18;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedBlocks {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// An earlier one of the same pool, to compare it with; none asks for all that it holds.
    pub base: Option<SnapshotId>,
    /// The first byte that matters.
    pub from: u64,
}

/// Bytes of a snapshot's device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// The first, counted from the device's beginning.
    pub offset: u64,
    /// How many; never 0.
    pub len: u64,
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockPart {
    /// Size of the snapshot's device.
    pub size: Bytes,
    /// The ranges, in order.
    pub ranges: Vec<ByteRange>,
    /// Where the next part begins, if there is one.
    pub next: Option<u64>,
}

impl Agent {
    /// A part of what a snapshot holds, or of what differs from an earlier one: the ranges that end
    /// after `from`, whole pool blocks and what shows of the image. Blocks, for about a second for
    /// each million mappings.
    ///
    /// # Errors
    ///
    /// [`ThinError::OutOfRange`] for a `from` past the end; [`ThinError::Unrelated`] for snapshots
    /// that say nothing of each other; [`ThinError::PoolReadOnly`] while the pool takes no change: a
    /// metadata snapshot is one.
    pub fn blocks(&self, wanted: WantedBlocks) -> Result<BlockPart, ThinError> {
        let (pool, row) = self.find_row(wanted.snapshot.into())?;
        usable(&pool, &row)?;
        let base = match wanted.base {
            None => None,
            Some(base) => {
                let (other, base) = self.find_row(base.into())?;
                usable(&other, &base)?;
                let unrelated = |why| ThinError::Unrelated {
                    snapshot: row.owner,
                    base: base.owner,
                    why,
                };
                if other.id != pool.id {
                    return Err(unrelated("they are in different pools"));
                }
                if base.image != row.image {
                    return Err(unrelated("they show different images"));
                }
                Some(base)
            }
        };
        let size = row.size.bytes().0;
        if wanted.from > size {
            return Err(ThinError::OutOfRange {
                field: "starting_offset",
                problem: format!("is past the end of the device, which has {size} bytes"),
            });
        }
        let block = pool.block().bytes().0;
        let solid = solid(&row, base.as_ref());
        let begin = past(&solid, wanted.from);
        let found = if begin < size {
            pool.check_writable(&*self.kernel)?;
            let query = BlockQuery {
                thin: row.thin,
                base: base.as_ref().map(|base| base.thin),
                from: begin / block,
                most: MOST,
            };
            let read = self.kernel.blocks(pool.id, &query);
            read.map_err(ThinError::Kernel)?
        } else {
            BlockRuns::default()
        };
        // A snapshot that was deleted meanwhile may have had its number given to another.
        for known in std::iter::once(&row).chain(&base) {
            let now = pool.catalogue.find(known.owner);
            let now = now.ok_or(ThinError::NotFound(known.owner))?;
            usable(&pool, &now)?;
        }
        let next = found.more.then(|| {
            let end = found.runs.last().map_or(0, BlockRun::end);
            past(&solid, end.saturating_mul(block))
        });
        let window = wanted.from..next.unwrap_or(size).min(size);
        Ok(BlockPart {
            size: Bytes(size),
            ranges: ranges(&found.runs, block, &solid, &window),
            next: next.filter(|next| *next < size),
        })
    }
}

/// The bytes that count whatever is mapped there. Of all that a snapshot holds: its image, as far as
/// it shows. Of what differs: what shows of the image now and lay past the end of the base.
fn solid(row: &ThinRecord, base: Option<&ThinRecord>) -> Range<u64> {
    let size = row.size.bytes().0;
    let image = row.image.map_or(0, |image| image.size.0.min(size));
    let begin = base.map_or(0, |base| base.size.bytes().0);
    begin..image.max(begin)
}

/// The first byte from `at` on of which the mappings have to say.
fn past(solid: &Range<u64>, at: u64) -> u64 {
    match solid.contains(&at) {
        true => solid.end,
        false => at,
    }
}

/// Runs of blocks as bytes, with what is solid, within a window: in order, none touching the next.
fn ranges(
    runs: &[BlockRun],
    block: u64,
    solid: &Range<u64>,
    window: &Range<u64>,
) -> Vec<ByteRange> {
    let bytes = |run: &BlockRun| run.begin.saturating_mul(block)..run.end().saturating_mul(block);
    let mut all: Vec<Range<u64>> = runs.iter().map(bytes).collect();
    let at = all.partition_point(|range| range.start < solid.start);
    all.insert(at, solid.clone());
    let mut told: Vec<ByteRange> = Vec::with_capacity(all.len());
    for range in all {
        let begin = range.start.max(window.start);
        let end = range.end.min(window.end);
        if begin >= end {
            continue;
        }
        match told.last_mut() {
            Some(last) if last.offset + last.len >= begin => {
                last.len = last.len.max(end - last.offset);
            }
            Some(_) | None => told.push(ByteRange {
                offset: begin,
                len: end - begin,
            }),
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const BLOCK: u64 = 8;

    fn bytes_of(ranges: &[ByteRange]) -> BTreeSet<u64> {
        let bytes = ranges.iter().flat_map(|r| r.offset..r.offset + r.len);
        bytes.collect()
    }

    proptest! {
        /// Byte by byte: what is told is what is mapped or solid, and within the window; in order,
        /// each range of some length and none touching the next.
        #[test]
        fn ranges_are_the_union_of_runs_and_the_solid_part(
            blocks in proptest::collection::btree_set(0..20_u64, 0..12),
            solid in (0..170_u64, 0..170_u64),
            window in (0..170_u64, 0..170_u64),
        ) {
            let mut runs: Vec<BlockRun> = Vec::new();
            for begin in &blocks {
                match runs.last_mut() {
                    Some(last) if last.end() == *begin => last.len += 1,
                    Some(_) | None => runs.push(BlockRun { begin: *begin, len: 1 }),
                }
            }
            let (solid, window) = (solid.0..solid.1.max(solid.0), window.0..window.1.max(window.0));
            let told = ranges(&runs, BLOCK, &solid, &window);
            let is_told = |byte: &u64| blocks.contains(&(byte / BLOCK)) || solid.contains(byte);
            let expected: BTreeSet<u64> = window.clone().filter(is_told).collect();
            prop_assert_eq!(bytes_of(&told), expected);
            for two in told.windows(2) {
                prop_assert!(two[0].offset + two[0].len < two[1].offset, "{:?}", told);
            }
            prop_assert!(told.iter().all(|range| range.len > 0));
        }
    }
}
