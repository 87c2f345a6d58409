//! What a user changes of a thing at any time: labels and deletion protection.
//!
//! Called by `grpc`. One transaction on the record, so a crash leaves the change made or not made; a
//! note beside it has the pool's catalogue told (`telling`). What goes on with the thing is waited
//! for; only a deletion refuses, and that of a pool refuses to protect what is in it.

use super::records::Revised;
use super::telling::untold;
use super::{DECISIONS, Op, Service, ServiceError, Unfinished, at_revision, busy};
use crate::domain::{Image, Marks, Phase, Pool, Ref, Remark, Snapshot, Volume};
use crate::failpoint::{Point, hit};
use crate::store::rows::{self, Row};
use goldleaf_types::{ImageId, Labels, Name, PoolId, SnapshotId, ThinOwner, VolumeId};

/// A change of one thing's labels and protection.
#[derive(Clone, Debug)]
pub struct Update<R> {
    /// What.
    pub what: R,
    /// How.
    pub change: Remark,
    /// If not 0, the revision it must have.
    pub revision: u64,
}

/// A record that its user can mark.
pub(super) trait Marked: Revised + Row<Name = Name> {
    fn phase(&self) -> Phase;
    fn marks(&self) -> &Marks;
    fn marks_mut(&mut self) -> (&mut Labels, &mut Marks);
    /// Its thin's owner, whose row keeps the marks too.
    fn told_owner(&self) -> Option<ThinOwner>;
    /// The pool that it lies in.
    fn lies_in(&self) -> Option<PoolId>;
}

macro_rules! marked {
    ($($noun:ty => $owner:expr, $pool:expr;)*) => {$(
        impl Marked for $noun {
            fn lies_in(&self) -> Option<PoolId> {
                let pool: fn(&$noun) -> Option<PoolId> = $pool;
                pool(self)
            }
            fn told_owner(&self) -> Option<ThinOwner> {
                let owner: fn(&$noun) -> Option<ThinOwner> = $owner;
                owner(self)
            }
            fn phase(&self) -> Phase {
                self.phase
            }
            fn marks(&self) -> &Marks {
                &self.marks
            }
            fn marks_mut(&mut self) -> (&mut Labels, &mut Marks) {
                (&mut self.labels, &mut self.marks)
            }
        }
    )*};
}

marked!(
    Volume => |volume| Some(volume.id.into()), |volume| Some(volume.pool);
    Snapshot => |snapshot| Some(snapshot.id.into()), |snapshot| Some(snapshot.pool);
    Image => |_| None, |_| None;
    Pool => |_| None, |_| None;
);

/// Refuses what is protected from deletion.
pub(super) fn unprotected<T: Marked>(record: &T) -> Result<(), ServiceError> {
    if record.marks().deletion_protection {
        return Err(ServiceError::Protected {
            kind: T::KIND,
            name: record.name().to_string(),
        });
    }
    Ok(())
}

impl Service {
    /// Changes a volume's labels and protection.
    ///
    /// # Errors
    ///
    /// [`ServiceError::OtherRevision`], [`ServiceError::Busy`] while it is deleted, labels that cannot
    /// be, or protection of what goes with its pool. The same change again changes nothing and is never refused for its revision.
    pub async fn update_volume(
        &self,
        wanted: Update<Ref<VolumeId>>,
    ) -> Result<super::VolumeView, ServiceError> {
        let volume = self.update::<Volume>(wanted).await?;
        self.view_volume(volume).await
    }

    /// Changes a snapshot's labels and protection.
    ///
    /// # Errors
    ///
    /// As [`Self::update_volume`].
    pub async fn update_snapshot(
        &self,
        wanted: Update<Ref<SnapshotId>>,
    ) -> Result<Snapshot, ServiceError> {
        let snapshot = self.update::<Snapshot>(wanted).await?;
        self.view_snapshot(snapshot).await
    }

    /// Changes an image's labels and protection.
    ///
    /// # Errors
    ///
    /// As [`Self::update_volume`].
    pub async fn update_image(
        &self,
        wanted: Update<Ref<ImageId>>,
    ) -> Result<super::ImageView, ServiceError> {
        let image = self.update::<Image>(wanted).await?;
        Ok(self.view_image(image))
    }

    /// Changes a pool's labels and protection.
    ///
    /// # Errors
    ///
    /// As [`Self::update_volume`].
    pub async fn update_pool(
        &self,
        wanted: Update<Ref<PoolId>>,
    ) -> Result<super::PoolView, ServiceError> {
        let pool = self.update::<Pool>(wanted).await?;
        Ok(self.view_pool(pool).await)
    }

    async fn update<T: Marked>(&self, wanted: Update<Ref<T::Id>>) -> Result<T, ServiceError> {
        let found = self.records.get::<T>(&wanted.what, "target").await?;
        let _held = self.locks.take_inner(rows::key::<T>(found.id())).await;
        for _ in 0..DECISIONS {
            match self.update_once::<T>(&found, &wanted).await {
                Err(error) if error.is_conflict() => {} // its pool changed
                done => return done,
            }
        }
        Err(busy::<T>(
            &found.name().to_string(),
            "being changed by others too",
        ))
    }

    /// The caller holds the record.
    async fn update_once<T: Marked>(
        &self,
        found: &T,
        wanted: &Update<Ref<T::Id>>,
    ) -> Result<T, ServiceError> {
        let by_id = Ref::Id(found.id());
        let mut record = self.records.get::<T>(&by_id, "target").await?;
        if record.phase() == Phase::Deleting {
            return Err(busy::<T>(&record.name().to_string(), Op::Delete.doing()));
        }
        let before = record.clone();
        let (labels, marks) = record.marks_mut();
        let changed =
            wanted
                .change
                .apply(labels, marks)
                .map_err(|problem| ServiceError::BadField {
                    field: "set_labels",
                    problem: format!("{problem}: take others off in the same call"),
                })?;
        if !changed {
            return Ok(record);
        }
        at_revision(&before, wanted.revision)?;
        let protects = record.marks().deletion_protection && !before.marks().deletion_protection;
        let rests_on = match record.lies_in().filter(|_| protects) {
            Some(pool) => vec![self.stays(pool).await?],
            None => Vec::new(),
        };
        let Some(owner) = record.told_owner() else {
            self.records.update(&mut record).await?;
            return Ok(record);
        };
        let begun = self.pending.begin(Unfinished::Untold(owner));
        let note = untold(&record, owner);
        let written = self
            .records
            .update_with_if(&mut record, [note], rests_on)
            .await;
        if let Err(error) = written {
            if error.is_conflict() {
                begun.done(); // nothing was written
            }
            return Err(error);
        }
        hit(Point::MarksWished);
        self.tell(owner, begun).await;
        hit(Point::MarksRecorded);
        Ok(record)
    }
}
