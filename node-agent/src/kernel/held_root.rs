//! Metadata that may not be sound: the field's own check of it, and a metadata snapshot that a power
//! cut left half made or half released.
//!
//! Metadata of a pool that was not closed is checked as a whole, so that damage is refused before
//! anything is written over it, not met later under somebody's write.
//!
//! Called by `pool` before it builds a pool that is not live. The kernel writes the held root into
//! the superblock before the counts that go with it are safe, so a power cut in between leaves a
//! root whose blocks nobody counts; to release it would then free blocks that are in use. It takes
//! the root out of the superblock in the same way before the counts that let it go are safe, so a cut
//! may leave blocks counted that nothing names. The field's own tool (`thin_check`) says whether it is
//! so; only then the root is taken out of the superblock, or put back into it for the opening to
//! release: one sector, which undoes the reservation or its release and nothing else. A crash in
//! between leaves one of these superblocks, and the next opening tries them all again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use goldleaf_dm::{DevNumber, nodes};
use goldleaf_types::PoolId;

use super::KernelError;
use super::metadata_files::WHOLE_LIMIT;
use super::superblock::{BLOCK, HELD_ROOT_AT, age, checksum, is_whole, location};
use crate::sys::run::run_within;

/// Roots that are tried: the kernel holds one at a time, and makes the next one where the last one was.
const MOST_ROOTS: usize = 8;

/// Bytes that are read at a time.
const PIECE: usize = 1 << 20;

/// Leaves metadata whose held root, if there is one, can be released; and that is sound as a whole,
/// if `check`. Metadata that the kernel is to make is none yet.
pub(super) fn settle(pool: PoolId, metadata: DevNumber, check: bool) -> Result<(), KernelError> {
    let node = nodes::ensure(metadata).map_err(KernelError::io("make a device's node"))?;
    let mut block = [0; BLOCK];
    let file = File::options().read(true).write(true).open(&node);
    let file = file
        .and_then(|file| file.read_exact_at(&mut block, 0).map(|()| file))
        .map_err(KernelError::io("read a pool's superblock"))?;
    let released = without_root(&block);
    if released.is_none() && !(check && block != [0; BLOCK]) {
        return Ok(());
    }
    let passes = |arguments: &[&str]| -> Result<bool, KernelError> {
        let path = node.to_string_lossy();
        let arguments = [arguments, &["-q", path.as_ref()]].concat();
        let checked = run_within(WHOLE_LIMIT, "thin_check", &arguments);
        let checked = checked.map_err(|e| KernelError::Metadata {
            pool,
            why: e.to_string(),
        })?;
        Ok(checked.status.success())
    };
    let began = std::time::Instant::now();
    let sound = passes(&[])?;
    tracing::info!(%pool, sound, took = ?began.elapsed(), "metadata checked");
    if sound {
        return Ok(());
    }
    let put = |bytes: &[u8]| {
        let written = file.write_all_at(bytes, 0);
        let written = written.and_then(|()| file.sync_all());
        written.map_err(KernelError::io("write a pool's superblock"))
    };
    let mut changed = false;
    if let Some(released) = released {
        changed = true;
        put(&released)?;
        if passes(&[])? {
            tracing::warn!(%pool, "a power cut left a metadata snapshot half made; undone");
            return Ok(());
        }
    }
    // Blocks that are counted too often and nothing else: damage gets no further look, and no write.
    if is_whole(&block) && passes(&["--ignore-non-fatal-errors"])? {
        let roots = unnamed_roots(&file);
        for root in roots.map_err(KernelError::io("read a pool's metadata"))? {
            changed = true;
            put(&with_root(&block, root))?;
            if passes(&[])? {
                tracing::warn!(%pool, root,
                    "a power cut left a metadata snapshot half released; it is released anew");
                return Ok(());
            }
        }
    }
    if changed {
        put(&block)?;
    }
    Err(damaged(pool))
}

/// Blocks that are copies of the superblock, as the root of a metadata snapshot is: the newest first,
/// and no more than are worth a check each. Those of snapshots long gone may be among them.
fn unnamed_roots(file: &File) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    let mut piece = vec![0; PIECE];
    let mut number = 0;
    loop {
        let at = number * BLOCK as u64;
        let read = file.read_at(&mut piece, at)?;
        let (blocks, _) = piece[..read].as_chunks::<BLOCK>();
        if blocks.is_empty() {
            break;
        }
        for block in blocks {
            if number > 0 && is_whole(block) && location(block) == number {
                found.push((age(block), number));
            }
            number += 1;
        }
    }
    found.sort_unstable_by(|one, other| other.cmp(one));
    found.truncate(MOST_ROOTS);
    Ok(found.into_iter().map(|(_, root)| root).collect())
}

fn damaged(pool: PoolId) -> KernelError {
    let why =
        "thin_check finds errors in it; nothing was changed: `goldleaf pool repair` says what \
               can be had back"
            .to_owned();
    KernelError::Metadata { pool, why }
}

/// The superblock without its held root; `None` when it has none, or is none.
fn without_root(block: &[u8; BLOCK]) -> Option<[u8; BLOCK]> {
    let is_held = block[HELD_ROOT_AT..HELD_ROOT_AT + 8] != [0; 8];
    if !is_held || !is_whole(block) {
        return None;
    }
    Some(with_root(block, 0))
}

/// The superblock with another held root, 0 for none.
fn with_root(block: &[u8; BLOCK], root: u64) -> [u8; BLOCK] {
    let mut changed = *block;
    changed[HELD_ROOT_AT..HELD_ROOT_AT + 8].copy_from_slice(&root.to_le_bytes());
    let sum = checksum(&changed);
    changed[..4].copy_from_slice(&sum.to_le_bytes());
    changed
}

#[cfg(test)]
mod tests {
    use super::super::superblock::{LOCATION_AT, MAGIC, MAGIC_AT, TRANSACTION_AT};
    use super::*;

    fn superblock(root: u64) -> [u8; BLOCK] {
        let mut block = [0x11; BLOCK];
        block[MAGIC_AT..MAGIC_AT + 8].copy_from_slice(&MAGIC.to_le_bytes());
        block[HELD_ROOT_AT..HELD_ROOT_AT + 8].copy_from_slice(&root.to_le_bytes());
        let sum = checksum(&block);
        block[..4].copy_from_slice(&sum.to_le_bytes());
        block
    }

    #[test]
    fn only_the_root_and_the_sum_change_and_only_within_the_first_sector() {
        let block = superblock(77);
        let released = without_root(&block).unwrap();
        assert_eq!(released, superblock(0));
        assert_eq!(released[64..], block[64..]);
        assert!(without_root(&released).is_none());
    }

    #[test]
    fn the_copies_of_a_superblock_are_found_the_newest_first() {
        let copy = |number: u64, transaction: u64| {
            let mut block = superblock(0);
            block[LOCATION_AT..LOCATION_AT + 8].copy_from_slice(&number.to_le_bytes());
            block[TRANSACTION_AT..TRANSACTION_AT + 8].copy_from_slice(&transaction.to_le_bytes());
            with_root(&block, 0)
        };
        let file = tempfile::tempfile().unwrap();
        let put = |number: u64, block: &[u8]| {
            let at = number * u64::try_from(BLOCK).unwrap();
            file.write_all_at(block, at).unwrap();
        };
        let first = copy(0, 9);
        put(0, &first);
        put(700, &copy(700, 3));
        put(2, &copy(2, 8));
        put(300, &copy(299, 9)); // moved there: nobody's root
        put(301, &copy(301, 9)[..BLOCK - 1]); // cut short by the end of what was written
        put(302, &[7; BLOCK]);
        assert_eq!(unnamed_roots(&file).unwrap(), [2, 700]);
        let released = with_root(&first, 2);
        assert_eq!(without_root(&released), Some(first));
    }

    #[test]
    fn what_is_no_superblock_or_is_damaged_is_left_alone() {
        assert!(without_root(&[0; BLOCK]).is_none());
        for at in [0, MAGIC_AT, 3000] {
            let mut block = superblock(77);
            block[at] ^= 1;
            assert!(without_root(&block).is_none(), "{at}");
        }
    }
}
