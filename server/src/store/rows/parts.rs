//! The words inside rows: small enums and structs that several rows share, as the store spells them.
//!
//! Used by `shapes` alone. Each has its two conversions here, with every variant listed, so that a
//! new variant of a noun must pick its spelling and an old spelling is never lost.

use goldleaf_types::{Digest, Labels, NodeId, ThinOwner};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::{
    Begin, Condition, First, ImageCopy, ImageFormat, ImageSource, Marks, Phase, PoolDevice,
    PoolMode, Refusal, WhenFull,
};

/// Converts each of a list.
pub(super) fn all<A: Into<B>, B>(list: Vec<A>) -> Vec<B> {
    list.into_iter().map(Into::into).collect()
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PhaseV1 {
    Creating,
    Ready,
    Deleting,
    Failed,
    Closed,
}

impl From<Phase> for PhaseV1 {
    fn from(word: Phase) -> Self {
        match word {
            Phase::Creating => Self::Creating,
            Phase::Ready => Self::Ready,
            Phase::Deleting => Self::Deleting,
            Phase::Failed => Self::Failed,
            Phase::Closed => Self::Closed,
        }
    }
}

impl From<PhaseV1> for Phase {
    fn from(word: PhaseV1) -> Self {
        match word {
            PhaseV1::Creating => Self::Creating,
            PhaseV1::Ready => Self::Ready,
            PhaseV1::Deleting => Self::Deleting,
            PhaseV1::Failed => Self::Failed,
            PhaseV1::Closed => Self::Closed,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum BeginV1 {
    Blank,
    Image(Digest),
    Thin(ThinOwner),
}

impl From<Begin> for BeginV1 {
    fn from(word: Begin) -> Self {
        match word {
            Begin::Blank => Self::Blank,
            Begin::Image(x) => Self::Image(x),
            Begin::Thin(x) => Self::Thin(x),
        }
    }
}

impl From<BeginV1> for Begin {
    fn from(word: BeginV1) -> Self {
        match word {
            BeginV1::Blank => Self::Blank,
            BeginV1::Image(x) => Self::Image(x),
            BeginV1::Thin(x) => Self::Thin(x),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SourceV1 {
    File(String),
    Device(String),
    Url(String),
    Volume(String),
}

impl From<ImageSource> for SourceV1 {
    fn from(word: ImageSource) -> Self {
        match word {
            ImageSource::File(x) => Self::File(x),
            ImageSource::Device(x) => Self::Device(x),
            ImageSource::Url(x) => Self::Url(x),
            ImageSource::Volume(x) => Self::Volume(x),
        }
    }
}

impl From<SourceV1> for ImageSource {
    fn from(word: SourceV1) -> Self {
        match word {
            SourceV1::File(x) => Self::File(x),
            SourceV1::Device(x) => Self::Device(x),
            SourceV1::Url(x) => Self::Url(x),
            SourceV1::Volume(x) => Self::Volume(x),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FormatV1 {
    Guess,
    Raw,
    Qcow2,
}

impl From<ImageFormat> for FormatV1 {
    fn from(word: ImageFormat) -> Self {
        match word {
            ImageFormat::Guess => Self::Guess,
            ImageFormat::Raw => Self::Raw,
            ImageFormat::Qcow2 => Self::Qcow2,
        }
    }
}

impl From<FormatV1> for ImageFormat {
    fn from(word: FormatV1) -> Self {
        match word {
            FormatV1::Guess => Self::Guess,
            FormatV1::Raw => Self::Raw,
            FormatV1::Qcow2 => Self::Qcow2,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum WhenFullV1 {
    Error,
    Queue,
}

impl From<WhenFull> for WhenFullV1 {
    fn from(word: WhenFull) -> Self {
        match word {
            WhenFull::Error => Self::Error,
            WhenFull::Queue => Self::Queue,
        }
    }
}

impl From<WhenFullV1> for WhenFull {
    fn from(word: WhenFullV1) -> Self {
        match word {
            WhenFullV1::Error => Self::Error,
            WhenFullV1::Queue => Self::Queue,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ModeV1 {
    Unknown,
    ReadWrite,
    ReadOnly,
    OutOfDataSpace,
    Failed,
}

impl From<PoolMode> for ModeV1 {
    fn from(word: PoolMode) -> Self {
        match word {
            PoolMode::Unknown => Self::Unknown,
            PoolMode::ReadWrite => Self::ReadWrite,
            PoolMode::ReadOnly => Self::ReadOnly,
            PoolMode::OutOfDataSpace => Self::OutOfDataSpace,
            PoolMode::Failed => Self::Failed,
        }
    }
}

impl From<ModeV1> for PoolMode {
    fn from(word: ModeV1) -> Self {
        match word {
            ModeV1::Unknown => Self::Unknown,
            ModeV1::ReadWrite => Self::ReadWrite,
            ModeV1::ReadOnly => Self::ReadOnly,
            ModeV1::OutOfDataSpace => Self::OutOfDataSpace,
            ModeV1::Failed => Self::Failed,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RefusalV1 {
    InvalidArgument,
    NotFound,
    AlreadyExists,
    Aborted,
    FailedPrecondition,
    OutOfRange,
    ResourceExhausted,
    Unavailable,
    Internal,
}

impl From<Refusal> for RefusalV1 {
    fn from(word: Refusal) -> Self {
        match word {
            Refusal::InvalidArgument => Self::InvalidArgument,
            Refusal::NotFound => Self::NotFound,
            Refusal::AlreadyExists => Self::AlreadyExists,
            Refusal::Aborted => Self::Aborted,
            Refusal::FailedPrecondition => Self::FailedPrecondition,
            Refusal::OutOfRange => Self::OutOfRange,
            Refusal::ResourceExhausted => Self::ResourceExhausted,
            Refusal::Unavailable => Self::Unavailable,
            Refusal::Internal => Self::Internal,
        }
    }
}

impl From<RefusalV1> for Refusal {
    fn from(word: RefusalV1) -> Self {
        match word {
            RefusalV1::InvalidArgument => Self::InvalidArgument,
            RefusalV1::NotFound => Self::NotFound,
            RefusalV1::AlreadyExists => Self::AlreadyExists,
            RefusalV1::Aborted => Self::Aborted,
            RefusalV1::FailedPrecondition => Self::FailedPrecondition,
            RefusalV1::OutOfRange => Self::OutOfRange,
            RefusalV1::ResourceExhausted => Self::ResourceExhausted,
            RefusalV1::Unavailable => Self::Unavailable,
            RefusalV1::Internal => Self::Internal,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConditionV1 {
    kind: String,
    status: bool,
    reason: String,
    message: String,
    since: Timestamp,
}

impl From<Condition> for ConditionV1 {
    fn from(part: Condition) -> Self {
        Self {
            kind: part.kind,
            status: part.status,
            reason: part.reason,
            message: part.message,
            since: part.since,
        }
    }
}

impl From<ConditionV1> for Condition {
    fn from(part: ConditionV1) -> Self {
        Self {
            kind: part.kind,
            status: part.status,
            reason: part.reason,
            message: part.message,
            since: part.since,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CopyV1 {
    node: NodeId,
    phase: PhaseV1,
    message: String,
    refusal: Option<RefusalV1>,
}

impl From<ImageCopy> for CopyV1 {
    fn from(part: ImageCopy) -> Self {
        Self {
            node: part.node,
            phase: part.phase.into(),
            message: part.message,
            refusal: part.refusal.map(Into::into),
        }
    }
}

impl From<CopyV1> for ImageCopy {
    fn from(part: CopyV1) -> Self {
        Self {
            node: part.node,
            phase: part.phase.into(),
            message: part.message,
            refusal: part.refusal.map(Into::into),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeviceV1 {
    path: String,
    create_file_bytes: u64,
}

impl From<PoolDevice> for DeviceV1 {
    fn from(part: PoolDevice) -> Self {
        Self {
            path: part.path,
            create_file_bytes: part.create_file_bytes,
        }
    }
}

impl From<DeviceV1> for PoolDevice {
    fn from(part: DeviceV1) -> Self {
        Self {
            path: part.path,
            create_file_bytes: part.create_file_bytes,
        }
    }
}

/// Written only where there is something to say, so that rows of before are as they were.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MarksV1 {
    deletion_protection: bool,
    first: Option<FirstV1>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FirstV1 {
    labels: Labels,
    deletion_protection: bool,
}

impl MarksV1 {
    pub(super) const fn is_none(&self) -> bool {
        !self.deletion_protection && self.first.is_none()
    }
}

impl From<Marks> for MarksV1 {
    fn from(part: Marks) -> Self {
        Self {
            deletion_protection: part.deletion_protection,
            first: part.first.map(|first| FirstV1 {
                labels: first.labels,
                deletion_protection: first.deletion_protection,
            }),
        }
    }
}

impl From<MarksV1> for Marks {
    fn from(part: MarksV1) -> Self {
        Self {
            deletion_protection: part.deletion_protection,
            first: part.first.map(|first| First {
                labels: first.labels,
                deletion_protection: first.deletion_protection,
            }),
        }
    }
}
