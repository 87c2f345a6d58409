//! Thins through their life: create, resize, and what snapshots and deletions share with that.
//!
//! Called by `grpc`; finishing is called by `sweep` too, which is all there is to recovery. Each operation is wish (durable row), effect (an `ensure_*` verb), fact (durable row),
//! and only then an answer. A crash between any two leaves a row that says what is to be done.

use std::sync::Arc;

use goldleaf_types::{
    Bytes, Digest, Incarnation, Labels, Name, PoolId, Sectors, ThinId, ThinOwner, VolumeSize,
};

use super::Agent;
use super::activation::{ImageUsed, Made};
use super::admission::admit_size;
use super::error::ThinError;
use super::open_pool::OpenPool;
use super::view::ThinView;
use crate::catalogue::{Holder, ImageRef, NoThinIds, Phase, Rows, ThinRecord, WriteError};
use crate::failpoint::{Point, hit};
use crate::images::Checked;
use crate::kernel::{KernelError, LiveThin, Outcome};

/// Whether a row's effect may have happened before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// The row was made in this very call: a thin that is there already is not its own.
    First,
    /// A call or a process before this one may have come further.
    Again,
}

/// What is left to do for a row, and what is known already.
pub(super) struct Course {
    pub(super) attempt: Attempt,
    pub(super) activate: Option<Activation>,
    /// The row's image, if it was compared before.
    pub(super) image: Option<Checked>,
}

/// How to activate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activation {
    /// For whom.
    pub holder: Holder,
    /// Refuse writes.
    pub read_only: bool,
}

/// A volume to be.
#[derive(Clone, Debug)]
pub struct CreateThin {
    /// Whose thin.
    pub owner: ThinOwner,
    /// Its name.
    pub name: Name,
    /// Its pool.
    pub pool: PoolId,
    /// Its size.
    pub size: VolumeSize,
    /// The image that shows through.
    pub image: Option<Digest>,
    /// Labels, kept for the control plane.
    pub labels: Labels,
    /// The request's parameters, kept for the control plane.
    pub parameters: String,
    /// The volume's epoch.
    pub epoch: u64,
    /// Make its device too.
    pub activate: Option<Activation>,
}

impl Agent {
    /// Makes a volume's thin, and its device if asked. Asking again changes nothing. Blocks.
    ///
    /// # Errors
    ///
    /// Every [`ThinError`]; whatever is refused before the wish leaves no trace.
    pub fn create_thin(
        &self,
        caller: Option<Incarnation>,
        request: CreateThin,
    ) -> Result<ThinView, ThinError> {
        let pool = self
            .pools
            .open(request.pool)
            .ok_or(ThinError::NoPool(request.pool))?;
        pool.admit(caller)?;
        let image = self.image_before(pool.catalogue.find(request.owner), &request)?;
        let _held = pool.lock(&[request.owner])?;
        let mut used = None;
        if pool.catalogue.find(request.owner).is_none() {
            self.not_deleted(request.owner)?;
            if self.find_row(request.owner).is_ok() {
                return Err(ThinError::Conflict {
                    owner: request.owner,
                    field: "pool",
                });
            }
            pool.check_room(&*self.kernel)?;
            // Until the row says that it needs the image, nobody may delete it.
            used = match request.image {
                Some(digest) => Some(self.use_image(digest, image)?),
                None => None,
            };
        }
        let recorded = used.as_ref().map(ImageUsed::recorded);
        let activate = request.activate;
        let data = pool.data_bytes();
        let (row, attempt) = write(&pool, move |rows| match rows.find(request.owner) {
            Some(row) => Ok((same_or_conflict(row, &request)?, Attempt::Again)),
            None => {
                admit_size(rows, data, (request.owner, request.size))?;
                let row = fresh_row(rows, request, recorded, None, pool_time())?;
                rows.insert(row.clone());
                Ok((row, Attempt::First))
            }
        })?;
        let image = used.map(ImageUsed::release);
        hit(Point::ThinWished);
        let course = Course {
            attempt,
            activate,
            image,
        };
        self.carry_out(&pool, row, course)
    }

    /// The image that a thin to be needs, or the device of one that is there.
    fn image_before(
        &self,
        row: Option<ThinRecord>,
        request: &CreateThin,
    ) -> Result<Option<Checked>, ThinError> {
        match row {
            None => request.image.map(|d| self.check_image(d)).transpose(),
            Some(row) if request.activate.is_some() || row.phase == Phase::Creating => {
                Ok(self.compared(&row))
            }
            Some(_) => Ok(None),
        }
    }

    /// Effect and fact of a row in `Creating`; a `Ready` one is only activated, if asked.
    /// The caller holds the locks of the row and of its parent.
    pub(super) fn carry_out(
        &self,
        pool: &Arc<OpenPool>,
        row: ThinRecord,
        course: Course,
    ) -> Result<ThinView, ThinError> {
        let Course {
            attempt,
            activate,
            image,
        } = course;
        if row.phase == Phase::Ready {
            return match activate {
                Some(how) => self.activate_row(pool, row, how, image),
                None => self.view(pool, &row),
            };
        }
        let snapshot = row.parent.is_some();
        let row = self.ensure_made(pool, row, attempt)?;
        hit(if snapshot {
            Point::SnapshotMade
        } else {
            Point::ThinMade
        });
        let mut made = None;
        if let Some(holder) = row.holder {
            let how = Activation {
                holder,
                read_only: row.read_only,
            };
            made = Some(self.ensure_device_over(pool, &row, how, image)?);
            hit(Point::ThinLive);
        }
        let done = ThinRecord {
            phase: Phase::Ready,
            ..row
        };
        let fact = done.clone();
        write(pool, move |rows| {
            rows.replace(fact);
            Ok(())
        })?;
        hit(if snapshot {
            Point::SnapshotRecorded
        } else {
            Point::ThinRecorded
        });
        self.thin_changed(done.owner);
        if attempt == Attempt::First && made.is_none() && !snapshot {
            self.mapped.note(done.owner, Bytes(0));
        }
        match (activate, made) {
            (Some(how), None) => self.activate_row(pool, done, how, None),
            // An empty thin that was made in this call: there is nothing that the kernel could add.
            (_, Some(made)) if attempt == Attempt::First && !snapshot => {
                Ok(new_view(pool.id, done, made))
            }
            (_, _) => self.view(pool, &done),
        }
    }

    /// Leaves the row's thin in the kernel. An id that turns out to be somebody's is quarantined,
    /// and the row gets another.
    fn ensure_made(
        &self,
        pool: &OpenPool,
        mut row: ThinRecord,
        attempt: Attempt,
    ) -> Result<ThinRecord, ThinError> {
        loop {
            let foreign = match (self.make(pool, &row), attempt) {
                (Ok(Outcome::Done), _) if row.parent.is_some() => {
                    // It shows what its source held just now, not when it was wished for: what was
                    // written before had to reach the pool first.
                    return Ok(ThinRecord {
                        created: pool_time(),
                        ..row
                    });
                }
                (Ok(Outcome::Done), _) | (Ok(Outcome::AlreadySo), Attempt::Again) => {
                    return Ok(row);
                }
                (Ok(Outcome::AlreadySo), Attempt::First) => row.thin,
                (Err(ThinError::Kernel(KernelError::ForeignThin { thin, .. })), _) => thin,
                (Err(error), _) => return Err(error),
            };
            tracing::warn!(pool = %pool.id, thin = %foreign, "a thin that nobody owns; quarantined");
            row = self.renumber(pool, row)?;
        }
    }

    /// Asks the kernel for the row's thin.
    fn make(&self, pool: &OpenPool, row: &ThinRecord) -> Result<Outcome, ThinError> {
        let Some(parent) = row.parent else {
            return self
                .kernel
                .ensure_thin(pool.id, row.thin, row.owner)
                .map_err(ThinError::Kernel);
        };
        let source = pool
            .catalogue
            .find(parent)
            .ok_or(ThinError::NotFound(parent))?;
        let live = self.kernel.find_live(parent).map_err(ThinError::Kernel)?;
        self.kernel
            .ensure_snapshot(pool.id, row.thin, source.thin, live.map(|_| parent))
            .map_err(ThinError::Kernel)
    }

    pub(super) fn renumber(
        &self,
        pool: &OpenPool,
        row: ThinRecord,
    ) -> Result<ThinRecord, ThinError> {
        write(pool, move |rows| {
            let mut record = rows.pool();
            record.quarantined.push(row.thin.get());
            rows.set_pool(record);
            let thin = rows
                .reserve_thin()
                .map_err(|NoThinIds| ThinError::NoThinIds(rows.pool().id))?;
            let row = ThinRecord { thin, ..row };
            rows.replace(row.clone());
            Ok(row)
        })
    }

    /// Grows a volume. Asking again changes nothing. Blocks.
    ///
    /// # Errors
    ///
    /// [`ThinError::OutOfRange`] for a smaller size.
    pub fn resize(
        &self,
        caller: Option<Incarnation>,
        owner: ThinOwner,
        size: VolumeSize,
        epoch: u64,
    ) -> Result<ThinView, ThinError> {
        let (pool, row) = self.find_row(owner)?;
        pool.admit(caller)?;
        let image = self.compared(&row);
        let _held = pool.lock(&[owner])?;
        let row = pool
            .catalogue
            .find(owner)
            .ok_or(ThinError::NotFound(owner))?;
        usable(&pool, &row)?;
        self.not_read(owner)?;
        check_epoch(&row, epoch)?;
        if size < row.size {
            return Err(ThinError::OutOfRange {
                field: "size_bytes",
                problem: format!(
                    "{} is less than the present {}: a volume only grows",
                    size.bytes(),
                    row.size.bytes()
                ),
            });
        }
        pool.check_writable(&*self.kernel)?;
        let live = self.kernel.find_live(owner).map_err(ThinError::Kernel)?;
        // A live device grows over its image, so a wrong one is refused before the wish.
        let image = match (&live, row.image) {
            (Some(_), Some(needed)) => Some(self.use_image(needed.digest, image)?.release()),
            (Some(_), None) | (None, _) => None,
        };
        let row = ThinRecord { size, ..row };
        let wish = row.clone();
        let data = pool.data_bytes();
        write(&pool, move |rows| {
            admit_size(rows, data, (wish.owner, wish.size))?;
            rows.replace(wish);
            Ok(())
        })?;
        hit(Point::ResizeWished);
        if let Some(live) = live {
            let how = Activation {
                holder: row.holder.unwrap_or(Holder::Host),
                read_only: live.read_only,
            };
            self.ensure_device_over(&pool, &row, how, image)?;
        }
        hit(Point::ResizeLive);
        self.thin_changed(owner);
        self.view(&pool, &row)
    }

    /// The open pool that has a row of `owner`, and the row.
    pub(super) fn find_row(
        &self,
        owner: ThinOwner,
    ) -> Result<(Arc<OpenPool>, ThinRecord), ThinError> {
        self.pools
            .all_open()
            .into_iter()
            .find_map(|pool| pool.catalogue.find(owner).map(|row| (pool, row)))
            .ok_or(ThinError::NotFound(owner))
    }
}

/// Refuses rows that are no base for anything now.
pub(super) fn usable(pool: &OpenPool, row: &ThinRecord) -> Result<(), ThinError> {
    if pool.is_missing(row.owner) {
        return Err(ThinError::DataMissing(row.owner));
    }
    if row.sealed {
        return Err(ThinError::Sealed(row.owner));
    }
    match row.phase {
        Phase::Ready if row.decouple.is_some() => Err(ThinError::Decoupling(row.owner)),
        Phase::Ready => Ok(()),
        Phase::Creating => Err(ThinError::Unfinished(row.owner)),
        Phase::Deleting => Err(ThinError::Deleting(row.owner)),
    }
}

/// Refuses a call from before the volume moved. 0 is a local caller that does not know.
pub(super) fn check_epoch(row: &ThinRecord, asked: u64) -> Result<(), ThinError> {
    if asked != 0 && asked < row.epoch {
        return Err(ThinError::StaleEpoch {
            owner: row.owner,
            now: row.epoch,
            asked,
        });
    }
    Ok(())
}

/// One durable change of the catalogue.
pub(super) fn write<T: Send + 'static>(
    pool: &OpenPool,
    change: impl FnOnce(&mut Rows<'_>) -> Result<T, ThinError> + Send + 'static,
) -> Result<T, ThinError> {
    pool.catalogue.write(change).map_err(|error| match error {
        WriteError::Refused(error) => error,
        WriteError::Catalogue(error) => ThinError::Catalogue(error),
    })
}

pub(super) fn pool_time() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

pub(super) fn fresh_row(
    rows: &mut Rows<'_>,
    request: CreateThin,
    image: Option<ImageRef>,
    parent: Option<ThinOwner>,
    created: jiff::Timestamp,
) -> Result<ThinRecord, ThinError> {
    let pool = rows.pool().id;
    name_is_free(rows, &request)?;
    let thin: ThinId = rows
        .reserve_thin()
        .map_err(|NoThinIds| ThinError::NoThinIds(pool))?;
    Ok(ThinRecord {
        owner: request.owner,
        name: request.name,
        labels: request.labels,
        size: request.size,
        thin,
        image,
        parent,
        created,
        request: request.parameters,
        holder: request.activate.map(|a| a.holder),
        read_only: request.activate.is_some_and(|a| a.read_only),
        phase: Phase::Creating,
        epoch: request.epoch,
        sealed: false,
        group: None,
        decouple: None,
        lost_blocks: 0,
        marks: String::new(),
    })
}

/// A snapshot has no link, so its name is nobody's concern here.
fn name_is_free(rows: &Rows<'_>, request: &CreateThin) -> Result<(), ThinError> {
    if request.owner.volume().is_none() {
        return Ok(());
    }
    let of_the_name = |row: &ThinRecord| row.owner.volume().is_some() && row.name == request.name;
    match rows.find_where(of_the_name) {
        None => Ok(()),
        Some(row) => Err(ThinError::NameTaken {
            pool: rows.pool().id,
            name: row.name,
            other: row.owner,
        }),
    }
}

pub(super) fn same_or_conflict(
    row: ThinRecord,
    request: &CreateThin,
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
    } else if row.size != request.size {
        conflict("size_bytes")
    } else if row.image.map(|i| i.digest) != request.image {
        conflict("image_digest")
    } else {
        Ok(row)
    }
}

/// What there is right after a thin and its device were made.
fn new_view(pool: PoolId, record: ThinRecord, made: Made) -> ThinView {
    ThinView {
        live: Some(LiveThin {
            dev: made.dev,
            open_count: 0,
            read_only: record.read_only,
            suspended: false,
            len: length(&record),
            thin: Some(record.thin),
            origin: made.origin,
            mapped: Some(Bytes(0)),
        }),
        path: Some(made.path),
        pool,
        waiting: false,
        missing: false,
        record,
    }
}

/// The length of the row's device.
pub(super) fn length(row: &ThinRecord) -> Sectors {
    row.size.sectors()
}
