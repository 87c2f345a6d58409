//! Publish and unpublish: a staged volume shown at the path that one workload uses.
//!
//! Called by `mod`, one call a volume at a time. A file system is bound from where it was staged, a
//! block device from its node in /dev; the agent is not needed. What is at the target is read from
//! the kernel first, so a call that died anywhere is asked again, and a bind of a device that has gone
//! meanwhile is recognised and replaced.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use goldleaf_types::VolumeId;

use super::device::{self, Device};
use super::mounts::{self, Mount};
use crate::convert::capability::{Access, Usage, Writers};
use crate::failpoint::{Point, hit};
use crate::status::CsiError;

/// A volume to publish.
pub struct Publish {
    pub volume: VolumeId,
    pub staging: PathBuf,
    pub target: PathBuf,
    pub usage: Usage,
    pub read_only: bool,
}

impl Publish {
    /// Does it. Blocks.
    pub fn done(self) -> Result<(), CsiError> {
        let device = device::find(self.volume).ok_or_else(|| self.unstaged())?;
        match self.usage.access {
            Access::Block => self.block(&device),
            Access::Mount { .. } => self.file_system(&device),
        }
    }

    fn unstaged(&self) -> CsiError {
        CsiError::Unfit(format!(
            "volume {} is not staged here: stage it first",
            self.volume
        ))
    }

    fn file_system(&self, device: &Device) -> Result<(), CsiError> {
        let staged = mounts::on(&self.staging)?.filter(|mount| mount.number == device.number);
        if staged.is_none() {
            return Err(self.unstaged());
        }
        let read_only = self.read_only || self.usage.writers == Writers::Nobody;
        match mounts::on(&self.target)? {
            Some(mount) if mount.number != device.number => return Err(self.taken()),
            Some(mount) if mount.read_only() && !read_only => return Err(self.other("readonly")),
            Some(mount) => return refused(&mount, read_only),
            None => {}
        }
        let target = mounts::resolved(&self.target);
        let shown = |mount: &Mount| {
            mount.number == device.number && mount.target != mounts::resolved(&self.staging)
        };
        self.only_writer(shown)?;
        match fs::create_dir(&target) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => made.map_err(CsiError::host("make", &target))?,
        }
        hit(Point::PublishPlaced);
        mounts::bind(&self.staging, &target)?;
        hit(Point::PublishBound);
        if let Some(mount) = mounts::on(&target)? {
            refused(&mount, read_only)?;
        }
        hit(Point::PublishDone);
        Ok(())
    }

    fn block(&self, device: &Device) -> Result<(), CsiError> {
        // Whether one workload may write is for its runtime to enforce, by the device's number; a
        // device for nobody to write was made so when it was staged.
        if self.usage.writers == Writers::Nobody && !device.read_only {
            return Err(self.other("volume_capability"));
        }
        if mounts::on(&self.target)?.is_some() {
            if device::node_number(&self.target) == Some(device.number) {
                return Ok(());
            }
            if !is_device(&mounts::on(&self.target)?) {
                return Err(self.taken());
            }
            mounts::unmount_all(&self.target)?; // of a device that has gone
        }
        let root = format!("/{}", device.kernel_name);
        self.only_writer(|mount| mount.root == root && mount.fs_type == "devtmpfs")?;
        let target = mounts::resolved(&self.target);
        match File::options().write(true).create_new(true).open(&target) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => drop(made.map_err(CsiError::host("make", &target))?),
        }
        hit(Point::PublishPlaced);
        mounts::bind(&device.path, &target)?;
        hit(Point::PublishBound);
        hit(Point::PublishDone);
        Ok(())
    }

    /// Refuses a second workload of a volume that is for one alone.
    fn only_writer(&self, shows: impl Fn(&Mount) -> bool) -> Result<(), CsiError> {
        if self.usage.writers != Writers::One {
            return Ok(());
        }
        let elsewhere = mounts::all()?.into_iter().find(shows);
        elsewhere.map_or(Ok(()), |mount| {
            Err(CsiError::Unfit(format!(
                "volume {} is for one workload alone and published at {}: unpublish it there \
                 first",
                self.volume,
                mount.target.display()
            )))
        })
    }

    fn taken(&self) -> CsiError {
        CsiError::Unfit(format!(
            "something else is mounted on {}: unmount it, or publish elsewhere",
            self.target.display()
        ))
    }

    fn other(&self, field: &'static str) -> CsiError {
        CsiError::Other {
            what: format!("volume {}, published or staged", self.volume),
            field,
        }
    }
}

/// Has a bind refuse writes if it is to.
fn refused(mount: &Mount, read_only: bool) -> Result<(), CsiError> {
    if read_only && !mount.read_only() {
        mounts::refuse_writes(mount)
    } else {
        Ok(())
    }
}

/// Whether what is mounted is a device node, there still or gone.
fn is_device(mount: &Option<Mount>) -> bool {
    mount
        .as_ref()
        .is_some_and(|m| m.fs_type == "devtmpfs" && m.root.starts_with("/dm-"))
}

/// Takes back what a publish did, all or part of it. Blocks.
pub fn undone(volume: VolumeId, target: &Path) -> Result<(), CsiError> {
    let mount = mounts::on(target)?;
    if let Some(mount) = &mount {
        let owner = device::numbered(mount.number).map(|device| device.volume);
        let bound = device::node_number(target).and_then(device::numbered);
        let another = bound.is_some_and(|device| device.volume != volume);
        if owner != Some(volume) && (another || !is_device(&Some(mount.clone()))) {
            return Err(CsiError::Unfit(format!(
                "what is mounted on {} is not volume {volume}: nothing was unmounted",
                target.display()
            )));
        }
        mounts::unmount_all(target)?;
    }
    hit(Point::UnpublishUnbound);
    mounts::remove_target(target)?;
    hit(Point::UnpublishDone);
    Ok(())
}
