//! Adopting pools that take changes from another store: its incarnation is of another life.
//!
//! Called by `grpc`, by `pool_import`, and by `reconcile` to finish what was cut short. A pool is
//! adopted in this order: the wish in the pool's record; what the records wish that is old is given
//! up, by the catalogue's word; the agent takes our changes from then on, if it was the former
//! store's until now; what came to be until that moment is taken in; the fact. So no wish of
//! another life is ever carried out, and nothing that a pool holds is forgotten.

use std::collections::BTreeSet;

use goldleaf_types::{Incarnation, NodeId, PoolId};

use super::taking_in::{Catalogue, Change, lost_name, taken};
use super::{Begun, NodeView, Op, Service, ServiceError, Unfinished, busy};
use crate::domain::{
    Adopting, ImportedPool, KeptMarks, Node, Phase, Pool, PoolAsked, PoolDevice, PoolMode, Ref,
    Trust,
};
use crate::failpoint::{Point, hit};
use crate::store::rows::{self, Row};

/// What a node has that is adopted, or would be.
#[derive(Clone, Debug)]
pub struct Adoption {
    /// The node.
    pub node: NodeView,
    /// What is taken back of what it keeps for the store: images, channels; and pools whose labels
    /// stay kept, since they are not open.
    pub records: Vec<Change>,
    /// Each of its open pools.
    pub pools: Vec<AdoptedPool>,
    /// Whether it was done.
    pub applied: bool,
}

/// One open pool of a node.
#[derive(Clone, Debug)]
pub struct AdoptedPool {
    /// Which.
    pub pool: PoolId,
    /// Its name.
    pub name: String,
    /// The store that had it; none when none had it.
    pub former: Option<Incarnation>,
    /// Whether that is this store.
    pub ours: bool,
    /// What becomes of its volumes and snapshots; those that stay are left out.
    pub changes: Vec<Change>,
}

impl Service {
    /// Says what adopting a node's open pools would change, and adopts them if `apply`. The same
    /// again finds nothing more to do.
    ///
    /// # Errors
    ///
    /// [`ServiceError::Unfit`] when a name is taken by something that is there, before anything is
    /// written; when the node does not answer, counts as lost, or the store is away.
    pub async fn adopt_node(
        &self,
        what: &Ref<NodeId>,
        apply: bool,
    ) -> Result<Adoption, ServiceError> {
        let node = self.records.get::<Node>(what, "node").await?;
        let agent = self.agent_of(node.id).await?;
        let ours = self.records.store().incarnation();
        let returning = self.returning(node.id, &*agent).await?;
        let (mut pools, mut wanted) = (Vec::new(), Vec::new());
        for found in agent.open_pools().await? {
            let rows = agent.catalogue(found.report.id).await?;
            let catalogue = Catalogue {
                pool: found.report.id,
                node: node.id,
                rows: &rows,
            };
            let trust = self.trust(&found);
            self.names_are_free(&catalogue, trust).await?;
            self.pool_name_is_free(node.id, &found).await?;
            pools.push(AdoptedPool {
                pool: found.report.id,
                name: found.name.to_string(),
                former: found.report.incarnation,
                ours: found.report.incarnation == Some(ours),
                changes: self.planned(&catalogue, trust).await?,
            });
            wanted.push(found);
        }
        let open: BTreeSet<PoolId> = pools.iter().map(|pool| pool.pool).collect();
        let records = returning.changes(&open);
        if apply {
            for found in &wanted {
                let marks = returning.pools.get(&found.report.id);
                self.adopt_pool(node.id, found, marks).await?;
            }
            // After the pools, which take long: what the node keeps for them is wanted until all are
            // ours, and the rest may have changed meanwhile.
            let returning = self.returning(node.id, &*agent).await?;
            self.take_records_back(node.id, &*agent, returning).await?;
        }
        Ok(Adoption {
            node: self.view_node(node),
            records,
            pools,
            applied: apply,
        })
    }

    /// Which side counts for a pool: ours only if it is this life of our store that has it.
    pub(super) fn trust(&self, found: &ImportedPool) -> Trust {
        if found.report.incarnation == Some(self.records.store().incarnation()) {
            Trust::Record
        } else {
            Trust::Catalogue
        }
    }

    /// Adopts one open pool. If the store does not know it, it has these labels and marks.
    pub(super) async fn adopt_pool(
        &self,
        node: NodeId,
        found: &ImportedPool,
        marks: Option<&KeptMarks>,
    ) -> Result<Pool, ServiceError> {
        let id = found.report.id;
        let held = self.locks.take(rows::key::<Pool>(id), Op::Adopt).await;
        let _held = held.map_err(|op| busy::<Pool>(found.name.as_str(), op.doing()))?;
        let begun = self.pending.begin(Unfinished::Pool(id));
        let pool = self.wish_adoption(node, found, marks).await?;
        hit(Point::AdoptionWished);
        self.carry_out_adoption(pool, begun).await
    }

    /// The wish: the pool's record says that it is being adopted, and where it is.
    async fn wish_adoption(
        &self,
        node: NodeId,
        found: &ImportedPool,
        marks: Option<&KeptMarks>,
    ) -> Result<Pool, ServiceError> {
        let id = found.report.id;
        let adopting = Some(Adopting {
            former: found.report.incarnation,
        });
        let devices = found.devices.iter().map(|path| PoolDevice {
            path: path.clone(),
            create_file_bytes: 0,
        });
        let Some(mut pool) = self.records.by_id::<Pool>(id).await? else {
            self.free_pool_name(node, found).await?;
            let KeptMarks { labels, marks } = marks.cloned().unwrap_or_default();
            let mut pool = Pool {
                id,
                name: found.name.clone(),
                labels,
                revision: 0,
                phase: found.report.phase,
                conditions: found.report.conditions.clone(),
                created: jiff::Timestamp::now(),
                node,
                asked: PoolAsked {
                    devices: devices.collect(),
                    metadata_device: None,
                    block_size: found.block_size,
                    when_full: found.when_full,
                },
                mode: PoolMode::Unknown,
                wanted_name: None,
                doomed: false,
                marks,
                adopting,
            };
            self.records.insert(&mut pool, Vec::new()).await?;
            return Ok(pool);
        };
        match (pool.phase, self.trust(found)) {
            (Phase::Creating | Phase::Deleting, Trust::Record) => {
                return Err(busy::<Pool>(pool.name.as_str(), "being made or deleted"));
            }
            (Phase::Creating | Phase::Deleting, Trust::Catalogue) => {
                pool.phase = found.report.phase
            }
            (Phase::Ready | Phase::Closed | Phase::Failed, _) => {}
        }
        if self.trust(found) == Trust::Catalogue {
            self.follow_name(&mut pool, found).await?;
        }
        if pool.node != node {
            self.live.forget_pool(pool.node, id);
            pool.node = node;
            (pool.asked.devices, pool.asked.metadata_device) = (devices.collect(), None);
        }
        pool.adopting = adopting;
        self.records.update(&mut pool).await?;
        Ok(pool)
    }

    /// The catalogue's name counts, unless another pool has it here; a name that was wished for in
    /// another life is given up.
    async fn follow_name(&self, pool: &mut Pool, found: &ImportedPool) -> Result<(), ServiceError> {
        pool.doomed = false;
        if let Some(wanted) = pool.wanted_name.take() {
            self.records.update_giving_up(pool, &wanted).await?;
        }
        if pool.name != found.name && self.records.by_name::<Pool>(&found.name).await?.is_none() {
            let former = std::mem::replace(&mut pool.name, found.name.clone());
            self.records.rename(pool, &former).await?;
        }
        Ok(())
    }

    /// Effect and fact of an adoption. The caller holds the pool.
    pub(super) async fn carry_out_adoption(
        &self,
        mut pool: Pool,
        begun: Begun,
    ) -> Result<Pool, ServiceError> {
        let Some(Adopting { former }) = pool.adopting else {
            begun.done();
            return Ok(pool);
        };
        let agent = self.agent_of(pool.node).await?;
        let ours = self.records.store().incarnation();
        let open = agent.open_pools().await?;
        let Some(found) = open.iter().find(|found| found.report.id == pool.id) else {
            return Err(ServiceError::Unfit {
                kind: Pool::KIND,
                name: pool.name.to_string(),
                why: "is not open on its node: open it, and its adoption goes on".into(),
            });
        };
        let now = found.report.incarnation;
        if now != Some(ours) {
            if now != former && now.is_some() {
                // Another store came first, and an administrator has to look at it again.
                pool.adopting = None;
                self.records.update(&mut pool).await?;
                begun.done();
                return Err(other_store(&pool));
            }
            let rows = agent.catalogue(pool.id).await?;
            let catalogue = Catalogue {
                pool: pool.id,
                node: pool.node,
                rows: &rows,
            };
            self.settle_records(&catalogue, Trust::Catalogue).await?;
        }
        hit(Point::AdoptionSettled);
        let report = agent.adopt_pool(pool.id, former).await?;
        hit(Point::AdoptionDone);
        let rows = agent.catalogue(pool.id).await?;
        let catalogue = Catalogue {
            pool: pool.id,
            node: pool.node,
            rows: &rows,
        };
        self.settle_records(&catalogue, Trust::Record).await?;
        pool.follow(&report);
        pool.adopting = None;
        self.records.update(&mut pool).await?;
        hit(Point::AdoptionRecorded);
        begun.done();
        self.live.merge(pool.node, &report);
        for returned in self.returned_thins().await? {
            self.pending.add(returned);
        }
        tracing::info!(pool = %pool.id, node = %pool.node, thins = rows.len(), ?former, "adopted");
        Ok(pool)
    }

    /// Refuses when the name of a pool that we do not know is taken by one that is there still.
    pub(super) async fn pool_name_is_free(
        &self,
        node: NodeId,
        found: &ImportedPool,
    ) -> Result<(), ServiceError> {
        let known = self.records.by_id::<Pool>(found.report.id).await?;
        match self.records.by_name::<Pool>(&found.name).await? {
            Some(other) if known.is_none() && !self.is_lost_pool(node, &other).await? => {
                Err(taken(Pool::KIND, &found.name, found.report.id))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// A pool that its node does not know gives its name to one that it has.
    async fn free_pool_name(&self, node: NodeId, found: &ImportedPool) -> Result<(), ServiceError> {
        let Some(mut other) = self.records.by_name::<Pool>(&found.name).await? else {
            return Ok(());
        };
        if !self.is_lost_pool(node, &other).await? {
            return Err(taken(Pool::KIND, &found.name, found.report.id));
        }
        let former = other.name.clone();
        other.name = lost_name(&former, &other.id.to_string())?;
        self.records.rename(&mut other, &former).await
    }

    /// Whether a pool is recorded on this node, and the node does not find any device of it.
    async fn is_lost_pool(&self, node: NodeId, pool: &Pool) -> Result<bool, ServiceError> {
        let there = self.ask_pools(node).await?;
        Ok(pool.node == node && there.iter().all(|report| report.id != pool.id))
    }
}

fn other_store(pool: &Pool) -> ServiceError {
    ServiceError::Unfit {
        kind: Pool::KIND,
        name: pool.name.to_string(),
        why:
            "was taken over by another control plane store meanwhile: look at it again (`goldleaf \
              node adopt`)"
                .into(),
    }
}
