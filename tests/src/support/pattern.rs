//! Bytes that say where they belong, so that a block in the wrong place is seen.

/// An endless stream of bytes; another for each seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern(pub u64);

impl Pattern {
    /// The bytes from `offset` on.
    #[must_use]
    pub fn bytes(self, offset: u64, len: usize) -> Vec<u8> {
        let skip = usize::try_from(offset % 8).expect("below 8");
        let mut bytes = vec![0; (skip + len).next_multiple_of(8)];
        // Whole words in place: tests compare many megabytes, and are not optimised.
        for (word, place) in (offset / 8..).zip(bytes.chunks_exact_mut(8)) {
            place.copy_from_slice(&self.word(word).to_le_bytes());
        }
        bytes.truncate(skip + len);
        bytes.drain(..skip);
        bytes
    }

    /// SplitMix64's finishing steps over seed and position.
    fn word(self, index: u64) -> u64 {
        let mut z = self.0.rotate_left(32) ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_of_a_pattern_is_that_part_of_the_whole() {
        let whole = Pattern(7).bytes(0, 4096);
        for (from, len) in [(0, 1), (3, 100), (8, 8), (511, 513), (4095, 1)] {
            let part = Pattern(7).bytes(u64::try_from(from).unwrap(), len);
            assert_eq!(part, whole[from..from + len]);
        }
        assert_ne!(Pattern(8).bytes(0, 4096), whole);
        assert_ne!(whole[..512], whole[512..1024]);
    }
}
