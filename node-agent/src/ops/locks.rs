//! Locks by key: two calls for one volume follow each other in the order in which they came, calls
//! for different ones never wait.
//!
//! Called by `ops`. A holder of several keys takes them in one step, so no two callers can each
//! hold what the other wants. Held across ioctls and commits on purpose; never across hashing.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Condvar, Mutex, PoisonError};

/// A set of keys that are in use now.
#[derive(Debug)]
pub struct Locks<K> {
    state: Mutex<State<K>>,
    freed: Condvar,
}

#[derive(Debug)]
struct State<K> {
    held: HashSet<K>,
    /// Who waits for what, by number, in order of coming.
    queue: VecDeque<(u64, Vec<K>)>,
    next: u64,
}

impl<K: Copy + Eq + Hash> State<K> {
    /// Whether nobody has any of the keys of `ticket` and nobody who came before waits for one.
    fn is_due(&self, ticket: u64) -> bool {
        let Some(at) = self.queue.iter().position(|(other, _)| *other == ticket) else {
            return false;
        };
        let keys = &self.queue[at].1;
        let mut before = self.queue.iter().take(at).flat_map(|(_, others)| others);
        !keys.iter().any(|key| self.held.contains(key)) && !before.any(|key| keys.contains(key))
    }
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
            state: Mutex::new(State {
                held: HashSet::new(),
                queue: VecDeque::new(),
                next: 0,
            }),
            freed: Condvar::new(),
        }
    }

    /// Blocks until none of `keys` is in use and nobody waited for one before, then takes them all.
    pub fn take(&self, keys: &[K]) -> Held<'_, K> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let ticket = state.next;
        state.next += 1;
        state.queue.push_back((ticket, keys.to_vec()));
        while !state.is_due(ticket) {
            state = self
                .freed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.queue.retain(|(waiting, _)| *waiting != ticket);
        state.held.extend(keys.iter().copied());
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
        let mut state = self
            .locks
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for key in &self.keys {
            state.held.remove(key);
        }
        self.locks.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// The order of calls is what their callers meant: none overtakes another for the same key.
    #[test]
    fn who_came_first_is_served_first_also_when_it_wants_more() {
        let locks = Locks::new();
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let held = locks.take(&[1]);
            let wants: [&'static [i32]; 6] = [&[1], &[2, 1], &[2], &[1], &[1, 2], &[1]];
            for (n, keys) in wants.into_iter().enumerate() {
                let (locks, tell) = (&locks, tell.clone());
                scope.spawn(move || {
                    let _held = locks.take(keys);
                    tell.send(n).unwrap();
                });
                // Begun one after the other: each is in the queue before the next.
                while locks.state.lock().unwrap().queue.len() <= n {
                    std::thread::yield_now();
                }
            }
            drop(held);
        });
        drop(tell);
        let order: Vec<usize> = told.iter().collect();
        let of_key_one: Vec<_> = order.iter().copied().filter(|n| *n != 2).collect();
        assert_eq!(of_key_one, [0, 1, 3, 4, 5]);
        let at = |n| order.iter().position(|other| *other == n);
        assert!(at(1) < at(2) && at(2) < at(4), "{order:?}");
    }

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
