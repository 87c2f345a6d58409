//! What is unfinished: ids only, a hint for the loop. The store says what is to be done with them.
//!
//! Filled by the start's scan and by every operation that ends between wish and fact, whatever
//! ended it: an agent that is away, a store that fails, a panic. Read by `reconcile`, which forgets
//! an id whose record says that nothing is to be done: so an operation is never dropped while its
//! wish is being committed, for it would be handed over before it can be seen.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use goldleaf_rpc::{CallId, call};
use goldleaf_types::{GroupId, ImageId, PoolId, SnapshotId, ThinOwner, VolumeId};
use tokio::sync::Notify;

/// One thing with a wish that is not a fact yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unfinished {
    /// A volume to make, grow or delete.
    Volume(VolumeId),
    /// A snapshot to make or delete.
    Snapshot(SnapshotId),
    /// A group of snapshots to make or delete.
    Group(GroupId),
    /// A pool to make or delete.
    Pool(PoolId),
    /// An image to fetch or delete.
    Image(ImageId),
    /// A thin whose catalogue is to be told what its user changed.
    Untold(ThinOwner),
    /// A thin to delete that was given up while its node counted as lost.
    GivenUp(ThinOwner),
}

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume(id) => id.fmt(f),
            Self::Snapshot(id) => id.fmt(f),
            Self::Group(id) => id.fmt(f),
            Self::Pool(id) => id.fmt(f),
            Self::Image(id) => id.fmt(f),
            Self::Untold(owner) | Self::GivenUp(owner) => owner.fmt(f),
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    /// Each with the request that asked for it, if one did.
    ids: Mutex<HashMap<Unfinished, Option<CallId>>>,
    bell: Notify,
}

/// The set, shared by all.
#[derive(Clone, Debug, Default)]
pub struct Pending(Arc<Inner>);

impl Pending {
    /// Adds a thing and rings.
    pub fn add(&self, id: Unfinished) {
        let asked = call::current();
        {
            let mut ids = self.0.ids.lock().unwrap_or_else(PoisonError::into_inner);
            let known = ids.entry(id).or_default();
            *known = asked.or(known.take());
        }
        self.0.bell.notify_one();
    }

    /// Takes all that was added since the last time, each with the request that asked for it.
    #[must_use]
    pub fn take(&self) -> HashMap<Unfinished, Option<CallId>> {
        std::mem::take(&mut *self.0.ids.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for the bell.
    pub async fn rung(&self) {
        self.0.bell.notified().await;
    }

    /// An operation begins; unless it says that it is done, the loop gets the thing.
    pub fn begin(&self, id: Unfinished) -> Begun {
        Begun {
            pending: self.clone(),
            id: Some(id),
        }
    }
}

/// An operation between wish and fact.
#[must_use = "dropping it hands the thing to the loop"]
#[derive(Debug)]
pub struct Begun {
    pending: Pending,
    id: Option<Unfinished>,
}

impl Begun {
    /// The fact is durable, or the wish is taken back.
    pub fn done(mut self) {
        self.id = None;
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.pending.add(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_did_not_end_well_is_left() {
        let pending = Pending::default();
        let (well, badly) = (VolumeId::mint(), VolumeId::mint());
        pending.begin(Unfinished::Volume(well)).done();
        drop(pending.begin(Unfinished::Volume(badly)));
        pending.rung().await;
        assert_eq!(
            pending.take(),
            HashMap::from([(Unfinished::Volume(badly), None)])
        );
        assert!(pending.take().is_empty());
    }

    #[tokio::test]
    async fn what_a_request_left_keeps_its_ids() {
        let (pending, id) = (Pending::default(), VolumeId::mint());
        let asked = CallId::mint();
        call::scope(asked.clone(), async {
            drop(pending.begin(Unfinished::Volume(id)));
        })
        .await;
        pending.add(Unfinished::Volume(id)); // nobody's: the first asker stays
        assert_eq!(
            pending.take(),
            HashMap::from([(Unfinished::Volume(id), Some(asked))])
        );
    }
}
