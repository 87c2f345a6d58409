//! The first block of a pool's metadata, as the kernel and the field's tools have it.
//!
//! Read by `held_root` and by what handles metadata in files. Nothing is believed of a block whose
//! sum is wrong.
//!
//! Source: Linux `drivers/md/dm-thin-metadata.c`, `struct thin_disk_superblock`.

/// `SUPERBLOCK_CSUM_XOR` and `THIN_SUPERBLOCK_MAGIC` there.
const CHECKSUM_XOR: u32 = 160_774;
pub(super) const MAGIC: u64 = 27_022_010;

/// Bytes of a block of metadata.
pub(super) const BLOCK: usize = 4096;

const FLAGS_AT: usize = 4;
pub(super) const LOCATION_AT: usize = 8;
pub(super) const MAGIC_AT: usize = 32;
const TIME_AT: usize = 44;
pub(super) const TRANSACTION_AT: usize = 48;
pub(super) const HELD_ROOT_AT: usize = 56;
const DATA_BLOCKS_AT: usize = 64;
const BLOCK_SECTORS_AT: usize = 336;
const NEEDS_CHECK: u32 = 1;

/// What a whole superblock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The transaction id.
    pub transaction_id: u64,
    /// Whether the kernel takes no change before it was checked.
    pub needs_check: bool,
    /// Whether a metadata snapshot is held.
    pub held_root: bool,
    /// Sectors of a block of data.
    pub block_sectors: u64,
    /// Blocks of data that are counted.
    pub data_blocks: u64,
}

impl Superblock {
    /// What a block says; `None` when it is no superblock, or a damaged one.
    #[must_use]
    pub fn of(block: &[u8; BLOCK]) -> Option<Self> {
        let long = |at: usize| long(block, at);
        let short = |at: usize| short(block, at);
        is_whole(block).then(|| Self {
            transaction_id: long(TRANSACTION_AT),
            needs_check: short(FLAGS_AT) & NEEDS_CHECK != 0,
            held_root: long(HELD_ROOT_AT) != 0,
            block_sectors: short(BLOCK_SECTORS_AT).into(),
            data_blocks: long(DATA_BLOCKS_AT),
        })
    }
}

fn long(block: &[u8; BLOCK], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&block[at..at + 8]);
    u64::from_le_bytes(bytes)
}

fn short(block: &[u8; BLOCK], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&block[at..at + 4]);
    u32::from_le_bytes(bytes)
}

/// Where a whole superblock, or a copy of it, says that it lies.
pub(super) fn location(block: &[u8; BLOCK]) -> u64 {
    long(block, LOCATION_AT)
}

/// Which of two copies is the later one: the transaction, and the count of snapshots.
pub(super) fn age(block: &[u8; BLOCK]) -> (u64, u32) {
    (long(block, TRANSACTION_AT), short(block, TIME_AT))
}

/// Whether a block is a superblock whose sum is right.
pub(super) fn is_whole(block: &[u8; BLOCK]) -> bool {
    block[MAGIC_AT..MAGIC_AT + 8] == MAGIC.to_le_bytes()
        && block[..4] == checksum(block).to_le_bytes()
}

/// The kernel's `dm_bm_checksum`: CRC-32C of all after the sum, not inverted at its end.
pub(super) fn checksum(block: &[u8; BLOCK]) -> u32 {
    !crc32c::crc32c(&block[4..]) ^ CHECKSUM_XOR
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_superblock_says_anything() {
        let mut block = [0; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(MAGIC_AT, &MAGIC.to_le_bytes());
        put(FLAGS_AT, &[1]);
        put(TRANSACTION_AT, &9_u64.to_le_bytes());
        put(DATA_BLOCKS_AT, &4000_u64.to_le_bytes());
        put(BLOCK_SECTORS_AT, &128_u32.to_le_bytes());
        put(BLOCK_SECTORS_AT + 4, &8_u32.to_le_bytes());
        let sum = checksum(&block);
        block[..4].copy_from_slice(&sum.to_le_bytes());
        let wanted = Superblock {
            transaction_id: 9,
            needs_check: true,
            held_root: false,
            block_sectors: 128,
            data_blocks: 4000,
        };
        assert_eq!(Superblock::of(&block), Some(wanted));
        for at in [0, FLAGS_AT, MAGIC_AT, 4000] {
            let mut broken = block;
            broken[at] ^= 2;
            assert_eq!(Superblock::of(&broken), None, "{at}");
        }
    }
}
