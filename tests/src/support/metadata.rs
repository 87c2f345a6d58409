//! A pool's metadata on its first device, to be damaged and compared without the agent.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::metadata_region;

/// Bytes of a block of it.
const BLOCK: usize = 4096;
/// Where the superblock has its flags, the data's space map, and the two trees.
///
/// Source: Linux `drivers/md/dm-thin-metadata.c`, `struct thin_disk_superblock`.
const FLAGS: usize = 4;
const SPACE_MAP_ROOT: usize = 64 + 16;
const MAPPING_ROOT: usize = 320;
const DETAILS_ROOT: usize = 328;
const NEEDS_CHECK: u8 = 1;

/// Where a node of a tree has its flags, its number of entries, how many fit, and its keys.
///
/// Source: Linux `drivers/md/persistent-data/dm-btree-internal.h`, `struct node_header`.
const NODE_FLAGS: usize = 4;
const ENTRIES: usize = 16;
const MOST_ENTRIES: usize = 20;
const KEYS: usize = 32;
const INTERNAL: u32 = 1;

/// The metadata of a pool that is not live.
#[derive(Debug)]
pub struct Metadata {
    device: PathBuf,
    from: u64,
    len: u64,
}

impl Metadata {
    /// That of the pool on this device.
    ///
    /// # Panics
    ///
    /// When it carries none.
    #[must_use]
    pub fn of(device: &Path) -> Self {
        let [from, len] = metadata_region(device)
            .expect("a readable device")
            .expect("a pool");
        Self {
            device: device.to_owned(),
            from,
            len,
        }
    }

    /// All of it.
    ///
    /// # Panics
    ///
    /// When it cannot be read.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.len).expect("it fits in memory")];
        let file = File::open(&self.device).expect("the device");
        file.read_exact_at(&mut bytes, self.from)
            .expect("its content");
        bytes
    }

    /// Everything on the device up to its end: labels, catalogue and metadata.
    ///
    /// # Panics
    ///
    /// When it cannot be read.
    #[must_use]
    pub fn with_all_before(&self) -> Vec<u8> {
        let len = usize::try_from(self.from + self.len).expect("it fits in memory");
        let mut bytes = vec![0; len];
        let file = File::open(&self.device).expect("the device");
        file.read_exact_at(&mut bytes, 0).expect("its content");
        bytes
    }

    fn block(&self, number: u64) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let at = self.from + number * BLOCK as u64;
        let file = File::open(&self.device).expect("the device");
        file.read_exact_at(&mut block, at).expect("a block");
        block
    }

    fn put(&self, number: u64, block: &[u8; BLOCK]) {
        let at = self.from + number * BLOCK as u64;
        let file = File::options()
            .write(true)
            .open(&self.device)
            .expect("the device");
        file.write_all_at(block, at).expect("written");
        file.sync_all().expect("durable");
    }

    /// Puts all of it back.
    ///
    /// # Panics
    ///
    /// When it is another length, or cannot be written.
    pub fn put_all(&self, bytes: &[u8]) {
        assert_eq!(bytes.len() as u64, self.len);
        let file = File::options()
            .write(true)
            .open(&self.device)
            .expect("the device");
        file.write_all_at(bytes, self.from).expect("written");
        file.sync_all().expect("durable");
    }

    fn spoil(&self, number: u64) {
        assert_ne!(number, 0, "a root is never the superblock");
        self.put(number, &[0x5a; BLOCK]);
    }

    /// Overwrites the root of the data's space map: every mapping is there still.
    pub fn spoil_space_map(&self) {
        self.spoil(long(&self.block(0), SPACE_MAP_ROOT));
    }

    /// Overwrites the root of the list of thins.
    pub fn spoil_details(&self) {
        self.spoil(long(&self.block(0), DETAILS_ROOT));
    }

    /// Overwrites the superblock.
    pub fn spoil_superblock(&self) {
        self.put(0, &[0x5a; BLOCK]);
    }

    /// Overwrites the first leaf of a thin's mappings, which has more than one.
    ///
    /// # Panics
    ///
    /// When there is no such thin, or it has one leaf.
    pub fn spoil_leaf_of(&self, thin: u32) {
        let tops = self.block(long(&self.block(0), MAPPING_ROOT));
        let tree = values(&tops)
            .into_iter()
            .find(|(key, _)| *key == u64::from(thin));
        let tree = tree.expect("the thin").1;
        let node = self.block(tree);
        assert_eq!(
            short(&node, NODE_FLAGS) & INTERNAL,
            INTERNAL,
            "it has one leaf"
        );
        self.spoil(values(&node)[0].1);
    }

    /// Sets the flag that lets the kernel take no change.
    pub fn set_needs_check(&self) {
        let mut block = self.block(0);
        block[FLAGS] |= NEEDS_CHECK;
        let sum = !crc32c::crc32c(&block[4..]) ^ 160_774;
        block[..4].copy_from_slice(&sum.to_le_bytes());
        self.put(0, &block);
    }
}

fn long(block: &[u8; BLOCK], at: usize) -> u64 {
    let bytes = block[at..at + 8].try_into().expect("eight bytes");
    u64::from_le_bytes(bytes)
}

fn short(block: &[u8; BLOCK], at: usize) -> u32 {
    let bytes = block[at..at + 4].try_into().expect("four bytes");
    u32::from_le_bytes(bytes)
}

/// Keys and values of a node whose values are blocks.
fn values(node: &[u8; BLOCK]) -> Vec<(u64, u64)> {
    let count = |at| usize::try_from(short(node, at)).expect("a small number");
    let first = KEYS + 8 * count(MOST_ENTRIES);
    let entries = 0..count(ENTRIES);
    entries
        .map(|i| (long(node, KEYS + 8 * i), long(node, first + 8 * i)))
        .collect()
}
