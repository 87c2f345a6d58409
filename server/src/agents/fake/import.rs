//! Importing on a fake node, and moving a pool's disks from one to another.

use goldleaf_types::{NodeId, PoolId};

use super::host::{Done, Host};
use super::refuse::{not_found, precondition};
use super::{FakeNode, Verb, port::FakeAgent};
use crate::agents::AgentError;
use crate::domain::{Begin, CatalogueRow, ImportedPool, KeptMarks};

impl FakeNode {
    /// Plugs a pool's disks into another node. `released`: it was closed here before.
    pub fn move_pool(&self, pool: PoolId, to: &FakeNode, former: Option<NodeId>) {
        let (mut from, mut host) = (self.host(), to.host());
        let Some(mut moved) = from.pools.remove(&pool) else {
            return;
        };
        moved.open = false;
        moved.held_by = former;
        host.pools.insert(pool, moved);
        let thins: Vec<_> = from.thins.keys().copied().collect();
        for owner in thins {
            if let Some(mut thin) = from.thins.remove(&owner) {
                if thin.order.pool == pool {
                    thin.live = None;
                    if owner.volume().is_some() {
                        thin.order.epoch += 1; // as the agent does that takes it over
                    }
                    host.thins.insert(owner, thin);
                } else {
                    from.thins.insert(owner, thin);
                }
            }
        }
    }
}

impl FakeAgent {
    pub(super) fn import(
        &self,
        devices: &[String],
        force_from: Option<NodeId>,
    ) -> Result<ImportedPool, AgentError> {
        self.change(Verb::OpenPool, |host| host.import_pool(devices, force_from))
    }

    pub(super) fn rows(&self, pool: PoolId) -> Result<Vec<CatalogueRow>, AgentError> {
        self.look(|host| host.rows(pool))
    }
}

impl Host {
    fn import_pool(
        &mut self,
        devices: &[String],
        force_from: Option<NodeId>,
    ) -> Done<ImportedPool> {
        let carried = self.pools.iter_mut().find(|(_, pool)| {
            let asked = pool.made.asked.devices.iter();
            asked.map(|d| &d.path).eq(devices)
        });
        let Some((id, pool)) = carried else {
            return Err(not_found("POOL_NOT_FOUND", format!("{devices:?}")));
        };
        let id = *id;
        if let Some(host) = pool.held_by
            && force_from != Some(host)
        {
            let message = format!("pool {id} belongs to host {host}, which did not release it");
            return Err(precondition("OTHER_HOST", message));
        }
        pool.held_by = None;
        let made = pool.made.clone();
        let (report, changed) = self.open_pool(id)?;
        let imported = ImportedPool {
            report,
            name: made.name,
            devices: devices.to_vec(),
            block_size: made.asked.block_size,
            when_full: made.asked.when_full,
        };
        Ok((imported, changed))
    }

    fn rows(&self, pool: PoolId) -> Result<Vec<CatalogueRow>, AgentError> {
        let thins = self.thins.values().filter(|t| t.order.pool == pool);
        let row = |thin: &super::host::FakeThin| {
            let order = &thin.order;
            Ok(CatalogueRow {
                report: self.thin(order.owner)?,
                name: order.name.clone(),
                labels: order.labels.clone(),
                source: match order.begin {
                    Begin::Blank | Begin::Image(_) => None,
                    Begin::Thin(source) => Some(source),
                },
                asked: order.asked.clone(),
                part: order.part.clone(),
                marks: match thin.marks.as_str() {
                    "" => None,
                    text => KeptMarks::decode(order.owner, text).ok(),
                },
                epoch: order.epoch,
            })
        };
        thins.map(row).collect()
    }
}
