//! Pools: create, close, delete, list, and following what their nodes say.
//!
//! Called by `grpc`, and by `reconcile` for what is unfinished and for each report of a node. The
//! record says that a pool should be; whether it is open and what it can do is its node's word,
//! copied into the record so that a watch sees it change.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use goldleaf_types::{Incarnation, Labels, Name, NodeId, PoolId};
use jiff::Timestamp;

use super::updates::unprotected;
use super::views::{condition, unreachable};
use super::{
    Attempt, Begun, Held, Listed, Listing, Op, Service, ServiceError, Target, Unfinished,
    at_revision, busy, conflict, first, for_good, is_precondition, trusted, untouched,
};
use crate::agents::AgentError;
use crate::domain::{
    Condition, GroupSnapshot, Marks, Node, Phase, Pool, PoolAsked, PoolMode, PoolReport, Ref,
    Snapshot, Volume,
};
use crate::failpoint::{Point, hit};
use crate::store::rows::{self, Row};

/// A pool to be.
#[derive(Clone, Debug)]
pub struct CreatePool {
    /// Its name.
    pub name: Name,
    /// Its node; none while there is just one.
    pub node: Option<Ref<NodeId>>,
    /// Its parameters.
    pub asked: PoolAsked,
    /// Its labels.
    pub labels: Labels,
    /// Whether it is protected from deletion.
    pub deletion_protection: bool,
}

/// A pool with what its node says of it.
#[derive(Clone, Debug)]
pub struct PoolView {
    /// The record, and conditions of the moment.
    pub pool: Pool,
    /// What its node said, if it did.
    pub report: Option<PoolReport>,
}

impl Service {
    /// The node that a request names, or the only one.
    pub(super) async fn node_named(
        &self,
        what: Option<&Ref<NodeId>>,
    ) -> Result<Node, ServiceError> {
        if let Some(what) = what {
            return self.records.get::<Node>(what, "node").await;
        }
        let mut nodes = self.records.all::<Node>().await?;
        match (nodes.pop(), nodes.len()) {
            (Some(node), 0) => Ok(node),
            (Some(_), more) => Err(ServiceError::BadField {
                field: "node",
                problem: format!("is empty and there are {} nodes: name one", more + 1),
            }),
            (None, _) => Err(ServiceError::BadField {
                field: "node",
                problem: "is empty and no node has registered: start an agent with --server".into(),
            }),
        }
    }

    /// Makes a pool. The same request again answers the same pool.
    ///
    /// # Errors
    ///
    /// What is refused for good changes nothing; what is cut short is finished by itself.
    pub async fn create_pool(&self, wanted: CreatePool) -> Result<PoolView, ServiceError> {
        let _name = self.hold_name::<Pool>(&wanted.name).await?;
        if let Some(pool) = self.records.by_name::<Pool>(&wanted.name).await? {
            return self.repeat_pool(pool, &wanted).await;
        }
        let node = self.node_named(wanted.node.as_ref()).await?;
        trusted(&node)?;
        let mut pool = Pool {
            id: PoolId::mint(),
            name: wanted.name,
            labels: wanted.labels,
            revision: 0,
            phase: Phase::Creating,
            conditions: Vec::new(),
            created: Timestamp::now(),
            node: node.id,
            asked: wanted.asked,
            mode: PoolMode::Unknown,
            wanted_name: None,
            doomed: false,
            marks: Marks::new(wanted.deletion_protection),
            adopting: None,
        };
        let (_held, _) = self.hold(&pool, Op::Create).await?;
        let begun = self.pending.begin(Unfinished::Pool(pool.id));
        self.records.insert(&mut pool, Vec::new()).await?;
        hit(Point::PoolWished);
        self.make_pool(pool, (Attempt::First, begun)).await
    }

    async fn repeat_pool(&self, pool: Pool, wanted: &CreatePool) -> Result<PoolView, ServiceError> {
        let (_held, pool) = self.hold(&pool, Op::Create).await?;
        let Some(pool) = pool.filter(|pool| pool.phase != Phase::Deleting) else {
            return Err(busy::<Pool>(wanted.name.as_str(), Op::Delete.doing()));
        };
        pool.same_or_conflict(
            &wanted.asked,
            &first(&wanted.labels, wanted.deletion_protection),
        )
        .map_err(|field| conflict(&pool, field))?;
        if let Some(node) = &wanted.node
            && self.records.get::<Node>(node, "node").await?.id != pool.node
        {
            return Err(conflict(&pool, "node"));
        }
        if pool.phase == Phase::Creating {
            let begun = self.pending.begin(Unfinished::Pool(pool.id));
            return self.make_pool(pool, (Attempt::Again, begun)).await;
        }
        Ok(self.view_pool(pool).await)
    }

    /// Effect and fact of a pool that is wished for. The caller holds it.
    async fn make_pool(
        &self,
        mut pool: Pool,
        (attempt, begun): (Attempt, Begun),
    ) -> Result<PoolView, ServiceError> {
        let agent = match self.agent_of(pool.node).await {
            Ok(agent) => agent,
            Err(lost @ ServiceError::NodeLost { .. }) => {
                self.forget_pool(&pool, begun).await?;
                return Err(lost);
            }
            Err(error) => return Err(error),
        };
        let report = match agent.create_pool(&pool).await {
            Ok(report) => report,
            Err(error) if for_good(&error) => {
                return Err(self.withdraw_pool(pool, error, (attempt, begun)).await);
            }
            Err(error) => return Err(error.into()),
        };
        hit(Point::PoolMade);
        pool.follow(&report);
        self.records.update(&mut pool).await?;
        self.live.merge(pool.node, &report);
        hit(Point::PoolRecorded);
        begun.done();
        Ok(PoolView {
            pool,
            report: Some(report),
        })
    }

    async fn withdraw_pool(
        &self,
        pool: Pool,
        error: AgentError,
        (attempt, begun): (Attempt, Begun),
    ) -> ServiceError {
        if !untouched(&error, attempt) {
            let left = match self.agent_of(pool.node).await {
                Ok(agent) => agent
                    .delete_pool(pool.id, false)
                    .await
                    .err()
                    .map(ServiceError::from),
                Err(left) => Some(left),
            };
            if let Some(left) = left {
                tracing::warn!(pool = %pool.id, refusal = %error, %left, "wish stays");
                return left;
            }
        }
        hit(Point::PoolWithdrawn);
        match self.records.remove(&pool).await {
            Ok(()) => {
                self.live.forget_pool(pool.node, pool.id);
                begun.done();
                error.into()
            }
            Err(left) => left,
        }
    }

    /// Releases a pool's devices. A closed one answers as it is.
    ///
    /// # Errors
    ///
    /// What its node refuses, an active volume for one.
    pub async fn close_pool(&self, what: &Ref<PoolId>) -> Result<PoolView, ServiceError> {
        let (_held, pool) = self.hold_pool(what, Op::Close).await?;
        let report = self.agent_of(pool.node).await?.close_pool(pool.id).await?;
        hit(Point::PoolClosed);
        let view = self.take_over(pool, report).await?;
        hit(Point::PoolClosedRecorded);
        Ok(view)
    }

    pub(super) async fn hold_pool(
        &self,
        what: &Ref<PoolId>,
        op: Op,
    ) -> Result<(Held, Pool), ServiceError> {
        let found = self.records.get::<Pool>(what, "pool").await?;
        let (held, pool) = self.hold(&found, op).await?;
        Ok((held, there(&found, pool)?))
    }

    /// Writes what a node said of a pool that the caller holds.
    pub(super) async fn take_over(
        &self,
        mut pool: Pool,
        report: PoolReport,
    ) -> Result<PoolView, ServiceError> {
        if pool.follow(&report) {
            self.records.update(&mut pool).await?;
        }
        self.live.merge(pool.node, &report);
        Ok(PoolView {
            pool,
            report: Some(report),
        })
    }

    /// Deletes an empty pool. One that is not there is as good.
    ///
    /// # Errors
    ///
    /// [`ServiceError::InUse`] while anything is in it; what its node refuses.
    pub async fn delete_pool(&self, target: Target<Ref<PoolId>>) -> Result<(), ServiceError> {
        let Some(found) = self.records.find::<Pool>(&target.what).await? else {
            return Ok(());
        };
        let (_held, pool) = self.hold(&found, Op::Delete).await?;
        let Some(mut pool) = pool else { return Ok(()) };
        let begun = self.pending.begin(Unfinished::Pool(pool.id));
        let before = pool.phase;
        if before != Phase::Deleting {
            let ready = async {
                at_revision(&pool, target.revision)?;
                unprotected(&pool)?;
                super::pool_renaming::settled(&pool)?;
                self.empty(&pool).await
            };
            if let Err(error) = ready.await {
                if before != Phase::Creating {
                    begun.done();
                }
                return Err(error);
            }
            // From here no volume can be placed in it: they are wished for over its revision.
            pool.phase = Phase::Deleting;
            self.records.update(&mut pool).await?;
            hit(Point::PoolDeletionWished);
        }
        self.take_pool_away(pool, begun).await
    }

    /// Effect and fact of a deletion; a pool that turns out to be needed stays.
    pub(super) async fn take_pool_away(
        &self,
        mut pool: Pool,
        begun: Begun,
    ) -> Result<(), ServiceError> {
        let agent = match self.agent_of(pool.node).await {
            Ok(agent) => agent,
            Err(ServiceError::NodeLost { .. }) => return self.give_pool_up(pool, begun).await,
            Err(error) => return Err(error),
        };
        let done = match pool.doomed {
            true => self.nothing_protected(&pool).await,
            false => self.empty(&pool).await,
        };
        let done = match done {
            Ok(()) => {
                let deleted = agent.delete_pool(pool.id, pool.doomed).await;
                deleted.map_err(ServiceError::from)
            }
            Err(error) => Err(error),
        };
        match done {
            Ok(()) => {}
            Err(error) if is_precondition(&error) || is_needed(&error) => {
                let reports = agent.pools().await?;
                if let Some(report) = reports.iter().find(|report| report.id == pool.id) {
                    pool.doomed = false;
                    pool.follow(report);
                    self.records.update(&mut pool).await?;
                    begun.done();
                }
                return Err(error);
            }
            Err(error) => return Err(error),
        }
        hit(Point::PoolDeleted);
        if pool.doomed {
            self.forget_contents(pool.id).await?;
            hit(Point::PoolContentsForgotten);
        }
        self.records.remove(&pool).await?;
        self.live.forget_pool(pool.node, pool.id);
        hit(Point::PoolForgotten);
        begun.done();
        Ok(())
    }

    /// A deletion whose node counts as lost is as good as done.
    async fn give_pool_up(&self, mut pool: Pool, begun: Begun) -> Result<(), ServiceError> {
        let stays = match pool.doomed {
            true => self.nothing_protected(&pool).await,
            false => Ok(()),
        };
        let stays = match stays {
            Ok(()) => {
                if pool.doomed {
                    self.forget_contents(pool.id).await?;
                }
                self.empty(&pool).await
            }
            Err(error) => Err(error),
        };
        match stays {
            Ok(()) => self.forget_pool(&pool, begun).await,
            Err(error) => {
                (pool.phase, pool.doomed) = (Phase::Closed, false);
                self.records.update(&mut pool).await?;
                begun.done();
                Err(error)
            }
        }
    }

    /// Forgets a pool whose node counts as lost, or that is gone there.
    async fn forget_pool(&self, pool: &Pool, begun: Begun) -> Result<(), ServiceError> {
        self.records.remove(pool).await?;
        self.live.forget_pool(pool.node, pool.id);
        begun.done();
        Ok(())
    }

    async fn empty(&self, pool: &Pool) -> Result<(), ServiceError> {
        let in_use = |by: String| ServiceError::InUse {
            kind: Pool::KIND,
            name: pool.name.to_string(),
            by,
        };
        if let Some(volume) = self.records.first::<Volume>(|v| v.pool == pool.id).await? {
            return Err(in_use(format!("volume {}", volume.name)));
        }
        let snapshot = |s: &Snapshot| s.pool == pool.id;
        if let Some(snapshot) = self.records.first::<Snapshot>(snapshot).await? {
            return Err(in_use(format!("snapshot {}", snapshot.name)));
        }
        // Its snapshots have no records yet, or none any more, and their thins may be there.
        let group = |g: &GroupSnapshot| g.pool == pool.id && g.phase.is_underway();
        match self.records.first::<GroupSnapshot>(group).await? {
            Some(group) => Err(in_use(format!("group {}", group.name))),
            None => Ok(()),
        }
    }

    /// Finishes whatever a pool's record says is unfinished.
    pub(super) async fn finish_pool(&self, id: PoolId) -> Result<(), ServiceError> {
        let Some(found) = self.records.by_id::<Pool>(id).await? else {
            return Ok(());
        };
        let op = match found.phase {
            _ if found.adopting.is_some() => Op::Adopt,
            Phase::Creating => Op::Create,
            Phase::Deleting => Op::Delete,
            Phase::Ready | Phase::Failed | Phase::Closed if found.wanted_name.is_some() => {
                Op::Rename
            }
            Phase::Ready | Phase::Failed | Phase::Closed => return Ok(()),
        };
        let (_held, pool) = self.hold(&found, op).await?;
        let Some(pool) = pool else { return Ok(()) };
        let begun = self.pending.begin(Unfinished::Pool(id));
        if pool.adopting.is_some() {
            return self.carry_out_adoption(pool, begun).await.map(drop);
        }
        match pool.phase {
            Phase::Creating => self
                .make_pool(pool, (Attempt::Again, begun))
                .await
                .map(|_| ()),
            Phase::Deleting => self.take_pool_away(pool, begun).await,
            Phase::Ready | Phase::Failed | Phase::Closed => {
                let pushed = self.push_name(pool, (Attempt::Again, begun)).await;
                pushed.map(|_| ())
            }
        }
    }

    /// Copies what a node says of its pools into their records, where a watcher would care.
    ///
    /// # Errors
    ///
    /// When the store is away; the next report tries again.
    pub async fn follow_pools(
        &self,
        node: NodeId,
        reports: &[PoolReport],
    ) -> Result<(), ServiceError> {
        for report in reports {
            let _held = self.locks.take_inner(rows::key::<Pool>(report.id)).await;
            let Some(mut pool) = self.records.by_id::<Pool>(report.id).await? else {
                continue;
            };
            match pool.phase {
                Phase::Creating | Phase::Deleting => continue, // a wish decides
                Phase::Ready | Phase::Closed | Phase::Failed => {}
            }
            if pool.node != node {
                // A node that sees the disks too, or has not noticed yet that it has moved.
                tracing::debug!(pool = %pool.id, %node, now = %pool.node,
                    "a node tells of a pool that another has by now");
                continue;
            }
            if self.live.is_overtaken(pool.node, report) {
                continue;
            }
            if pool.follow(report) {
                tracing::info!(pool = %pool.id, name = %pool.name, phase = ?pool.phase,
                    mode = ?pool.mode, "pool changed");
                self.records.update(&mut pool).await?;
            }
        }
        Ok(())
    }

    /// A pool with what its node says of it now; usage has no event, so nobody is told of it.
    pub(super) async fn view_pool(&self, pool: Pool) -> PoolView {
        let reports = self
            .ask_pools(pool.node)
            .await
            .map_err(|error| error.to_string());
        pool_view(pool, reports.as_deref(), self.records.store().incarnation())
    }

    /// As [`Self::view_pool`]; each node is asked once, all of them at once.
    async fn view_pools(&self, pools: Vec<Pool>) -> Vec<PoolView> {
        let nodes: BTreeSet<NodeId> = pools.iter().map(|pool| pool.node).collect();
        let asked = nodes.into_iter().map(|node| async move {
            (
                node,
                self.ask_pools(node)
                    .await
                    .map_err(|error| error.to_string()),
            )
        });
        let seen: BTreeMap<NodeId, Result<Vec<PoolReport>, String>> =
            join_all(asked).await.into_iter().collect();
        let ours = self.records.store().incarnation();
        let view = |pool: Pool| {
            let reports = seen.get(&pool.node).map(|reports| reports.as_deref());
            pool_view(pool, reports.unwrap_or(Ok(&[])), ours)
        };
        pools.into_iter().map(view).collect()
    }

    /// One pool.
    ///
    /// # Errors
    ///
    /// When there is none, or the store is away.
    pub async fn get_pool(&self, what: &Ref<PoolId>) -> Result<PoolView, ServiceError> {
        let pool = self.records.get::<Pool>(what, "target").await?;
        Ok(self.view_pool(pool).await)
    }

    /// Pools in order of creation.
    ///
    /// # Errors
    ///
    /// For a token that no page answered, or when the store is away.
    pub async fn list_pools(&self, listing: &Listing) -> Result<Listed<PoolView>, ServiceError> {
        let listed = self.list::<Pool>(listing).await?;
        Ok(Listed {
            items: self.view_pools(listed.items).await,
            next: listed.next,
        })
    }

    /// A pool as a watch tells of it: with what is known without asking.
    pub(super) fn glance_at_pool(&self, pool: Pool) -> PoolView {
        let report = self.live.fresh(pool.node, pool.id);
        PoolView { pool, report }
    }
}

/// A pool as it is now, if it is neither being made nor being deleted.
pub(super) fn there(found: &Pool, now: Option<Pool>) -> Result<Pool, ServiceError> {
    match now {
        Some(pool) => match pool.phase {
            Phase::Creating => Err(busy::<Pool>(pool.name.as_str(), Op::Create.doing())),
            Phase::Deleting => Err(busy::<Pool>(pool.name.as_str(), Op::Delete.doing())),
            Phase::Ready | Phase::Closed | Phase::Failed => Ok(pool),
        },
        None => Err(busy::<Pool>(found.name.as_str(), Op::Delete.doing())),
    }
}

/// Says that a pool takes changes from another store.
fn foreign(report: &PoolReport, ours: Incarnation) -> Option<Condition> {
    let owner = report.incarnation.filter(|owner| *owner != ours)?;
    Some(condition(
        "Adopted",
        false,
        "OtherStore",
        format!(
            "it takes changes from another control plane store ({owner}) and refuses ours: if that \
             one is no more, adopt what its node has (`goldleaf node adopt`)"
        ),
    ))
}

fn pool_view(
    mut pool: Pool,
    reports: Result<&[PoolReport], &String>,
    ours: Incarnation,
) -> PoolView {
    let report = reports.map(|reports| reports.iter().find(|report| report.id == pool.id));
    let more = match report {
        Ok(Some(report)) => foreign(report, ours),
        Ok(None) if matches!(pool.phase, Phase::Creating | Phase::Deleting) => None,
        Ok(None) => Some(condition(
            "KnownToNode",
            false,
            "NodeDoesNotHaveIt",
            "its node does not find its devices: bring them back, then open it".into(),
        )),
        Err(why) => Some(unreachable(why)),
    };
    if let Ok(Some(report)) = report
        && !matches!(pool.phase, Phase::Creating | Phase::Deleting)
    {
        pool.follow(report); // newer than what the record was told
    }
    pool.conditions.extend(more);
    PoolView {
        pool,
        report: report.unwrap_or_default().cloned(),
    }
}

fn is_needed(error: &ServiceError) -> bool {
    matches!(
        error,
        ServiceError::InUse { .. } | ServiceError::Protected { .. }
    )
}
