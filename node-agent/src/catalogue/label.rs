//! The label that every device of a pool carries, in two copies.
//!
//! Owns the first MiB of a device. Called when pools are made, opened and closed. Copy A is
//! written and synced before copy B, and B is brought up to A before A is written again: a write
//! that is cut short always leaves one whole copy, and never one older than what was seen before.
//! All of a label that is not zero lies in its first 512 bytes.

mod codec;
#[cfg(feature = "fuzzing")]
pub(super) use codec::seal;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use goldleaf_types::{BlockSize, PoolId, Sectors};

use crate::sys::run::RunError;

/// Bytes of one copy.
pub const LABEL_BYTES: usize = 4096;
/// Where copy A begins, in bytes. The first 4 KiB stay zero: no other tool claims the device.
pub const COPY_A: u64 = 4096;
/// Where copy B begins, in bytes.
pub const COPY_B: u64 = 512 << 10;
/// What a device gives up for its labels, in bytes.
pub const HEADER_BYTES: u64 = 1 << 20;
/// The version of the format that is written, and the newest that is read.
pub const VERSION: u32 = 1;
/// The pool's catalogue has two copies, and both must be written.
pub const FEATURE_TWIN: u64 = 1;
/// The pool has grown: its regions have an order of their own, and there may be more than four.
pub const GROWN: u64 = 2;
/// Bits of features without which a device is not to be opened, as far as this version knows them.
pub const KNOWN_INCOMPATIBLE: u64 = FEATURE_TWIN | GROWN;
/// Compatible: the device waited as a spare before it came to hold data. An extension that was cut
/// short makes it a spare again.
pub const WAS_SPARE: u64 = 1;
/// Most regions of one device.
pub const REGIONS_MAX: usize = 10;
/// Most bytes of a pool's name.
pub const NAME_MAX: usize = 128;

/// What a device is to its pool. In this order a pool holds its devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Holds volumes' data. Number 0 holds the catalogue too.
    Data,
    /// Holds the pool's metadata and nothing else.
    Metadata,
    /// Waits to be used: counted nowhere, so that a pool opens without it.
    Spare,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Data => "data",
            Self::Metadata => "metadata",
            Self::Spare => "spare",
        })
    }
}

/// What a stretch of a device is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionKind {
    /// A copy of the catalogue.
    Catalogue,
    /// dm-thin's metadata.
    Metadata,
    /// dm-thin's data.
    Data,
}

/// A stretch of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// What for.
    pub kind: RegionKind,
    /// Where it begins.
    pub start: Sectors,
    /// How long it is.
    pub len: Sectors,
    /// The layout generation that added it, 0 if the first did. Regions of a kind follow each other
    /// by this, then by device: what was mapped once stays where it is.
    pub order: u32,
}

/// What a device says of itself and its pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Whose device.
    pub pool: PoolId,
    /// The pool's name, for people.
    pub pool_name: String,
    /// What it is to the pool.
    pub role: Role,
    /// Its number among those of its role.
    pub index: u32,
    /// Data devices that the pool has.
    pub data_count: u32,
    /// Metadata devices that the pool has: 0 when metadata lies on data device 0.
    pub metadata_count: u32,
    /// Grows with each change of the pool's layout; 0 while the pool is being made.
    pub layout_generation: u64,
    /// The host that has the pool, or had it last.
    pub owner_host: [u8; 16],
    /// When that host took it, in seconds since 1970; 0 when an older version wrote the label.
    pub claimed: i64,
    /// The host gave it up in order.
    pub clean: bool,
    /// Features that older versions may ignore; kept when rewritten.
    pub compatible: u64,
    /// Features that a version must know to open the device.
    pub incompatible: u64,
    /// The device's size when it was labelled.
    pub device_size: Sectors,
    /// What the pool allocates at a time.
    pub block_size: BlockSize,
    /// Its regions, at most 10.
    pub regions: Vec<Region>,
}

/// Why a label, or a device that may have one, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LabelError {
    /// No label at all.
    #[error("this is no Goldleaf label")]
    NoLabel,
    /// There was a label, and no copy of it is whole.
    #[error("the label is damaged: {problem}")]
    Damaged {
        /// What is wrong.
        problem: &'static str,
    },
    /// A newer version wrote it.
    #[error("the label is of format {found} and this version reads up to {VERSION}: upgrade")]
    NewerVersion {
        /// Its format.
        found: u32,
    },
    /// It says that opening it takes something this version does not have.
    #[error("the label asks for features that this version does not know ({bits:#x}): upgrade")]
    UnknownFeatures {
        /// The bits that are unknown.
        bits: u64,
    },
    /// A label that was to be written would not be a valid one: our bug.
    #[error("this label cannot be written: {problem}")]
    Invalid {
        /// What is wrong.
        problem: &'static str,
    },
    /// The device failed.
    #[error("the device cannot be read or written")]
    Io(#[source] io::Error),
    /// What is on the device could not be found out, so it is not taken for blank.
    #[error("cannot tell what is on the device: blkid did not run (package util-linux)")]
    NoProbe(#[source] RunError),
    /// As before, for a reason that blkid gave.
    #[error("cannot tell what is on the device: blkid ended with {status}: {message}")]
    Probe {
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it said.
        message: String,
    },
}

/// What one copy is.
enum CopyState {
    Absent,
    Damaged(&'static str),
    Whole(Box<Label>),
}

/// Reads a device's label: the copy of the larger generation, A when they are equal.
///
/// `Ok(None)` when neither copy begins as one. Blocks.
///
/// # Errors
///
/// [`LabelError::Damaged`] when there is a label and no whole copy of it; the refusals of
/// [`Label::decode`] when any copy gives cause.
pub fn read_label(file: &File) -> Result<Option<Label>, LabelError> {
    let copies = [read_copy(file, COPY_A)?, read_copy(file, COPY_B)?];
    let mut best: Option<Label> = None;
    let mut damage = None;
    for copy in copies {
        match copy {
            CopyState::Absent => {}
            CopyState::Damaged(problem) => damage = Some(problem),
            CopyState::Whole(label) => {
                let newer = |b: &Label| label.layout_generation > b.layout_generation;
                if best.as_ref().is_none_or(newer) {
                    best = Some(*label);
                }
            }
        }
    }
    match (best, damage) {
        (Some(label), _) => Ok(Some(label)),
        (None, Some(problem)) => Err(LabelError::Damaged { problem }),
        (None, None) => Ok(None),
    }
}

/// Writes both copies, one after the other, each durable before the next. Blocks.
///
/// # Errors
///
/// [`LabelError::Invalid`] before anything is written; [`LabelError::Io`] when the device fails.
pub fn write_label(file: &File, label: &Label) -> Result<(), LabelError> {
    let sector = label.encode()?;
    // An earlier write may have been cut short after A, and A may have been acted upon since.
    if let (Some(a), b) = (read_sector(file, COPY_A)?, read_sector(file, COPY_B)?)
        && Label::decode(&a).is_ok()
        && b.as_ref() != Some(&a)
    {
        write_sector(file, COPY_B, &a)?;
    }
    write_sector(file, COPY_A, &sector)?;
    write_sector(file, COPY_B, &sector)
}

/// Leaves no label. A crash in the middle leaves a whole one or none. Blocks.
///
/// # Errors
///
/// [`LabelError::Io`] when the device fails.
pub fn wipe_label(file: &File) -> Result<(), LabelError> {
    write_sector(file, COPY_A, &[0; LABEL_BYTES])?;
    write_sector(file, COPY_B, &[0; LABEL_BYTES])
}

fn read_copy(file: &File, offset: u64) -> Result<CopyState, LabelError> {
    let Some(sector) = read_sector(file, offset)? else {
        return Ok(CopyState::Absent);
    };
    match Label::decode(&sector) {
        Ok(label) => Ok(CopyState::Whole(Box::new(label))),
        Err(LabelError::NoLabel) => Ok(CopyState::Absent),
        Err(LabelError::Damaged { problem }) => Ok(CopyState::Damaged(problem)),
        Err(refusal) => Err(refusal),
    }
}

/// One copy's bytes; `None` past the device's end.
fn read_sector(file: &File, offset: u64) -> Result<Option<[u8; LABEL_BYTES]>, LabelError> {
    let mut sector = [0; LABEL_BYTES];
    match file.read_exact_at(&mut sector, offset) {
        Ok(()) => Ok(Some(sector)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(LabelError::Io(error)),
    }
}

fn write_sector(file: &File, at: u64, sector: &[u8; LABEL_BYTES]) -> Result<(), LabelError> {
    file.write_all_at(sector, at)
        .and_then(|()| file.sync_data())
        .map_err(LabelError::Io)
}
