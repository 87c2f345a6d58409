//! What is written to the fake host's thins, and which of their ranges that is.

use std::collections::BTreeSet;

use goldleaf_types::{Bytes, ThinOwner};

use super::host::{FakeThin, Host};
use super::refuse::{out_of_range, precondition};
use crate::agents::AgentError;
use crate::domain::{BlockOrder, BlockPart, BlockRange};

/// What a fake pool allocates at a time.
const BLOCK: u64 = 1 << 16;

/// Ranges in a part when nobody says.
const MOST: usize = 4096;

impl Host {
    /// Writes a block; what it holds is other than any block before it.
    pub(super) fn write(&mut self, owner: ThinOwner, block: u64) {
        self.writes += 1;
        let version = self.writes;
        if let Some(thin) = self.thins.get_mut(&owner) {
            thin.written.insert(block, version);
        }
    }

    /// A snapshot's ranges in parts, as a real agent tells of them.
    pub(super) fn blocks(&self, order: &BlockOrder) -> Result<Vec<BlockPart>, AgentError> {
        let thin = self.find(order.snapshot.into())?;
        self.writable(thin.order.pool)?;
        let base = order.base.map(|base| self.find(base.into())).transpose()?;
        if base.is_some_and(|base| base.order.pool != thin.order.pool || base.image != thin.image) {
            let message = format!("{} cannot be compared", order.snapshot);
            return Err(precondition("NOT_COMPARABLE", message));
        }
        let size = thin.size.bytes().0;
        if order.from > size {
            return Err(out_of_range("starting_offset is past the end".into()));
        }
        let image = thin.image.and_then(|digest| self.images.get(&digest));
        let image = image.map_or(0, |image| image.0.min(size));
        let held = held(thin, base, image);
        let ends =
            |block: &u64| ((block + 1) * BLOCK).min(size) > order.from && block * BLOCK < size;
        let mut ranges: Vec<BlockRange> = Vec::new();
        for block in held.into_iter().filter(ends) {
            let (begin, end) = (block * BLOCK, ((block + 1) * BLOCK).min(size));
            let begin = begin.max(order.from);
            match ranges.last_mut() {
                Some(last) if last.offset + last.len == begin => last.len += end - begin,
                Some(_) | None => ranges.push(BlockRange {
                    offset: begin,
                    len: end - begin,
                }),
            }
        }
        let most = match usize::try_from(order.most) {
            Ok(0) | Err(_) => MOST,
            Ok(most) => most,
        };
        let size = Bytes(size);
        if ranges.is_empty() {
            return Ok(vec![BlockPart { size, ranges }]);
        }
        let parts = ranges.chunks(most).map(|ranges| BlockPart {
            size,
            ranges: ranges.to_vec(),
        });
        Ok(parts.collect())
    }
}

/// Blocks that count; images are as long as whole blocks here.
fn held(thin: &FakeThin, base: Option<&FakeThin>, image: u64) -> BTreeSet<u64> {
    let Some(base) = base else {
        let shown = 0..image / BLOCK;
        return thin.written.keys().copied().chain(shown).collect();
    };
    let both = thin.written.keys().chain(base.written.keys());
    let differs = |block: &&u64| thin.written.get(block) != base.written.get(block);
    let grown = base.size.bytes().0 / BLOCK..image / BLOCK;
    both.filter(differs).copied().chain(grown).collect()
}
