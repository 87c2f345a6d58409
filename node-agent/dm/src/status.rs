//! Status lines of pools and thins, read and printed as the kernel prints them.
//!
//! Source: `pool_status` and `thin_status` in Linux `drivers/md/dm-thin.c`.

use std::fmt;
use std::str::FromStr;

/// Bytes of a block of metadata.
///
/// Source: Linux `drivers/md/dm-thin-metadata.h`, `THIN_METADATA_BLOCK_SIZE`.
pub const METADATA_BLOCK: u64 = 4096;

/// The most blocks of metadata that the kernel uses, however long the device is: 255 bitmaps, each of
/// a block without its header.
///
/// Source: Linux `drivers/md/persistent-data/dm-space-map-metadata.h`, `DM_SM_METADATA_MAX_BLOCKS`.
pub const METADATA_BLOCKS_MAX: u64 = 255 * ((1 << 14) - 64);

/// A status line that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no status of a {kind}: {line:?}")]
pub struct BadStatus {
    /// Of what.
    pub kind: &'static str,
    /// What was there.
    pub line: String,
}

/// What a pool can do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolMode {
    /// Reads and writes (`rw`).
    ReadWrite,
    /// Reads, and rewrites of what is mapped (`ro`).
    ReadOnly,
    /// As read-write, but no new block (`out_of_data_space`).
    OutOfDataSpace,
}

/// What a write that needs a new block meets in a full pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSpacePolicy {
    /// An error at once.
    Error,
    /// It waits.
    Queue,
}

/// What a pool's discards do below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiscardPolicy {
    /// Discards are ignored.
    Ignore,
    /// Blocks return to the pool and the data device is told.
    Passdown,
    /// Blocks return to the pool only.
    NoPassdown,
}

/// A pool that works, at least for reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkingPool {
    /// The metadata's transaction id.
    pub transaction_id: u64,
    /// Metadata blocks of 4 KiB in use, a reserve of the kernel's included.
    pub used_metadata_blocks: u64,
    /// Metadata blocks of 4 KiB in all.
    pub total_metadata_blocks: u64,
    /// Data blocks of the pool's size in use.
    pub used_data_blocks: u64,
    /// Data blocks in all.
    pub total_data_blocks: u64,
    /// The held metadata root, if there is one.
    pub held_root: Option<u64>,
    /// What it can do.
    pub mode: PoolMode,
    /// What discards do.
    pub discard: DiscardPolicy,
    /// What happens when it is full.
    pub no_space: NoSpacePolicy,
    /// Whether the metadata must be checked before it can be written again.
    pub needs_check: bool,
    /// Free metadata blocks at which the kernel warns; older kernels do not say.
    pub metadata_low_water: Option<u64>,
}

/// A pool's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolStatus {
    /// The kernel gave it up: not even reads work.
    Fail,
    /// It works.
    Working(WorkingPool),
}

/// A thin's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThinStatus {
    /// Its pool was given up.
    Fail,
    /// It works.
    Mapped {
        /// Sectors that the pool keeps for it, shared ones included.
        sectors: u64,
        /// The highest mapped sector; none in an empty thin.
        highest: Option<u64>,
    },
}

impl fmt::Display for PoolStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Working(s) = self else {
            return f.write_str("Fail");
        };
        write!(
            f,
            "{} {}/{} {}/{} ",
            s.transaction_id,
            s.used_metadata_blocks,
            s.total_metadata_blocks,
            s.used_data_blocks,
            s.total_data_blocks
        )?;
        match s.held_root {
            Some(root) => write!(f, "{root} ")?,
            None => f.write_str("- ")?,
        }
        f.write_str(match s.mode {
            PoolMode::ReadWrite => "rw ",
            PoolMode::ReadOnly => "ro ",
            PoolMode::OutOfDataSpace => "out_of_data_space ",
        })?;
        f.write_str(match s.discard {
            DiscardPolicy::Ignore => "ignore_discard ",
            DiscardPolicy::Passdown => "discard_passdown ",
            DiscardPolicy::NoPassdown => "no_discard_passdown ",
        })?;
        f.write_str(match s.no_space {
            NoSpacePolicy::Error => "error_if_no_space ",
            NoSpacePolicy::Queue => "queue_if_no_space ",
        })?;
        f.write_str(if s.needs_check { "needs_check" } else { "-" })?;
        match s.metadata_low_water {
            Some(mark) => write!(f, " {mark}"),
            None => Ok(()),
        }
    }
}

impl FromStr for PoolStatus {
    type Err = BadStatus;

    fn from_str(line: &str) -> Result<Self, BadStatus> {
        let bad = || BadStatus {
            kind: "thin-pool",
            line: line.to_owned(),
        };
        if line.trim() == "Fail" {
            return Ok(Self::Fail);
        }
        working(&mut line.split_whitespace())
            .map(Self::Working)
            .ok_or_else(bad)
    }
}

fn working<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<WorkingPool> {
    let transaction_id = words.next()?.parse().ok()?;
    let (used_metadata_blocks, total_metadata_blocks) = fraction(words.next()?)?;
    let (used_data_blocks, total_data_blocks) = fraction(words.next()?)?;
    let held_root = match words.next()? {
        "-" => None,
        root => Some(root.parse().ok()?),
    };
    let mode = match words.next()? {
        "rw" => PoolMode::ReadWrite,
        "ro" => PoolMode::ReadOnly,
        "out_of_data_space" => PoolMode::OutOfDataSpace,
        _ => return None,
    };
    let discard = match words.next()? {
        "ignore_discard" => DiscardPolicy::Ignore,
        "discard_passdown" => DiscardPolicy::Passdown,
        "no_discard_passdown" => DiscardPolicy::NoPassdown,
        _ => return None,
    };
    let no_space = match words.next()? {
        "error_if_no_space" => NoSpacePolicy::Error,
        "queue_if_no_space" => NoSpacePolicy::Queue,
        _ => return None,
    };
    let needs_check = match words.next()? {
        "needs_check" => true,
        "-" => false,
        _ => return None,
    };
    let metadata_low_water = words.next().map(str::parse).transpose().ok()?;
    Some(WorkingPool {
        transaction_id,
        used_metadata_blocks,
        total_metadata_blocks,
        used_data_blocks,
        total_data_blocks,
        held_root,
        mode,
        discard,
        no_space,
        needs_check,
        metadata_low_water,
    })
}

fn fraction(word: &str) -> Option<(u64, u64)> {
    let (part, whole) = word.split_once('/')?;
    Some((part.parse().ok()?, whole.parse().ok()?))
}

impl fmt::Display for ThinStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fail => f.write_str("Fail"),
            Self::Mapped {
                sectors,
                highest: Some(highest),
            } => write!(f, "{sectors} {highest}"),
            Self::Mapped {
                sectors,
                highest: None,
            } => write!(f, "{sectors} -"),
        }
    }
}

impl FromStr for ThinStatus {
    type Err = BadStatus;

    fn from_str(line: &str) -> Result<Self, BadStatus> {
        let bad = || BadStatus {
            kind: "thin",
            line: line.to_owned(),
        };
        let mut words = line.split_whitespace();
        let first = words.next().ok_or_else(bad)?;
        if first == "Fail" {
            return Ok(Self::Fail);
        }
        let sectors = first.parse().map_err(|_| bad())?;
        let highest = match words.next().ok_or_else(bad)? {
            "-" => None,
            word => Some(word.parse().map_err(|_| bad())?),
        };
        Ok(Self::Mapped { sectors, highest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn arb_pool() -> impl Strategy<Value = PoolStatus> {
        let numbers = (
            any::<[u64; 5]>(),
            any::<Option<u64>>(),
            any::<Option<u64>>(),
        );
        let words = (0..3u8, 0..3u8, any::<bool>(), any::<bool>());
        (numbers, words).prop_map(
            |((n, held_root, metadata_low_water), (mode, discard, q, c))| {
                PoolStatus::Working(WorkingPool {
                    transaction_id: n[0],
                    used_metadata_blocks: n[1],
                    total_metadata_blocks: n[2],
                    used_data_blocks: n[3],
                    total_data_blocks: n[4],
                    held_root,
                    mode: [
                        PoolMode::ReadWrite,
                        PoolMode::ReadOnly,
                        PoolMode::OutOfDataSpace,
                    ][usize::from(mode)],
                    discard: [
                        DiscardPolicy::Ignore,
                        DiscardPolicy::Passdown,
                        DiscardPolicy::NoPassdown,
                    ][usize::from(discard)],
                    no_space: if q {
                        NoSpacePolicy::Queue
                    } else {
                        NoSpacePolicy::Error
                    },
                    needs_check: c,
                    metadata_low_water,
                })
            },
        )
    }

    #[test]
    fn a_real_line_is_read() {
        let line = "1 12/4096 3/8192 - out_of_data_space no_discard_passdown \
                    queue_if_no_space needs_check 1024";
        let PoolStatus::Working(status) = line.parse().unwrap() else {
            panic!("it works")
        };
        assert_eq!((status.transaction_id, status.used_data_blocks), (1, 3));
        assert_eq!(status.mode, PoolMode::OutOfDataSpace);
        assert!(status.needs_check);
        assert_eq!("Fail".parse(), Ok(PoolStatus::Fail));
        assert_eq!(
            "1000 1023".parse(),
            Ok(ThinStatus::Mapped {
                sectors: 1000,
                highest: Some(1023)
            })
        );
    }

    proptest! {
        #[test]
        fn pool_status_round_trips(status in arb_pool()) {
            prop_assert_eq!(status.to_string().parse::<PoolStatus>().unwrap(), status);
        }

        #[test]
        fn no_text_makes_a_parser_panic(line in "\\PC{0,80}") {
            let _ = (line.parse::<PoolStatus>(), line.parse::<ThinStatus>());
        }

        /// One byte of a true line changed: read or refused, and what is read is printed as such.
        #[test]
        fn a_damaged_line_is_read_as_what_it_says_or_refused(
            status in arb_pool(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
        ) {
            let mut bytes = status.to_string().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let line = String::from_utf8_lossy(&bytes);
            if let Ok(read) = line.parse::<PoolStatus>() {
                prop_assert_eq!(read.to_string().parse::<PoolStatus>(), Ok(read));
            }
        }

        #[test]
        fn no_bytes_make_a_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let line = String::from_utf8_lossy(&bytes);
            let _ = (line.parse::<PoolStatus>(), line.parse::<ThinStatus>());
        }

        #[test]
        fn thin_status_round_trips(sectors in any::<u64>(), highest in any::<Option<u64>>()) {
            let status = ThinStatus::Mapped { sectors, highest };
            prop_assert_eq!(status.to_string().parse::<ThinStatus>(), Ok(status));
            let cut = sectors.to_string();
            prop_assert!(cut.parse::<ThinStatus>().is_err());
        }

        #[test]
        fn a_cut_line_is_refused_not_guessed(status in arb_pool(), words in 0..7usize) {
            let text = status.to_string();
            let cut: Vec<_> = text.split_whitespace().take(words).collect();
            prop_assert!(cut.join(" ").parse::<PoolStatus>().is_err());
        }
    }
}
