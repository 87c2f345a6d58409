//! A volume or snapshot as a file of its node.

use goldleaf_types::{Bytes, Digest};

/// How an exported file is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// As a disk reads it.
    Raw,
    /// QEMU's format.
    Qcow2,
}

/// A file to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportOrder {
    /// Its path below the node's export folder.
    pub file: String,
    /// How to store it.
    pub format: ExportFormat,
    /// Whether to take the place of a file that has the name.
    pub replace: bool,
    /// The image under a thin of which nobody else knows it.
    pub image: Option<Digest>,
}

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportedFile {
    /// Its path on its node.
    pub path: String,
    /// Digest of the content.
    pub digest: Digest,
    /// Size of the content.
    pub size: Bytes,
    /// SHA-256 of the file as it is stored, 64 hexadecimal digits.
    pub file_sha256: String,
    /// Length of the file.
    pub file_size: Bytes,
    /// What it takes on its file system.
    pub stored: Bytes,
}
