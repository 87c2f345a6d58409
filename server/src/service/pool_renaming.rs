//! Another name for a pool.
//!
//! Called by `grpc`, and by `pools` to finish it. As long as the node does not have the new name the
//! record has both: so nobody else gets either, and a refusal can be taken back.

use goldleaf_types::{Name, PoolId};

use super::pools::PoolView;
use super::{Begun, Op, Service, ServiceError, Unfinished, at_revision, busy, conflict, for_good};
use crate::domain::{Phase, Pool, Ref};
use crate::failpoint::{Point, hit};
use crate::store::rows::Row;

impl Service {
    /// Gives a pool another name. The same again changes nothing.
    ///
    /// # Errors
    ///
    /// [`ServiceError::Conflict`] for a name that another pool has; what its node refuses, an active
    /// volume for one.
    pub async fn rename_pool(
        &self,
        what: &Ref<PoolId>,
        name: &Name,
        revision: u64,
    ) -> Result<PoolView, ServiceError> {
        let (_held, mut pool) = self.hold_pool(what, Op::Rename).await?;
        if let Some(earlier) = &pool.wanted_name {
            let same = earlier == name;
            let begun = self.pending.begin(Unfinished::Pool(pool.id));
            let view = self.push_name(pool, begun).await?;
            if same {
                return Ok(view);
            }
            pool = view.pool;
        }
        if pool.name == *name {
            return Ok(self.view_pool(pool).await);
        }
        at_revision(&pool, revision)?;
        if pool.phase != Phase::Ready {
            return Err(ServiceError::Unfit {
                kind: Pool::KIND,
                name: pool.name.to_string(),
                why: "is not open, and its name is in its own record too: open it first".into(),
            });
        }
        let begun = self.pending.begin(Unfinished::Pool(pool.id));
        pool.wanted_name = Some(name.clone());
        if let Err(error) = self.records.update_taking(&mut pool, name).await {
            if error.is_conflict() {
                begun.done(); // nothing was written
                return Err(match self.records.by_name::<Pool>(name).await? {
                    Some(other) => conflict(&other, "id"),
                    None => busy::<Pool>(pool.name.as_str(), "being changed by others too"),
                });
            }
            return Err(error);
        }
        hit(Point::PoolRenameWished);
        self.push_name(pool, begun).await
    }

    /// Effect and fact of a wanted name. The caller holds the pool.
    pub(super) async fn push_name(
        &self,
        mut pool: Pool,
        begun: Begun,
    ) -> Result<PoolView, ServiceError> {
        let Some(name) = pool.wanted_name.clone() else {
            begun.done();
            return Ok(self.view_pool(pool).await);
        };
        let agent = match self.agent_of(pool.node).await {
            Ok(agent) => agent,
            Err(lost @ ServiceError::NodeLost { .. }) => {
                pool.wanted_name = None; // the name is free at once
                self.records.update_giving_up(&mut pool, &name).await?;
                begun.done();
                return Err(lost);
            }
            Err(error) => return Err(error),
        };
        let report = match agent.rename_pool(pool.id, &name).await {
            Ok(report) => report,
            Err(error) if for_good(&error) => {
                pool.wanted_name = None;
                self.records.update_giving_up(&mut pool, &name).await?;
                begun.done();
                return Err(error.into());
            }
            Err(error) => return Err(error.into()),
        };
        hit(Point::PoolRenamed);
        let old = std::mem::replace(&mut pool.name, name);
        pool.wanted_name = None;
        self.records.update_giving_up(&mut pool, &old).await?;
        self.live.merge(pool.node, &report);
        hit(Point::PoolRenameRecorded);
        begun.done();
        Ok(PoolView {
            pool,
            report: Some(report),
        })
    }
}

/// Refuses a pool whose name is about to change.
pub(super) fn settled(pool: &Pool) -> Result<(), ServiceError> {
    match pool.wanted_name {
        None => Ok(()),
        Some(_) => Err(busy::<Pool>(pool.name.as_str(), Op::Rename.doing())),
    }
}
