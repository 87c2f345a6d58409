//! A thin that is read whole: its device for that, and what is kept from it meanwhile.
//!
//! Called by `grpc` to make images of thins and to export them. Reading takes minutes, so no lock is
//! held: the owner is marked instead, and whoever would write to it, grow it or take it away is told
//! to ask again later. The device is read-only and is nobody's activation: the row wishes for none, so
//! one that a crash leaves is taken away by the next sweep, and reading begins again from nothing.

use std::collections::HashSet;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use goldleaf_types::{Bytes, Digest, Incarnation, SECTOR, ThinOwner, VolumeSize};

use super::Agent;
use super::error::{ReadError, ThinError};
use super::open_pool::OpenPool;
use super::rescue::Shown;
use super::thins::{Activation, length, usable};
use crate::catalogue::{Holder, ImageRef, ThinRecord};
use crate::failpoint::{Point, hit};
use crate::images::{Checked, ExportTarget, Exported, ImageRecord, Meter, Outgoing, Past, Taken};
use crate::kernel::{PrivateSpec, PrivateThin};
use crate::telemetry::Chain;

/// The owners of thins that are being read.
#[derive(Debug, Default)]
pub(super) struct Reads(Mutex<HashSet<ThinOwner>>);

impl Reads {
    fn owners(&self) -> MutexGuard<'_, HashSet<ThinOwner>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether its thin is being read.
    pub(super) fn has(&self, owner: ThinOwner) -> bool {
        self.owners().contains(&owner)
    }
}

/// A thin that is open to be read, and that nothing changes until this is dropped.
pub(super) struct Reading<'a> {
    agent: &'a Agent,
    pool: Arc<OpenPool>,
    owner: ThinOwner,
    file: Option<File>,
    size: Bytes,
    /// Of a thin that is read past its image's end in another way.
    past: Option<Beyond<'a>>,
}

/// The thin once more without its image, and that.
struct Beyond<'a> {
    bare: Box<dyn PrivateThin + 'a>,
    image: File,
    size: Bytes,
}

impl Reading<'_> {
    /// Its content, from its first byte on.
    pub(super) fn file(&self) -> &File {
        self.file.as_ref().expect("open until it is dropped")
    }

    /// How it is read past its image's end, if not as before it.
    fn past(&self) -> std::io::Result<Option<Past>> {
        let past = |beyond: &Beyond<'_>| {
            Ok(Past {
                bare: beyond.bare.file().try_clone()?,
                image: beyond.image.try_clone()?,
                size: beyond.size,
            })
        };
        self.past.as_ref().map(past).transpose()
    }

    /// How much of it there is.
    pub(super) const fn size(&self) -> Bytes {
        self.size
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.file = None;
        self.past = None;
        if std::thread::panicking() {
            // As after a crash: the next sweep takes the device away.
            self.agent.reads.owners().remove(&self.owner);
            return;
        }
        let _held = self.pool.locks.take(&[self.owner]);
        if let Err(error) = self.agent.kernel.ensure_inactive(self.owner) {
            tracing::warn!(owner = %self.owner, error = %Chain(&error),
                "the device that it was read through stays until the next sweep");
        }
        self.agent.reads.owners().remove(&self.owner);
        self.agent.image_bell.ring();
    }
}

impl Agent {
    /// Makes an image's content of a thin that nobody uses. Content that is here already is
    /// answered as it is. Blocks, until all of the thin was read or the meter stops.
    ///
    /// # Errors
    ///
    /// [`ThinError::Active`] while it has a device; those of reading and of keeping an image.
    pub fn import_thin(
        &self,
        caller: Option<Incarnation>,
        owner: ThinOwner,
        expect: Option<Digest>,
        meter: &Meter,
    ) -> Result<ImageRecord, ReadError> {
        if let Some(here) = expect.and_then(|digest| self.images.find_good(&digest)) {
            return Ok(here);
        }
        let reading = self.read_thin(caller, owner, None)?;
        hit(Point::ReadingLive);
        let taken = Taken {
            file: reading.file(),
            size: reading.size(),
            source: owner.to_string(),
            expect,
        };
        let record = self.images.take(taken, meter)?;
        hit(Point::ThinTaken);
        drop(reading);
        hit(Point::ReadingDone);
        Ok(record)
    }

    /// Writes what a thin that nobody uses reads to a file of the export folder. Blocks, until all
    /// of the thin was read or the meter stops. `over`: the image under a thin that a rescue shows by
    /// its number alone.
    ///
    /// # Errors
    ///
    /// [`ThinError::Active`] while it has a device; those of reading and of writing the file.
    pub fn export_thin(
        &self,
        caller: Option<Incarnation>,
        (owner, over): (ThinOwner, Option<Digest>),
        target: &ExportTarget,
        meter: &Meter,
    ) -> Result<Exported, ReadError> {
        self.exports.check(target)?;
        let reading = self.read_thin(caller, owner, over)?;
        hit(Point::ReadingLive);
        let past = reading
            .past()
            .map_err(|source| ThinError::Link { owner, source })?;
        let outgoing = Outgoing {
            file: reading.file(),
            size: reading.size(),
            source: owner.to_string(),
            past,
        };
        let exported = self.exports.write(&outgoing, target, meter)?;
        drop(outgoing);
        drop(reading);
        hit(Point::ReadingDone);
        Ok(exported)
    }

    /// Opens a thin that nobody uses, to read it whole.
    pub(super) fn read_thin(
        &self,
        caller: Option<Incarnation>,
        owner: ThinOwner,
        over: Option<Digest>,
    ) -> Result<Reading<'_>, ThinError> {
        let (pool, row) = self.find_row(owner)?;
        pool.admit(caller)?;
        let image = match over {
            Some(digest) => Some(self.check_image(digest)?),
            None => self.compared(&row),
        };
        let held = pool.lock(&[owner])?;
        let row = pool
            .catalogue
            .find(owner)
            .ok_or(ThinError::NotFound(owner))?;
        let row = match (over, &image) {
            (Some(_), Some(image)) => over_image(&pool, row, image)?,
            (_, _) => row,
        };
        usable(&pool, &row)?;
        self.not_read(owner)?;
        let live = self.kernel.find_live(owner).map_err(ThinError::Kernel)?;
        if live.is_some() {
            return Err(ThinError::Active(owner));
        }
        self.reads.owners().insert(owner);
        let mut reading = Reading {
            agent: self,
            pool: Arc::clone(&pool),
            owner,
            file: None,
            size: row.size.bytes(),
            past: None,
        };
        let whole = image.as_ref().map(|image| image.file.try_clone());
        let opened = self.open_to_read(&pool, &row, image);
        drop(held); // what was made is taken away under the lock if it did not open
        reading.file = Some(opened?);
        if let (Some(of), Some(image)) = (row.image, whole)
            && pool.shown().is_some()
            && of.size < row.size.bytes()
        {
            let spec = PrivateSpec {
                pool: pool.id,
                thin: row.thin,
                len: length(&row),
                origin: None,
            };
            reading.past = Some(Beyond {
                bare: self.kernel.open_private(&spec).map_err(ThinError::Kernel)?,
                image: image.map_err(|source| ThinError::Link { owner, source })?,
                size: of.size,
            });
        }
        Ok(reading)
    }

    fn open_to_read(
        &self,
        pool: &OpenPool,
        row: &ThinRecord,
        image: Option<Checked>,
    ) -> Result<File, ThinError> {
        let how = Activation {
            holder: Holder::Host,
            read_only: true,
        };
        let (dev, _) = self.ensure_table_over(pool, row, how, image)?;
        let node = self.kernel.node(dev).map_err(ThinError::Kernel)?;
        File::open(node).map_err(|source| ThinError::Link {
            owner: row.owner,
            source,
        })
    }

    /// Refuses what would change a thin that is being read. The caller holds the owner's lock.
    pub(super) fn not_read(&self, owner: ThinOwner) -> Result<(), ThinError> {
        if self.reads.has(owner) {
            return Err(ThinError::BeingRead(owner));
        }
        Ok(())
    }
}

/// A row that says which image its thin lies over, and is as long as that shows through.
fn over_image(pool: &OpenPool, row: ThinRecord, image: &Checked) -> Result<ThinRecord, ThinError> {
    if pool.shown() != Some(Shown::MadeUp) {
        return Err(ThinError::Conflict {
            owner: row.owner,
            field: "image_digest",
        });
    }
    let (digest, size) = (image.record.digest, image.record.size);
    let whole = VolumeSize::new(size.0.div_ceil(SECTOR) * SECTOR).unwrap_or(row.size);
    Ok(ThinRecord {
        image: Some(ImageRef { digest, size }),
        size: row.size.max(whole),
        ..row
    })
}
