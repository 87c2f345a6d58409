//! Opening a pool, and what else of a pool takes its node minutes.
//!
//! Called by `grpc`, and by `pool_repair`. The pool is announced meanwhile, not held: whoever else would
//! change it is told what goes on, and what its node tells, of it and of the node's other pools, is
//! followed. It is held at the end alone, for its record.

use goldleaf_types::PoolId;

use super::pools::there;
use super::{Announced, Op, PoolView, Service, ServiceError, busy};
use crate::domain::{Pool, PoolReport, Ref};
use crate::failpoint::{Point, hit};
use crate::store::rows;

impl Service {
    /// Brings a closed pool back. An open one answers as it is.
    ///
    /// # Errors
    ///
    /// What its node refuses, a missing device for one.
    pub async fn open_pool(&self, what: &Ref<PoolId>) -> Result<PoolView, ServiceError> {
        self.open(what, false).await
    }

    /// Opens what can be read of a pool that does not open; nothing of it is written.
    ///
    /// # Errors
    ///
    /// What its node refuses: that it is open, for one.
    pub async fn rescue_pool(&self, what: &Ref<PoolId>) -> Result<PoolView, ServiceError> {
        self.open(what, true).await
    }

    async fn open(&self, what: &Ref<PoolId>, rescue: bool) -> Result<PoolView, ServiceError> {
        let (_announced, pool) = self.announce_pool(what, Op::Open, || ()).await?;
        let agent = self.agent_of(pool.node).await?;
        let report = agent.open_pool(pool.id, rescue).await?;
        hit(Point::PoolOpened);
        let view = self.take_over_at_end(&pool, Op::Open, report).await?;
        hit(Point::PoolOpenedRecorded);
        Ok(view)
    }

    /// A pool of which others are told what is done to it, as long as the first answer is kept. Calls
    /// `waits` first if the same is done to it already.
    pub(super) async fn announce_pool(
        &self,
        what: &Ref<PoolId>,
        op: Op,
        waits: impl FnOnce(),
    ) -> Result<(Announced, Pool), ServiceError> {
        let found = self.records.get::<Pool>(what, "pool").await?;
        let key = rows::key::<Pool>(found.id);
        let announced = self.locks.announce(key, op, waits).await;
        let announced = announced.map_err(|op| busy::<Pool>(found.name.as_str(), op.doing()))?;
        let now = self.records.by_id::<Pool>(found.id).await?;
        Ok((announced, there(&found, now)?))
    }

    /// Writes what a node said of a pool that the caller announced, unless more is known by now.
    pub(super) async fn take_over_at_end(
        &self,
        pool: &Pool,
        op: Op,
        report: PoolReport,
    ) -> Result<PoolView, ServiceError> {
        let (_held, now) = self.hold(pool, op).await?;
        let pool = there(pool, now)?;
        if self.live.is_overtaken(pool.node, &report) {
            return Ok(self.view_pool(pool).await);
        }
        self.take_over(pool, report).await
    }
}
