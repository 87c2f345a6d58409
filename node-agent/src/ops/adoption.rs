//! Which control plane's store a pool takes changes from.
//!
//! Called by `grpc`. A store that was restored from a backup, or made anew, has another incarnation
//! and is refused every change, so that nothing is done that was wished for in another life. An
//! administrator ends that, pool by pool. One durable row says whose the pool is; a crash leaves it
//! the former store's or the new one's.

use goldleaf_types::{Incarnation, PoolId, ThinOwner};

use super::Agent;
use super::error::{OtherIncarnation, PoolError, ThinError};
use super::open_pool::OpenPool;
use super::view::PoolView;
use crate::catalogue::WriteError;
use crate::failpoint::{Point, hit};

impl Agent {
    /// Makes an open pool the caller's, if it is the store's that the caller believes to have it.
    /// One that is the caller's already is as good. Blocks.
    ///
    /// # Errors
    ///
    /// [`PoolError::OtherIncarnation`] when another store has it by now; [`PoolError::NotOpen`].
    pub fn adopt_pool(
        &self,
        caller: Incarnation,
        id: PoolId,
        former: Option<Incarnation>,
    ) -> Result<PoolView, PoolError> {
        let pool = self.pools.open(id).ok_or(PoolError::NotOpen(id))?;
        adopt(&pool, caller, former)?;
        hit(Point::PoolAdopted);
        self.changed();
        self.pool_view(&pool)
    }

    /// Refuses a caller that says which store it is, and is not the one of the owner's pool. A
    /// local caller says nothing.
    ///
    /// # Errors
    ///
    /// [`ThinError::OtherIncarnation`], or [`ThinError::NotFound`].
    pub fn admit_if_said(
        &self,
        caller: Option<Incarnation>,
        owner: ThinOwner,
    ) -> Result<(), ThinError> {
        match caller {
            Some(_) => Ok(self.find_row(owner)?.0.admit(caller)?),
            None => Ok(()),
        }
    }
}

fn adopt(
    pool: &OpenPool,
    caller: Incarnation,
    former: Option<Incarnation>,
) -> Result<(), PoolError> {
    let id = pool.id;
    let adopted = pool.catalogue.write(move |rows| {
        let mut record = rows.pool();
        match record.incarnation {
            Some(owner) if owner == caller => return Ok(()),
            Some(owner) if former != Some(owner) => {
                return Err(PoolError::OtherIncarnation(OtherIncarnation {
                    pool: id,
                    owner,
                    caller: caller.to_string(),
                }));
            }
            Some(_) | None => {}
        }
        record.incarnation = Some(caller);
        rows.set_pool(record);
        Ok(())
    });
    adopted.map_err(|error| match error {
        WriteError::Refused(refused) => refused,
        WriteError::Catalogue(source) => PoolError::Catalogue { pool: id, source },
    })?;
    tracing::info!(pool = %id, store = %caller, "it takes changes from this store");
    Ok(())
}
