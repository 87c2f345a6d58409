//! Reading a live pool's metadata with the field's own tools, from a metadata snapshot.
//!
//! Used by `dm`, one reader at a time: a pool holds one metadata snapshot. It is released on every
//! way out; one that a crash leaves is released when the pool is opened. While it is held, blocks
//! that are deleted are not freed, so nothing else is done meanwhile.

use std::path::Path;

use goldleaf_dm::{Control, Owned, PoolMessage, nodes};
use goldleaf_types::{PoolId, ThinId};

use super::pool::{Refused, message};
use super::{KernelError, ThinUse};
use crate::sys::run::run_within;

/// How long a tool may read: `thin_ls` takes about a second for a million mappings.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(300);

/// Calls `read` with the metadata device's path while a metadata snapshot is held.
fn with_snapshot<T>(
    control: &Control,
    pool: PoolId,
    read: impl FnOnce(&Path) -> Result<T, KernelError>,
) -> Result<T, KernelError> {
    let device = control
        .find(&Owned::PoolMetadata(pool).name())
        .map_err(KernelError::dm("look at a pool's metadata device"))?
        .ok_or(KernelError::NoPool(pool))?;
    let node = nodes::ensure(device.dev).map_err(KernelError::io("make a device's node"))?;
    message(control, pool, &PoolMessage::ReserveMetadataSnap).map_err(Refused::into_error)?;
    let answer = read(&node);
    message(control, pool, &PoolMessage::ReleaseMetadataSnap).map_err(Refused::into_error)?;
    answer
}

/// What a tool wrote when it ended well.
fn read_with(pool: PoolId, program: &str, args: &[&str]) -> Result<String, KernelError> {
    let failed = |why: String| KernelError::Metadata { pool, why };
    let output = run_within(LIMIT, program, args).map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(failed(words.trim().chars().take(300).collect()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What each thin of the pool takes, in order of thin.
pub(super) fn usage(control: &Control, pool: PoolId) -> Result<Vec<ThinUse>, KernelError> {
    let text = with_snapshot(control, pool, |metadata| {
        let path = metadata.to_string_lossy();
        let columns = "DEV,MAPPED_BLOCKS,EXCLUSIVE_BLOCKS";
        let args = ["-m", "--no-headers", "-o", columns, path.as_ref()];
        read_with(pool, "thin_ls", &args)
    })?;
    parse_usage(&text).ok_or_else(|| KernelError::Metadata {
        pool,
        why: "thin_ls answered something else than a list".into(),
    })
}

/// Lines of three numbers, of which the last is no larger than the second.
fn parse_usage(text: &str) -> Option<Vec<ThinUse>> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let found = ThinUse {
            thin: ThinId::new(words.next()?.parse().ok()?).ok()?,
            mapped_blocks: words.next()?.parse().ok()?,
            exclusive_blocks: words.next()?.parse().ok()?,
        };
        let sane = words.next().is_none() && found.exclusive_blocks <= found.mapped_blocks;
        sane.then_some(found)
    };
    let lines = text.lines().filter(|l| !l.trim().is_empty());
    let mut all: Vec<_> = lines.map(line).collect::<Option<_>>()?;
    all.sort_by_key(|found| found.thin);
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_thins_take_is_read_whole_or_not_at_all() {
        let all = parse_usage(" 2  5 5\n 1 17 3\n\n").unwrap();
        let numbers = |u: &ThinUse| (u.thin.get(), u.mapped_blocks, u.exclusive_blocks);
        assert_eq!(
            all.iter().map(numbers).collect::<Vec<_>>(),
            [(1, 17, 3), (2, 5, 5)]
        );
        for bad in ["1 2", "1 2 3", "1 2 2 2", "x 2 1", "1 -2 0"] {
            assert!(parse_usage(bad).is_none(), "{bad:?} passed");
        }
    }
}
