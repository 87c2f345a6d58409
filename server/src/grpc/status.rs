//! The one file that maps errors to codes. Every match is exhaustive: a new error picks its code.
//!
//! The caller gets the outer sentence, a reason for programs and the field it is about; the chain
//! of causes goes to the log, here and only here. What an agent refused keeps the agent's words.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::agents::AgentError;
use crate::domain::{NoPlace, Refusal, Role};
use crate::service::ServiceError;
use crate::store::StoreError;
use crate::telemetry::Chain;

/// Whose reasons these are.
const DOMAIN: &str = "goldleaf";

fn status(code: Code, reason: &str, field: Option<&str>, message: String) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    if let Some(field) = field {
        details.add_bad_request_violation(field, &message);
    }
    Status::with_error_details(code, message, details)
}

/// A caller who may not do what they ask for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{path} needs the role {needs} and you have {has}: ask somebody who has it, or be given a \
     certificate with it"
)]
pub struct NotAllowed {
    /// The call.
    pub path: String,
    /// What the caller is.
    pub has: Role,
    /// What the call needs.
    pub needs: Role,
}

/// The answer to a caller who may not.
#[must_use]
pub fn not_allowed(e: NotAllowed) -> Status {
    tracing::warn!(error = %e, "refused");
    status(Code::PermissionDenied, "ROLE_NEEDED", None, e.to_string())
}

/// An answer that cannot be finished: the control plane stops.
#[must_use]
pub fn stopping() -> Status {
    let message =
        "the control plane stops before all of its answer is known or sent: go on once it is back";
    status(Code::Unavailable, "STOPPING", None, message.into())
}

impl From<ServiceError> for Status {
    fn from(e: ServiceError) -> Self {
        let (code, reason, field) = verdict(&e);
        if code == Code::Internal {
            tracing::error!(reason, error = %Chain(&e), "our fault");
        } else {
            tracing::info!(?code, reason, error = %Chain(&e), "refused");
        }
        status(code, reason, field, e.to_string())
    }
}

/// Code, reason and field of an error.
fn verdict(e: &ServiceError) -> (Code, &str, Option<&str>) {
    match e {
        ServiceError::NotFound { field, .. } => (Code::NotFound, "NOT_FOUND", Some(field)),
        ServiceError::Conflict { field, .. } => {
            (Code::AlreadyExists, "OTHER_PARAMETERS", Some(field))
        }
        ServiceError::BadField { field, .. } => (Code::InvalidArgument, "BAD_FIELD", Some(field)),
        ServiceError::Busy { .. } => (Code::Aborted, "BUSY", None),
        ServiceError::OtherRevision { .. } => {
            (Code::Aborted, "OTHER_REVISION", Some("expected_revision"))
        }
        ServiceError::Unfit { .. } => (Code::FailedPrecondition, "NOT_READY", None),
        ServiceError::NodeDrained { .. } => (Code::FailedPrecondition, "NODE_DRAINED", None),
        ServiceError::NodeLost { .. } => (Code::FailedPrecondition, "NODE_LOST", None),
        ServiceError::OutOfRange { field, .. } => (Code::OutOfRange, "OUT_OF_RANGE", Some(field)),
        ServiceError::NoPlace(why) => no_place(why),
        ServiceError::ImageOnItsWay { .. } => {
            (Code::Unavailable, "IMAGE_ON_ITS_WAY", Some("image"))
        }
        ServiceError::ImageElsewhere { .. } => {
            (Code::FailedPrecondition, "IMAGE_ELSEWHERE", Some("image"))
        }
        ServiceError::Protected { .. } => (
            Code::FailedPrecondition,
            "DELETION_PROTECTED",
            Some("deletion_protection"),
        ),
        ServiceError::InUse { .. } => (Code::FailedPrecondition, "IN_USE", None),
        ServiceError::LastCopy { .. } => (Code::FailedPrecondition, "LAST_COPY", Some("node")),
        ServiceError::DataMissing { .. } => (Code::FailedPrecondition, "DATA_MISSING", None),
        ServiceError::BadPageToken => (Code::InvalidArgument, "BAD_FIELD", Some("page.token")),
        ServiceError::TokenTooOld => (Code::OutOfRange, "TOKEN_TOO_OLD", Some("resume_token")),
        ServiceError::Agent(why) => agent(why),
        ServiceError::Store(StoreError::Conflict { .. }) => {
            (Code::Aborted, "CHANGED_MEANWHILE", None)
        }
        ServiceError::Store(StoreError::Compacted { .. }) => {
            (Code::OutOfRange, "TOKEN_TOO_OLD", None)
        }
        ServiceError::Store(StoreError::Unavailable(_)) => (Code::Unavailable, "STORE", None),
        ServiceError::BadRow { .. } => (Code::Internal, "BAD_RECORD", None),
    }
}

fn no_place(why: &NoPlace) -> (Code, &'static str, Option<&'static str>) {
    match why {
        NoPlace::NoneMatches => (
            Code::FailedPrecondition,
            "NO_POOL_MATCHES",
            Some("placement"),
        ),
        NoPlace::Unreachable(_) => (Code::Unavailable, "NODE_AWAY", None),
        NoPlace::Full(_) => (Code::ResourceExhausted, "POOL_FULL", Some("pool")),
        NoPlace::Overcommitted { .. } => (Code::ResourceExhausted, "OVERCOMMITTED", Some("pool")),
        NoPlace::MetadataLow(_) => (Code::ResourceExhausted, "METADATA_LOW", Some("pool")),
        NoPlace::NotWritable { .. } => {
            (Code::FailedPrecondition, "POOL_NOT_WRITABLE", Some("pool"))
        }
        NoPlace::Drained(_) => (Code::FailedPrecondition, "NODE_DRAINED", Some("placement")),
        NoPlace::Lost(_) => (Code::FailedPrecondition, "NODE_LOST", Some("placement")),
    }
}

fn agent(why: &AgentError) -> (Code, &str, Option<&str>) {
    match why {
        AgentError::Away { .. } => (Code::Unavailable, "NODE_AWAY", None),
        AgentError::Refused {
            refusal,
            reason,
            field,
            ..
        } => (code(*refusal), reason, field.as_deref()),
    }
}

const fn code(refusal: Refusal) -> Code {
    match refusal {
        Refusal::InvalidArgument => Code::InvalidArgument,
        Refusal::NotFound => Code::NotFound,
        Refusal::AlreadyExists => Code::AlreadyExists,
        Refusal::Aborted => Code::Aborted,
        Refusal::FailedPrecondition => Code::FailedPrecondition,
        Refusal::OutOfRange => Code::OutOfRange,
        Refusal::ResourceExhausted => Code::ResourceExhausted,
        Refusal::Unavailable => Code::Unavailable,
        Refusal::Internal => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agents_refusal_keeps_its_code_reason_and_field() {
        let status = Status::from(ServiceError::Agent(AgentError::Refused {
            refusal: Refusal::ResourceExhausted,
            reason: "POOL_FULL".into(),
            message: "pool p has no data space left".into(),
            field: Some("pool".into()),
        }));
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.message(), "pool p has no data space left");
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, "POOL_FULL");
        assert_eq!(
            details.bad_request().unwrap().field_violations[0].field,
            "pool"
        );
    }
}
