//! Owners whose thins were deleted, so that a creation that comes late makes none anew.
//!
//! A creation can wait behind a deletion of the same owner, or be under way to us, while the control
//! plane gives its volume up: whatever it then made would be nobody's. Ids are minted once, so one
//! that was deleted is never wanted again. In memory only: a call does not outlive the process that
//! it was sent to. Called with the owner's lock held.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use goldleaf_types::ThinOwner;

/// As many are remembered: far more than creations can be under way.
const KEPT: usize = 16 << 10;

#[derive(Debug, Default)]
struct Kept {
    owners: HashSet<ThinOwner>,
    order: VecDeque<ThinOwner>,
}

/// The owners that were deleted last.
#[derive(Debug, Default)]
pub(super) struct Deleted(Mutex<Kept>);

impl Deleted {
    /// Remembers one, and forgets the oldest when there are too many.
    pub(super) fn add(&self, owner: ThinOwner) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.owners.insert(owner) {
            kept.order.push_back(owner);
        }
        if kept.order.len() > KEPT
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.owners.remove(&oldest);
        }
    }

    /// Whether its thin was deleted.
    pub(super) fn has(&self, owner: ThinOwner) -> bool {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.owners.contains(&owner)
    }
}

#[cfg(test)]
mod tests {
    use goldleaf_types::VolumeId;

    use super::*;

    #[test]
    fn the_last_ones_are_remembered_and_no_more() {
        let deleted = Deleted::default();
        let first: ThinOwner = VolumeId::mint().into();
        deleted.add(first);
        deleted.add(first);
        assert!(deleted.has(first));
        (0..KEPT).for_each(|_| deleted.add(VolumeId::mint().into()));
        assert!(!deleted.has(first), "the oldest is forgotten");
        let kept = deleted.0.lock().unwrap();
        assert_eq!((kept.owners.len(), kept.order.len()), (KEPT, KEPT));
    }
}
