//! Importing a pool: a node takes its devices over, and the records come back from its catalogue.
//!
//! Called by `grpc`. The agent's fence in the labels decides who has the pool; what is written here
//! only follows, each record in its own transaction and only if it is not there. A crash leaves the
//! pool open on its node and some records missing: the same call again adds them.

use goldleaf_types::{Bytes, NodeId, PoolId, ThinOwner, VolumeSize};

use super::{PoolView, Service, ServiceError, Unfinished, busy};
use crate::domain::{
    Begin, CatalogueRow, ImportedPool, Marks, Phase, Pool, PoolAsked, PoolDevice, PoolMode, Ref,
    Snapshot, Volume,
};
use crate::store::rows;

/// A pool to import.
#[derive(Clone, Debug)]
pub struct ImportPool {
    /// The node that has its devices; none while there is just one.
    pub node: Option<Ref<NodeId>>,
    /// Where the devices are on it.
    pub devices: Vec<String>,
    /// The host to take it from although it did not release it.
    pub force_from: Option<NodeId>,
}

impl Service {
    /// Has a node take a pool over, and brings back what its catalogue says. The same again
    /// changes nothing.
    ///
    /// # Errors
    ///
    /// What the node refuses, a pool that another host did not release for one;
    /// [`ServiceError::Unfit`] when a name in it is taken, before any record is written.
    pub async fn import_pool(&self, wanted: ImportPool) -> Result<PoolView, ServiceError> {
        let node = self.node_named(wanted.node.as_ref()).await?.id;
        let agent = self.agent_of(node).await?;
        let found = agent
            .import_pool(&wanted.devices, wanted.force_from)
            .await?;
        let id = found.report.id;
        let thins = agent.catalogue(id).await?;
        let _held = self.locks.take_inner(rows::key::<Pool>(id)).await;
        self.names_are_free(&found, &thins).await?;
        let pool = self.take_pool_in(node, &found).await?;
        for row in &thins {
            match row.report.owner {
                ThinOwner::Volume(_) => self.take_volume_in(node, row).await?,
                ThinOwner::Snapshot(_) => self.take_snapshot_in(node, row).await?,
            }
        }
        tracing::info!(pool = %id, %node, thins = thins.len(), "imported");
        self.live.merge(node, &found.report);
        Ok(PoolView {
            pool,
            report: Some(found.report),
        })
    }

    async fn names_are_free(
        &self,
        found: &ImportedPool,
        thins: &[CatalogueRow],
    ) -> Result<(), ServiceError> {
        let taken = |kind, name: &goldleaf_types::Name| ServiceError::Unfit {
            kind,
            name: name.to_string(),
            why: format!(
                "is also the name of what {} holds: rename or delete the one that is here, then \
                 import again",
                found.report.id
            ),
        };
        let pool = self.records.by_name::<Pool>(&found.name).await?;
        if self.records.by_id::<Pool>(found.report.id).await?.is_none() && pool.is_some() {
            return Err(taken("pool", &found.name));
        }
        for row in thins {
            let other = match row.report.owner {
                ThinOwner::Volume(id) => {
                    let known = self.records.by_id::<Volume>(id).await?.is_some();
                    !known && self.records.by_name::<Volume>(&row.name).await?.is_some()
                }
                ThinOwner::Snapshot(id) => {
                    let known = self.records.by_id::<Snapshot>(id).await?.is_some();
                    !known && self.records.by_name::<Snapshot>(&row.name).await?.is_some()
                }
            };
            if other {
                let kind = row.report.owner.volume().map_or("snapshot", |_| "volume");
                return Err(taken(kind, &row.name));
            }
        }
        Ok(())
    }

    async fn take_pool_in(&self, node: NodeId, found: &ImportedPool) -> Result<Pool, ServiceError> {
        let id: PoolId = found.report.id;
        let devices = found.devices.iter().map(|path| PoolDevice {
            path: path.clone(),
            create_file_bytes: 0,
        });
        let Some(mut pool) = self.records.by_id::<Pool>(id).await? else {
            let mut pool = Pool {
                id,
                name: found.name.clone(),
                labels: goldleaf_types::Labels::default(),
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
                marks: Marks::new(false),
            };
            pool.follow(&found.report);
            self.records.insert(&mut pool, Vec::new()).await?;
            return Ok(pool);
        };
        match pool.phase {
            Phase::Creating | Phase::Deleting => {
                return Err(busy::<Pool>(pool.name.as_str(), "being made or deleted"));
            }
            Phase::Ready | Phase::Closed | Phase::Failed => {}
        }
        let moved = pool.node != node;
        if moved {
            self.live.forget_pool(pool.node, id);
            pool.node = node;
            (pool.asked.devices, pool.asked.metadata_device) = (devices.collect(), None);
        }
        if pool.follow(&found.report) || moved {
            self.records.update(&mut pool).await?;
        }
        Ok(pool)
    }

    async fn take_volume_in(&self, node: NodeId, row: &CatalogueRow) -> Result<(), ServiceError> {
        let ThinOwner::Volume(id) = row.report.owner else {
            return Ok(());
        };
        let _held = self.locks.take_inner(rows::key::<Volume>(id)).await;
        if let Some(mut volume) = self.records.by_id::<Volume>(id).await? {
            if volume.node != node {
                volume.node = node;
                self.records.update(&mut volume).await?;
            }
            return Ok(());
        }
        // A deletion that was begun is finished by its agent; nobody is to find it again.
        if row.report.phase == Phase::Deleting {
            return Ok(());
        }
        let mut volume = Volume {
            id,
            name: row.name.clone(),
            labels: row.labels.clone(),
            revision: 0,
            phase: row.report.phase,
            conditions: Vec::new(),
            created: row.report.created,
            size: size(row)?,
            wanted_size: None,
            // Its node is at it, at the rate that its own record says.
            decoupling: match row.report.phase {
                Phase::Ready => row.report.progress.map(|_| Bytes(0)),
                Phase::Creating | Phase::Deleting | Phase::Failed | Phase::Closed => None,
            },
            pool: row.report.pool,
            node,
            begin: match (row.source, row.report.image) {
                (Some(source), _) => Begin::Thin(source),
                (None, Some(digest)) => Begin::Image(digest),
                (None, None) => Begin::Blank,
            },
            image: row.report.image,
            asked: row.asked.clone(),
            epoch: row.epoch,
            marks: Marks::new(false),
        };
        let begun = self.pending.begin(Unfinished::Volume(id));
        self.records.insert(&mut volume, Vec::new()).await?;
        if volume.phase == Phase::Ready && !volume.wishes() {
            begun.done();
        }
        Ok(())
    }

    async fn take_snapshot_in(&self, node: NodeId, row: &CatalogueRow) -> Result<(), ServiceError> {
        let ThinOwner::Snapshot(id) = row.report.owner else {
            return Ok(());
        };
        let _held = self.locks.take_inner(rows::key::<Snapshot>(id)).await;
        if let Some(mut snapshot) = self.records.by_id::<Snapshot>(id).await? {
            if snapshot.node != node {
                snapshot.node = node;
                self.records.update(&mut snapshot).await?;
            }
            return Ok(());
        }
        let Some(source) = row.source.filter(|_| row.report.phase != Phase::Deleting) else {
            return Ok(());
        };
        let mut snapshot = Snapshot {
            id,
            name: row.name.clone(),
            labels: row.labels.clone(),
            revision: 0,
            phase: row.report.phase,
            conditions: Vec::new(),
            created: row.report.created,
            size: size(row)?,
            pool: row.report.pool,
            node,
            image: row.report.image,
            source,
            asked_source: row.asked.source.clone(),
            marks: Marks::new(false),
            group: None,
        };
        let begun = self.pending.begin(Unfinished::Snapshot(id));
        self.records.insert(&mut snapshot, Vec::new()).await?;
        if snapshot.phase == Phase::Ready {
            begun.done();
        }
        Ok(())
    }
}

fn size(row: &CatalogueRow) -> Result<VolumeSize, ServiceError> {
    VolumeSize::new(row.report.size.0).map_err(|error| ServiceError::Unfit {
        kind: "volume",
        name: row.name.to_string(),
        why: format!("has a size in its pool's catalogue that none can have: {error}"),
    })
}
