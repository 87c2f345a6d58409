//! Snapshots and clones: thins that begin as another.
//!
//! Called by `grpc`; `thins` finishes what is wished for here, as it does for volumes. The wish
//! names the source and stays until the thin is recorded, so the source is not deleted before. A
//! crash leaves a row in `Creating`; what it shows in the end is its source at the last try.

use goldleaf_types::{Incarnation, Labels, Name, ThinOwner, VolumeSize};

use super::Agent;
use super::admission::admit_size;
use super::error::ThinError;
use super::open_pool::OpenPool;
use super::thins::{
    Activation, Attempt, Course, CreateThin, check_epoch, fresh_row, pool_time, same_or_conflict,
    usable, write,
};
use super::view::ThinView;
use crate::catalogue::{Phase, ThinRecord};
use crate::failpoint::{Point, hit};
use crate::images::Checked;

/// A thin that begins as another.
#[derive(Clone, Debug)]
pub struct CreateSnapshot {
    /// Whose thin: a snapshot's, or a volume's for a clone.
    pub owner: ThinOwner,
    /// Its name.
    pub name: Name,
    /// What it begins as.
    pub source: ThinOwner,
    /// Its size, if not the source's.
    pub size: Option<VolumeSize>,
    /// Labels, kept for the control plane.
    pub labels: Labels,
    /// The request's parameters, kept for the control plane.
    pub parameters: String,
    /// The new volume's epoch.
    pub epoch: u64,
    /// Make its device too.
    pub activate: Option<Activation>,
}

impl Agent {
    /// Makes a snapshot's thin, or a clone's. Asking again changes nothing. Blocks; the writers of
    /// an active source wait for the milliseconds in which it is suspended.
    ///
    /// # Errors
    ///
    /// Every [`ThinError`]; whatever is refused before the wish leaves no trace.
    pub fn create_snapshot(
        &self,
        caller: Option<Incarnation>,
        request: CreateSnapshot,
    ) -> Result<ThinView, ThinError> {
        if let Ok((pool, row)) = self.find_row(request.owner)
            && row.phase == Phase::Ready
        {
            // Made already: what became of its source since is of no account.
            pool.admit(caller)?;
            let image = request.activate.and_then(|_| self.compared(&row));
            let _held = pool.lock(&[request.owner])?;
            let row = pool
                .catalogue
                .find(row.owner)
                .ok_or(ThinError::NotFound(row.owner))?;
            let row = same_snapshot_or_conflict(row, &request)?;
            let course = Course {
                attempt: Attempt::Again,
                activate: request.activate,
                image,
            };
            return self.carry_out(&pool, row, course);
        }
        let (pool, source) = self.find_row(request.source)?;
        pool.admit(caller)?;
        let image = self.compared(&source);
        let _held = pool.lock(&[request.owner, request.source])?;
        let source = pool
            .catalogue
            .find(request.source)
            .ok_or(ThinError::NotFound(request.source))?;
        usable(&pool, &source)?;
        let size = snapshot_size(&request, &source)?;
        if pool.catalogue.find(request.owner).is_none() {
            self.not_deleted(request.owner)?;
            pool.check_room(&*self.kernel)?;
        }
        let compared = self.check_source(&pool, &source, request.activate.is_some(), image)?;
        let activate = request.activate;
        let request = CreateThin {
            owner: request.owner,
            name: request.name,
            pool: pool.id,
            size,
            image: source.image.map(|i| i.digest),
            labels: request.labels,
            parameters: request.parameters,
            epoch: request.epoch,
            activate,
        };
        let (image, parent) = (source.image, source.owner);
        let data = pool.data_bytes();
        let (row, attempt) = write(&pool, move |rows| match rows.find(request.owner) {
            Some(row) if row.parent != Some(parent) => Err(ThinError::Conflict {
                owner: row.owner,
                field: "source",
            }),
            Some(row) => Ok((same_or_conflict(row, &request)?, Attempt::Again)),
            None => {
                admit_size(rows, data, (request.owner, request.size))?;
                let row = fresh_row(rows, request, image, Some(parent), pool_time())?;
                rows.insert(row.clone());
                Ok((row, Attempt::First))
            }
        })?;
        hit(Point::SnapshotWished);
        let course = Course {
            attempt,
            activate,
            image: compared,
        };
        self.carry_out(&pool, row, course)
    }

    /// What is compared before a thin is made from `source`: a live one is suspended and resumed
    /// over its image, in a pool that lets its writes end; and a clone's device is made over the
    /// same image. The image, if it was needed. The caller holds the source's lock.
    ///
    /// # Errors
    ///
    /// [`ThinError::Image`] for an image that is not what it was, [`ThinError::PoolReadOnly`] for a
    /// pool in which a suspension would wait for room.
    pub(super) fn check_source(
        &self,
        pool: &OpenPool,
        source: &ThinRecord,
        activated: bool,
        compared: Option<Checked>,
    ) -> Result<Option<Checked>, ThinError> {
        let live = self.kernel.find_live(source.owner);
        let live = live.map_err(ThinError::Kernel)?.is_some();
        if live {
            pool.check_calm(&*self.kernel)?;
        }
        match source.image {
            Some(image) if live || activated => self
                .use_image(image.digest, compared)
                .map(|used| Some(used.release())),
            Some(_) | None => Ok(None),
        }
    }
}

fn snapshot_size(request: &CreateSnapshot, source: &ThinRecord) -> Result<VolumeSize, ThinError> {
    match request.size {
        None => Ok(source.size),
        Some(size) if size == source.size => Ok(size),
        Some(_) if request.owner.volume().is_none() => Err(ThinError::OutOfRange {
            field: "size_bytes",
            problem: "a snapshot has its source's size".into(),
        }),
        Some(size) if size < source.size => Err(ThinError::OutOfRange {
            field: "size_bytes",
            problem: format!(
                "{} is less than the source's {}",
                size.bytes(),
                source.size.bytes()
            ),
        }),
        Some(size) => Ok(size),
    }
}

/// A snapshot or clone that is there: the one that is asked for, or a conflict.
pub(super) fn same_snapshot_or_conflict(
    row: ThinRecord,
    request: &CreateSnapshot,
) -> Result<ThinRecord, ThinError> {
    let conflict = |field| {
        Err(ThinError::Conflict {
            owner: row.owner,
            field,
        })
    };
    if row.phase == Phase::Deleting {
        return Err(ThinError::Deleting(row.owner));
    }
    check_epoch(&row, request.epoch)?;
    if row.name != request.name {
        conflict("name")
    } else if row.parent != Some(request.source) {
        conflict("source")
    } else if request.size.is_some_and(|size| size != row.size) {
        conflict("size_bytes")
    } else {
        Ok(row)
    }
}
