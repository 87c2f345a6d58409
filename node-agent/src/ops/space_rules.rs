//! When a pool's room gets scarce: pure rules over what the kernel says.
//!
//! Used by `space`, admission and answers. Metadata is never to be used up, since then the kernel
//! refuses reads too: below a floor the pool is loaded read-only. The kernel tells of one mark of
//! free data blocks, and each block of metadata is asked for by a new data block, by a message of
//! ours or by a discard: so the mark is put where the metadata could reach its floor at the earliest.

use goldleaf_dm::{PoolStatus, WorkingPool};

/// Below this part of the metadata the pool takes no change: what writers use up before we come to
/// act, on a busy host too, must not reach the kernel's own reserve.
const FLOOR_SHARE: u64 = 8;
/// But not more than so many blocks of 4 KiB: 16 MiB.
const FLOOR_MAX: u64 = 4096;
/// Below this part of the metadata nothing new is admitted.
const ADMIT_SHARE: u64 = 4;
/// The most metadata blocks that a new data block needs: a leaf and two nodes above it, each shared
/// with a snapshot before.
const BLOCKS_A_BLOCK: u64 = 3;
/// Marks are at least so many data blocks apart.
const STEP_MIN: u64 = 64;

/// Free data, in parts of a hundred, at which somebody is told.
pub const DATA_WARNINGS: [u64; 2] = [20, 5];

/// How scarce something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scarcity {
    /// There is enough.
    Enough,
    /// Somebody should add some.
    Low,
    /// There is none for anything new.
    Out,
}

/// Metadata blocks that are free, the kernel's own reserve apart.
#[must_use]
pub fn metadata_free(status: &WorkingPool) -> u64 {
    let used = status.used_metadata_blocks;
    status.total_metadata_blocks.saturating_sub(used)
}

/// Data blocks that are free.
#[must_use]
pub fn data_free(status: &WorkingPool) -> u64 {
    let used = status.used_data_blocks;
    status.total_data_blocks.saturating_sub(used)
}

fn floor(status: &WorkingPool) -> u64 {
    (status.total_metadata_blocks / FLOOR_SHARE).min(FLOOR_MAX)
}

/// Whether the pool must take no change any more.
#[must_use]
pub fn must_brake(status: &WorkingPool) -> bool {
    metadata_free(status) <= floor(status)
}

/// Whether a pool that was braked may take changes again. Well above the floor: what it takes to
/// look through the metadata must not bring it back there.
#[must_use]
pub fn may_release(status: &WorkingPool) -> bool {
    metadata_free(status) > 2 * floor(status)
}

/// How scarce the metadata is.
#[must_use]
pub fn metadata(status: &WorkingPool) -> Scarcity {
    if must_brake(status) {
        Scarcity::Out
    } else if metadata_free(status) * ADMIT_SHARE < status.total_metadata_blocks {
        Scarcity::Low
    } else {
        Scarcity::Enough
    }
}

/// How scarce the data is.
#[must_use]
pub fn data(status: &WorkingPool) -> Scarcity {
    let free = data_free(status);
    if free == 0 {
        Scarcity::Out
    } else if free <= share(status.total_data_blocks, DATA_WARNINGS[0]) {
        Scarcity::Low
    } else {
        Scarcity::Enough
    }
}

fn share(total: u64, hundredths: u64) -> u64 {
    // Far from overflowing: a device has at most 2^56 bytes.
    total * hundredths / 100
}

/// Free data blocks at which the kernel is to tell us next.
#[must_use]
pub fn next_mark(status: &WorkingPool) -> u64 {
    let free = data_free(status);
    let spare = metadata_free(status).saturating_sub(floor(status));
    let by_metadata = free.saturating_sub((spare / BLOCKS_A_BLOCK).max(STEP_MIN));
    let warnings = DATA_WARNINGS.map(|part| share(status.total_data_blocks, part));
    let below = warnings.into_iter().filter(|mark| *mark < free);
    below.chain([by_metadata]).max().unwrap_or(0)
}

/// The same for a pool that just opened, of which nothing is known but its size.
#[must_use]
pub fn first_mark(blocks: u64) -> u64 {
    share(blocks, DATA_WARNINGS[0])
}

/// Whether the mark that is loaded was passed, or would tell us too late.
#[must_use]
pub fn mark_is_stale(status: &WorkingPool, loaded: u64) -> bool {
    loaded >= data_free(status) || loaded < next_mark(status)
}

/// What of a status works, if anything does.
#[must_use]
pub const fn working(status: &PoolStatus) -> Option<&WorkingPool> {
    match status {
        PoolStatus::Working(status) => Some(status),
        PoolStatus::Fail => None,
    }
}

#[cfg(test)]
mod tests {
    use goldleaf_dm::{DiscardPolicy, NoSpacePolicy, PoolMode};
    use proptest::prelude::*;

    use super::*;

    fn status(metadata: (u64, u64), data: (u64, u64)) -> WorkingPool {
        WorkingPool {
            transaction_id: 1,
            used_metadata_blocks: metadata.0,
            total_metadata_blocks: metadata.1,
            used_data_blocks: data.0,
            total_data_blocks: data.1,
            held_root: None,
            mode: PoolMode::ReadWrite,
            discard: DiscardPolicy::Passdown,
            no_space: NoSpacePolicy::Error,
            needs_check: false,
            metadata_low_water: None,
        }
    }

    #[test]
    fn metadata_is_refused_to_newcomers_long_before_the_brake() {
        // 32 MiB, of which the kernel counts a tenth as used from the start.
        for (used, expected) in [
            (820, Scarcity::Enough),
            (6144, Scarcity::Enough),
            (6145, Scarcity::Low),
            (8192 - 1025, Scarcity::Low),
            (8192 - 1024, Scarcity::Out),
            (8192, Scarcity::Out),
        ] {
            let status = status((used, 8192), (0, 1000));
            assert_eq!(metadata(&status), expected, "{used} used");
            assert_eq!(must_brake(&status), expected == Scarcity::Out);
        }
        assert!(!may_release(&status((8192 - 2048, 8192), (0, 1))));
        assert!(may_release(&status((8192 - 2049, 8192), (0, 1))));
    }

    #[test]
    fn a_full_pool_is_warned_of_twice() {
        let of = |used| status((0, 1 << 20), (used, 1000));
        assert_eq!(next_mark(&of(0)), 200);
        assert_eq!(next_mark(&of(799)), 200);
        assert_eq!(next_mark(&of(800)), 50);
        assert_eq!(next_mark(&of(949)), 50);
        assert_eq!(data(&of(799)), Scarcity::Enough);
        assert_eq!(data(&of(800)), Scarcity::Low);
        assert_eq!(data(&of(1000)), Scarcity::Out);
    }

    proptest! {
        /// Whatever is written until the mark is reached, the kernel's reserve is not touched, if
        /// there is as much metadata as pools are made with.
        #[test]
        fn the_mark_comes_before_the_metadata_is_used_up(
            total in 8192_u64..4_000_000, metadata_used in 0_u64..4_000_000,
            data_total in 1_u64..1 << 40, data_used in 0_u64..1 << 40,
        ) {
            let status = status(
                (metadata_used.min(total), total), (data_used.min(data_total), data_total));
            let mark = next_mark(&status);
            prop_assert!(mark < data_free(&status) || data_free(&status) == 0);
            if !must_brake(&status) {
                let written = data_free(&status) - mark;
                prop_assert!(written * BLOCKS_A_BLOCK <= metadata_free(&status)
                    || written <= STEP_MIN);
            }
            prop_assert!(!mark_is_stale(&status, mark) || data_free(&status) == 0);
        }
    }
}
