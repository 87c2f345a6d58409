//! What is known of an image that is here.

use std::path::PathBuf;

use goldleaf_types::{Bytes, Digest};

use super::identity::Identity;

/// Where an image's content is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A copy in the image folder.
    File(PathBuf),
    /// A block device, used in place and never written.
    Device(PathBuf),
}

/// An image that is here: whole, and hashed when it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRecord {
    /// SHA-256 of the content.
    pub digest: Digest,
    /// The content's size, a multiple of 512.
    pub size: Bytes,
    /// What it takes in the image folder; 0 for a device.
    pub owned_bytes: Bytes,
    /// Where it came from, without credentials.
    pub source: String,
    /// Where it is.
    pub place: Place,
    /// What the content's file or device looked like when it was last hashed.
    pub identity: Identity,
    /// When it came.
    pub imported: jiff::Timestamp,
}
