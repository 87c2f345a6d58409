//! Deleting a pool with all that is in it.
//!
//! Called by `grpc`. It is said first what would go; who then says the pool's name once more has it
//! done. The wish is a pool that is being deleted and doomed; its node deletes the pool whatever is
//! in it, and then the records of what was in it go, the pool's last. `pools` finishes it. From the
//! wish on nothing is made, used or protected in the pool: each of that rests on the pool's revision,
//! so what is protected without that being seen was protected before, and takes the wish back.

use goldleaf_types::PoolId;

use super::records::unchanged;
use super::updates::unprotected;
use super::{Op, Revised, Service, ServiceError, Unfinished, at_revision};
use crate::domain::{GroupSnapshot, Phase, Pool, Ref, Snapshot, Volume};
use crate::failpoint::{Point, hit};
use crate::store::Expect;
use crate::store::rows::Row;

/// What goes with a pool, or went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doomed {
    /// Names of its volumes.
    pub volumes: Vec<String>,
    /// Names of its snapshots.
    pub snapshots: Vec<String>,
    /// Whether it was done.
    pub done: bool,
}

impl Service {
    /// Deletes a pool with all that is in it, if `confirm` is its name; says what would go if it is
    /// empty. A pool that is not there is as good as deleted.
    ///
    /// # Errors
    ///
    /// [`ServiceError::Protected`] for the pool or anything in it; what its node refuses, an active
    /// volume for one: all is then as it was.
    pub async fn destroy_pool(
        &self,
        what: &Ref<PoolId>,
        confirm: &str,
        revision: u64,
    ) -> Result<Doomed, ServiceError> {
        let gone = Doomed {
            done: true,
            ..Doomed::default()
        };
        let Some(found) = self.records.find::<Pool>(what).await? else {
            return Ok(gone);
        };
        if confirm.is_empty() {
            return self.doomed(&found).await;
        }
        if confirm != found.name.as_str() {
            return Err(ServiceError::BadField {
                field: "confirm",
                problem: format!(
                    "is not the name of the pool, {}: look at what the same call without it says \
                     would go, then say the name",
                    found.name
                ),
            });
        }
        let (_held, pool) = self.hold(&found, Op::Delete).await?;
        let Some(mut pool) = pool else {
            return Ok(gone);
        };
        let begun = self.pending.begin(Unfinished::Pool(pool.id));
        let before = pool.phase;
        let ready = async {
            at_revision(&pool, revision)?;
            unprotected(&pool)?;
            super::pool_renaming::settled(&pool)?;
            self.nothing_protected(&pool).await
        };
        let doomed = async {
            if before != Phase::Deleting {
                ready.await?;
            }
            self.doomed(&pool).await
        };
        let doomed = match doomed.await {
            Ok(doomed) => doomed,
            Err(error) => {
                if !matches!(before, Phase::Creating | Phase::Deleting) {
                    begun.done();
                }
                return Err(error);
            }
        };
        if !pool.doomed {
            pool.phase = Phase::Deleting;
            pool.doomed = true;
            self.records.update(&mut pool).await?;
            hit(Point::PoolDeletionWished);
        }
        self.take_pool_away(pool, begun).await?;
        Ok(Doomed {
            done: true,
            ..doomed
        })
    }

    async fn doomed(&self, pool: &Pool) -> Result<Doomed, ServiceError> {
        let volumes = self.records.all::<Volume>().await?.into_iter();
        let snapshots = self.records.all::<Snapshot>().await?.into_iter();
        let volumes = volumes.filter(|volume| volume.pool == pool.id);
        let snapshots = snapshots.filter(|snapshot| snapshot.pool == pool.id);
        Ok(Doomed {
            volumes: volumes.map(|volume| volume.name.to_string()).collect(),
            snapshots: snapshots.map(|s| s.name.to_string()).collect(),
            done: false,
        })
    }

    /// Refuses what is to be made, used or protected in a pool that is being deleted; what a record
    /// that is written for it rests on.
    pub(super) async fn stays(&self, pool: PoolId) -> Result<Expect, ServiceError> {
        let pool = self.records.get::<Pool>(&Ref::Id(pool), "pool").await?;
        match pool.phase {
            Phase::Deleting => Err(ServiceError::Unfit {
                kind: Pool::KIND,
                name: pool.name.to_string(),
                why: "is being deleted with all that is in it: make what is needed in another pool"
                    .into(),
            }),
            Phase::Creating | Phase::Ready | Phase::Failed | Phase::Closed => Ok(unchanged(&pool)),
        }
    }

    pub(super) async fn nothing_protected(&self, pool: &Pool) -> Result<(), ServiceError> {
        let volume = |v: &Volume| v.pool == pool.id && v.marks.deletion_protection;
        if let Some(volume) = self.records.first::<Volume>(volume).await? {
            return unprotected(&volume);
        }
        let snapshot = |s: &Snapshot| s.pool == pool.id && s.marks.deletion_protection;
        match self.records.first::<Snapshot>(snapshot).await? {
            Some(snapshot) => unprotected(&snapshot),
            None => Ok(()),
        }
    }

    /// Forgets what was in a pool that is gone. Whatever goes on with it ends first.
    pub(super) async fn forget_contents(&self, pool: PoolId) -> Result<(), ServiceError> {
        for group in self.records.all::<GroupSnapshot>().await? {
            if group.pool == pool {
                self.forget_with_snapshots(&group).await?;
            }
        }
        for snapshot in self.records.all::<Snapshot>().await? {
            if snapshot.pool == pool {
                self.forget_record(&snapshot).await?;
            }
        }
        for volume in self.records.all::<Volume>().await? {
            if volume.pool == pool {
                self.forget_record(&volume).await?;
            }
        }
        Ok(())
    }

    /// The group last: it keeps the names of those of its snapshots that have no record.
    async fn forget_with_snapshots(&self, group: &GroupSnapshot) -> Result<(), ServiceError> {
        let (_held, group) = self.hold(group, Op::Delete).await?;
        let Some(group) = group else { return Ok(()) };
        for member in &group.members {
            if let Some(snapshot) = self.records.by_id::<Snapshot>(member.snapshot).await? {
                self.forget_record(&snapshot).await?;
            }
        }
        self.forget_group(&group, false).await
    }

    async fn forget_record<T: Revised>(&self, found: &T) -> Result<(), ServiceError> {
        let (_held, now) = self.hold(found, Op::Delete).await?;
        match now {
            Some(record) => self.records.remove(&record).await,
            None => Ok(()),
        }
    }
}
