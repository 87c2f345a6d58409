//! A pool's room: extending it, and what it does when there is none.
//!
//! Called by `grpc`. Both may take the node minutes, so the pool is announced, as while it is opened.
//! The node has the rules and the record of its devices; here is nothing to be wished for, so a call
//! that was cut short is simply asked again. A crash leaves what the node did, which its next report
//! tells.

use goldleaf_types::PoolId;

use super::pools::PoolView;
use super::{Op, Service, ServiceError};
use crate::domain::{MoreRoom, PolicyChange, Ref};
use crate::failpoint::{Point, hit};

impl Service {
    /// Gives a pool more room. The same request again changes nothing.
    ///
    /// # Errors
    ///
    /// What its node refuses, a device that is not blank for one.
    pub async fn extend_pool(
        &self,
        what: &Ref<PoolId>,
        more: &MoreRoom,
    ) -> Result<PoolView, ServiceError> {
        let (_announced, pool) = self.announce_pool(what, Op::Extend, || ()).await?;
        let agent = self.agent_of(pool.node).await?;
        let report = agent.extend_pool(pool.id, more).await?;
        hit(Point::PoolExtended);
        let view = self.take_over_at_end(&pool, Op::Extend, report).await?;
        hit(Point::PoolExtendedRecorded);
        Ok(view)
    }

    /// Sets what a pool does when it fills. The same request again changes nothing.
    ///
    /// # Errors
    ///
    /// What its node refuses: a pool that is not open for one.
    pub async fn set_pool_policy(
        &self,
        what: &Ref<PoolId>,
        change: &PolicyChange,
    ) -> Result<PoolView, ServiceError> {
        let (_announced, pool) = self.announce_pool(what, Op::SetPolicy, || ()).await?;
        let agent = self.agent_of(pool.node).await?;
        let report = agent.set_policy(pool.id, change).await?;
        hit(Point::PolicySet);
        let view = self.take_over_at_end(&pool, Op::SetPolicy, report).await?;
        hit(Point::PolicySetRecorded);
        Ok(view)
    }
}
