//! Why a pool's metadata takes no change, told of its status alone.
//!
//! The one place that says so: `ops` refuses by it, doctor and conditions show it. A pool that is out
//! of *data* space takes changes still.

use std::fmt;

use goldleaf_dm::{PoolMode, PoolStatus};

/// What helps against each of them but the brake.
pub const CHECK_IT: &str = "see to its devices, close it and open it again; if it is so still, \
    `goldleaf pool repair` says what thin_check finds and what can be had back";

/// Why a pool's metadata takes no change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwritable {
    /// The metadata could be neither written nor read again (`Fail`): reads fail too.
    GivenUp,
    /// A write of the metadata failed, and what is there must be checked before another one.
    NeedsCheck,
    /// Loaded or made read-only (`ro`).
    ReadOnly,
}

impl Unwritable {
    /// What a status says; nothing when changes are taken.
    #[must_use]
    pub const fn of(status: &PoolStatus) -> Option<Self> {
        match status {
            PoolStatus::Fail => Some(Self::GivenUp),
            PoolStatus::Working(status) if status.needs_check => Some(Self::NeedsCheck),
            PoolStatus::Working(status) => match status.mode {
                PoolMode::ReadOnly => Some(Self::ReadOnly),
                PoolMode::ReadWrite | PoolMode::OutOfDataSpace => None,
            },
        }
    }

    /// One word for it, for machines.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::GivenUp => "PoolFailed",
            Self::NeedsCheck => "MetadataNeedsCheck",
            Self::ReadOnly => "PoolReadOnly",
        }
    }
}

impl fmt::Display for Unwritable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GivenUp => "the kernel gave it up (Fail)",
            Self::NeedsCheck => "its metadata needs a check (needs_check)",
            Self::ReadOnly => "the kernel made it read-only (ro)",
        })
    }
}
