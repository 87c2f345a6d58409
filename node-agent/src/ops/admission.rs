//! A pool's limit on what its volumes' sizes may sum up to, and what it does when it is full.
//!
//! Called by `grpc` to set them, and by whatever makes a volume or lets one grow. The limit is looked
//! at in the very transaction that writes the row: of two that come at once, and together are too
//! large, one is refused. Changing the limit touches nothing that is there.

use std::sync::PoisonError;

use goldleaf_types::{Bytes, Incarnation, PoolId, ThinOwner, VolumeSize};

use super::Agent;
use super::error::{PoolError, ThinError};
use super::open_pool::OpenPool;
use super::opening::stretches;
use super::view::PoolView;
use crate::catalogue::{NoSpace, PoolRecord, RegionKind, Rows, WriteError};
use crate::failpoint::{Point, hit};

/// What a pool does when it fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What writers meet when it is full.
    pub no_space: NoSpace,
    /// How long they wait, in seconds; 0: as long as the kernel lets them.
    pub wait_seconds: u32,
    /// What its volumes' sizes may sum up to, in hundredths of its data; 0: no limit.
    pub overcommit_percent: u32,
}

impl Policy {
    pub(super) const fn of(record: &PoolRecord) -> Self {
        Self {
            no_space: record.no_space,
            wait_seconds: record.wait_seconds,
            overcommit_percent: record.overcommit_percent,
        }
    }
}

/// What a pool is to do when it fills; what is `None` stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetPolicy {
    /// Which pool.
    pub id: PoolId,
    /// What writers meet when it is full.
    pub no_space: Option<NoSpace>,
    /// How long they wait, in seconds; 0: as long as the kernel lets them.
    pub wait_seconds: Option<u32>,
    /// What its volumes' sizes may sum up to, in hundredths of its data; 0: no limit.
    pub overcommit_percent: Option<u32>,
}

impl SetPolicy {
    fn onto(&self, record: PoolRecord) -> PoolRecord {
        PoolRecord {
            no_space: self.no_space.unwrap_or(record.no_space),
            wait_seconds: self.wait_seconds.unwrap_or(record.wait_seconds),
            overcommit_percent: self.overcommit_percent.unwrap_or(record.overcommit_percent),
            ..record
        }
    }
}

impl Agent {
    /// Sets what an open pool does when it fills. Asking again changes nothing. Blocks.
    ///
    /// # Errors
    ///
    /// [`PoolError::NotFound`] and its like; the kernel's, after which the next look at the pool
    /// makes it so.
    pub fn set_policy(
        &self,
        caller: Option<Incarnation>,
        wanted: SetPolicy,
    ) -> Result<PoolView, PoolError> {
        let _turn = self.pools.take_turn();
        let pool = self.pool_to_change(wanted.id, caller)?;
        let before = pool.record();
        if wanted.onto(before.clone()) != before {
            let set = pool.catalogue.write(move |rows| {
                let record = wanted.onto(rows.pool());
                rows.set_pool(record);
                Ok::<_, std::convert::Infallible>(())
            });
            set.map_err(|error| match error {
                WriteError::Refused(never) => match never {},
                WriteError::Catalogue(source) => PoolError::Catalogue {
                    pool: wanted.id,
                    source,
                },
            })?;
        }
        hit(Point::PolicyRecorded);
        {
            let _space = pool.space.lock().unwrap_or_else(PoisonError::into_inner);
            if wanted.onto(before.clone()) != before {
                // Whoever waits now begins to wait anew, as the new policy says.
                pool.forget_waiting();
                self.load_policy(&pool)?;
            }
            self.bring_in_order(&pool)?;
        }
        self.changed();
        self.pool_view(&pool)
    }
}

impl OpenPool {
    /// Bytes of data that its devices give.
    #[must_use]
    pub fn data_bytes(&self) -> Bytes {
        let data = stretches(&self.devices(), RegionKind::Data);
        Bytes(data.iter().map(|s| s.len.bytes().0).sum())
    }
}

/// What the sizes of a pool's volumes may sum up to.
#[must_use]
pub fn limit(data: Bytes, percent: u32) -> Option<Bytes> {
    match percent {
        0 => None,
        // Far from overflowing: a pool has at most 2^64 bytes, so in 128 bits.
        percent => {
            let limit = u128::from(data.0) * u128::from(percent) / 100;
            Some(Bytes(u64::try_from(limit).unwrap_or(u64::MAX)))
        }
    }
}

/// Refuses a volume of this size, or one that is to have it, if the pool's limit does not let it be.
///
/// # Errors
///
/// [`ThinError::Overcommitted`] with the figures.
pub(super) fn admit_size(
    rows: &Rows<'_>,
    data: Bytes,
    (owner, size): (ThinOwner, VolumeSize),
) -> Result<(), ThinError> {
    let pool = rows.pool();
    let Some(limit) = limit(data, pool.overcommit_percent) else {
        return Ok(());
    };
    let had = rows.find(owner).map_or(0, |row| row.size.bytes().0);
    // A snapshot is never written, and counts for nothing.
    let asked = size.bytes().0.saturating_sub(had);
    if owner.volume().is_none() || asked == 0 {
        return Ok(());
    }
    let provisioned = Bytes(rows.sum(|row| match row.owner.volume() {
        Some(_) => row.size.bytes().0,
        None => 0,
    }));
    if provisioned.0.saturating_add(asked) <= limit.0 {
        return Ok(());
    }
    Err(ThinError::Overcommitted {
        pool: pool.id,
        provisioned,
        limit,
        percent: pool.overcommit_percent,
        asked: Bytes(asked),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_in_hundredths_of_the_data_and_none_is_none() {
        assert_eq!(limit(Bytes(1000), 0), None);
        assert_eq!(limit(Bytes(1000), 100), Some(Bytes(1000)));
        assert_eq!(limit(Bytes(1000), 250), Some(Bytes(2500)));
        assert_eq!(limit(Bytes(999), 50), Some(Bytes(499)));
        assert_eq!(limit(Bytes(u64::MAX), u32::MAX), Some(Bytes(u64::MAX)));
    }
}
