//! Reading a live pool's metadata with the field's own tools, from a metadata snapshot.
//!
//! Used by `dm`, one reader at a time: a pool holds one metadata snapshot. It is released on every
//! way out; one that a crash leaves is released when the pool is opened. While it is held, blocks
//! that are deleted are not freed, so nothing else is done meanwhile.

use std::path::Path;

use goldleaf_dm::{Control, Owned, PoolMessage, nodes};
use goldleaf_types::{PoolId, ThinId};

use super::pool::{Refused, message};
use super::{KernelError, KnownThin, ThinUse};
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

/// What `thin_ls` says in columns of numbers of each thin of the pool, in order of thin.
fn listed<const N: usize>(
    control: &Control,
    pool: PoolId,
    columns: &str,
) -> Result<Vec<(ThinId, [u64; N])>, KernelError> {
    let text = with_snapshot(control, pool, |metadata| {
        let (columns, path) = (format!("DEV,{columns}"), metadata.to_string_lossy());
        let args = ["-m", "--no-headers", "-o", columns.as_str(), path.as_ref()];
        read_with(pool, "thin_ls", &args)
    })?;
    parse(&text).ok_or_else(|| unreadable(pool))
}

fn unreadable(pool: PoolId) -> KernelError {
    let why = "thin_ls answered something else than a list".into();
    KernelError::Metadata { pool, why }
}

/// Every thin of the pool, in order.
pub(super) fn known(control: &Control, pool: PoolId) -> Result<Vec<KnownThin>, KernelError> {
    let listed = listed(control, pool, "MAPPED_BLOCKS")?;
    let known = listed.into_iter().map(|(thin, [mapped_blocks])| KnownThin {
        thin,
        mapped_blocks,
    });
    Ok(known.collect())
}

/// What each thin of the pool takes, in order of thin.
pub(super) fn usage(control: &Control, pool: PoolId) -> Result<Vec<ThinUse>, KernelError> {
    let listed = listed(control, pool, "MAPPED_BLOCKS,EXCLUSIVE_BLOCKS")?;
    let used = listed.into_iter().map(used).collect::<Option<_>>();
    used.ok_or_else(|| unreadable(pool))
}

/// A thin maps at least what it maps alone.
fn used((thin, [mapped_blocks, exclusive_blocks]): (ThinId, [u64; 2])) -> Option<ThinUse> {
    let found = ThinUse {
        thin,
        mapped_blocks,
        exclusive_blocks,
    };
    (exclusive_blocks <= mapped_blocks).then_some(found)
}

/// Lines of a thin and so many numbers, no more and no fewer, in order of thin.
fn parse<const N: usize>(text: &str) -> Option<Vec<(ThinId, [u64; N])>> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let thin = ThinId::new(words.next()?.parse().ok()?).ok()?;
        let numbers: Vec<u64> = words.map(|w| w.parse().ok()).collect::<Option<_>>()?;
        Some((thin, numbers.try_into().ok()?))
    };
    let lines = text.lines().filter(|l| !l.trim().is_empty());
    let mut all: Vec<_> = lines.map(line).collect::<Option<_>>()?;
    all.sort_by_key(|(thin, _)| *thin);
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_thins_is_read_whole_or_not_at_all() {
        let all = parse::<2>(" 2  5 5\n 1 17 3\n\n").unwrap();
        let all: Vec<_> = all.iter().map(|(thin, n)| (thin.get(), *n)).collect();
        assert_eq!(all, [(1, [17, 3]), (2, [5, 5])]);
        assert_eq!(parse::<1>("").unwrap(), []);
        for bad in ["1 2", "1 2 2 2", "x 2 1", "1 -2 0", "99999999 1 1", "1"] {
            assert!(parse::<2>(bad).is_none(), "{bad:?} passed");
        }
    }

    #[test]
    fn a_thin_that_maps_less_than_it_maps_alone_is_no_answer() {
        let thin = ThinId::new(1).unwrap();
        assert_eq!(used((thin, [3, 3])).unwrap().exclusive_blocks, 3);
        assert!(used((thin, [2, 3])).is_none());
    }
}
