//! Stage and unstage: a volume's device made and, for a file system, mounted once on the node.
//!
//! Called by `mod`, one call a volume at a time. Each step looks first whether it is done, so a call
//! that died anywhere is asked again. What a crash leaves is a device, a half-made file system with
//! its marks, or a mount: all of them found again by the next stage, and taken away by unstage.

use std::fs;
use std::path::PathBuf;

use goldleaf_proto::agent::v1 as agent;
use goldleaf_proto::v1 as api;
use goldleaf_types::VolumeId;
use rustix::mount::MountFlags;

use super::agent::LocalAgent;
use super::device::{self, Device};
use super::{blocking, filesystem, mounts};
use crate::convert::capability::{Access, FileSystem, Usage, Writers};
use crate::failpoint::{Point, hit};
use crate::status::CsiError;

/// A volume to stage.
pub struct Stage {
    pub volume: VolumeId,
    pub staging: PathBuf,
    pub usage: Usage,
}

impl Stage {
    /// Does it.
    pub async fn done(self, agent: LocalAgent) -> Result<(), CsiError> {
        let there = agent.thin(self.volume).await?;
        let active = there.activation.as_ref().filter(|a| a.active);
        if active.is_some_and(|a| a.holder() == api::Holder::Host) {
            return Err(CsiError::Unfit(format!(
                "volume {} is active for the host: deactivate it there first (`goldleaf volume \
                 deactivate`)",
                self.volume
            )));
        }
        let Access::Mount { fs, flags } = self.usage.access else {
            // Only the device itself can refuse writes: it is bound as it is.
            let read_only = self.usage.writers == Writers::Nobody;
            agent.activate(self.volume, read_only).await?;
            hit(Point::StageActivated);
            return Ok(());
        };
        let thin = agent.activate(self.volume, false).await?;
        hit(Point::StageActivated);
        let (volume, staging) = (self.volume, self.staging.clone());
        let look = move || Ok((found(volume)?, mounts::on(&staging)?));
        let (device, mounted) = blocking(look).await?;
        let read_only = self.usage.writers == Writers::Nobody;
        if let Some(mount) = mounted {
            already(&device, &mount, fs, &self.staging)?;
            // The call that mounted it may have died, or failed, before it had grown.
            return filled(&device, &thin, &mount).await;
        }
        let (mut options, mut data) = mounts::split(&flags);
        if read_only {
            options |= MountFlags::RDONLY;
        }
        let written = !options.contains(MountFlags::RDONLY);
        let fs = filesystem::ensure(&device, &thin, fs, written).await?;
        if fs == FileSystem::Xfs && !data.contains(&"nouuid") {
            data.push("nouuid"); // a clone has the UUID of what it began as
        }
        let (path, staging, data) = (device.path.clone(), self.staging, data.join(","));
        let mount = move || {
            fs::create_dir_all(&staging).map_err(CsiError::host("make", &staging))?;
            mounts::mount(&path, &staging, fs.name(), (options, &data))?;
            hit(Point::StageMounted);
            mounts::on(&staging)
        };
        match blocking(mount).await? {
            Some(mount) => filled(&device, &thin, &mount).await,
            None => Ok(()),
        }
    }
}

/// Has a file system that began as another, perhaps smaller one fill its device. Harmless twice.
async fn filled(
    device: &Device,
    thin: &agent::AgentThin,
    mount: &mounts::Mount,
) -> Result<(), CsiError> {
    let inherits = !thin.image_digest.is_empty() || !thin.source.is_empty();
    if inherits && !mount.read_only() {
        filesystem::grow(device, mount).await?;
        hit(Point::StageGrown);
    }
    Ok(())
}

/// What is mounted already: the same, or a conflict.
fn already(
    device: &Device,
    mount: &mounts::Mount,
    fs: Option<FileSystem>,
    staging: &std::path::Path,
) -> Result<(), CsiError> {
    if mount.number != device.number {
        return Err(CsiError::Unfit(format!(
            "something else is mounted on {}: unmount it, or stage elsewhere",
            staging.display()
        )));
    }
    if fs.is_some_and(|fs| fs.name() != mount.fs_type) {
        return Err(CsiError::Other {
            what: format!("the mount of volume {}", device.volume),
            field: "volume_capability",
        });
    }
    Ok(())
}

/// The device of a volume that the agent says is active.
fn found(volume: VolumeId) -> Result<Device, CsiError> {
    device::find(volume).ok_or_else(|| {
        CsiError::Unfit(format!(
            "volume {volume} has no device here: stage it again (is /sys of this host seen?)"
        ))
    })
}

/// Takes away what is mounted of the volume. Blocks.
fn unmounted(volume: VolumeId, staging: &std::path::Path) -> Result<(), CsiError> {
    let Some(mount) = mounts::on(staging)? else {
        return Ok(());
    };
    let owner = device::numbered(mount.number).map(|device| device.volume);
    if owner != Some(volume) {
        return Err(CsiError::Unfit(format!(
            "what is mounted on {} is not volume {volume}: nothing was unmounted",
            staging.display()
        )));
    }
    mounts::unmount_all(staging)
}

/// Takes back what a stage did, all or part of it.
pub async fn undone(volume: VolumeId, staging: PathBuf, agent: LocalAgent) -> Result<(), CsiError> {
    blocking(move || unmounted(volume, &staging)).await?;
    hit(Point::UnstageUnmounted);
    let Some(thin) = agent.find(volume).await? else {
        return Ok(());
    };
    let hosts = thin
        .activation
        .is_some_and(|a| a.active && a.holder() == api::Holder::Host);
    if !hosts {
        match agent.deactivate(volume).await {
            Err(error) if error.is_not_found() => {}
            done => done?,
        }
    }
    hit(Point::UnstageDone);
    Ok(())
}
