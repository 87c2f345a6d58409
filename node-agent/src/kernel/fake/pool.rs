//! One pool of the fake: what its metadata has, and how it is loaded.

use std::collections::BTreeMap;

use goldleaf_dm::PoolMode;
use goldleaf_types::ThinId;

use super::Damage;
use crate::kernel::{PoolSpec, Stretch};

/// What one pool's metadata has.
#[derive(Clone, Debug, Default)]
pub struct FakePool {
    /// The transaction id.
    pub transaction: u64,
    /// Blocks that each thin maps.
    pub thins: BTreeMap<ThinId, u64>,
    /// Whether its device is live.
    pub live: bool,
    /// What its status says.
    pub mode: Option<PoolMode>,
    /// Whether it was loaded to be read only.
    pub read_only: bool,
    /// Where its table asks to be told.
    pub low_water: u64,
    /// Whether its writers wait when it is full.
    pub queues: bool,
    /// How often it was resumed to let them wait on.
    pub renewed: u32,
    /// Metadata blocks in use, besides one.
    pub metadata_used: u64,
    /// Data sectors that were loaded.
    pub data_len: u64,
    /// Metadata sectors that were loaded.
    pub metadata_len: u64,
    /// What is wrong with it.
    pub damage: Damage,
    /// Whether the kernel gave it up.
    pub given_up: bool,
}

impl FakePool {
    pub(super) fn load(&mut self, spec: &PoolSpec) {
        let len = |stretches: &[Stretch]| stretches.iter().map(|s| s.len.0).sum::<u64>();
        let (data, metadata) = (len(&spec.data), len(&spec.metadata));
        assert!(
            !self.live || !spec.read_only || metadata == self.metadata_len,
            "the kernel gives a pool up whose metadata grows while it is read-only"
        );
        assert!(data >= self.data_len, "a pool's data shrank");
        assert!(metadata >= self.metadata_len, "a pool's metadata shrank");
        (self.data_len, self.metadata_len) = (data, metadata);
        self.low_water = spec.low_water_blocks;
        self.queues = spec.queue_when_full;
    }

    pub(super) fn mode(&self) -> PoolMode {
        match self.read_only || self.damage.needs_check {
            true => PoolMode::ReadOnly,
            false => self.mode.unwrap_or(PoolMode::ReadWrite),
        }
    }
}
