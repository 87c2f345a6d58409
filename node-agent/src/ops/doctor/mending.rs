//! Mending what the doctor found: on request, one finding at a time, each looked at anew first.
//!
//! Without `apply` nothing is changed: the answer says what would be. Deleting a quarantined thin
//! is the only thing here that destroys data, and only data that has no owner.

use goldleaf_dm::Owned;
use goldleaf_types::{Incarnation, PoolId, ThinId, ThinOwner};

use super::{Finding, Remedy};
use crate::catalogue::ThinRecord;
use crate::failpoint::{Point, hit};
use crate::ops::Agent;
use crate::ops::error::ThinError;
use crate::ops::open_pool::OpenPool;
use crate::ops::thins::write;
use crate::telemetry::Chain;

/// What became of one finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is there; this would be done.
    WouldDo(String),
    /// This was done.
    Done(String),
    /// This was tried, and why it failed.
    Failed(String, String),
    /// It is there, and takes a person.
    NeedsPerson,
    /// There is no such finding now.
    NotFound,
}

/// One finding that was to be mended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mended {
    /// The finding's key.
    pub key: String,
    /// What became of it.
    pub outcome: Outcome,
}

impl Agent {
    /// Mends findings by their keys, if `apply`; else says what it would do. Blocks.
    #[must_use]
    pub fn mend(&self, caller: Option<Incarnation>, keys: &[String], apply: bool) -> Vec<Mended> {
        let found = self.examine();
        let mend = |key: &String| {
            let finding = found.iter().find(|finding| finding.key() == *key);
            Mended {
                key: key.clone(),
                outcome: finding.map_or(Outcome::NotFound, |f| self.mend_one(caller, f, apply)),
            }
        };
        keys.iter().map(mend).collect()
    }

    fn mend_one(&self, caller: Option<Incarnation>, finding: &Finding, apply: bool) -> Outcome {
        let Some(remedy) = &finding.remedy else {
            return Outcome::NeedsPerson;
        };
        let what = remedy.to_string();
        if !apply {
            return Outcome::WouldDo(what);
        }
        tracing::warn!(finding = %finding.key(), %what, "mending");
        match self.carry_out_remedy(caller, remedy) {
            Ok(()) => Outcome::Done(what),
            Err(error) => Outcome::Failed(what, Chain(&*error).to_string()),
        }
    }

    fn carry_out_remedy(
        &self,
        caller: Option<Incarnation>,
        remedy: &Remedy,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        match remedy {
            Remedy::Quarantine(pool, thin) => self.quarantine(caller, *pool, *thin)?,
            Remedy::DeleteThin(pool, thin) => self.delete_ownerless(caller, *pool, *thin)?,
            Remedy::RemoveDevice(owned) => self.remove_stray(*owned)?,
            Remedy::Settle(pool, owner) => {
                let pool = self.pools.open(*pool).ok_or(ThinError::NoPool(*pool))?;
                self.sweep_row(&pool, *owner)?;
            }
            Remedy::ForgetLoss(pool, owner) => self.forget_loss(caller, *pool, *owner)?,
            Remedy::RemoveLink(path) => match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error.into());
                }
                Ok(()) | Err(_) => {}
            },
            Remedy::DetachLoop(path) => self.detach_loop(path)?,
        }
        Ok(())
    }

    fn quarantine(
        &self,
        caller: Option<Incarnation>,
        pool: PoolId,
        thin: ThinId,
    ) -> Result<(), ThinError> {
        let pool = self.pools.open(pool).ok_or(ThinError::NoPool(pool))?;
        pool.admit(caller)?;
        write(&pool, move |rows| {
            let mut record = rows.pool();
            if !record.quarantined.contains(&thin.get()) {
                record.quarantined.push(thin.get());
                rows.set_pool(record);
            }
            Ok(())
        })?;
        self.changed();
        Ok(())
    }

    fn forget_loss(
        &self,
        caller: Option<Incarnation>,
        pool: PoolId,
        owner: ThinOwner,
    ) -> Result<(), ThinError> {
        let pool = self.pools.open(pool).ok_or(ThinError::NoPool(pool))?;
        pool.admit(caller)?;
        let _held = pool.lock(&[owner])?;
        write(&pool, move |rows| {
            let row = rows.find(owner).ok_or(ThinError::NotFound(owner))?;
            rows.replace(ThinRecord {
                lost_blocks: 0,
                ..row
            });
            Ok(())
        })?;
        self.changed();
        Ok(())
    }

    /// The quarantine is the wish. Its entry goes last: the fact.
    fn delete_ownerless(
        &self,
        caller: Option<Incarnation>,
        pool: PoolId,
        thin: ThinId,
    ) -> Result<(), ThinError> {
        let pool = self.pools.open(pool).ok_or(ThinError::NoPool(pool))?;
        pool.admit(caller)?;
        pool.check_writable(&*self.kernel)?;
        let _ = self
            .kernel
            .ensure_no_thin(pool.id, thin)
            .map_err(ThinError::Kernel)?;
        hit(Point::OwnerlessDeleted);
        forget(&pool, thin)?;
        self.changed();
        Ok(())
    }

    fn remove_stray(&self, owned: Owned) -> Result<(), crate::kernel::KernelError> {
        match owned {
            Owned::Thin(owner) => self.kernel.ensure_inactive(owner).map(drop),
            Owned::Pool(pool) | Owned::PoolMetadata(pool) | Owned::PoolData(pool) => {
                self.kernel.ensure_no_pool(pool).map(drop)
            }
            Owned::Image(digest) => self.kernel.ensure_no_image(digest).map(drop),
            Owned::Probe(pool, _) => self.kernel.ensure_no_probe(pool),
        }
    }
}

fn forget(pool: &OpenPool, thin: ThinId) -> Result<(), ThinError> {
    write(pool, move |rows| {
        let mut record = rows.pool();
        record.quarantined.retain(|id| *id != thin.get());
        rows.set_pool(record);
        Ok(())
    })
}
