//! Locks by key: two calls for one volume follow each other, calls for different ones never wait.
//!
//! Called by `ops`. A holder of several keys takes them in one step, so no two callers can each
//! hold what the other wants. Held across ioctls and commits on purpose; never across hashing.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Condvar, Mutex, PoisonError};

/// A set of keys that are in use now.
#[derive(Debug)]
pub struct Locks<K> {
    held: Mutex<HashSet<K>>,
    freed: Condvar,
}

/// Some keys in use; dropping it frees them.
#[must_use = "the keys are free as soon as this is dropped"]
#[derive(Debug)]
pub struct Held<'a, K: Copy + Eq + Hash> {
    locks: &'a Locks<K>,
    keys: Vec<K>,
}

impl<K: Copy + Eq + Hash> Locks<K> {
    /// No key in use.
    #[must_use]
    pub fn new() -> Self {
        Self {
            held: Mutex::new(HashSet::new()),
            freed: Condvar::new(),
        }
    }

    /// Blocks until none of `keys` is in use, then takes them all.
    pub fn take(&self, keys: &[K]) -> Held<'_, K> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        while keys.iter().any(|k| held.contains(k)) {
            held = self
                .freed
                .wait(held)
                .unwrap_or_else(PoisonError::into_inner);
        }
        held.extend(keys.iter().copied());
        Held {
            locks: self,
            keys: keys.to_vec(),
        }
    }
}

impl<K: Copy + Eq + Hash> Default for Locks<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Copy + Eq + Hash> Drop for Held<'_, K> {
    fn drop(&mut self) {
        let mut held = self
            .locks
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for key in &self.keys {
            held.remove(key);
        }
        self.locks.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn one_key_is_held_once_at_a_time_and_crossed_orders_do_not_deadlock() {
        let locks = Locks::new();
        let inside = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (locks, inside) = (&locks, &inside);
                scope.spawn(move || {
                    for _ in 0..200 {
                        let keys = if thread % 2 == 0 { [1, 2] } else { [2, 1] };
                        let _held = locks.take(&keys);
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
    }
}
