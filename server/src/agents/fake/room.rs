//! More room for a fake pool, and another name.

use goldleaf_types::{Bytes, Name, PoolId, ThinOwner, VolumeSize};

use super::host::{Done, FakeThin, Host};
use super::refuse::{exhausted, precondition};
use crate::agents::AgentError;
use crate::domain::{MoreRoom, PolicyChange, PoolMode, PoolPolicy, PoolReport};

impl Host {
    /// Each new device counts once, however often it is named.
    pub(super) fn extend_pool(&mut self, id: PoolId, more: &MoreRoom) -> Done<PoolReport> {
        self.open_pool_of(id)?;
        self.admit(id)?;
        let all = || more.devices.iter().chain(&more.metadata_devices);
        let taken = self.pools.iter().find(|(other, pool)| {
            let has = |path: &String| pool.added.contains(path) || pool.spares.contains(path);
            **other != id && all().chain(&more.spares).any(|d| has(&d.path))
        });
        if let Some((other, _)) = taken {
            let message = format!("devices: a device holds the label of pool {other}");
            return Err(precondition("NOT_BLANK", message));
        }
        let Some(pool) = self.pools.get_mut(&id) else {
            return Err(precondition(
                "POOL_NOT_OPEN",
                format!("pool {id} is not open"),
            ));
        };
        let mut changed = false;
        for device in all() {
            if pool.added.insert(device.path.clone()) {
                pool.total.0 += Bytes::GIB.0;
                changed = true;
            }
        }
        if changed && pool.mode == PoolMode::OutOfDataSpace {
            pool.mode = PoolMode::ReadWrite;
        }
        for spare in &more.spares {
            changed |= pool.spares.insert(spare.path.clone());
        }
        Ok((self.pool(id)?, changed))
    }

    pub(super) fn rename_pool(&mut self, id: PoolId, name: &Name) -> Done<PoolReport> {
        self.admit(id)?;
        let active = |thin: &&FakeThin| thin.order.pool == id && thin.live.is_some();
        let count = self.thins.values().filter(active).count();
        let pool = self.open_pool_of_mut(id)?;
        let changed = pool.made.name != *name;
        if changed && count > 0 {
            let message = format!("{count} volume(s) of pool {id} are active");
            return Err(precondition("ACTIVE", message));
        }
        pool.made.name = name.clone();
        if self.labels_fail {
            let message = format!("cannot write a label of pool {id}: input/output error");
            return Err(precondition("LABEL", message));
        }
        Ok((self.pool(id)?, changed))
    }

    pub(super) fn set_policy(&mut self, id: PoolId, change: &PolicyChange) -> Done<PoolReport> {
        self.open_pool_of(id)?;
        self.admit(id)?;
        let mut changed = false;
        if let Some(pool) = self.pools.get_mut(&id) {
            let before = pool.policy;
            pool.policy = PoolPolicy {
                when_full: change.when_full.unwrap_or(before.when_full),
                wait_seconds: change.wait_seconds.unwrap_or(before.wait_seconds),
                overcommit_percent: change
                    .overcommit_percent
                    .unwrap_or(before.overcommit_percent),
            };
            changed = pool.policy != before;
        }
        Ok((self.pool(id)?, changed))
    }

    /// The pool's limit, as an agent minds it.
    pub(super) fn admit_size(
        &self,
        id: PoolId,
        (owner, size): (ThinOwner, VolumeSize),
    ) -> Result<(), AgentError> {
        let pool = self.open_pool_of(id)?;
        let Some(limit) = pool.policy.limit(pool.total) else {
            return Ok(());
        };
        let others = self.thins.iter().filter(|(other, thin)| {
            thin.order.pool == id && **other != owner && other.volume().is_some()
        });
        let provisioned: u64 = others.map(|(_, thin)| thin.size.bytes().0).sum();
        if owner.volume().is_none() || provisioned + size.bytes().0 <= limit.0 {
            return Ok(());
        }
        let message = format!("pool {id} has {provisioned} B provisioned and its limit is {limit}");
        Err(exhausted("OVERCOMMITTED", message))
    }
}
