//! Which store a fake pool takes changes from, and whose records a fake node keeps.

use goldleaf_types::{Incarnation, PoolId};

use super::host::{Done, FakePool, Host};
use super::refuse::precondition;
use crate::agents::AgentError;
use crate::domain::{ImportedPool, KeptText, PoolReport};

/// Refuses another store than the pool's.
pub(super) fn admitted(
    id: PoolId,
    pool: &FakePool,
    caller: Option<Incarnation>,
) -> Result<(), AgentError> {
    match (pool.incarnation, caller) {
        (Some(owner), Some(caller)) if owner != caller && pool.open => Err(precondition(
            "OTHER_INCARNATION",
            format!("pool {id} belongs to another control plane store ({owner}); this is {caller}"),
        )),
        (_, _) => Ok(()),
    }
}

impl Host {
    /// Refuses a change of a pool by another store than its own.
    pub(super) fn admit(&self, id: PoolId) -> Result<(), AgentError> {
        match self.pools.get(&id) {
            Some(pool) => admitted(id, pool, self.caller),
            None => Ok(()),
        }
    }

    pub(super) fn adopt_pool(
        &mut self,
        id: PoolId,
        former: Option<Incarnation>,
    ) -> Done<PoolReport> {
        let caller = self.caller;
        let pool = self.pools.get_mut(&id).filter(|pool| pool.open);
        let pool = pool.ok_or_else(|| {
            let message = format!("pool {id} is not open on this node");
            precondition("POOL_NOT_OPEN", message)
        })?;
        let changed = pool.incarnation != caller;
        if changed && pool.incarnation != former {
            let message = format!("pool {id} belongs to another control plane store");
            return Err(precondition("OTHER_INCARNATION", message));
        }
        pool.incarnation = caller;
        Ok((self.pool(id)?, changed))
    }

    /// Keeps records, in the place of the caller's own or the former store's.
    pub(super) fn keep_records(
        &mut self,
        caller: Option<Incarnation>,
        (records, former): (String, Option<Incarnation>),
    ) -> Result<(), AgentError> {
        let Some(store) = caller else {
            return Ok(()); // a test without stores
        };
        match &self.kept_records {
            Some(kept) if kept.store != store && Some(kept.store) != former => {
                let message = format!("this node keeps records of the store {}", kept.store);
                Err(precondition("OTHER_INCARNATION", message))
            }
            Some(_) | None => {
                self.kept_records = Some(KeptText { store, records });
                Ok(())
            }
        }
    }

    pub(super) fn open_pools(&self) -> Result<Vec<ImportedPool>, AgentError> {
        let open = self.pools.iter().filter(|(_, pool)| pool.open);
        let found = |(id, pool): (&PoolId, &FakePool)| {
            let made = &pool.made;
            Ok(ImportedPool {
                report: self.pool(*id)?,
                name: made.name.clone(),
                devices: made.asked.devices.iter().map(|d| d.path.clone()).collect(),
                block_size: made.asked.block_size,
                when_full: made.asked.when_full,
            })
        };
        open.map(found).collect()
    }
}
