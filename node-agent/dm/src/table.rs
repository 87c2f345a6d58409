//! Tables, rendered whole from typed values and read back into them.
//!
//! A reload replaces a table, words and all: what is left out is dropped. So no table is ever
//! patched. `skip_block_zeroing` cannot be asked for: with it a thin shows other tenants' old data.

use std::fmt;

use goldleaf_types::{BlockSize, Sectors, ThinId};

use crate::number::DevNumber;

/// A stretch of a device under a linear target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearSegment {
    /// Length.
    pub len: Sectors,
    /// The device below.
    pub dev: DevNumber,
    /// Where it begins there.
    pub offset: Sectors,
}

/// What a pool's table can ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolFeatures {
    /// Fail writes to a full pool instead of queueing them.
    pub error_if_no_space: bool,
    /// Ignore discards. Cannot be added to a live pool.
    pub ignore_discard: bool,
    /// Keep discards from the data device.
    pub no_discard_passdown: bool,
    /// Change nothing in the metadata.
    pub read_only: bool,
}

/// A thin-pool target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThinPool {
    /// Length: the data device's, a multiple of the block.
    pub len: Sectors,
    /// The metadata device.
    pub metadata: DevNumber,
    /// The data device.
    pub data: DevNumber,
    /// What it allocates at a time.
    pub block: BlockSize,
    /// Free blocks at which the kernel warns, once.
    pub low_water_blocks: u64,
    /// Choices.
    pub features: PoolFeatures,
}

/// A thin target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thin {
    /// Length.
    pub len: Sectors,
    /// The pool.
    pub pool: DevNumber,
    /// Its number there.
    pub id: ThinId,
    /// The external origin under it.
    pub origin: Option<DevNumber>,
}

/// A verity target, version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verity {
    /// Length of what is verified.
    pub len: Sectors,
    /// The data.
    pub data: DevNumber,
    /// The hash tree.
    pub hash: DevNumber,
    /// Bytes of a data block; 512 keeps the thin above readable in sectors.
    pub data_block: u32,
    /// Bytes of a hash block.
    pub hash_block: u32,
    /// Data blocks.
    pub data_blocks: u64,
    /// Where the tree begins on its device, in hash blocks.
    pub hash_start: u64,
    /// The root digest, SHA-256, in hex.
    pub root: String,
    /// The salt in hex; empty for none.
    pub salt: String,
}

/// One target of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A stretch of another device.
    Linear(LinearSegment),
    /// A thin-pool.
    ThinPool(ThinPool),
    /// A thin.
    Thin(Thin),
    /// Data that is compared with a hash tree on each read.
    Verity(Verity),
    /// Every I/O fails.
    Error(Sectors),
    /// Reads as zeroes.
    Zero(Sectors),
}

/// A whole table: targets one after the other from sector 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The targets.
    pub targets: Vec<Target>,
    /// Refuse writes.
    pub read_only: bool,
}

impl Target {
    /// Its length.
    #[must_use]
    pub const fn len(&self) -> Sectors {
        match self {
            Self::Linear(t) => t.len,
            Self::ThinPool(t) => t.len,
            Self::Thin(t) => t.len,
            Self::Verity(t) => t.len,
            Self::Error(len) | Self::Zero(len) => *len,
        }
    }

    /// Whether it covers nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len().0 == 0
    }

    /// The kernel's name for its type.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Linear(_) => "linear",
            Self::ThinPool(_) => "thin-pool",
            Self::Thin(_) => "thin",
            Self::Verity(_) => "verity",
            Self::Error(_) => "error",
            Self::Zero(_) => "zero",
        }
    }

    /// Reads a target as the kernel prints it; `None` for a type that this crate does not make.
    #[must_use]
    pub fn parse(len: Sectors, kind: &str, parameters: &str) -> Option<Self> {
        let words: Vec<&str> = parameters.split_whitespace().collect();
        match (kind, words.as_slice()) {
            ("error", _) => Some(Self::Error(len)),
            ("zero", []) => Some(Self::Zero(len)),
            ("linear", [dev, offset]) => Some(Self::Linear(LinearSegment {
                len,
                dev: dev.parse().ok()?,
                offset: Sectors(offset.parse().ok()?),
            })),
            ("thin", [pool, id, origin @ ..]) if origin.len() <= 1 => Some(Self::Thin(Thin {
                len,
                pool: pool.parse().ok()?,
                id: ThinId::new(id.parse().ok()?).ok()?,
                origin: origin.first().map(|o| o.parse()).transpose().ok()?,
            })),
            ("verity", words) => parse_verity(len, words).map(Self::Verity),
            ("thin-pool", [metadata, data, block, low_water, features @ ..]) => {
                Some(Self::ThinPool(ThinPool {
                    len,
                    metadata: metadata.parse().ok()?,
                    data: data.parse().ok()?,
                    block: BlockSize::new(block.parse::<u64>().ok()?.checked_mul(512)?).ok()?,
                    low_water_blocks: low_water.parse().ok()?,
                    features: parse_features(features)?,
                }))
            }
            _ => None,
        }
    }
}

/// Version 1, SHA-256 and no further option, as this crate makes it.
fn parse_verity(len: Sectors, words: &[&str]) -> Option<Verity> {
    let [
        "1",
        data,
        hash,
        data_block,
        hash_block,
        data_blocks,
        hash_start,
        "sha256",
        root,
        salt,
    ] = words
    else {
        return None;
    };
    Some(Verity {
        len,
        data: data.parse().ok()?,
        hash: hash.parse().ok()?,
        data_block: data_block.parse().ok()?,
        hash_block: hash_block.parse().ok()?,
        data_blocks: data_blocks.parse().ok()?,
        hash_start: hash_start.parse().ok()?,
        root: (*root).to_owned(),
        salt: if *salt == "-" {
            String::new()
        } else {
            (*salt).to_owned()
        },
    })
}

fn parse_features(words: &[&str]) -> Option<PoolFeatures> {
    let mut features = PoolFeatures::default();
    let names = match words.split_first() {
        None => return Some(features),
        Some((count, names)) if count.parse() == Ok(names.len()) => names,
        Some(_) => return None,
    };
    for name in names {
        match *name {
            "error_if_no_space" => features.error_if_no_space = true,
            "ignore_discard" => features.ignore_discard = true,
            "no_discard_passdown" => features.no_discard_passdown = true,
            "read_only" => features.read_only = true,
            _ => return None,
        }
    }
    Some(features)
}

impl fmt::Display for PoolFeatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = [
            (self.ignore_discard, "ignore_discard"),
            (self.no_discard_passdown, "no_discard_passdown"),
            (self.read_only, "read_only"),
            (self.error_if_no_space, "error_if_no_space"),
        ]
        .into_iter()
        .filter_map(|(set, word)| set.then_some(word))
        .collect();
        write!(f, "{}", words.len())?;
        words.iter().try_for_each(|word| write!(f, " {word}"))
    }
}

/// The parameters, as the kernel reads them.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linear(t) => write!(f, "{} {}", t.dev, t.offset.0),
            Self::ThinPool(t) => write!(
                f,
                "{} {} {} {} {}",
                t.metadata,
                t.data,
                t.block.sectors().0,
                t.low_water_blocks,
                t.features
            ),
            Self::Thin(t) => {
                write!(f, "{} {}", t.pool, t.id)?;
                t.origin.map_or(Ok(()), |origin| write!(f, " {origin}"))
            }
            Self::Verity(t) => {
                let salt = if t.salt.is_empty() { "-" } else { &t.salt };
                write!(
                    f,
                    "1 {} {} {} {} {} {} sha256 {} {salt}",
                    t.data, t.hash, t.data_block, t.hash_block, t.data_blocks, t.hash_start, t.root
                )
            }
            Self::Error(_) | Self::Zero(_) => Ok(()),
        }
    }
}

impl Table {
    /// A writable table of one target.
    #[must_use]
    pub fn of(target: Target) -> Self {
        Self {
            targets: vec![target],
            read_only: false,
        }
    }

    /// The same, refusing writes.
    #[must_use]
    pub fn read_only(self) -> Self {
        Self {
            read_only: true,
            ..self
        }
    }

    /// Stretches one after the other.
    #[must_use]
    pub fn linear(segments: impl IntoIterator<Item = LinearSegment>) -> Self {
        Self {
            targets: segments.into_iter().map(Target::Linear).collect(),
            read_only: false,
        }
    }

    /// Its whole length.
    #[must_use]
    pub fn len(&self) -> Sectors {
        Sectors(self.targets.iter().map(|t| t.len().0).sum())
    }

    /// Whether it covers nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len().0 == 0
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut start = 0;
        for (index, target) in self.targets.iter().enumerate() {
            let gap = if index == 0 { "" } else { "; " };
            write!(
                f,
                "{gap}{start} {} {} {target}",
                target.len().0,
                target.kind()
            )?;
            start += target.len().0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn arb_dev()(major in 0..4096u32, minor in 0..1u32 << 20) -> DevNumber {
            DevNumber { major, minor }
        }
    }

    proptest! {
        #[test]
        fn what_we_print_is_what_we_read(
            len in 1..u64::MAX, a in arb_dev(), b in arb_dev(), id in 0..=ThinId::MAX,
            origin in prop::option::of(arb_dev()), low in any::<u64>(), f in any::<[bool; 4]>(),
            block in 1..16_384u64, root in "[0-9a-f]{64}", salt in "([0-9a-f]{2}){0,32}",
        ) {
            let len = Sectors(len);
            let features = PoolFeatures {
                error_if_no_space: f[0], ignore_discard: f[1], no_discard_passdown: f[2],
                read_only: f[3],
            };
            for target in [
                Target::Linear(LinearSegment { len, dev: a, offset: Sectors(low) }),
                Target::Thin(Thin { len, pool: a, id: ThinId::new(id).unwrap(), origin }),
                Target::ThinPool(ThinPool {
                    len, metadata: a, data: b, block: BlockSize::new(block << 16).unwrap(),
                    low_water_blocks: low, features,
                }),
                Target::Error(len),
                Target::Zero(len),
                Target::Verity(Verity {
                    len, data: a, hash: b, data_block: 4096, hash_block: 512, data_blocks: low,
                    hash_start: 1, root, salt,
                }),
            ] {
                let text = target.to_string();
                prop_assert!(!text.contains("skip_block_zeroing"));
                prop_assert_eq!(Target::parse(len, target.kind(), &text), Some(target));
            }
        }

        #[test]
        fn no_text_makes_the_reader_panic(kind in "thin|thin-pool|linear|verity|error|zero|x", text in "\\PC{0,60}") {
            let _ = Target::parse(Sectors(1), &kind, &text);
        }

        /// Words that belong there in any order, cut and doubled: nearer to a table than noise is.
        #[test]
        fn what_is_read_of_a_damaged_table_is_printed_as_it_was_read(
            kind in "thin|thin-pool|linear|verity|zero",
            words in prop::collection::vec(
                prop_oneof![
                    "[0-9]{1,20}", "[0-9]{1,5}:[0-9]{1,8}", "[0-9a-f]{64}", Just("sha256".to_owned()),
                    Just("-".to_owned()), Just("error_if_no_space".to_owned()),
                    Just("read_only".to_owned()), Just("1".to_owned()), Just("128".to_owned()),
                ],
                0..11,
            ),
        ) {
            if let Some(target) = Target::parse(Sectors(8), &kind, &words.join(" ")) {
                let again = Target::parse(Sectors(8), &kind, &target.to_string());
                prop_assert_eq!(again, Some(target));
            }
        }
    }
}
