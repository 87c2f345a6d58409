//! Metadata that may not be sound: the field's own check of it, and a metadata snapshot that a power
//! cut left half made.
//!
//! Metadata of a pool that was not closed is checked as a whole, so that damage is refused before
//! anything is written over it, not met later under somebody's write.
//!
//! Called by `pool` before it builds a pool that is not live. The kernel writes the held root into
//! the superblock before the counts that go with it are safe, so a power cut in between leaves a
//! root whose blocks nobody counts; to release it would then free blocks that are in use. The
//! field's own tool (`thin_check`) says whether that is so; only then the root is taken out of the
//! superblock, in one sector, which undoes the reservation and nothing else.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use goldleaf_dm::{DevNumber, nodes};
use goldleaf_types::PoolId;

use super::KernelError;
use super::superblock::{BLOCK, HELD_ROOT_AT, checksum, is_whole};
use crate::sys::run::run_within;

/// About a second for a million blocks; the largest metadata has some hundred millions.
const LIMIT: Duration = Duration::from_secs(600);

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
    let is_sound = || -> Result<bool, KernelError> {
        let path = node.to_string_lossy();
        let checked = run_within(LIMIT, "thin_check", &["-q", path.as_ref()]);
        let checked = checked.map_err(|e| KernelError::Metadata {
            pool,
            why: e.to_string(),
        })?;
        Ok(checked.status.success())
    };
    let began = std::time::Instant::now();
    let sound = is_sound()?;
    tracing::info!(%pool, sound, took = ?began.elapsed(), "metadata checked");
    if sound {
        return Ok(());
    }
    let Some(released) = released else {
        return Err(damaged(pool));
    };
    let put = |bytes: &[u8]| {
        let written = file.write_all_at(bytes, 0);
        let written = written.and_then(|()| file.sync_all());
        written.map_err(KernelError::io("write a pool's superblock"))
    };
    put(&released)?;
    if is_sound()? {
        tracing::warn!(%pool, "a power cut left a metadata snapshot half made; undone");
        return Ok(());
    }
    put(&block)?;
    Err(damaged(pool))
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
    let mut released = *block;
    released[HELD_ROOT_AT..HELD_ROOT_AT + 8].fill(0);
    let sum = checksum(&released);
    released[..4].copy_from_slice(&sum.to_le_bytes());
    Some(released)
}

#[cfg(test)]
mod tests {
    use super::super::superblock::{MAGIC, MAGIC_AT};
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
    fn what_is_no_superblock_or_is_damaged_is_left_alone() {
        assert!(without_root(&[0; BLOCK]).is_none());
        for at in [0, MAGIC_AT, 3000] {
            let mut block = superblock(77);
            block[at] ^= 1;
            assert!(without_root(&block).is_none(), "{at}");
        }
    }
}
