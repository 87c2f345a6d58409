//! A pool's three tables: made, grown, loaded again.
//!
//! Used by `dm`. The metadata and data devices are linear over the pool's stretches, so that a pool
//! grows onto more room without its users seeing it. A live table may be shorter than its record
//! says, never other: what was mapped once stays where it is. No reload flushes, since a full pool
//! would hold it up. A crash leaves a device suspended or a table unused; the next call mends both.

use std::time::Duration;

use goldleaf_dm::{
    Commit, Control, DevNumber, Flush, LinearSegment, LockFs, METADATA_BLOCK, METADATA_BLOCKS_MAX,
    Owned, PoolFeatures, PoolStatus, Suspended, Table, Target, ThinPool,
};
use goldleaf_types::PoolId;

use super::dm::{Found, ensure_table_over, find, grow, settle, total};
use super::held_root;
use super::pool::status;
use super::{KernelError, LoadedPool, Outcome, PoolSpec, Stretch};

const METADATA: &str = "make a pool's metadata device";
const DATA: &str = "make a pool's data device";
const POOL: &str = "make a pool";

/// Leaves the three devices live; done when the pool was not. A read-only pool stays read-only, unless it grows.
pub(super) fn ensure(control: &Control, spec: &PoolSpec) -> Result<Outcome, KernelError> {
    let (metadata, data, _) = linears(control, spec)?;
    let owned = Owned::Pool(spec.id);
    let found = find(control, owned)?;
    let Some(live) = found.as_ref().and_then(live) else {
        // That may write.
        if !spec.read_only {
            held_root::settle(spec.id, metadata, spec.unclean)?;
        }
        let wanted = table(spec, (metadata, data));
        return ensure_table_over(control, owned, found, (POOL, &Table::of(wanted)))
            .map(|(_, outcome)| outcome);
    };
    // A crash may have come between a device that grew and the pool that is to see it.
    let longer = live.len < total(spec.data.iter().map(|s| s.len));
    let grows = grows(&status(control, spec.id, Commit::No)?, spec, longer);
    let wanted = ThinPool {
        // Where we asked to be told is moved while it runs.
        low_water_blocks: live.low_water_blocks,
        features: PoolFeatures {
            // Made read-only by us, for a reason that this opening does not settle. Metadata grows
            // in a writable pool alone: in a read-only one the kernel gives the pool up.
            read_only: spec.read_only || (live.features.read_only && !grows),
            ..features(spec)
        },
        ..thin_pool(spec, (metadata, data))
    };
    let table = Table::of(Target::ThinPool(wanted));
    if live == wanted && !grows {
        return ensure_table_over(control, owned, found, (POOL, &table))
            .map(|(_, outcome)| outcome);
    }
    // Only what may change does: else it is somebody's table.
    load_over(control, owned, (found.as_ref(), live), &wanted)?;
    // Another table of a pool that was live: what lies over it went on.
    Ok(Outcome::AlreadySo)
}

/// Leaves a live pool with exactly these tables.
pub(super) fn reload(control: &Control, spec: &PoolSpec) -> Result<Outcome, KernelError> {
    let owned = Owned::Pool(spec.id);
    let found = find(control, owned)?;
    let Some(live) = found.as_ref().and_then(live) else {
        return Err(KernelError::NoPool(spec.id));
    };
    let (metadata, data, grew) = linears(control, spec)?;
    let wanted = thin_pool(spec, (metadata, data));
    let grows = grows(&status(control, spec.id, Commit::No)?, spec, grew);
    if live == wanted && !grows && found.as_ref().is_some_and(|f| !f.device.suspended) {
        return Ok(Outcome::AlreadySo);
    }
    for table in loads(wanted, grows) {
        load_over(control, owned, (found.as_ref(), live), &table)?;
    }
    Ok(Outcome::Done)
}

/// What is loaded to come to a table, one after the other. Metadata grows in a writable pool alone: in
/// a read-only one the kernel gives the pool up. Once: what did not grow then does not the next time.
fn loads(wanted: ThinPool, grows: bool) -> impl Iterator<Item = ThinPool> {
    let writable = ThinPool {
        features: PoolFeatures {
            read_only: false,
            ..wanted.features
        },
        ..wanted
    };
    let first = (wanted.features.read_only && grows).then_some(writable);
    first.into_iter().chain([wanted])
}

/// What the live pool's table asks for.
pub(super) fn loaded(control: &Control, pool: PoolId) -> Result<LoadedPool, KernelError> {
    let found = find(control, Owned::Pool(pool))?;
    let live = found.as_ref().and_then(live);
    let live = live.ok_or(KernelError::NoPool(pool))?;
    Ok(LoadedPool {
        read_only: live.features.read_only,
        low_water_blocks: live.low_water_blocks,
        queue_when_full: !live.features.error_if_no_space,
    })
}

/// Suspends and resumes a live pool; nothing is flushed, since it is full.
pub(super) fn renew_wait(control: &Control, pool: PoolId) -> Result<(), KernelError> {
    let found = find(control, Owned::Pool(pool))?;
    if found.as_ref().and_then(live).is_none() {
        return Err(KernelError::NoPool(pool));
    }
    let name = Owned::Pool(pool).name();
    let suspended = Suspended::new(control, &name, Flush::No, LockFs::No)
        .map_err(KernelError::dm("let a pool's writers wait on"))?;
    drop(suspended);
    Ok(())
}

/// The host's one time for all pools: seconds, 0 for ever. 60 when it cannot be read, the kernel's
/// own default.
///
/// Source: Linux `drivers/md/dm-thin.c`, `no_space_timeout_secs`.
pub(super) fn wait_limit() -> Option<Duration> {
    let text = std::fs::read_to_string("/sys/module/dm_thin_pool/parameters/no_space_timeout");
    let seconds = text.ok().and_then(|text| text.trim().parse().ok());
    match seconds.unwrap_or(60) {
        0 => None,
        seconds => Some(Duration::from_secs(seconds)),
    }
}

/// Loads another table over a live pool, if it is the same pool.
fn load_over(
    control: &Control,
    owned: Owned,
    (found, live): (Option<&Found>, ThinPool),
    wanted: &ThinPool,
) -> Result<(), KernelError> {
    let same = (live.metadata, live.data, live.block)
        == (wanted.metadata, wanted.data, wanted.block)
        && live.len <= wanted.len;
    if !same {
        return Err(other(owned, found));
    }
    if let Some(found) = found {
        settle(control, owned, &found.device)?;
    }
    grow(control, owned, &Table::of(Target::ThinPool(*wanted)))
}

fn live(found: &Found) -> Option<ThinPool> {
    match found.targets.as_deref() {
        Some([Target::ThinPool(pool)]) if found.device.has_active_table => Some(*pool),
        Some(_) | None => None,
    }
}

fn features(spec: &PoolSpec) -> PoolFeatures {
    PoolFeatures {
        error_if_no_space: !spec.queue_when_full,
        read_only: spec.read_only,
        ..PoolFeatures::default()
    }
}

fn thin_pool(spec: &PoolSpec, (metadata, data): (DevNumber, DevNumber)) -> ThinPool {
    ThinPool {
        len: total(spec.data.iter().map(|s| s.len)),
        metadata,
        data,
        block: spec.block,
        low_water_blocks: spec.low_water_blocks,
        features: features(spec),
    }
}

fn table(spec: &PoolSpec, devices: (DevNumber, DevNumber)) -> Target {
    Target::ThinPool(thin_pool(spec, devices))
}

impl PoolSpec {
    /// Blocks of its metadata that the kernel uses: pools were made with more than it can.
    #[must_use]
    pub fn metadata_blocks(&self) -> u64 {
        let bytes: u64 = self.metadata.iter().map(|s| s.len.bytes().0).sum();
        (bytes / METADATA_BLOCK).min(METADATA_BLOCKS_MAX)
    }
}

/// Whether a load makes the live pool larger: a device of it is `longer`, or the kernel does not know
/// all of its metadata. One that it gave up, or that needs a check, grows by no load.
fn grows(status: &PoolStatus, spec: &PoolSpec, longer: bool) -> bool {
    match status {
        PoolStatus::Fail => false,
        PoolStatus::Working(status) if status.needs_check => false,
        PoolStatus::Working(status) => {
            longer || status.total_metadata_blocks < spec.metadata_blocks()
        }
    }
}

/// The metadata and data devices, made or grown; whether one grew.
fn linears(
    control: &Control,
    spec: &PoolSpec,
) -> Result<(DevNumber, DevNumber, bool), KernelError> {
    let metadata = (Owned::PoolMetadata(spec.id), METADATA);
    let data = (Owned::PoolData(spec.id), DATA);
    let (metadata, more) = linear(control, metadata, &spec.metadata)?;
    let (data, longer) = linear(control, data, &spec.data)?;
    Ok((metadata, data, more || longer))
}

/// The metadata device alone, made or grown.
pub(super) fn metadata_device(
    control: &Control,
    spec: &PoolSpec,
) -> Result<DevNumber, KernelError> {
    let owned = (Owned::PoolMetadata(spec.id), METADATA);
    linear(control, owned, &spec.metadata).map(|(device, _)| device)
}

fn linear(
    control: &Control,
    (owned, what): (Owned, &'static str),
    stretches: &[Stretch],
) -> Result<(DevNumber, bool), KernelError> {
    let wanted = segments(stretches);
    let table = Table::linear(wanted.iter().copied());
    let found = find(control, owned)?;
    let Some(live) = found.as_ref().filter(|f| f.device.has_active_table) else {
        return ensure_table_over(control, owned, found, (what, &table))
            .map(|(dev, _)| (dev, false));
    };
    let dev = live.device.dev;
    let targets = live.targets.as_deref().and_then(linear_segments);
    let now = targets
        .map(joined)
        .ok_or_else(|| other(owned, Some(live)))?;
    if live.device.read_only || !begins_with(&wanted, &now) {
        return Err(other(owned, Some(live)));
    }
    settle(control, owned, &live.device)?;
    let grows = now != wanted;
    if grows {
        grow(control, owned, &table)?;
    }
    Ok((dev, grows))
}

fn other(owned: Owned, found: Option<&Found>) -> KernelError {
    KernelError::OtherTable {
        what: owned.name().to_string(),
        found: found.map(|f| f.text.clone()).unwrap_or_default(),
    }
}

fn segments(stretches: &[Stretch]) -> Vec<LinearSegment> {
    joined(stretches.iter().map(|s| LinearSegment {
        len: s.len,
        dev: s.dev,
        offset: s.start,
    }))
}

fn linear_segments(targets: &[Target]) -> Option<Vec<LinearSegment>> {
    let segment = |target: &Target| match target {
        Target::Linear(segment) => Some(*segment),
        Target::ThinPool(_)
        | Target::Thin(_)
        | Target::Verity(_)
        | Target::Error(_)
        | Target::Zero(_) => None,
    };
    targets.iter().map(segment).collect()
}

/// The same mapping in as few segments as can be.
fn joined(segments: impl IntoIterator<Item = LinearSegment>) -> Vec<LinearSegment> {
    let mut joined: Vec<LinearSegment> = Vec::new();
    for next in segments {
        match joined.last_mut() {
            Some(last) if last.dev == next.dev && last.offset.0 + last.len.0 == next.offset.0 => {
                last.len.0 += next.len.0;
            }
            Some(_) | None => joined.push(next),
        }
    }
    joined
}

/// Whether every sector of `now` is mapped by `wanted` as it is.
fn begins_with(wanted: &[LinearSegment], now: &[LinearSegment]) -> bool {
    let Some((last, before)) = now.split_last() else {
        return true;
    };
    let Some((same, rest)) = wanted.split_at_checked(before.len()) else {
        return false;
    };
    let goes_on = |first: &LinearSegment| {
        (first.dev, first.offset) == (last.dev, last.offset) && first.len >= last.len
    };
    same == before && rest.first().is_some_and(goes_on)
}

#[cfg(test)]
mod tests {
    use goldleaf_dm::{DiscardPolicy, NoSpacePolicy, PoolMode, WorkingPool};
    use goldleaf_types::{BlockSize, Sectors};

    use super::*;

    fn spec(metadata: Sectors) -> PoolSpec {
        let stretch = |len| Stretch {
            dev: DevNumber { major: 7, minor: 0 },
            start: Sectors(0),
            len,
        };
        PoolSpec {
            id: PoolId::from_bytes([1; 16]),
            metadata: vec![stretch(metadata)],
            data: vec![stretch(Sectors(1 << 20))],
            block: BlockSize::DEFAULT,
            queue_when_full: false,
            read_only: true,
            low_water_blocks: 0,
            unclean: false,
        }
    }

    fn working(total_metadata_blocks: u64, needs_check: bool) -> PoolStatus {
        PoolStatus::Working(WorkingPool {
            transaction_id: 1,
            used_metadata_blocks: 1,
            total_metadata_blocks,
            used_data_blocks: 0,
            total_data_blocks: 1 << 13,
            held_root: None,
            mode: PoolMode::ReadOnly,
            discard: DiscardPolicy::Passdown,
            no_space: NoSpacePolicy::Error,
            needs_check,
            metadata_low_water: None,
        })
    }

    #[test]
    fn a_pool_grows_by_a_load_while_the_kernel_lets_it_and_uses_no_more_metadata_than_it_can() {
        let eight = spec(Sectors(8 << 11));
        assert!(!grows(&working(2048, false), &eight, false));
        assert!(grows(&working(2048, false), &eight, true));
        assert!(grows(&working(1024, false), &eight, false));
        for given_up in [working(1024, true), PoolStatus::Fail] {
            assert!(!grows(&given_up, &eight, true), "{given_up:?}");
        }
        for sectors in [255 << 17, 16 << 21, 17 << 21] {
            let all = working(METADATA_BLOCKS_MAX, false);
            assert!(!grows(&all, &spec(Sectors(sectors)), false), "{sectors}");
        }
        let less = working(METADATA_BLOCKS_MAX - 1, false);
        assert!(grows(&less, &spec(Sectors(16 << 21)), false));
    }

    #[test]
    fn a_read_only_pool_is_writable_for_one_load_to_grow() {
        let devices = (segment(0, 0, 1).dev, segment(1, 0, 1).dev);
        let wanted = thin_pool(&spec(Sectors(8 << 11)), devices);
        let read_only = |grows| -> Vec<bool> {
            let tables = loads(wanted, grows);
            tables.map(|table| table.features.read_only).collect()
        };
        assert_eq!(read_only(true), [false, true]);
        assert_eq!(read_only(false), [true]);
    }

    fn segment(minor: u32, offset: u64, len: u64) -> LinearSegment {
        LinearSegment {
            len: Sectors(len),
            dev: DevNumber { major: 7, minor },
            offset: Sectors(offset),
        }
    }

    #[test]
    fn a_live_table_grows_only_into_one_that_begins_as_it() {
        let now = [segment(0, 0, 10), segment(1, 0, 10)];
        for (wanted, fits) in [
            (vec![segment(0, 0, 10), segment(1, 0, 10)], true),
            (vec![segment(0, 0, 10), segment(1, 0, 20)], true),
            (
                vec![segment(0, 0, 10), segment(1, 0, 10), segment(2, 0, 1)],
                true,
            ),
            (vec![segment(0, 0, 20), segment(1, 0, 10)], false),
            (vec![segment(1, 0, 10), segment(0, 0, 10)], false),
            (vec![segment(0, 0, 10), segment(1, 0, 9)], false),
            (vec![segment(0, 0, 10), segment(1, 8, 10)], false),
            (vec![segment(0, 0, 10)], false),
        ] {
            assert_eq!(begins_with(&wanted, &now), fits, "{wanted:?}");
        }
    }

    #[test]
    fn segments_that_follow_each_other_are_one() {
        let parts = [segment(0, 0, 10), segment(0, 10, 5), segment(0, 20, 5)];
        assert_eq!(joined(parts), [segment(0, 0, 15), segment(0, 20, 5)]);
    }
}
