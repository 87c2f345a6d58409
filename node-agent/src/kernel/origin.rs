//! Image devices: the read-only origins of thins.
//!
//! Used by `dm`. A dm-linear of exactly the image's length, over a read-only loop device or over the
//! block device itself, then a dm-zero as long as the largest volume; the whole is marked read-only
//! by the kernel. The loop goes with the dm device that holds it. A live device counts only when it
//! lies over the very content that was just compared.
//!
//! The zeroes after the image are for pools that are read-only: a writable one never reads an origin
//! past its end, but a read-only one passes every read of an unmapped block on, and a volume longer
//! than its image would answer EIO there (Linux `dm-thin.c`, `process_bio_read_only`).

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use goldleaf_dm::{
    Access, Autoclear, Control, DevNumber, DirectIo, LinearSegment, Owned, Table, Target, block,
    loopdev,
};
use goldleaf_types::{Bytes, SECTOR, Sectors, VolumeSize};

use super::dm::{self, ensure_table, settle};
use super::{ImageSpec, KernelError};

/// Zeroes after an image: no volume over it is longer than these alone.
const AFTER: Sectors = Sectors(VolumeSize::MAX / SECTOR);

/// The image's device when it is live and right.
///
/// # Errors
///
/// [`KernelError::OtherContent`] when it is live over another file or device,
/// [`KernelError::OtherTable`] when it is not of our making.
pub(super) fn find(
    control: &Control,
    image: &ImageSpec<'_>,
) -> Result<Option<DevNumber>, KernelError> {
    let owned = Owned::Image(image.digest);
    let Some(found) = dm::find(control, owned)? else {
        return Ok(None);
    };
    if !found.device.has_active_table {
        return Ok(None);
    }
    let first = match found.targets.as_deref() {
        Some([first, Target::Zero(AFTER)]) => Some(first),
        // As it was made before there were zeroes after it: right until the host reboots.
        Some([first]) => Some(first),
        Some(_) | None => None,
    };
    let below = match first {
        Some(Target::Linear(LinearSegment {
            len,
            dev,
            offset: Sectors(0),
        })) if *len == length(image.size) && found.device.read_only => Some(*dev),
        Some(_) | None => None,
    };
    let Some(below) = below else {
        return Err(KernelError::OtherTable {
            what: format!("image {}", image.digest),
            found: found.text,
        });
    };
    if !lies_over(below, image)? {
        return Err(KernelError::OtherContent {
            digest: image.digest,
        });
    }
    settle(control, owned, &found.device)?;
    Ok(Some(found.device.dev))
}

/// Leaves the image's device live.
pub(super) fn ensure(control: &Control, image: &ImageSpec<'_>) -> Result<DevNumber, KernelError> {
    if let Some(dev) = find(control, image)? {
        return Ok(dev);
    }
    let what = || format!("use the content of image {}", image.digest);
    let kind = image
        .content
        .metadata()
        .map_err(KernelError::io(what()))?
        .file_type();
    // Kept until the table holds the loop device, which would go without a user.
    let (dev, size, _loop) = if kind.is_block_device() {
        let size = block::size(image.content).map_err(KernelError::io(what()))?;
        (
            block::number(image.content).map_err(KernelError::io(what()))?,
            size,
            None,
        )
    } else {
        // Without direct I/O: all readers of one image share one page cache.
        let device = loopdev::attach(
            image.content,
            Access::ReadOnly,
            Autoclear::Yes,
            DirectIo::No,
        )
        .map_err(KernelError::io("attach a loop device to an image"))?;
        let size = block::size(device.file()).map_err(KernelError::io(what()))?;
        (device.dev(), size, Some(device))
    };
    if size.0 < image.size.0 {
        return Err(KernelError::WrongSize {
            what: format!("image {}", image.digest),
            found: size,
            recorded: image.size,
        });
    }
    let content = Target::Linear(LinearSegment {
        len: length(image.size),
        dev,
        offset: Sectors(0),
    });
    let table = Table {
        targets: vec![content, Target::Zero(AFTER)],
        read_only: true,
    };
    let owned = Owned::Image(image.digest);
    ensure_table(control, owned, "make an image's device", &table).map(|(dev, _)| dev)
}

/// Images are multiples of 512 bytes: the record's gate.
const fn length(size: Bytes) -> Sectors {
    Sectors(size.0 / SECTOR)
}

/// Whether a device is the image's block device, or a loop over its file.
fn lies_over(dev: DevNumber, image: &ImageSpec<'_>) -> Result<bool, KernelError> {
    let what = || format!("look at the content of image {}", image.digest);
    let content = image.content.metadata().map_err(KernelError::io(what()))?;
    if content.file_type().is_block_device() {
        let number = block::number(image.content).map_err(KernelError::io(what()))?;
        return Ok(number == dev);
    }
    let sys = format!("/sys/dev/block/{dev}");
    let name = std::fs::read_link(&sys).map_err(KernelError::io(what()))?;
    let name = name.file_name().unwrap_or_default();
    let status = loopdev::status(&Path::new("/dev").join(name)).map_err(KernelError::io(what()))?;
    Ok(status.is_some_and(|s| {
        s.backing_dev == content.dev() && s.backing_inode == content.ino() && s.read_only
    }))
}
