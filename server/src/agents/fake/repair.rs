//! The fake host's rules for pools whose metadata is damaged.

use futures::{StreamExt, stream};
use goldleaf_types::{Bytes, PoolId, ThinOwner};

use super::adoption::admitted;
use super::host::{Done, FakePool, FakeThin, Host};
use super::port::FakeAgent;
use super::refuse::{not_found, precondition};
use super::{FakeNode, Verb};
use crate::agents::{AgentError, Repair, RepairStage};
use crate::domain::{
    PoolMode, PoolRepair, PoolReport, Progress, RepairOutcome, RepairStep, RepairedThin, ThinFate,
};

impl FakeNode {
    /// Damages a pool's metadata, so that it does not open; a repair loses the thins that are named.
    pub fn damage_pool(&self, pool: PoolId, loses: &[ThinOwner]) {
        let mut host = self.host();
        host.damaged.insert(pool, loses.to_vec());
        if let Some(pool) = host.pools.get_mut(&pool) {
            pool.open = false;
        }
        drop(host);
        self.changed();
    }
}

impl Host {
    /// Refuses to open a pool whose metadata is damaged.
    pub(super) fn opens(&self, pool: PoolId) -> Result<(), AgentError> {
        match self.damaged.contains_key(&pool) {
            false => Ok(()),
            true => {
                let message = format!(
                    "cannot read the metadata of pool {pool}: thin_check finds errors in it"
                );
                Err(precondition("METADATA_UNREADABLE", message))
            }
        }
    }

    /// Open for reading, whatever is wrong with it.
    pub(super) fn rescue_pool(&mut self, id: PoolId) -> Done<PoolReport> {
        let pool = self
            .pools
            .get_mut(&id)
            .ok_or_else(|| not_found("POOL_NOT_FOUND", id))?;
        let changed = !pool.open;
        (pool.open, pool.mode) = (true, PoolMode::ReadOnly);
        Ok((self.pool(id)?, changed))
    }

    fn repair(
        &mut self,
        id: PoolId,
        (apply, accept_loss): (bool, bool),
    ) -> Done<(PoolRepair, PoolReport)> {
        let pool: &FakePool = self
            .pools
            .get(&id)
            .ok_or_else(|| not_found("POOL_NOT_FOUND", id))?;
        admitted(id, pool, self.caller)?;
        let of_pool = |thin: &&FakeThin| thin.order.pool == id;
        let mut repair = PoolRepair {
            outcome: RepairOutcome::NothingToDo,
            damage: String::new(),
            needs_check: false,
            recorded_transaction: 1,
            found_transaction: None,
            thins: Vec::new(),
            ownerless: Vec::new(),
            kept: String::new(),
        };
        let Some(loses) = self.damaged.get(&id).cloned() else {
            return Ok(((repair, self.pool(id)?), false));
        };
        if apply && !accept_loss && !loses.is_empty() {
            let message = format!("a repair of pool {id} would not bring everything back");
            return Err(precondition("WOULD_LOSE", message));
        }
        repair.damage = "bad checksum in btree node".into();
        repair.thins = self
            .thins
            .values()
            .filter(of_pool)
            .map(|thin| fate_of(thin, &loses))
            .collect();
        repair.outcome = RepairOutcome::WouldDo;
        if !apply {
            return Ok(((repair, self.pool(id)?), false));
        }
        self.damaged.remove(&id);
        for thin in self.thins.values_mut() {
            thin.missing |= loses.contains(&thin.order.owner);
        }
        if let Some(pool) = self.pools.get_mut(&id) {
            pool.open = true;
        }
        repair.outcome = RepairOutcome::Done;
        repair.kept = format!("/repair/{id}.before");
        Ok(((repair, self.pool(id)?), true))
    }
}

fn fate_of(thin: &FakeThin, loses: &[ThinOwner]) -> RepairedThin {
    let lost = loses.contains(&thin.order.owner);
    let all = Bytes(3 << 16);
    RepairedThin {
        owner: thin.order.owner.to_string(),
        name: thin.order.name.to_string(),
        thin: 1,
        before: Some(all),
        after: (!lost).then_some(all),
        fate: if lost {
            ThinFate::Lost
        } else {
            ThinFate::Whole
        },
    }
}

impl FakeAgent {
    /// One step, then the end, once it is not held.
    pub(super) fn repaired(&self, pool: PoolId, how: (bool, bool)) -> Repair {
        let progress = Progress {
            done: Bytes(1),
            total: Bytes(2),
        };
        let agent = self.clone();
        let end = async move {
            agent.node.not_held().await;
            let done = agent.change(Verb::RepairPool, |host| host.repair(pool, how))?;
            Ok(RepairStage::Done(Box::new(done)))
        };
        let begin = Ok(RepairStage::At(RepairStep::Copying, progress));
        let begin = stream::once(std::future::ready(begin));
        begin.chain(stream::once(end)).boxed()
    }
}
