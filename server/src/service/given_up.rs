//! Thins that were given up while their node counted as lost.
//!
//! Called by the rules of volumes, snapshots and groups, and by `reconcile`. Giving one up is one
//! transaction: its record and its name go, and a note of the thin takes their place, so that its
//! user is not kept waiting by a node that may never come back. Should the pool come back, the note
//! is the wish to delete the thin there; it goes when that is done.

use goldleaf_types::{Name, NodeId, PoolId, ThinOwner};

use super::records::unchanged;
use super::{Begun, Revised, Service, ServiceError, Unfinished};
use crate::domain::{GivenUp, Node, Pool};
use crate::failpoint::{Point, hit};
use crate::store::rows::{self, Row};
use crate::store::{Txn, Write};

/// The note of one thin.
pub(super) fn note<T: Revised + Row<Name = Name>>(
    record: &T,
    owner: ThinOwner,
    at: (PoolId, NodeId),
) -> Write {
    GivenUp {
        owner,
        name: record.name().clone(),
        pool: at.0,
        node: at.1,
        labels: goldleaf_types::Labels::default(),
        revision: 0,
    }
    .put()
}

impl Service {
    /// Whether a node counts as lost.
    pub(super) async fn is_lost(&self, node: NodeId) -> Result<bool, ServiceError> {
        let found = self.records.by_id::<Node>(node).await?;
        Ok(found.is_some_and(|node| node.lost.is_some()))
    }

    /// Forgets the record of a thin whose node counts as lost. The caller holds the record.
    pub(super) async fn give_up<T: Revised + Row<Name = Name>>(
        &self,
        record: &T,
        owner: ThinOwner,
        at: (PoolId, NodeId),
        begun: Begun,
    ) -> Result<(), ServiceError> {
        let mut writes = Vec::from(record.remove());
        writes.push(note(record, owner, at));
        let expect = vec![unchanged(record)];
        self.records.store().txn(Txn { expect, writes }).await?;
        hit(Point::ThinGivenUp);
        tracing::info!(%owner, name = %record.name(), node = %at.1, "given up with its node");
        begun.done();
        Ok(())
    }

    /// Notes whose pools are on a node that does not count as lost.
    ///
    /// # Errors
    ///
    /// When the store is away or a row cannot be read.
    pub async fn returned_thins(&self) -> Result<Vec<Unfinished>, ServiceError> {
        let mut returned = Vec::new();
        for given_up in self.records.all::<GivenUp>().await? {
            if !self.is_lost(self.place_of(&given_up).await?.1).await? {
                returned.push(Unfinished::GivenUp(given_up.owner));
            }
        }
        Ok(returned)
    }

    /// Where a thin's pool is by now.
    async fn place_of(&self, given_up: &GivenUp) -> Result<(PoolId, NodeId), ServiceError> {
        let pool = self.records.by_id::<Pool>(given_up.pool).await?;
        Ok((given_up.pool, pool.map_or(given_up.node, |pool| pool.node)))
    }

    /// Deletes a thin that was given up, once its pool is back.
    pub(super) async fn finish_given_up(&self, owner: ThinOwner) -> Result<(), ServiceError> {
        let _held = self.locks.take_inner(rows::key::<GivenUp>(owner)).await;
        let Some(given_up) = self.records.by_id::<GivenUp>(owner).await? else {
            return Ok(());
        };
        let at = self.place_of(&given_up).await?;
        if self.is_lost(at.1).await? {
            return Ok(()); // found again when that changes
        }
        let begun = self.pending.begin(Unfinished::GivenUp(owner));
        self.ensure_no_thin(at, owner, 0).await?;
        hit(Point::GivenUpDeleted);
        let txn = Txn {
            expect: vec![unchanged(&given_up)],
            writes: vec![Write::Delete(rows::key::<GivenUp>(owner))],
        };
        self.records.store().txn(txn).await?;
        begun.done();
        Ok(())
    }
}
