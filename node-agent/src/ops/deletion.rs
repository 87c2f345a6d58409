//! Deleting thins.
//!
//! Called by `grpc`; taking away is called by `sweep` and `drain` too. The wish is the row's phase, and
//! from then on nothing else is done with it; the effect is a pool without the thin; the fact is a
//! pool without the row, in whose transaction the thin's number is free again. A crash leaves a row
//! that says what is to be done.

use std::sync::Arc;

use goldleaf_types::{Incarnation, PoolId, ThinOwner};

use super::Agent;
use super::error::ThinError;
use super::open_pool::OpenPool;
use super::thins::{check_epoch, write};
use crate::catalogue::{Phase, ThinRecord};
use crate::failpoint::{Point, hit};

impl Agent {
    /// Deletes a thin that has no device. OK when it is not there, in the pool if one is named; if
    /// none is, when it is in no pool of this host. Blocks.
    ///
    /// # Errors
    ///
    /// [`ThinError::Active`] while it has a device; [`ThinError::NoPool`] when a pool that may have
    /// it is not open.
    pub fn delete_thin(
        &self,
        caller: Option<Incarnation>,
        owner: ThinOwner,
        pool: Option<PoolId>,
        epoch: u64,
    ) -> Result<(), ThinError> {
        let pool = match pool {
            // Only an open pool can say that it has no such thin.
            Some(id) => self.pools.open(id).ok_or(ThinError::NoPool(id))?,
            None => match self.find_anywhere(caller, owner)? {
                Some(pool) => pool,
                None => return Ok(()),
            },
        };
        pool.admit(caller)?;
        if self.wish_deleted(&pool, owner, epoch)? {
            return Ok(());
        }
        self.await_deletion(&pool, owner)
    }

    /// Wish of a deletion; effect and fact too, of a thin that is not large. Whether it is gone.
    pub(super) fn wish_deleted(
        &self,
        pool: &OpenPool,
        owner: ThinOwner,
        epoch: u64,
    ) -> Result<bool, ThinError> {
        let _held = pool.lock(&[owner])?;
        let Some(row) = pool.catalogue.find(owner) else {
            self.deleted.add(owner);
            return Ok(true);
        };
        check_epoch(&row, epoch)?;
        self.not_read(owner)?;
        if row.phase == Phase::Ready
            && self
                .kernel
                .find_live(owner)
                .map_err(ThinError::Kernel)?
                .is_some()
        {
            return Err(ThinError::Active(owner));
        }
        pool.check_writable(&*self.kernel)?;
        let row = ThinRecord {
            phase: Phase::Deleting,
            holder: None,
            decouple: None,
            ..row
        };
        let wish = row.clone();
        write(pool, move |rows| {
            // What a crash cut short still needs its source.
            let unfinished =
                |child: &ThinRecord| child.phase == Phase::Creating && child.parent == Some(owner);
            if let Some(child) = rows.find_where(unfinished) {
                return Err(ThinError::Needed {
                    owner,
                    child: child.owner,
                });
            }
            rows.replace(wish);
            Ok(())
        })?;
        hit(Point::DeletionWished);
        if self.work.end_copy(owner) || self.is_large(pool, &row) {
            return Ok(false);
        }
        self.finish_deleting(pool, &row).map(|()| true)
    }

    /// The pool that has the thin to be deleted; none once it is known that there is none in any.
    fn find_anywhere(
        &self,
        caller: Option<Incarnation>,
        owner: ThinOwner,
    ) -> Result<Option<Arc<OpenPool>>, ThinError> {
        if let Ok((pool, _)) = self.find_row(owner) {
            return Ok(Some(pool));
        }
        for pool in self.pools.all_open() {
            pool.admit(caller)?;
        }
        let mut ours = self.own_pools().into_iter();
        if let Some(closed) = ours.find(|id| self.pools.open(*id).is_none()) {
            return Err(ThinError::NoPool(closed));
        }
        self.deleted.add(owner);
        // Again: it may have been made before it was called deleted.
        Ok(self.find_row(owner).ok().map(|(pool, _)| pool))
    }

    /// Effect and fact of a row in `Deleting`. The caller holds its lock.
    pub(super) fn finish_deleting(
        &self,
        pool: &OpenPool,
        row: &ThinRecord,
    ) -> Result<(), ThinError> {
        self.ensure_no_device(pool, row)?;
        let _ = self
            .kernel
            .ensure_no_thin(pool.id, row.thin)
            .map_err(ThinError::Kernel)?;
        hit(Point::DeletionDone);
        let owner = row.owner;
        write(pool, move |rows| {
            rows.remove(owner);
            Ok(())
        })?;
        hit(Point::DeletionRecorded);
        self.mapped.forget(owner);
        self.deleted.add(owner);
        self.thin_changed(owner);
        Ok(())
    }

    /// Refuses to make what was deleted. The caller holds the owner's lock and found no row.
    pub(super) fn not_deleted(&self, owner: ThinOwner) -> Result<(), ThinError> {
        if self.deleted.has(owner) {
            return Err(ThinError::Deleted(owner));
        }
        Ok(())
    }
}
