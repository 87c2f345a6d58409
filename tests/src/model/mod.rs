//! What volumes and snapshots ought to be: a model in memory, and the same done to a real host.
//!
//! Used by the power cuts ([`crate::power`]) and by the model test. [`World`] is the model, [`Op`]
//! what can be done to it; [`perform`] does it through the public API, and [`assert_same`] compares
//! every name, size and byte. The model test has runs of [`Step`]s played on a [`Bed`], which makes
//! those that fail shorter ([`shrink`]). A model is only changed by what was answered: what a crash cut short
//! is repeated first, since every call may be repeated.

mod bed;
mod dice;
mod real;
pub mod shrink;
mod step;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::support::Pattern;

pub use bed::{Bed, RUN};
pub use dice::Dice;
pub use real::{
    GOLDEN, POOL, ask, assert_same, device, golden_bytes, has_device, holds, perform, tear_or,
};
pub use step::Step;

/// What is written and compared at once.
pub const BLOCK: u64 = 4096;

/// Sizes of volumes are multiples of this.
const STEP: u64 = 64 << 10;

/// The smallest volume: more than the golden image.
const SMALLEST: u64 = 1280 << 10;

/// How many volumes and snapshots there are at most.
const MOST: usize = 8;

/// The golden image's size: no multiple of any block.
pub const IMAGE: u64 = (1 << 20) + 3 * 512;

/// A volume or a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Thing {
    /// In bytes.
    pub size: u64,
    /// Whether it reads as the golden image where nobody wrote.
    pub image: bool,
    /// Whether it has a device.
    pub active: bool,
    /// Blocks that were written, and the pattern in each.
    pub blocks: BTreeMap<u64, u64>,
}

/// All there is, by its full name: `volume/v1`, `snapshot/s1`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// What there is.
    pub things: BTreeMap<String, Thing>,
    /// What every name begins with: whose world this is.
    pub prefix: String,
}

/// Something to do. Names are full ones.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are the API's")]
pub enum Op {
    /// A new volume.
    Create {
        name: String,
        size: u64,
        image: bool,
        active: bool,
    },
    /// A snapshot of a volume or a snapshot.
    Snapshot { name: String, source: String },
    /// A volume of what a volume or a snapshot holds.
    Clone {
        name: String,
        source: String,
        size: u64,
        active: bool,
    },
    /// A larger volume.
    Resize { name: String, size: u64 },
    /// A device appears.
    Activate { name: String },
    /// A device goes.
    Deactivate { name: String },
    /// A volume or a snapshot goes.
    Delete { name: String },
    /// A stretch is written and flushed.
    Write {
        name: String,
        block: u64,
        count: u64,
        pattern: u64,
    },
}

impl Op {
    /// What it makes, changes or takes away.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Create { name, .. }
            | Self::Snapshot { name, .. }
            | Self::Clone { name, .. }
            | Self::Resize { name, .. }
            | Self::Activate { name }
            | Self::Deactivate { name }
            | Self::Delete { name }
            | Self::Write { name, .. } => name,
        }
    }
}

impl Thing {
    /// What it reads as, a piece of it.
    #[must_use]
    pub fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        if self.image {
            let covered = IMAGE.saturating_sub(offset);
            let covered = usize::try_from(covered).expect("a small image").min(len);
            if covered > 0 {
                let from = usize::try_from(offset).expect("within a small image");
                bytes[..covered].copy_from_slice(&golden()[from..from + covered]);
            }
        }
        let end = offset + u64::try_from(len).expect("a length");
        let first = offset / BLOCK;
        for (block, pattern) in self.blocks.range(first..end.div_ceil(BLOCK)) {
            let (from, to) = ((block * BLOCK).max(offset), ((block + 1) * BLOCK).min(end));
            let place = |at: u64| usize::try_from(at - offset).expect("within the piece");
            let written = Pattern(*pattern).bytes(from, place(to) - place(from));
            bytes[place(from)..place(to)].copy_from_slice(&written);
        }
        bytes
    }
}

/// The golden image, once and for all: every comparison needs it.
fn golden() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(golden_bytes)
}

impl World {
    /// An empty world whose names begin with `prefix`.
    #[must_use]
    pub fn of(prefix: &str) -> Self {
        Self {
            things: BTreeMap::new(),
            prefix: prefix.to_owned(),
        }
    }

    /// Whether it makes sense here: what it needs is there, what it makes is not.
    #[must_use]
    pub fn allows(&self, op: &Op) -> bool {
        let thing = |name: &str| self.things.get(name);
        let room = |name: &str| self.things.len() < MOST && thing(name).is_none();
        match op {
            Op::Create { name, .. } => room(name),
            Op::Snapshot { name, source } => room(name) && thing(source).is_some(),
            Op::Clone {
                name, source, size, ..
            } => room(name) && thing(source).is_some_and(|t| t.size <= *size),
            Op::Resize { name, size } => thing(name).is_some_and(|t| t.size < *size),
            Op::Activate { name } => thing(name).is_some_and(|t| !t.active),
            Op::Deactivate { name } => thing(name).is_some_and(|t| t.active),
            Op::Delete { name } => thing(name).is_some_and(|t| !t.active),
            Op::Write {
                name, block, count, ..
            } => thing(name).is_some_and(|t| t.active && (block + count) * BLOCK <= t.size),
        }
    }

    /// Changes the model as the operation changes a host.
    ///
    /// # Panics
    ///
    /// When [`Self::allows`] says no.
    pub fn apply(&mut self, op: &Op) {
        assert!(self.allows(op), "{op:?} of {self:?}");
        match op {
            Op::Create {
                name,
                size,
                image,
                active,
            } => {
                let thing = Thing {
                    size: *size,
                    image: *image,
                    active: *active,
                    blocks: BTreeMap::new(),
                };
                self.things.insert(name.clone(), thing);
            }
            Op::Snapshot { name, source } => {
                let mut copy = self.things[source].clone();
                copy.active = false;
                self.things.insert(name.clone(), copy);
            }
            Op::Clone {
                name,
                source,
                size,
                active,
            } => {
                let mut copy = self.things[source].clone();
                (copy.size, copy.active) = (*size, *active);
                self.things.insert(name.clone(), copy);
            }
            Op::Resize { name, size } => self.thing(name).size = *size,
            Op::Activate { name } => self.thing(name).active = true,
            Op::Deactivate { name } => self.thing(name).active = false,
            Op::Delete { name } => drop(self.things.remove(name)),
            Op::Write {
                name,
                block,
                count,
                pattern,
            } => {
                let written = (*block..block + count).map(|b| (b, *pattern));
                self.thing(name).blocks.extend(written);
            }
        }
    }

    fn thing(&mut self, name: &str) -> &mut Thing {
        self.things.get_mut(name).expect("it is allowed")
    }

    /// Something that can be done here.
    pub fn pick(&self, dice: &mut Dice) -> Op {
        loop {
            if let Some(op) = self.throw(dice).filter(|op| self.allows(op)) {
                return op;
            }
        }
    }

    fn throw(&self, dice: &mut Dice) -> Option<Op> {
        let kind = dice.below(100);
        let size = SMALLEST + dice.below(16) * STEP;
        let active = dice.below(3) > 0;
        let name = self.one(dice, |_, _| true);
        let volume = self.one(dice, |name, _| is_volume(name));
        Some(match kind {
            0..12 => Op::Create {
                name: self.unused("volume", dice),
                size,
                image: dice.below(3) > 0,
                active,
            },
            12..24 => Op::Snapshot {
                name: self.unused("snapshot", dice),
                source: name?,
            },
            24..34 => {
                let source = name?;
                let size = self.things[&source].size + dice.below(3) * STEP;
                Op::Clone {
                    name: self.unused("volume", dice),
                    source,
                    size,
                    active,
                }
            }
            34..42 => {
                let name = volume?;
                let size = self.things[&name].size + (1 + dice.below(8)) * STEP;
                Op::Resize { name, size }
            }
            42..50 => Op::Activate { name: volume? },
            50..58 => Op::Deactivate { name: volume? },
            58..68 => Op::Delete { name: name? },
            _ => {
                let name = self.one(dice, |_, thing| thing.active)?;
                let blocks = self.things[&name].size / BLOCK;
                let count = 1 + dice.below(40);
                Op::Write {
                    name,
                    block: dice.below(blocks - count),
                    count,
                    pattern: dice.number(),
                }
            }
        })
    }

    fn one(&self, dice: &mut Dice, wanted: impl Fn(&str, &Thing) -> bool) -> Option<String> {
        let names: Vec<&String> = self
            .things
            .iter()
            .filter(|(name, thing)| wanted(name, thing))
            .map(|(name, _)| name)
            .collect();
        dice.one_of(&names).map(|name| (*name).clone())
    }

    /// One of few names, so that those of what was deleted come again.
    fn unused(&self, kind: &str, dice: &mut Dice) -> String {
        format!("{kind}/{}{}", self.prefix, dice.below(10))
    }
}

/// Whether a full name is a volume's.
#[must_use]
pub fn is_volume(name: &str) -> bool {
    name.starts_with("volume/")
}

/// A full name without its kind.
#[must_use]
pub fn short(name: &str) -> &str {
    name.split_once('/').map_or(name, |(_, short)| short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_picked_is_allowed_and_the_same_seed_picks_the_same() {
        let walk = |seed| {
            let (mut world, mut dice) = (World::of("x"), Dice::new(seed));
            let picked = (0..500).map(|_| {
                let op = world.pick(&mut dice);
                world.apply(&op);
                op
            });
            picked.collect::<Vec<_>>()
        };
        assert_eq!(walk(3), walk(3));
        assert_ne!(walk(3), walk(4));
        let kinds = |wanted: fn(&Op) -> bool| walk(3).iter().filter(|op| wanted(op)).count();
        assert!(kinds(|op| matches!(op, Op::Clone { .. })) > 5);
        assert!(kinds(|op| matches!(op, Op::Delete { .. })) > 5);
        assert!(kinds(|op| matches!(op, Op::Write { .. })) > 50);
    }

    #[test]
    fn a_thing_reads_as_image_zeroes_and_what_was_written() {
        let mut thing = Thing {
            size: 2 << 20,
            image: true,
            active: true,
            blocks: BTreeMap::from([(1, 77)]),
        };
        let bytes = thing.bytes(0, 3 * 4096);
        assert_eq!(bytes[..4096], GOLDEN.bytes(0, 4096));
        assert_eq!(bytes[4096..8192], Pattern(77).bytes(4096, 4096));
        assert_eq!(thing.bytes(5000, 100), bytes[5000..5100]);
        assert_eq!(thing.bytes(IMAGE, 512), [0; 512]);
        thing.image = false;
        assert_eq!(thing.bytes(0, 4096), [0; 4096]);
    }

    #[test]
    fn a_snapshot_keeps_what_was_there() {
        let mut world = World::of("x");
        let (name, source) = ("snapshot/s".to_owned(), "volume/v".to_owned());
        let write = |pattern| Op::Write {
            name: source.clone(),
            block: 0,
            count: 1,
            pattern,
        };
        world.apply(&Op::Create {
            name: source.clone(),
            size: SMALLEST,
            image: false,
            active: true,
        });
        world.apply(&write(1));
        world.apply(&Op::Snapshot {
            name: name.clone(),
            source: source.clone(),
        });
        world.apply(&write(2));
        assert_eq!(world.things[&name].blocks[&0], 1);
        assert_eq!(world.things[&source].blocks[&0], 2);
        assert!(!world.things[&name].active);
        assert!(!world.allows(&Op::Delete { name: source }));
    }
}
