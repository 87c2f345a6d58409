//! Images: this host's verified copies of golden images, each named by the digest of its content.
//!
//! Owns the image folder: one read-only sparse file for each copy and one small record beside it,
//! and the records of block devices that are used in place. Called by `ops` for activations and by
//! `grpc` for imports. Invariant: a record is written last, so whatever has one is whole and was
//! hashed on the way in; what content is now is compared with its record before every use.
//! A crash leaves at worst a part without a record, which the next opening removes.
//! What goes out of here goes through the export folder, by the same rules.

mod budget;
mod content;
mod error;
mod export;
mod folder;
mod format;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod http;
mod identity;
mod import;
mod meter;
mod qcow2;
mod record;
mod row;
mod source;
mod taken;
mod writer;

pub use error::ImageError;
pub use export::{ExportFolder, ExportTarget, Exported, Outgoing, Past};
pub use folder::{Checked, ImageFolder};
pub use identity::Identity;
pub use import::{Format, ImportRequest, Source};
pub use meter::{ImportProgress, Meter, StopOnDrop};
pub use record::{ImageRecord, Place};
pub use source::SourceRules;
pub use taken::Taken;

#[cfg(test)]
mod tests;
