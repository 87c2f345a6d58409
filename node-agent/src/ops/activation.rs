//! Activations: a volume's thin made visible on this node, over its image.
//!
//! Called by `grpc`, `thins` and `sweep`. The wish is the row's holder; the effect is the image's
//! device, the thin's device over it and the link; the fact is in the kernel, so nothing more is
//! written. The kernel never checks an origin: it is compared here, before any table is built.
//! A crash leaves at worst a device without a table or a link, which the next sweep finishes.

use std::path::PathBuf;
use std::sync::Arc;

use goldleaf_dm::DevNumber;
use goldleaf_types::{Digest, ThinOwner};

use super::Agent;
use super::error::{ImageOpError, ThinError};
use super::open_pool::OpenPool;
use super::thins::{Activation, check_epoch, length, usable, write};
use super::view::ThinView;
use crate::catalogue::{ImageRef, ThinRecord};
use crate::failpoint::{Point, hit};
use crate::images::ImageError;
use crate::kernel::{ImageSpec, KernelError, Outcome, ThinSpec};

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
        let (pool, _) = self.find_row(owner)?;
        let _held = pool.locks.take(&[owner]);
        let row = pool
            .catalogue
            .find(owner)
            .ok_or(ThinError::NotFound(owner))?;
        usable(&pool, &row)?;
        check_epoch(&row, epoch)?;
        self.activate_row(&pool, row, how)
    }

    /// Wish and effect. The caller holds the row's lock and has found it usable.
    pub(super) fn activate_row(
        &self,
        pool: &Arc<OpenPool>,
        row: ThinRecord,
        how: Activation,
    ) -> Result<ThinView, ThinError> {
        usable(pool, &row)?;
        if let Some(live) = self
            .kernel
            .find_live(row.owner)
            .map_err(ThinError::Kernel)?
            && !live.suspended
            && live.thin.is_some()
            && live.read_only != how.read_only
        {
            return Err(ThinError::Conflict {
                owner: row.owner,
                field: "activate.read_only",
            });
        }
        if let Some(image) = row.image {
            self.image_ref(image.digest)?;
        }
        let row = if row.holder == Some(how.holder) && row.read_only == how.read_only {
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
        self.ensure_device(pool, &row, how)?;
        hit(Point::ActivationLive);
        self.view(pool, &row)
    }

    /// Effect alone: image device, thin device, link. The caller holds the row's lock.
    pub(super) fn ensure_device(
        &self,
        pool: &OpenPool,
        row: &ThinRecord,
        how: Activation,
    ) -> Result<PathBuf, ThinError> {
        let spec = |origin| ThinSpec {
            owner: row.owner,
            pool: pool.id,
            thin: row.thin,
            len: length(row),
            origin,
            read_only: how.read_only,
        };
        let dev = match row.image {
            None => self
                .kernel
                .ensure_active(&spec(None))
                .map_err(ThinError::Kernel)?,
            Some(image) => {
                // Shared: many activations of one image at once. The sweep takes it alone, to
                // remove the image's device when nothing uses it.
                let _using = self.image_use.read();
                let origin = self.ensure_origin(image)?;
                self.kernel
                    .ensure_active(&spec(Some(origin)))
                    .map_err(ThinError::Kernel)?
            }
        };
        let node = self.kernel.node(dev).map_err(ThinError::Kernel)?;
        self.links
            .ensure(&pool.name, &row.name, &node)
            .map_err(|source| ThinError::Link {
                owner: row.owner,
                source,
            })
    }

    /// The image's device over content that was just compared with its record.
    fn ensure_origin(&self, image: ImageRef) -> Result<DevNumber, ThinError> {
        let checked = self.images.check(&image.digest).map_err(image_error)?;
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

    /// What a row keeps of an image that is here and is what it was.
    pub(super) fn image_ref(&self, digest: Digest) -> Result<ImageRef, ThinError> {
        let checked = self.images.check(&digest).map_err(image_error)?;
        Ok(ImageRef {
            digest,
            size: checked.record.size,
        })
    }

    /// Takes the volume's device away. Asking again changes nothing. Blocks.
    ///
    /// # Errors
    ///
    /// [`ThinError::InUse`] while somebody holds it open; nothing is changed then.
    pub fn deactivate(&self, owner: ThinOwner, epoch: u64) -> Result<ThinView, ThinError> {
        let (pool, _) = self.find_row(owner)?;
        let _held = pool.locks.take(&[owner]);
        let row = pool
            .catalogue
            .find(owner)
            .ok_or(ThinError::NotFound(owner))?;
        check_epoch(&row, epoch)?;
        if let Some(live) = self.kernel.find_live(owner).map_err(ThinError::Kernel)?
            && live.open_count > 0
        {
            return Err(ThinError::InUse {
                owner,
                openers: live.open_count,
            });
        }
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
        self.ensure_no_device(&pool, &row)?;
        hit(Point::DeactivationDone);
        self.view(&pool, &row)
    }

    /// Leaves neither link nor device. The caller holds the row's lock.
    pub(super) fn ensure_no_device(
        &self,
        pool: &OpenPool,
        row: &ThinRecord,
    ) -> Result<(), ThinError> {
        self.links
            .ensure_none(&pool.name, &row.name)
            .map_err(|source| ThinError::Link {
                owner: row.owner,
                source,
            })?;
        match self.kernel.ensure_inactive(row.owner) {
            Ok(Outcome::Done) => {
                self.image_bell.ring();
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
    /// that a volume needs is never deleted.
    pub fn delete_image(&self, digest: Digest) -> Result<(), ImageOpError> {
        let _alone = self.image_use.write();
        let needs = |row: &ThinRecord| row.image.is_some_and(|i| i.digest == digest);
        let count = self
            .pools
            .all_open()
            .iter()
            .map(|pool| pool.catalogue.all().iter().filter(|row| needs(row)).count())
            .sum();
        if count > 0 {
            return Err(ImageOpError::Needed { digest, count });
        }
        let _ = self
            .kernel
            .ensure_no_image(digest)
            .map_err(ImageOpError::Kernel)?;
        self.images.remove(&digest).map_err(ImageOpError::Image)
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
