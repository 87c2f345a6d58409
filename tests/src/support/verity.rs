//! A hash tree as dm-verity reads it, version 1 of its format.
//!
//! Source: Linux `Documentation/admin-guide/device-mapper/verity.rst`, "Hash Tree".

use goldleaf_types::Bytes;
use sha2::{Digest, Sha256};

/// Bytes of a block, of data and of hashes alike.
const BLOCK: usize = 4096;

/// The tree over some data.
#[derive(Clone, Debug)]
pub struct HashTree {
    /// The tree's blocks, the root's level first.
    pub blocks: Vec<u8>,
    /// The root digest, in hex.
    pub root: String,
}

impl HashTree {
    /// The size of data and hash blocks.
    pub const BLOCK: Bytes = Bytes(BLOCK as u64);

    /// Hashes data, without a salt. An incomplete last block is taken as filled up with zeroes.
    #[must_use]
    pub fn over(data: &[u8]) -> Self {
        let mut levels = vec![level(data)];
        while levels[levels.len() - 1].len() > BLOCK {
            levels.push(level(&levels[levels.len() - 1]));
        }
        let root = hex::encode(Sha256::digest(&levels[levels.len() - 1]));
        Self {
            blocks: levels.into_iter().rev().flatten().collect(),
            root,
        }
    }
}

/// The digests of each block, filled up to whole blocks.
fn level(below: &[u8]) -> Vec<u8> {
    let mut digests = Vec::new();
    for block in below.chunks(BLOCK) {
        let mut hasher = Sha256::new();
        hasher.update(block);
        hasher.update(vec![0; BLOCK - block.len()]);
        digests.extend_from_slice(&hasher.finalize());
    }
    digests.resize(digests.len().next_multiple_of(BLOCK), 0);
    digests
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_has_a_level_for_each_power_of_128_blocks() {
        let one = HashTree::over(&[7; 2 * BLOCK]);
        assert_eq!(one.blocks.len(), BLOCK);
        let two = HashTree::over(&vec![7; 129 * BLOCK]);
        assert_eq!(two.blocks.len(), 3 * BLOCK);
        assert_eq!(one.blocks[..32], *Sha256::digest([7; BLOCK]));
        assert_eq!(two.root, hex::encode(Sha256::digest(&two.blocks[..BLOCK])));
    }
}
