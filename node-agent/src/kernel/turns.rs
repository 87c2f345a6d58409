//! Whose turn it is at a pool. Each pool has turns of its own: storage of one that hangs, and with it
//! whoever has a turn there, keeps nobody from the others.
//!
//! Used by `dm`. Nothing here outlives the process: what a crash leaves half done the next call mends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use goldleaf_types::PoolId;

/// The turns of every pool that was asked for.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<PoolId, Arc<PoolTurns>>>);

impl Turns {
    /// Those of one pool.
    pub(super) fn of(&self, pool: PoolId) -> Arc<PoolTurns> {
        let mut pools = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(pools.entry(pool).or_default())
    }
}

/// The turns of one pool.
#[derive(Debug, Default)]
pub(super) struct PoolTurns {
    /// It holds one metadata snapshot at most: one reader at a time.
    metadata: Mutex<()>,
    /// Many load thins' tables at once, or one loads the live pool's anew.
    tables: RwLock<()>,
}

impl PoolTurns {
    /// The pool is not suspended for another table meanwhile: the kernel loads no thin over one that
    /// is.
    pub(super) fn under_pool(&self) -> RwLockReadGuard<'_, ()> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// No thin is loaded meanwhile. Neither waits for I/O, so a full pool holds nobody up.
    pub(super) fn over_thins(&self) -> RwLockWriteGuard<'_, ()> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody else reads the metadata meanwhile.
    pub(super) fn to_read(&self) -> MutexGuard<'_, ()> {
        self.metadata.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_a_turn_at_a_pool_keeps_others_from_that_one_alone() {
        let turns = Turns::default();
        let [slow, other] = [1, 2].map(|n| PoolId::from_bytes([n; 16]));
        let held = turns.of(slow);
        let (_tables, _metadata) = (held.over_thins(), held.to_read());
        let free = |pool| {
            let turns = turns.of(pool);
            (
                turns.tables.try_read().is_ok(),
                turns.metadata.try_lock().is_ok(),
            )
        };
        assert_eq!(free(slow), (false, false));
        assert_eq!(free(other), (true, true));
    }
}
