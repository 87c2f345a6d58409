//! One operation at a time on one thing; different things never wait for each other.
//!
//! Called by every rule that changes something. Who asks for what is going on already waits for it
//! and then sees its result; who asks for something else is told so. A name is taken before an id,
//! never after one, so nobody waits in a circle. What takes minutes is announced, not taken: our own
//! short changes of the thing, a node's reports for one, wait for nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is done to a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Making it, or finishing that.
    Create,
    /// Taking it away, or finishing that.
    Delete,
    /// Growing it.
    Resize,
    /// Making it independent of its image, or finishing that.
    Decouple,
    /// Making its device appear.
    Activate,
    /// Taking its device away.
    Deactivate,
    /// Giving a pool more room.
    Extend,
    /// Setting what a pool does when it fills.
    SetPolicy,
    /// Opening a pool.
    Open,
    /// Giving a pool another name, or finishing that.
    Rename,
    /// Repairing a pool's metadata, or looking what that would do.
    Repair,
    /// Closing a pool.
    Close,
    /// Taking one node's copy of an image away.
    Evict,
    /// Taking a pool over from another store.
    Adopt,
    /// A short change of our own that nobody asked for; it waits and is waited for.
    Inner,
}

impl Op {
    /// For "... is being created".
    #[must_use]
    pub const fn doing(self) -> &'static str {
        match self {
            Self::Create => "being created",
            Self::Delete => "being deleted",
            Self::Resize => "being resized",
            Self::Decouple => "being made independent of its image",
            Self::Activate => "being activated",
            Self::Deactivate => "being deactivated",
            Self::Extend => "being extended",
            Self::SetPolicy => "being given another policy",
            Self::Open => "being opened",
            Self::Rename => "being renamed",
            Self::Repair => "being repaired",
            Self::Close => "being closed",
            Self::Evict => "being taken from a node",
            Self::Adopt => "being adopted",
            Self::Inner => "being looked at",
        }
    }
}

#[derive(Debug)]
struct Slot {
    /// Of those users who were asked for something; `Inner` while there is none.
    op: Op,
    users: usize,
    asked: usize,
    lock: Arc<tokio::sync::Mutex<()>>,
}

type Slots = HashMap<String, Slot>;

/// The things that something is done to now.
#[derive(Clone, Debug, Default)]
pub struct Locks {
    slots: Arc<Mutex<Slots>>,
}

/// A thing that is ours until this is dropped.
#[must_use = "the thing is free as soon as this is dropped"]
#[derive(Debug)]
pub struct Held {
    // Before `_place`: the lock is open when the slot is given up.
    _lock: tokio::sync::OwnedMutexGuard<()>,
    _place: Place,
}

/// A thing of which others are told what is done to it, until this is dropped.
#[must_use = "others may begin as soon as this is dropped"]
#[derive(Debug)]
pub struct Announced {
    // Before `_place`, as there.
    _turn: Held,
    _place: Place,
}

/// A place in a slot's queue; kept also by those who stop waiting.
#[derive(Debug)]
struct Place {
    slots: Arc<Mutex<Slots>>,
    key: String,
    op: Op,
}

fn open(slots: &Mutex<Slots>) -> MutexGuard<'_, Slots> {
    slots.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Locks {
    /// Takes a thing, after everybody who does the same to it.
    ///
    /// # Errors
    ///
    /// What goes on, if that is something else.
    pub async fn take(&self, key: impl Into<String>, op: Op) -> Result<Held, Op> {
        let (place, lock) = self.place(key.into(), op)?;
        Ok(Held {
            _lock: lock.lock_owned().await,
            _place: place,
        })
    }

    /// Refuses every other operation on a thing from now on, after everybody who announced the same;
    /// our own short changes of it go on. Who announced it takes it for the change at its end. Calls
    /// `waits` first if there is somebody to wait for.
    ///
    /// # Errors
    ///
    /// What goes on, if that is something else.
    pub async fn announce(
        &self,
        key: impl Into<String>,
        op: Op,
        waits: impl FnOnce(),
    ) -> Result<Announced, Op> {
        let key = key.into();
        let turn = format!("{key}/announced");
        let (place, _) = self.place(key, op)?;
        let (turn, lock) = self.place(turn, op)?;
        let lock = match Arc::clone(&lock).try_lock_owned() {
            Ok(lock) => lock,
            Err(_) => {
                waits();
                lock.lock_owned().await
            }
        };
        Ok(Announced {
            _turn: Held {
                _lock: lock,
                _place: turn,
            },
            _place: place,
        })
    }

    /// A place in a thing's queue, and what is waited for there.
    fn place(&self, key: String, op: Op) -> Result<(Place, Arc<tokio::sync::Mutex<()>>), Op> {
        let mut slots = open(&self.slots);
        let slot = slots.entry(key.clone()).or_insert_with(|| Slot {
            op,
            users: 0,
            asked: 0,
            lock: Arc::default(),
        });
        if slot.op == Op::Inner {
            slot.op = op;
        } else if op != Op::Inner && slot.op != op {
            return Err(slot.op);
        }
        slot.users += 1;
        slot.asked += usize::from(op != Op::Inner);
        let place = Place {
            slots: Arc::clone(&self.slots),
            key,
            op,
        };
        Ok((place, Arc::clone(&slot.lock)))
    }

    /// Takes a thing for a short change of our own.
    pub async fn take_inner(&self, key: impl Into<String>) -> Held {
        let key = key.into();
        loop {
            // `Inner` is never refused; the loop is for the types.
            if let Ok(held) = self.take(key.clone(), Op::Inner).await {
                return held;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut slots = open(&self.slots);
        if let Some(slot) = slots.get_mut(&self.key) {
            slot.users -= 1;
            slot.asked -= usize::from(self.op != Op::Inner);
            if slot.asked == 0 {
                slot.op = Op::Inner; // who is left refuses nobody
            }
            if slot.users == 0 {
                slots.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_same_operation_queues_and_another_is_told_what_goes_on() {
        let locks = Locks::default();
        let first = locks.take("a", Op::Create).await.unwrap();
        assert_eq!(locks.take("a", Op::Delete).await.unwrap_err(), Op::Create);
        assert!(locks.take("b", Op::Delete).await.is_ok());
        let waiting = tokio::spawn({
            let locks = locks.clone();
            async move { locks.take("a", Op::Create).await.map(drop) }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap().unwrap();
        assert!(locks.take("a", Op::Delete).await.is_ok());
        assert!(open(&locks.slots).is_empty(), "slots are given up");
    }

    #[tokio::test]
    async fn who_stops_waiting_leaves_no_trace() {
        let locks = Locks::default();
        let first = locks.take("a", Op::Create).await.unwrap();
        let tired =
            tokio::time::timeout(Duration::from_millis(10), locks.take("a", Op::Create)).await;
        assert!(tired.is_err());
        drop(first);
        assert!(open(&locks.slots).is_empty());
    }

    #[tokio::test]
    async fn what_is_announced_keeps_others_off_and_lets_our_own_short_changes_go_on() {
        let locks = Locks::default();
        let first = locks
            .announce("a", Op::Repair, || panic!("it waits"))
            .await
            .unwrap();
        assert_eq!(locks.take("a", Op::Delete).await.unwrap_err(), Op::Repair);
        assert_eq!(
            locks.announce("a", Op::Open, || ()).await.unwrap_err(),
            Op::Repair
        );
        drop(locks.take_inner("a").await);
        drop(locks.take("a", Op::Repair).await.unwrap());
        let waits = Arc::new(tokio::sync::Notify::new());
        let waiting = tokio::spawn({
            let locks = locks.clone();
            let wait = Arc::clone(&waits);
            async move {
                locks
                    .announce("a", Op::Repair, || wait.notify_one())
                    .await
                    .map(drop)
            }
        });
        waits.notified().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!waiting.is_finished(), "two at once");
        drop(first);
        waiting.await.unwrap().unwrap();
        assert!(locks.take("a", Op::Delete).await.is_ok());
        assert!(open(&locks.slots).is_empty(), "slots are given up");
    }

    #[tokio::test]
    async fn our_own_short_changes_refuse_nobody() {
        let locks = Locks::default();
        let ours = locks.take_inner("a").await;
        let theirs = tokio::spawn({
            let locks = locks.clone();
            async move { locks.take("a", Op::Delete).await.map(drop) }
        });
        tokio::time::sleep(Duration::from_millis(10)).await;
        drop(ours);
        assert!(theirs.await.unwrap().is_ok());
    }
    #[tokio::test]
    async fn our_own_short_changes_do_not_pass_for_what_went_on_before_them() {
        let locks = Locks::default();
        let first = locks.take("a", Op::Activate).await.unwrap();
        let mut ours = std::pin::pin!(locks.take_inner("a"));
        let waits = Duration::from_millis(10);
        assert!(tokio::time::timeout(waits, &mut ours).await.is_err());
        drop(first);
        let ours = ours.await;
        let theirs = tokio::spawn({
            let locks = locks.clone();
            async move { locks.take("a", Op::Deactivate).await }
        });
        tokio::time::sleep(waits).await;
        assert!(!theirs.is_finished(), "refused for what has ended");
        assert_eq!(
            locks.take("a", Op::Activate).await.unwrap_err(),
            Op::Deactivate,
            "two things at once"
        );
        drop(ours);
        drop(theirs.await.unwrap().unwrap());
        assert!(open(&locks.slots).is_empty(), "slots are given up");
    }
}
