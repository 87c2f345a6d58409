//! Another name for a pool.
//!
//! Called by `grpc`, and by `pools` to finish it. As long as the node does not have the new name the
//! record has both: so nobody else gets either, and a refusal can be taken back. The node changes its
//! own record first and may refuse after that, for a label that cannot be written: so what it was
//! called to do counts for nothing, and what its pool is called then decides.

use goldleaf_types::{Name, PoolId};

use super::pools::PoolView;
use super::{
    Attempt, Begun, Op, Service, ServiceError, Unfinished, at_revision, busy, conflict, for_good,
    untouched,
};
use crate::agents::AgentError;
use crate::domain::{Phase, Pool, PoolReport, Ref};
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
            let view = self.push_name(pool, (Attempt::Again, begun)).await?;
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
        self.push_name(pool, (Attempt::First, begun)).await
    }

    /// Effect and fact of a wanted name. The caller holds the pool.
    pub(super) async fn push_name(
        &self,
        mut pool: Pool,
        (attempt, begun): (Attempt, Begun),
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
                return Err(self
                    .refused_name((pool, name), error, (attempt, begun))
                    .await);
            }
            Err(error) => return Err(error.into()),
        };
        hit(Point::PoolRenamed);
        self.record_name((pool, name), report, begun).await
    }

    /// The fact: the pool's name on its node is the wanted one.
    async fn record_name(
        &self,
        (mut pool, name): (Pool, Name),
        report: PoolReport,
        begun: Begun,
    ) -> Result<PoolView, ServiceError> {
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

    /// Records what the pool is called on its node, which refused; says why. While nobody can say
    /// what it is called there, the wish stays.
    async fn refused_name(
        &self,
        (mut pool, name): (Pool, Name),
        error: AgentError,
        (attempt, begun): (Attempt, Begun),
    ) -> ServiceError {
        let written = async {
            if !not_begun(&error, attempt) {
                let open = self.agent_of(pool.node).await?.open_pools().await?;
                let Some(found) = open.into_iter().find(|open| open.report.id == pool.id) else {
                    tracing::warn!(pool = %pool.id, refusal = %error, "not open: wish stays");
                    return Ok(());
                };
                if found.name == name {
                    let had = self.record_name((pool, name), found.report, begun).await;
                    return had.map(drop);
                }
            }
            pool.wanted_name = None;
            self.records.update_giving_up(&mut pool, &name).await?;
            begun.done();
            Ok(())
        };
        match written.await {
            Ok(()) => error.into(),
            Err(left) => left,
        }
    }
}

/// Whether a first attempt was refused before its node changed anything: the pool was not open there.
fn not_begun(error: &AgentError, attempt: Attempt) -> bool {
    let closed = match error {
        AgentError::Away { .. } => false,
        AgentError::Refused { reason, .. } => {
            error.is_not_found() || reason == "DEVICES_DO_NOT_FIT"
        }
    };
    untouched(error, attempt) || closed && attempt == Attempt::First
}

/// Refuses a pool whose name is about to change.
pub(super) fn settled(pool: &Pool) -> Result<(), ServiceError> {
    match pool.wanted_name {
        None => Ok(()),
        Some(_) => Err(busy::<Pool>(pool.name.as_str(), Op::Rename.doing())),
    }
}
