//! The one place where errors become codes. Exhaustive: a new error picks its code.
//!
//! The codes are those of the specification's error tables. What the control plane or the agent
//! refused keeps its code and words: both choose their codes for what the caller can do.
#![expect(
    clippy::disallowed_methods,
    reason = "this is the file that builds statuses"
)]

use std::io;
use std::path::PathBuf;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::run::RunError;

/// Why a call was not done: one variant for each thing that a caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum CsiError {
    /// A field is missing or wrong.
    #[error("{field}: {problem}")]
    BadField {
        /// Which, as the specification spells it.
        field: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A field is right and asks for what no volume here can do.
    #[error("{field}: {problem}")]
    Unsupported {
        /// Which, as the specification spells it.
        field: &'static str,
        /// What is asked, and what could be.
        problem: String,
    },
    /// There is no such thing.
    #[error("there is no {what} {id:?}")]
    NotFound {
        /// What kind of thing.
        what: &'static str,
        /// Its id as it was given.
        id: String,
    },
    /// It is there already, and is not what is asked for.
    #[error("{what} is there already with another {field}")]
    Other {
        /// The thing.
        what: String,
        /// The field that differs.
        field: &'static str,
    },
    /// Another call for the volume or group is at work.
    #[error("another call for {0} is at work: ask again")]
    Busy(String),
    /// Somebody holds the lock of the device.
    #[error(
        "the device of volume {0} is locked, as it is while a file system is made on it or checked, also \
         by a program that outlived the driver which started it: ask again"
    )]
    Locked(String),
    /// A page's token that no page answered.
    #[error("starting_token: no page answered this token: begin with an empty one")]
    BadToken,
    /// A size that cannot be served.
    #[error("capacity_range: {0}")]
    OutOfRange(String),
    /// A place on a device that is none.
    #[error("starting_offset: {0}")]
    Offset(String),
    /// No place that was asked for can take it.
    #[error("accessibility_requirements: {0}")]
    NoPlace(String),
    /// The pool has no room left for what is asked.
    #[error("pool {0} is out of data space: make room in it or extend it, then ask again")]
    NoRoom(String),
    /// The right request at the wrong moment.
    #[error("{0}")]
    Unfit(String),
    /// The control plane or the agent refused.
    #[error("{}", .0.message())]
    Refused(Status),
    /// A program ended with a failure.
    #[error("{program} failed on volume {volume}: {said}")]
    Tool {
        /// Which.
        program: &'static str,
        /// For which volume.
        volume: String,
        /// The end of what it said.
        said: String,
    },
    /// A program gave no answer.
    #[error("a program gave no answer")]
    Run(#[source] RunError),
    /// This host's file system refused.
    #[error("cannot {doing} {}: {source}", .path.display())]
    Host {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A piece of work of ours died: our bug.
    #[error("a call panicked; the log says where")]
    Panicked,
}

impl CsiError {
    /// A wrong field.
    pub fn field(field: &'static str, problem: impl Into<String>) -> Self {
        Self::BadField {
            field,
            problem: problem.into(),
        }
    }

    /// As the calls that use a volume say it: what is asked exceeds what this volume can do, which is
    /// no fault of the request's shape.
    #[must_use]
    pub fn exceeds(self) -> Self {
        if matches!(self, Self::Unsupported { .. }) {
            Self::Unfit(self.to_string())
        } else {
            self
        }
    }

    /// A host's refusal, for `map_err`.
    pub fn host(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Host {
            doing,
            path,
            source,
        }
    }

    /// As [`Self::host`], for the kernel's own error numbers.
    pub fn errno(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(rustix::io::Errno) -> Self {
        let host = Self::host(doing, path);
        move |errno| host(errno.into())
    }

    /// The reason that the control plane or the agent gave for programs; empty without one.
    #[must_use]
    pub fn reason(&self) -> String {
        let Self::Refused(status) = self else {
            return String::new();
        };
        let info = status.get_details_error_info();
        info.map(|info| info.reason).unwrap_or_default()
    }

    /// The field that the control plane or the agent found wrong; empty if none.
    #[must_use]
    pub fn refused_field(&self) -> String {
        let Self::Refused(status) = self else {
            return String::new();
        };
        let bad = status.get_details_bad_request();
        let first = bad.and_then(|bad| bad.field_violations.into_iter().next());
        first.map(|violation| violation.field).unwrap_or_default()
    }

    /// Whether the control plane or the agent said that there is no such thing.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code() == Code::NotFound)
    }

    fn code(&self) -> Code {
        match self {
            Self::BadField { .. } | Self::Unsupported { .. } => Code::InvalidArgument,
            Self::NotFound { .. } => Code::NotFound,
            Self::Other { .. } => Code::AlreadyExists,
            Self::Busy(_) | Self::Locked(_) | Self::BadToken => Code::Aborted,
            Self::OutOfRange(_) | Self::Offset(_) => Code::OutOfRange,
            Self::NoPlace(_) | Self::NoRoom(_) => Code::ResourceExhausted,
            Self::Unfit(_) | Self::Tool { .. } => Code::FailedPrecondition,
            Self::Refused(status) => upstream(status.code()),
            Self::Run(_) | Self::Host { .. } => Code::Unavailable,
            Self::Panicked => Code::Internal,
        }
    }
}

/// The code of a refusal from below. A lost connection or a time limit says nothing about what
/// happened, so the orchestrator has to ask again.
fn upstream(code: Code) -> Code {
    if matches!(code, Code::Unknown | Code::Cancelled) {
        Code::Unavailable
    } else {
        code
    }
}

impl From<Status> for CsiError {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

impl From<CsiError> for Status {
    fn from(error: CsiError) -> Self {
        let code = error.code();
        let causes = std::error::Error::source(&error).map(ToString::to_string);
        tracing::info!(?code, %error, cause = causes, "refused");
        Status::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_from_below_keeps_its_code_unless_nobody_knows_what_happened() {
        for (below, ours) in [
            (Code::ResourceExhausted, Code::ResourceExhausted),
            (Code::AlreadyExists, Code::AlreadyExists),
            (Code::Cancelled, Code::Unavailable),
            (Code::Unknown, Code::Unavailable),
        ] {
            let status = Status::from(CsiError::from(Status::new(below, "why")));
            assert_eq!((status.code(), status.message()), (ours, "why"));
        }
    }
}
