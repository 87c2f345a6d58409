//! How many bytes image copies may take together.
//!
//! Used by `folder` for what is recorded and by `writer` for what is on its way in. A reservation
//! grows with what is written and gives everything back when it is dropped, so two imports at once
//! cannot take the same room twice.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use goldleaf_types::Bytes;

use super::error::ImageError;

/// A limit, and what is taken of it by copies and by imports under way.
#[derive(Debug)]
pub(super) struct Budget {
    limit: Bytes,
    taken: Mutex<u64>,
}

impl Budget {
    pub(super) fn new(limit: Bytes) -> Arc<Self> {
        Arc::new(Self {
            limit,
            taken: Mutex::new(0),
        })
    }

    fn taken(&self) -> MutexGuard<'_, u64> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a copy that is there, whatever the limit says.
    pub(super) fn count(&self, bytes: Bytes) {
        let mut taken = self.taken();
        *taken = taken.saturating_add(bytes.0);
    }

    /// Gives back what a copy took.
    pub(super) fn release(&self, bytes: Bytes) {
        let mut taken = self.taken();
        *taken = taken.saturating_sub(bytes.0);
    }

    /// Fails early for something that is known to take `bytes`; takes nothing.
    pub(super) fn would_fit(&self, bytes: Bytes) -> Result<(), ImageError> {
        self.fits(*self.taken(), bytes.0, bytes)
    }

    fn fits(&self, taken: u64, more: u64, asked: Bytes) -> Result<(), ImageError> {
        let free = self.limit.0.saturating_sub(taken);
        if more <= free {
            Ok(())
        } else {
            Err(ImageError::OverBudget {
                asked,
                free: Bytes(free),
                budget: self.limit,
            })
        }
    }

    /// Room for one import; nothing yet.
    pub(super) fn reserve(self: &Arc<Self>) -> Reservation {
        Reservation {
            budget: Arc::clone(self),
            bytes: 0,
        }
    }
}

/// What one import has taken. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Reservation {
    /// Takes more.
    pub(super) fn grow(&mut self, more: u64) -> Result<(), ImageError> {
        let mut taken = self.budget.taken();
        let asked = Bytes(self.bytes.saturating_add(more));
        self.budget.fits(*taken, more, asked)?;
        *taken = taken.saturating_add(more);
        self.bytes = asked.0;
        Ok(())
    }

    /// Takes exactly this much.
    pub(super) fn settle(&mut self, bytes: u64) -> Result<(), ImageError> {
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.grow(more),
            None => {
                self.budget.release(Bytes(self.bytes - bytes));
                self.bytes = bytes;
                Ok(())
            }
        }
    }

    /// Leaves what was taken to a record.
    pub(super) fn keep(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.release(Bytes(self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_imports_at_once_do_not_take_the_same_room() {
        let budget = Budget::new(Bytes(100));
        budget.count(Bytes(20));
        let mut one = budget.reserve();
        let mut two = budget.reserve();
        one.grow(50).unwrap();
        two.grow(30).unwrap();
        let full = two.grow(1).unwrap_err();
        assert!(
            matches!(
                full,
                ImageError::OverBudget {
                    asked: Bytes(31),
                    free: Bytes(0),
                    ..
                }
            ),
            "{full}"
        );
        drop(one);
        two.grow(50).unwrap();
        two.settle(10).unwrap();
        two.keep();
        budget.would_fit(Bytes(70)).unwrap();
        assert!(budget.would_fit(Bytes(71)).is_err());
    }
}
