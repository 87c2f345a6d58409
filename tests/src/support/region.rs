//! A pool's metadata as it lies on its device, looked at without the agent.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::command::{command, output};

/// Where a label is, and what in it says where the metadata is (docs/disk-format.md).
const LABELS: [u64; 2] = [4 << 10, 512 << 10];
const GENERATION: usize = 72;
const REGIONS: usize = 120;
const METADATA: u64 = 2;

/// Start and length in bytes of the metadata on a pool's first device; `None` before the device is
/// a pool's.
///
/// # Errors
///
/// When it cannot be read, or its label names no metadata.
pub fn metadata_region(device: &Path) -> Result<Option<[u64; 2]>> {
    let file = File::open(device)?;
    for at in LABELS {
        let mut label = [0; 512];
        file.read_exact_at(&mut label, at)?;
        let number = |from: usize, len: usize| {
            let mut bytes = [0; 8];
            bytes[..len].copy_from_slice(&label[from..from + len]);
            u64::from_le_bytes(bytes)
        };
        // Generation 0 is a pool in the making.
        if label.starts_with(b"GOLDLEAF POOL\r\n") && number(GENERATION, 8) > 0 {
            let mut regions = (0..4).map(|i| REGIONS + 24 * i);
            let region = regions.find(|r| number(*r, 4) == METADATA);
            let region = region.context("the label names no metadata")?;
            return Ok(Some([8, 16].map(|field| number(region + field, 8) * 512)));
        }
    }
    Ok(None)
}

/// What thin_check says of the metadata of a pool that is not open: nothing, when it is sound.
///
/// # Errors
///
/// When it cannot be asked.
pub fn check_metadata(device: &Path) -> Result<Option<String>> {
    let Some([from, len]) = metadata_region(device)? else {
        return Ok(None);
    };
    let device = device.display().to_string();
    let (from, len) = (from.to_string(), len.to_string());
    let arguments = [
        "-f",
        "--show",
        "-r",
        "-o",
        &from,
        "--sizelimit",
        &len,
        &device,
    ];
    let node = output("losetup", &arguments)?;
    let checked = command("thin_check").arg(node.trim()).output()?;
    output("losetup", &["-d", node.trim()])?;
    let said = [checked.stdout, checked.stderr].concat();
    Ok((!checked.status.success()).then(|| String::from_utf8_lossy(&said).into_owned()))
}

/// The root of a metadata snapshot that the superblock names; 0 when it names none.
///
/// # Errors
///
/// When it cannot be read.
pub fn held_root(device: &Path) -> Result<u64> {
    let Some([from, _]) = metadata_region(device)? else {
        return Ok(0);
    };
    let mut root = [0; 8];
    File::open(device)?.read_exact_at(&mut root, from + 56)?;
    Ok(u64::from_le_bytes(root))
}
