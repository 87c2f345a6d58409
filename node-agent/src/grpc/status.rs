//! The one file that maps errors to codes. Every match is exhaustive: a new error picks its code.
//!
//! The caller gets the outer sentence; the chain of causes goes to the log, here and only here.

#![expect(
    clippy::disallowed_methods,
    reason = "this is the file that builds statuses"
)]

use std::collections::HashMap;
use std::error::Error;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::catalogue::CatalogueError;
use crate::images::ImageError;
use crate::kernel::KernelError;
use crate::ops::{ImageOpError, KeepError, PoolError, ReadError, ThinError};
use crate::telemetry::Chain;

/// An error with its code, logged with all its causes, and with the field at fault, if one is.
fn status(code: Code, reason: &str, field: Option<&str>, error: &(dyn Error + 'static)) -> Status {
    tracing::info!(?code, reason, field, error = %Chain(error), "refused");
    let mut details = ErrorDetails::with_error_info(reason, "goldleaf", HashMap::new());
    if let Some(field) = field {
        details.add_bad_request_violation(field, sentence(error));
    }
    Status::with_error_details(code, sentence(error), details)
}

/// The outer sentence, and the next one where the outer only says what was being done.
fn sentence(error: &(dyn Error + 'static)) -> String {
    match error.source() {
        Some(cause) if !error.to_string().contains(&cause.to_string()) => {
            format!("{error}: {cause}")
        }
        Some(_) | None => error.to_string(),
    }
}

impl From<ThinError> for Status {
    fn from(e: ThinError) -> Self {
        let (code, reason) = match &e {
            ThinError::NotFound(_) => (Code::NotFound, "THIN_NOT_FOUND"),
            ThinError::NoPool(_) => (Code::FailedPrecondition, "POOL_NOT_OPEN"),
            ThinError::Conflict { .. } => (Code::AlreadyExists, "OTHER_PARAMETERS"),
            ThinError::NameTaken { .. } => (Code::AlreadyExists, "NAME_TAKEN"),
            ThinError::OutOfRange { .. } => (Code::OutOfRange, "OUT_OF_RANGE"),
            ThinError::Unrelated { .. } => (Code::FailedPrecondition, "NOT_COMPARABLE"),
            ThinError::Deleting(_) => (Code::Aborted, "BEING_DELETED"),
            ThinError::Decoupling(_) => (Code::Aborted, "BEING_DECOUPLED"),
            ThinError::Unfinished(_) => (Code::Aborted, "BEING_CREATED"),
            ThinError::Needed { .. } => (Code::Aborted, "SOURCE_OF_UNFINISHED"),
            ThinError::Active(_) => (Code::FailedPrecondition, "ACTIVE"),
            ThinError::InUse { .. } => (Code::FailedPrecondition, "HELD_OPEN"),
            ThinError::BeingRead(_) => (Code::Aborted, "BEING_READ"),
            ThinError::Deleted(_) => (Code::FailedPrecondition, "WAS_DELETED"),
            ThinError::StaleEpoch { .. } => (Code::FailedPrecondition, "STALE_EPOCH"),
            ThinError::Sealed(_) => (Code::FailedPrecondition, "SEALED"),
            ThinError::Abandoned(_) => (Code::Aborted, "CALLER_GONE"),
            ThinError::DataMissing(_) => (Code::FailedPrecondition, "DATA_MISSING"),
            ThinError::OtherIncarnation(_) => (Code::FailedPrecondition, "OTHER_INCARNATION"),
            ThinError::PoolReadOnly { .. } => (Code::FailedPrecondition, "POOL_READ_ONLY"),
            ThinError::PoolFull(_) => (Code::ResourceExhausted, "POOL_FULL"),
            ThinError::MetadataLow(_) => (Code::ResourceExhausted, "METADATA_LOW"),
            ThinError::Overcommitted { .. } => (Code::ResourceExhausted, "OVERCOMMITTED"),
            ThinError::NoRoom { .. } => (Code::ResourceExhausted, "NO_ROOM"),
            ThinError::NoThinIds(_) => (Code::ResourceExhausted, "NO_THIN_IDS"),
            ThinError::Image(cause) => image_code(cause),
            ThinError::ImageMissing(_) => (Code::Unavailable, "IMAGE_NOT_HERE"),
            ThinError::Kernel(cause) => kernel_code(cause),
            ThinError::Catalogue(cause) => catalogue_code(cause),
            ThinError::Link { .. } => (Code::Unavailable, "LINK"),
        };
        let field = match &e {
            ThinError::Conflict { field, .. } | ThinError::OutOfRange { field, .. } => Some(*field),
            ThinError::NameTaken { .. } => Some("name"),
            ThinError::Image(cause) => image_field(cause),
            ThinError::ImageMissing(_) => Some("image_digest"),
            ThinError::NotFound(_)
            | ThinError::NoPool(_)
            | ThinError::Unrelated { .. }
            | ThinError::Deleting(_)
            | ThinError::Decoupling(_)
            | ThinError::NoRoom { .. }
            | ThinError::Unfinished(_)
            | ThinError::Needed { .. }
            | ThinError::Active(_)
            | ThinError::InUse { .. }
            | ThinError::BeingRead(_)
            | ThinError::Deleted(_)
            | ThinError::StaleEpoch { .. }
            | ThinError::Sealed(_)
            | ThinError::Abandoned(_)
            | ThinError::DataMissing(_)
            | ThinError::OtherIncarnation(_)
            | ThinError::PoolReadOnly { .. }
            | ThinError::PoolFull(_)
            | ThinError::MetadataLow(_)
            | ThinError::Overcommitted { .. }
            | ThinError::NoThinIds(_)
            | ThinError::Kernel(_)
            | ThinError::Catalogue(_)
            | ThinError::Link { .. } => None,
        };
        status(code, reason, field, &e)
    }
}

impl From<PoolError> for Status {
    fn from(e: PoolError) -> Self {
        let (code, reason) = match &e {
            PoolError::NotFound(_) => (Code::NotFound, "POOL_NOT_FOUND"),
            PoolError::NotOpen(_) => (Code::FailedPrecondition, "POOL_NOT_OPEN"),
            PoolError::Conflict { .. } => (Code::AlreadyExists, "OTHER_PARAMETERS"),
            PoolError::NameTaken { .. } => (Code::FailedPrecondition, "NAME_TAKEN"),
            PoolError::BadDevice { .. } => (Code::InvalidArgument, "BAD_DEVICE"),
            PoolError::NotBlank { .. } => (Code::FailedPrecondition, "NOT_BLANK"),
            PoolError::DeviceInUse { .. } => (Code::FailedPrecondition, "DEVICE_IN_USE"),
            PoolError::MissingDevice { .. } => (Code::FailedPrecondition, "DEVICE_MISSING"),
            PoolError::Mismatch { .. } => (Code::FailedPrecondition, "DEVICES_DO_NOT_FIT"),
            PoolError::ForeignHost { .. } => (Code::FailedPrecondition, "OTHER_HOST"),
            PoolError::Layout(_) => (Code::OutOfRange, "LAYOUT"),
            PoolError::Label { .. } => (Code::FailedPrecondition, "LABEL"),
            PoolError::Catalogue { source, .. } => catalogue_code(source),
            PoolError::Active { .. } => (Code::FailedPrecondition, "ACTIVE"),
            PoolError::NotEmpty { .. } => (Code::FailedPrecondition, "NOT_EMPTY"),
            PoolError::InUse { .. } => (Code::FailedPrecondition, "ACTIVE"),
            PoolError::WouldLose { .. } => (Code::FailedPrecondition, "WOULD_LOSE"),
            PoolError::BeingRepaired(_) => (Code::Aborted, "BEING_REPAIRED"),
            PoolError::Abandoned(_) => (Code::Aborted, "CALLER_GONE"),
            PoolError::NotRepairable { .. } => (Code::FailedPrecondition, "NOT_REPAIRABLE"),
            PoolError::NoRoomForFiles { .. } => (Code::ResourceExhausted, "DISK_FULL"),
            PoolError::RepairFile { .. } => (Code::FailedPrecondition, "REPAIR_CUT_SHORT"),
            PoolError::OtherIncarnation(_) => (Code::FailedPrecondition, "OTHER_INCARNATION"),
            PoolError::Kernel(cause) => kernel_code(cause),
            PoolError::Io { .. } => (Code::Unavailable, "HOST_IO"),
        };
        let field = match &e {
            PoolError::Conflict { field, .. } => Some(*field),
            PoolError::WouldLose { .. } => Some("accept_loss"),
            PoolError::BadDevice { field, .. } | PoolError::NotBlank { field, .. } => {
                Some(field.as_str())
            }
            PoolError::NotFound(_)
            | PoolError::NameTaken { .. }
            | PoolError::NotOpen(_)
            | PoolError::DeviceInUse { .. }
            | PoolError::MissingDevice { .. }
            | PoolError::Mismatch { .. }
            | PoolError::ForeignHost { .. }
            | PoolError::Layout(_)
            | PoolError::Label { .. }
            | PoolError::Catalogue { .. }
            | PoolError::Active { .. }
            | PoolError::NotEmpty { .. }
            | PoolError::InUse { .. }
            | PoolError::BeingRepaired(_)
            | PoolError::Abandoned(_)
            | PoolError::NotRepairable { .. }
            | PoolError::NoRoomForFiles { .. }
            | PoolError::RepairFile { .. }
            | PoolError::OtherIncarnation(_)
            | PoolError::Kernel(_)
            | PoolError::Io { .. } => None,
        };
        status(code, reason, field, &e)
    }
}

impl From<ImageOpError> for Status {
    fn from(e: ImageOpError) -> Self {
        let (code, reason) = match &e {
            ImageOpError::Needed { .. } => (Code::FailedPrecondition, "IMAGE_NEEDED"),
            ImageOpError::NotAdmitted(_) => (Code::FailedPrecondition, "OTHER_INCARNATION"),
            ImageOpError::Image(cause) => image_code(cause),
            ImageOpError::PoolNotOpen { .. } => (Code::FailedPrecondition, "POOL_NOT_OPEN"),
            ImageOpError::Kernel(cause) => kernel_code(cause),
        };
        status(code, reason, None, &e)
    }
}

impl From<KeepError> for Status {
    fn from(e: KeepError) -> Self {
        let (code, reason) = match &e {
            KeepError::OtherStore { .. } => (Code::FailedPrecondition, "OTHER_INCARNATION"),
            KeepError::TooLong { .. } => (Code::OutOfRange, "TOO_LONG"),
            KeepError::Newer { .. } | KeepError::Damaged { .. } => {
                (Code::FailedPrecondition, "KEPT_RECORDS")
            }
            KeepError::Io { .. } => (Code::Unavailable, "HOST_IO"),
        };
        let field = matches!(e, KeepError::TooLong { .. }).then_some("records");
        status(code, reason, field, &e)
    }
}

impl From<ReadError> for Status {
    fn from(e: ReadError) -> Self {
        match e {
            ReadError::Thin(cause) => cause.into(),
            ReadError::Image(cause) => cause.into(),
        }
    }
}

impl From<ImageError> for Status {
    fn from(e: ImageError) -> Self {
        let (code, reason) = image_code(&e);
        status(code, reason, image_field(&e), &e)
    }
}

/// An answer that cannot be finished: the agent stops.
pub fn stopping() -> Status {
    Status::new(
        Code::Unavailable,
        "the agent stops before all of the answer was sent: go on once it is back",
    )
}

/// A task of ours that died: our bug.
pub fn panicked(error: &tokio::task::JoinError) -> Status {
    tracing::error!(%error, "an operation panicked");
    Status::new(
        Code::Internal,
        "an operation of the agent panicked; its log says where",
    )
}

fn kernel_code(e: &KernelError) -> (Code, &'static str) {
    match e {
        KernelError::Dm { .. } => (Code::Unavailable, "DEVICE_MAPPER"),
        KernelError::NotWritable { .. } => (Code::FailedPrecondition, "POOL_READ_ONLY"),
        // Not POOL_NOT_OPEN, which says that nothing was begun: this may come after a durable wish.
        KernelError::NoPool(_) => (Code::Unavailable, "POOL_GONE"),
        KernelError::ForeignThin { .. } => (Code::FailedPrecondition, "FOREIGN_THIN"),
        KernelError::ThinMissing { .. } => (Code::FailedPrecondition, "DATA_MISSING"),
        KernelError::OtherTable { .. } => (Code::FailedPrecondition, "OTHER_TABLE"),
        KernelError::OtherContent { .. } => (Code::FailedPrecondition, "OTHER_CONTENT"),
        KernelError::Busy { .. } => (Code::FailedPrecondition, "HELD_OPEN"),
        KernelError::WrongSize { .. } => (Code::FailedPrecondition, "WRONG_SIZE"),
        KernelError::TooSlow { .. } => (Code::FailedPrecondition, "TOO_SLOW"),
        // Its wish stays, and whoever asks again has it begun anew.
        KernelError::PartsLeft { .. } => (Code::Unavailable, "GROUP_UNFINISHED"),
        KernelError::Io { .. } => (Code::Unavailable, "HOST_IO"),
        KernelError::Metadata { .. } => (Code::FailedPrecondition, "METADATA_UNREADABLE"),
        KernelError::Abandoned(_) => (Code::Aborted, "CALLER_GONE"),
        KernelError::NotRepaired { .. } => (Code::FailedPrecondition, "NOT_REPAIRED"),
    }
}

fn catalogue_code(e: &CatalogueError) -> (Code, &'static str) {
    match e {
        // The change itself was refused, so nothing of it is there.
        CatalogueError::Full { .. } => (Code::ResourceExhausted, "CATALOGUE_FULL"),
        CatalogueError::ReadOnly(_) => (Code::FailedPrecondition, "CATALOGUE_READ_ONLY"),
        CatalogueError::Closed => (Code::FailedPrecondition, "CATALOGUE_CLOSED"),
        CatalogueError::Rule { .. } => (Code::Internal, "CATALOGUE_RULE"),
        // Whether the change is stored is not known.
        CatalogueError::Commit(_) | CatalogueError::Storage(_) => (Code::Unavailable, "CATALOGUE"),
        CatalogueError::Blank
        | CatalogueError::NotBlank
        | CatalogueError::Damaged(_)
        | CatalogueError::Unusable(_)
        | CatalogueError::BadRow { .. }
        | CatalogueError::Newer(_)
        | CatalogueError::NoCopy(_)
        | CatalogueError::OnlyOlderCopy { .. } => (Code::FailedPrecondition, "CATALOGUE"),
    }
}

fn image_code(e: &ImageError) -> (Code, &'static str) {
    match e {
        ImageError::Exists { .. } => (Code::AlreadyExists, "FILE_EXISTS"),
        ImageError::Missing { .. } => (Code::Unavailable, "IMAGE_NOT_HERE"),
        ImageError::Changed { .. } => (Code::FailedPrecondition, "IMAGE_CHANGED"),
        ImageError::Source { .. } => (Code::InvalidArgument, "BAD_SOURCE"),
        ImageError::Format { .. } => (Code::InvalidArgument, "BAD_IMAGE"),
        ImageError::WrongSource { .. } => (Code::InvalidArgument, "WRONG_SOURCE_SHA256"),
        ImageError::WrongDigest { .. } => (Code::InvalidArgument, "WRONG_DIGEST"),
        ImageError::Unsettled { .. } => (Code::FailedPrecondition, "SOURCE_CHANGED"),
        ImageError::SourceAway { .. } => (Code::Unavailable, "SOURCE_AWAY"),
        ImageError::OverBudget { .. } => (Code::ResourceExhausted, "IMAGE_BUDGET"),
        ImageError::DiskFull { .. } => (Code::ResourceExhausted, "DISK_FULL"),
        ImageError::Io { .. } => (Code::Unavailable, "HOST_IO"),
        ImageError::Stopped => (Code::Cancelled, "STOPPED"),
    }
}

/// The field of an import that is wrong.
fn image_field(e: &ImageError) -> Option<&'static str> {
    match e {
        ImageError::Source { field, .. }
        | ImageError::Format { field, .. }
        | ImageError::Unsettled { field, .. } => Some(field),
        ImageError::WrongSource { .. } => Some("source_sha256"),
        ImageError::WrongDigest { .. } => Some("digest"),
        ImageError::SourceAway { .. } => Some("url"),
        ImageError::Exists { .. } => Some("file"),
        ImageError::Missing { .. }
        | ImageError::Changed { .. }
        | ImageError::OverBudget { .. }
        | ImageError::DiskFull { .. }
        | ImageError::Io { .. }
        | ImageError::Stopped => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use goldleaf_types::{PoolId, VolumeId};

    /// The fields that a status says are wrong.
    fn fields(status: &Status) -> Vec<String> {
        let bad = status.get_details_bad_request();
        let violations = bad.map(|b| b.field_violations).unwrap_or_default();
        violations.into_iter().map(|v| v.field).collect()
    }

    #[test]
    fn a_refusal_names_the_field_that_is_wrong_and_no_other_refusal_names_any() {
        let volume = VolumeId::from_bytes([1; 16]);
        let conflict = ThinError::Conflict {
            owner: volume.into(),
            field: "size_bytes",
        };
        let device = PoolError::BadDevice {
            field: "devices[0].path".into(),
            path: "/dev/sda".into(),
            problem: "is mounted".into(),
        };
        let import = ImageError::Source {
            field: "url",
            problem: "has no host".into(),
        };
        for (status, field, reason) in [
            (Status::from(conflict), "size_bytes", "OTHER_PARAMETERS"),
            (Status::from(device), "devices[0].path", "BAD_DEVICE"),
            (Status::from(import), "url", "BAD_SOURCE"),
        ] {
            assert_eq!(fields(&status), [field]);
            let why = status.get_details_error_info().map(|info| info.reason);
            assert_eq!(why.as_deref(), Some(reason), "the reason was lost");
        }
        let full = Status::from(ThinError::PoolFull(PoolId::from_bytes([1; 16])));
        assert!(fields(&full).is_empty(), "{full:?}");
    }

    #[test]
    fn a_catalogue_that_refuses_says_what_would_help() {
        let io = || std::sync::Arc::new(redb::Error::Io(std::io::ErrorKind::Other.into()));
        let full = CatalogueError::Full {
            used: goldleaf_types::Bytes(2),
            limit: goldleaf_types::Bytes(1),
        };
        for (error, code) in [
            (full, Code::ResourceExhausted),
            (CatalogueError::ReadOnly(io()), Code::FailedPrecondition),
            (CatalogueError::Closed, Code::FailedPrecondition),
            (CatalogueError::Commit(io()), Code::Unavailable),
        ] {
            let status = Status::from(ThinError::Catalogue(error));
            assert_eq!(status.code(), code, "{status}");
        }
        let remedy = CatalogueError::ReadOnly(io()).to_string();
        assert!(remedy.contains("start the agent again"), "{remedy}");
    }

    /// The control plane takes a wish back on POOL_NOT_OPEN without looking at what there is.
    #[test]
    fn a_pool_that_goes_in_the_middle_is_not_one_that_was_never_open() {
        let reason = |status: &Status| status.get_details_error_info().map(|info| info.reason);
        let pool = PoolId::from_bytes([1; 16]);
        let before = Status::from(ThinError::NoPool(pool));
        assert_eq!(before.code(), Code::FailedPrecondition);
        assert_eq!(reason(&before).as_deref(), Some("POOL_NOT_OPEN"));
        let after = Status::from(ThinError::Kernel(KernelError::NoPool(pool)));
        assert_eq!(after.code(), Code::Unavailable);
        assert_eq!(reason(&after).as_deref(), Some("POOL_GONE"));
    }
}
