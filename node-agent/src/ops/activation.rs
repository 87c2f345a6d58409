//! Activations: a volume's thin made visible on this node, over its image.
//!
//! Called by `grpc`, `thins` and `sweep`. The wish is the row's holder; the effect is the image's
//! device, the thin's device over it and the link; the fact is in the kernel, so nothing more is
//! written. The kernel never checks an origin: it is compared here, before any table is built.
//! A crash leaves at worst a device without a table or a link, which the next sweep finishes.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLockReadGuard};

use goldleaf_dm::DevNumber;
use goldleaf_types::{Digest, Incarnation, PoolId, ThinOwner};

use super::Agent;
use super::error::{ImageOpError, ThinError};
use super::open_pool::OpenPool;
use super::scan::{FoundDevice, Look};
use super::thins::{Activation, check_epoch, length, usable, write};
use super::view::ThinView;
use crate::catalogue::{ImageRef, ThinRecord};
use crate::failpoint::{Point, hit};
use crate::images::{Checked, ImageError};
use crate::kernel::{ImageSpec, KernelError, LiveThin, Outcome, ThinSpec};

/// How often an image is compared that is other each time one looks.
const TRIES: usize = 3;

/// A device that was just made, or found as it should be.
pub(super) struct Made {
    /// Its number.
    pub(super) dev: DevNumber,
    /// The image's device under it.
    pub(super) origin: Option<DevNumber>,
    /// The link to it.
    pub(super) path: PathBuf,
}

/// An image that neither goes nor loses its device as long as this is held.
#[must_use = "the image may go as soon as this is dropped"]
pub(super) struct ImageUsed<'a> {
    pub(super) image: Checked,
    using: RwLockReadGuard<'a, ()>,
}

impl ImageUsed<'_> {
    /// What a row keeps of it.
    pub(super) fn recorded(&self) -> ImageRef {
        ImageRef {
            digest: self.image.record.digest,
            size: self.image.record.size,
        }
    }

    /// The image, which may go from now on.
    pub(super) fn release(self) -> Checked {
        drop(self.using);
        self.image
    }
}

impl Agent {
    /// Makes the volume's device appear. Asking again changes nothing. Works without the control
    /// plane. Blocks.
    ///
    /// # Errors
    ///
    /// [`ThinError::Image`] for a wrong or missing image: no device is made over another one.
    pub fn activate(
        &self,
        owner: ThinOwner,
        how: Activation,
        epoch: u64,
    ) -> Result<ThinView, ThinError> {
        let (pool, row) = self.find_row(owner)?;
        let image = self.compared(&row);
        let _held = pool.lock(&[owner])?;
        let row = pool
            .catalogue
            .find(owner)
            .ok_or(ThinError::NotFound(owner))?;
        check_epoch(&row, epoch)?;
        self.activate_row(&pool, row, how, image)
    }

    /// Wish and effect. The caller holds the row's lock and has found it usable.
    pub(super) fn activate_row(
        &self,
        pool: &Arc<OpenPool>,
        row: ThinRecord,
        how: Activation,
        image: Option<Checked>,
    ) -> Result<ThinView, ThinError> {
        usable(pool, &row)?;
        self.not_read(row.owner)?;
        let live = self
            .kernel
            .find_live(row.owner)
            .map_err(ThinError::Kernel)?
            .filter(|live| live.thin.is_some());
        let writable_already = live.as_ref().is_some_and(|live| !live.read_only);
        if let Some(doubt) = &pool.doubt
            && !how.read_only
            && !writable_already
        {
            return Err(ThinError::PoolReadOnly {
                pool: pool.id,
                why: format!("{doubt}; its volumes can be activated for reading"),
            });
        }
        if live.is_some_and(|live| live.read_only != how.read_only) {
            self.let_run(pool, row.owner);
            return Err(ThinError::Conflict {
                owner: row.owner,
                field: "activate.read_only",
            });
        }
        let image = row
            .image
            .map(|needed| self.use_image(needed.digest, image).map(ImageUsed::release))
            .transpose()?;
        let as_wished = row.holder == Some(how.holder) && row.read_only == how.read_only;
        // Of a pool that is open for rescue nothing is written: its device is all there is.
        let row = if as_wished || pool.shown().is_some() {
            row
        } else {
            let row = ThinRecord {
                holder: Some(how.holder),
                read_only: how.read_only,
                ..row
            };
            let wish = row.clone();
            write(pool, move |rows| {
                rows.replace(wish);
                Ok(())
            })?;
            row
        };
        hit(Point::ActivationWished);
        self.ensure_device_over(pool, &row, how, image)?;
        hit(Point::ActivationLive);
        self.view(pool, &row)
    }

    /// Effect alone: image device, thin device, link. The caller holds the row's lock, and compared
    /// the image before it took it.
    pub(super) fn ensure_device_over(
        &self,
        pool: &OpenPool,
        row: &ThinRecord,
        how: Activation,
        image: Option<Checked>,
    ) -> Result<Made, ThinError> {
        let (dev, origin) = self.ensure_table_over(pool, row, how, image)?;
        let path = self.ensure_link(pool, row, dev)?;
        self.thin_changed(row.owner);
        Ok(Made { dev, origin, path })
    }

    /// Image device and thin device, without a link that anybody would find: their numbers. The
    /// caller holds the row's lock.
    pub(super) fn ensure_table_over(
        &self,
        pool: &OpenPool,
        row: &ThinRecord,
        how: Activation,
        image: Option<Checked>,
    ) -> Result<(DevNumber, Option<DevNumber>), ThinError> {
        let spec = |origin| ThinSpec {
            owner: row.owner,
            pool: pool.id,
            thin: row.thin,
            len: length(row),
            origin,
            read_only: how.read_only,
        };
        let (dev, origin) = match row.image {
            None => (self.kernel.ensure_active(&spec(None)), None),
            Some(recorded) => {
                // Until the thin's table holds the image's device, the sweep must not take it away.
                let (origin, _used) = self
                    .ensure_used_origin(recorded, image)
                    .inspect_err(|_| self.let_run(pool, row.owner))?;
                (self.kernel.ensure_active(&spec(Some(origin))), Some(origin))
            }
        };
        // Whatever is wrong with it: what a crash left suspended must not hang.
        let dev = dev
            .map_err(ThinError::Kernel)
            .inspect_err(|_| self.let_run(pool, row.owner))?;
        self.mapped.forget(row.owner);
        Ok((dev, origin))
    }

    /// The link to a live device.
    fn ensure_link(
        &self,
        pool: &OpenPool,
        row: &ThinRecord,
        dev: DevNumber,
    ) -> Result<PathBuf, ThinError> {
        let node = self.kernel.node(dev).map_err(ThinError::Kernel)?;
        self.links
            .ensure(&pool.name(), &row.name, &node)
            .map_err(|source| ThinError::Link {
                owner: row.owner,
                source,
            })
    }

    /// The image and its device, which both stay as long as the answer is held.
    pub(super) fn ensure_used_origin(
        &self,
        recorded: ImageRef,
        compared: Option<Checked>,
    ) -> Result<(DevNumber, ImageUsed<'_>), ThinError> {
        let used = self.use_image(recorded.digest, compared)?;
        let origin = self.ensure_origin(recorded, &used.image)?;
        Ok((origin, used))
    }

    /// Lets a device run that a crash left suspended, with the table that it has: whatever else is
    /// wrong with it, its users must not hang. The caller holds the row's lock.
    pub(super) fn let_run(&self, pool: &OpenPool, owner: ThinOwner) {
        let live = self.kernel.find_live(owner);
        let resumed = live.and_then(|live| match live {
            Some(LiveThin {
                suspended: true,
                thin: Some(thin),
                len,
                origin,
                read_only,
                ..
            }) => {
                let as_it_is = ThinSpec {
                    owner,
                    pool: pool.id,
                    thin,
                    len,
                    origin,
                    read_only,
                };
                self.kernel.ensure_active(&as_it_is).map(Some)
            }
            Some(_) | None => Ok(None),
        });
        match resumed {
            Ok(Some(_)) => tracing::warn!(%owner, "its device was found suspended; resumed"),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%owner, error = %crate::telemetry::Chain(&error),
                    "its device may be suspended still");
            }
        }
    }

    /// The image's device over content that was just compared with its record.
    fn ensure_origin(&self, image: ImageRef, checked: &Checked) -> Result<DevNumber, ThinError> {
        if checked.record.size != image.size {
            return Err(ThinError::Kernel(KernelError::WrongSize {
                what: format!("image {}", image.digest),
                found: checked.record.size,
                recorded: image.size,
            }));
        }
        let spec = ImageSpec {
            digest: image.digest,
            size: image.size,
            content: &checked.file,
        };
        self.kernel.ensure_image(&spec).map_err(ThinError::Kernel)
    }

    /// Compares an image with its record, reading all of it if need be: before any lock is taken,
    /// so that nobody waits for that.
    pub(super) fn check_image(&self, digest: Digest) -> Result<Checked, ThinError> {
        self.images.check(&digest).map_err(image_error)
    }

    /// As [`Self::check_image`], for a row. What is wrong with its image is said later, by
    /// whoever needs it under the lock.
    pub(super) fn compared(&self, row: &ThinRecord) -> Option<Checked> {
        row.image
            .and_then(|image| self.check_image(image.digest).ok())
    }

    /// An image that is here, is what it was, and stays until the answer is dropped. Only its
    /// looks are compared under the lock; if they differ it is read again outside. A caller must
    /// not ask twice at once.
    pub(super) fn use_image(
        &self,
        digest: Digest,
        compared: Option<Checked>,
    ) -> Result<ImageUsed<'_>, ThinError> {
        let mut compared = compared.filter(|image| image.record.digest == digest);
        for _ in 0..TRIES {
            let image = match compared.take() {
                Some(image) => image,
                None => self.check_image(digest)?,
            };
            // Shared: many use an image at once. Who takes images or their devices away is alone.
            let using = self.image_use.read();
            if self.images.is_still(&image) {
                return Ok(ImageUsed { image, using });
            }
        }
        let problem = "it is being written now".into();
        Err(ThinError::Image(ImageError::Changed { digest, problem }))
    }

    /// Takes the volume's device away. Asking again changes nothing. Blocks.
    ///
    /// # Errors
    ///
    /// [`ThinError::InUse`] while somebody holds it open; nothing is changed then.
    pub fn deactivate(&self, owner: ThinOwner, epoch: u64) -> Result<ThinView, ThinError> {
        let (pool, _) = self.find_row(owner)?;
        let _held = pool.lock(&[owner])?;
        let row = pool
            .catalogue
            .find(owner)
            .ok_or(ThinError::NotFound(owner))?;
        check_epoch(&row, epoch)?;
        if self.reads.has(owner) {
            return self.view(&pool, &row); // the device that is there is nobody's activation
        }
        let live = self.kernel.find_live(owner).map_err(ThinError::Kernel)?;
        if let Some(live) = &live
            && live.open_count > 0
        {
            return Err(ThinError::InUse {
                owner,
                openers: live.open_count,
            });
        }
        let before = row.clone();
        let row = if row.holder.is_some() {
            let row = ThinRecord {
                holder: None,
                read_only: false,
                ..row
            };
            let wish = row.clone();
            write(&pool, move |rows| {
                rows.replace(wish);
                Ok(())
            })?;
            row
        } else {
            row
        };
        hit(Point::DeactivationWished);
        if let Err(error) = self.ensure_no_device(&pool, &row) {
            if matches!(error, ThinError::InUse { .. }) {
                self.take_back(&pool, before)?;
            }
            return Err(error);
        }
        hit(Point::DeactivationDone);
        if let Some(mapped) = live.and_then(|live| live.mapped) {
            // Nobody had it open, so this is what it maps for as long as it is inactive.
            self.mapped.note(owner, mapped);
        }
        self.view(&pool, &row)
    }

    /// A wish to deactivate that met somebody who opened the device meanwhile: all as before it.
    fn take_back(&self, pool: &OpenPool, row: ThinRecord) -> Result<(), ThinError> {
        if row.holder.is_some() {
            let row = row.clone();
            write(pool, move |rows| {
                rows.replace(row);
                Ok(())
            })?;
        }
        if let Some(live) = self
            .kernel
            .find_live(row.owner)
            .map_err(ThinError::Kernel)?
        {
            self.ensure_link(pool, &row, live.dev)?;
        }
        Ok(())
    }

    /// Leaves neither link nor device. The caller holds the row's lock.
    pub(super) fn ensure_no_device(
        &self,
        pool: &OpenPool,
        row: &ThinRecord,
    ) -> Result<(), ThinError> {
        // A snapshot has no link; the one of its name is a volume's.
        if let ThinOwner::Volume(_) = row.owner {
            self.links
                .ensure_none(&pool.name(), &row.name)
                .map_err(|source| ThinError::Link {
                    owner: row.owner,
                    source,
                })?;
        }
        match self.kernel.ensure_inactive(row.owner) {
            Ok(Outcome::Done) => {
                self.image_bell.ring();
                self.thin_changed(row.owner);
                Ok(())
            }
            Ok(Outcome::AlreadySo) => Ok(()),
            Err(KernelError::Busy { openers, .. }) => Err(ThinError::InUse {
                owner: row.owner,
                openers,
            }),
            Err(error) => Err(ThinError::Kernel(error)),
        }
    }

    /// Deletes an image's content here. OK when it is not here. Blocks.
    ///
    /// # Errors
    ///
    /// [`ImageOpError::Needed`] while any thin of this node has it for its origin: the last copy
    /// that a volume needs is never deleted. [`ImageOpError::PoolNotOpen`] when that cannot be told,
    /// [`ImageOpError::NotAdmitted`] for another store than that of the pools here.
    pub fn delete_image(
        &self,
        caller: Option<Incarnation>,
        digest: Digest,
    ) -> Result<(), ImageOpError> {
        for pool in self.pools.all_open() {
            pool.admit(caller)?;
        }
        // Before any lock: looking at every device takes a while, and so does a reading of the image
        // that is under way, which need not be waited for to say that it is needed.
        let ours = self.own_pools();
        self.not_needed(digest)?;
        let hashing = self.images.hashing(&digest);
        let turn = hashing.lock().unwrap_or_else(PoisonError::into_inner);
        let _alone = self.image_use.write();
        // One that is open for rescue may not show which images its volumes need.
        let unknown = |id: &PoolId| self.pools.open(*id).is_none_or(|p| p.shown().is_some());
        if let Some(pool) = ours.into_iter().find(unknown) {
            return Err(ImageOpError::PoolNotOpen { digest, pool });
        }
        self.not_needed(digest)?;
        let _ = self
            .kernel
            .ensure_no_image(digest)
            .map_err(ImageOpError::Kernel)?;
        self.images
            .remove_alone(&digest, &turn)
            .map_err(ImageOpError::Image)
    }

    /// Refuses an image that a thin of an open pool has for its origin.
    fn not_needed(&self, digest: Digest) -> Result<(), ImageOpError> {
        let needs = |row: &ThinRecord| row.image.is_some_and(|i| i.digest == digest);
        let open = self.pools.all_open();
        let rows = open.iter().flat_map(|pool| pool.catalogue.all());
        match rows.filter(needs).count() {
            0 => Ok(()),
            count => Err(ImageOpError::Needed { digest, count }),
        }
    }

    /// Every pool of this host that has labelled devices here, open or not.
    pub(super) fn own_pools(&self) -> Vec<PoolId> {
        let ours = |device: &FoundDevice| {
            device.label.owner_host == self.host.owner && device.label.layout_generation > 0
        };
        let found = self.pools.scanner.scan(Look::Everywhere);
        found
            .into_iter()
            .filter(|(_, devices)| devices.iter().any(ours))
            .map(|(id, _)| id)
            .collect()
    }

    /// Removes the devices of images that no thin uses. Blocks.
    pub fn sweep_images(&self) {
        let _alone = self.image_use.write();
        for digest in self.kernel.live_images().unwrap_or_default() {
            match self.kernel.ensure_no_image(digest) {
                Ok(_) | Err(KernelError::Busy { .. }) => {}
                Err(error) => {
                    tracing::warn!(%digest, error = %crate::telemetry::Chain(&error),
                        "an idle image's device stays");
                }
            }
        }
    }
}

fn image_error(error: ImageError) -> ThinError {
    if let ImageError::Missing { digest } = error {
        ThinError::ImageMissing(digest)
    } else {
        ThinError::Image(error)
    }
}
