//! Which store a fake pool takes changes from.

use goldleaf_types::{Incarnation, PoolId};

use super::host::{Done, FakePool, Host};
use super::refuse::precondition;
use crate::agents::AgentError;
use crate::domain::{ImportedPool, PoolReport};

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
