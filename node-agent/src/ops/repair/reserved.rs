//! Pools that a repair has for itself, while the other pools of the node are made, opened and closed.
//!
//! Part of `ops::Pools`. A repair takes minutes, and the turn in which pools change is everybody's: so
//! a repair only begins in its turn, and is known here from then on. Who has the turn touches no pool
//! that is reserved, nor takes its name. In memory only: after a crash the pool's own row says what is
//! to be done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use goldleaf_types::PoolId;

use crate::ops::error::PoolError;

/// The pools that are reserved.
#[derive(Debug, Default)]
pub(in crate::ops) struct Reservations(Mutex<BTreeMap<PoolId, Kept>>);

/// What is known of a reserved pool.
#[derive(Debug)]
struct Kept {
    name: String,
    since: Instant,
    /// It is repaired, and not just copied to see what a repair would do.
    applies: bool,
}

/// A pool that others leave alone until this is dropped.
#[must_use = "others may change the pool as soon as this is dropped"]
#[derive(Debug)]
pub(in crate::ops) struct Reserved<'a> {
    all: &'a Reservations,
    id: PoolId,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.all.kept().remove(&self.id);
    }
}

impl Reservations {
    fn kept(&self) -> MutexGuard<'_, BTreeMap<PoolId, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves a pool. The caller has the turn, and is the one repair of this host.
    pub(super) fn reserve(&self, id: PoolId, name: String, applies: bool) -> Reserved<'_> {
        let since = Instant::now();
        let kept = Kept {
            name,
            since,
            applies,
        };
        self.kept().insert(id, kept);
        Reserved { all: self, id }
    }

    /// Refuses a change of a pool that is reserved. The caller has the turn: none is reserved until it
    /// is over.
    ///
    /// # Errors
    ///
    /// [`PoolError::BeingRepaired`].
    pub(in crate::ops) fn is_free(&self, id: PoolId) -> Result<(), PoolError> {
        match self.has(id) {
            false => Ok(()),
            true => Err(PoolError::BeingRepaired(id)),
        }
    }

    /// Whether a pool is reserved.
    pub(in crate::ops) fn has(&self, id: PoolId) -> bool {
        self.kept().contains_key(&id)
    }

    /// All of them.
    pub(in crate::ops) fn all(&self) -> BTreeSet<PoolId> {
        self.kept().keys().copied().collect()
    }

    /// The one of this name, besides a pool that asks for itself.
    pub(in crate::ops) fn named(&self, name: &str, besides: PoolId) -> Option<PoolId> {
        let kept = self.kept();
        let mut of_name = kept
            .iter()
            .filter(|(_, kept)| kept.name == name)
            .map(|(id, _)| *id);
        of_name.find(|id| *id != besides)
    }

    /// Those that are repaired, and since when.
    pub(in crate::ops) fn repaired(&self) -> Vec<(PoolId, Instant)> {
        let kept = self.kept();
        let repaired = kept.iter().filter(|(_, kept)| kept.applies);
        repaired.map(|(id, kept)| (*id, kept.since)).collect()
    }
}
