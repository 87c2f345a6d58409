//! A record's bytes: JSON that says its version, in a file of its own.
//!
//! Used by `folder` alone. Names here are the disk's and never change; records may. A row of a newer
//! version is refused with what to do, and so is a field that this version does not know: nothing
//! is read half. A row is replaced whole: a crash leaves the old one or the new one. A golden file
//! of every version is in `tests/golden`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use goldleaf_types::{Bytes, Digest};
use serde::{Deserialize, Serialize};

use super::identity::Identity;
use super::record::{ImageRecord, Place};
use crate::sys::replace::replace;

/// The version that is written, and the newest that is read.
const VERSION: &str = "1";

/// Why a row cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadRow {
    /// A newer version wrote it.
    #[error("it is of format {found:?} and this version reads up to {VERSION:?}: upgrade")]
    Newer { found: String },
    /// It is no JSON of the known shape.
    #[error("it does not have the shape of an image's record")]
    Shape(#[from] serde_json::Error),
    /// It lies under another digest's name.
    #[error("it is the record of {0}")]
    OtherDigest(Digest),
    /// The file cannot be read.
    #[error("its file cannot be read")]
    Io(#[from] io::Error),
}

#[derive(Deserialize)]
struct Version {
    v: String,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "v")]
enum ImageRow {
    #[serde(rename = "1")]
    V1(ImageV1),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ImageV1 {
    digest: Digest,
    size_bytes: u64,
    owned_bytes: u64,
    source: String,
    content: ContentV1,
    imported: jiff::Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum ContentV1 {
    /// The file beside this row, so a folder may be moved as a whole.
    Copy {
        device: u64,
        inode: u64,
        size_bytes: u64,
        changed_s: i64,
        changed_ns: i64,
    },
    /// A device used in place.
    Device {
        path: PathBuf,
        number: u64,
        size_bytes: u64,
        boot: String,
        disk: Option<u64>,
        written: Option<u64>,
    },
}

/// The file of a digest's row.
pub(super) fn row_path(folder: &Path, digest: &Digest) -> PathBuf {
    folder.join(format!("{}.json", digest.hex()))
}

/// The file of a digest's content, where that is a copy.
pub(super) fn content_path(folder: &Path, digest: &Digest) -> PathBuf {
    folder.join(format!("{}.raw", digest.hex()))
}

/// A record's bytes.
///
/// # Errors
///
/// For a device path that is no UTF-8.
pub(super) fn encode(record: &ImageRecord) -> Result<Vec<u8>, serde_json::Error> {
    let (Place::File(path) | Place::Device(path)) = &record.place;
    let content = match &record.identity {
        Identity::File {
            device,
            inode,
            size,
            changed,
        } => ContentV1::Copy {
            device: *device,
            inode: *inode,
            size_bytes: *size,
            changed_s: changed.0,
            changed_ns: changed.1,
        },
        Identity::Device {
            number,
            size,
            boot,
            disk,
            written,
        } => ContentV1::Device {
            path: path.clone(),
            number: *number,
            size_bytes: *size,
            boot: boot.clone(),
            disk: *disk,
            written: *written,
        },
    };
    serde_json::to_vec(&ImageRow::V1(ImageV1 {
        digest: record.digest,
        size_bytes: record.size.0,
        owned_bytes: record.owned_bytes.0,
        source: record.source.clone(),
        content,
        imported: record.imported,
    }))
}

/// The record in these bytes.
///
/// # Errors
///
/// [`BadRow`] for anything that was not written by this version or an older one.
pub(super) fn decode(folder: &Path, bytes: &[u8]) -> Result<ImageRecord, BadRow> {
    let version: Version = serde_json::from_slice(bytes)?;
    if version.v != VERSION {
        return Err(BadRow::Newer { found: version.v });
    }
    let ImageRow::V1(row) = serde_json::from_slice(bytes)?;
    let (place, identity) = match row.content {
        ContentV1::Copy {
            device,
            inode,
            size_bytes,
            changed_s,
            changed_ns,
        } => (
            Place::File(content_path(folder, &row.digest)),
            Identity::File {
                device,
                inode,
                size: size_bytes,
                changed: (changed_s, changed_ns),
            },
        ),
        ContentV1::Device {
            path,
            number,
            size_bytes,
            boot,
            disk,
            written,
        } => (
            Place::Device(path),
            Identity::Device {
                number,
                size: size_bytes,
                boot,
                disk,
                written,
            },
        ),
    };
    Ok(ImageRecord {
        digest: row.digest,
        size: Bytes(row.size_bytes),
        owned_bytes: Bytes(row.owned_bytes),
        source: row.source,
        place,
        identity,
        imported: row.imported,
    })
}

/// The record of `digest`, from its file. Blocks.
///
/// # Errors
///
/// [`BadRow`], also for another digest's record under this name.
pub(super) fn load(folder: &Path, digest: &Digest) -> Result<ImageRecord, BadRow> {
    let record = decode(folder, &fs::read(row_path(folder, digest))?)?;
    if record.digest != *digest {
        return Err(BadRow::OtherDigest(record.digest));
    }
    Ok(record)
}

/// Makes a record durable. Blocks.
///
/// # Errors
///
/// The host's. The old row, if any, is then as it was.
pub(super) fn store(folder: &Path, record: &ImageRecord) -> io::Result<()> {
    replace(&row_path(folder, &record.digest), &encode(record)?)
}

#[cfg(test)]
mod tests;
