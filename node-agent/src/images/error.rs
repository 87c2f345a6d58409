//! Why an image cannot be had: one variant per thing a caller can do about it.

use std::io;
use std::path::{Path, PathBuf};

use goldleaf_types::{Bytes, Digest};

/// Why an image could not be brought here, found, compared or taken away.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It is not on this node.
    #[error("image {digest} is not on this node: import it here first")]
    Missing {
        /// Which.
        digest: Digest,
    },
    /// Its content is no longer what was recorded.
    #[error(
        "the content of image {digest} changed on this node ({problem}): delete this copy and \
         import the image again"
    )]
    Changed {
        /// Which.
        digest: Digest,
        /// What differs.
        problem: String,
    },
    /// The request's source cannot be used, whatever it holds.
    #[error("{field}: {problem}")]
    Source {
        /// The field that names it.
        field: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The file is there already, and may be somebody's.
    #[error(
        "file: {file} is there already in the export folder: choose another name, or ask to replace \
         it"
    )]
    Exists {
        /// Which, below the export folder.
        file: PathBuf,
    },
    /// The source was read and is no image that can be used.
    #[error("{field}: {problem}")]
    Format {
        /// The field that is wrong.
        field: &'static str,
        /// What is wrong and what would be right.
        problem: String,
        /// What a library made of it.
        #[source]
        source: Option<io::Error>,
    },
    /// The source is not the one that was meant.
    #[error(
        "source_sha256: the source has {found} and {wanted} was given: check the source and the sum"
    )]
    WrongSource {
        /// What was given.
        wanted: Digest,
        /// What it has.
        found: Digest,
    },
    /// The content is not the one that was meant.
    #[error("digest: the content has {found} and {wanted} was given: check which image is meant")]
    WrongDigest {
        /// What was given.
        wanted: Digest,
        /// What it has.
        found: Digest,
    },
    /// The source changed while it was read.
    #[error(
        "{field}: {source_name} changed while it was read: stop its writer and import it again"
    )]
    Unsettled {
        /// The field that names it.
        field: &'static str,
        /// Which.
        source_name: String,
    },
    /// The source's host cannot be reached or breaks off.
    #[error("url: {host} {problem}: try again, or take another source")]
    SourceAway {
        /// Which host.
        host: String,
        /// What it did.
        problem: String,
        /// Why.
        #[source]
        source: Option<reqwest::Error>,
    },
    /// Image copies may not take that much.
    #[error(
        "the image needs {asked} and the image budget of {budget} has {free} free: delete images \
         or raise --image-budget"
    )]
    OverBudget {
        /// What it takes, or has taken up to here.
        asked: Bytes,
        /// What is free.
        free: Bytes,
        /// All there is.
        budget: Bytes,
    },
    /// The file system below the image folder is full.
    #[error("the file system of {folder} is full: free space on it or move the state folder")]
    DiskFull {
        /// The image folder.
        folder: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// The host said no.
    #[error("cannot {what}")]
    Io {
        /// What was being done.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Whoever asked is gone.
    #[error("the import was given up by its caller")]
    Stopped,
}

impl ImageError {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// What the host's answer means in the image folder.
    pub(super) fn in_folder(folder: &Path, what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| {
            use io::ErrorKind::{QuotaExceeded, StorageFull};
            if matches!(source.kind(), StorageFull | QuotaExceeded) {
                Self::DiskFull {
                    folder: folder.to_owned(),
                    source,
                }
            } else {
                Self::Io {
                    what: what.into(),
                    source,
                }
            }
        }
    }

    pub(super) fn format(field: &'static str, problem: impl Into<String>) -> Self {
        Self::Format {
            field,
            problem: problem.into(),
            source: None,
        }
    }

    pub(super) fn source(field: &'static str, problem: impl Into<String>) -> Self {
        Self::Source {
            field,
            problem: problem.into(),
        }
    }
}
