//! What an agent's status means: a refusal with its reason, or no answer at all.
//!
//! Used by the client. The difference is whether the agent itself spoke: what it says carries our
//! error details or one of the codes that only it picks, and no source of our own making. All else
//! (a broken connection, a deadline, a proxy) leaves open whether the call happened.

use std::error::Error;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::AgentError;
use crate::domain::Refusal;

/// The domain of the agents' error details.
const DOMAIN: &str = "goldleaf";

/// What a status from the agent of `node` means.
pub(super) fn read(node: &str, status: &Status) -> AgentError {
    let details = status.get_error_details();
    let reason = details
        .error_info()
        .filter(|info| info.domain == DOMAIN)
        .map(|info| info.reason.clone());
    let violation = details
        .bad_request()
        .and_then(|bad| bad.field_violations.first());
    let said = reason.is_some() || violation.is_some();
    // A status that was made on this side has the failure that it was made from.
    let away = !said && (status.source().is_some() || code(status.code()).is_none());
    match code(status.code()) {
        Some((refusal, word)) if !away => AgentError::Refused {
            refusal,
            reason: reason.unwrap_or_else(|| {
                if violation.is_some() {
                    "BAD_FIELD".into()
                } else {
                    word.into()
                }
            }),
            message: status.message().to_owned(),
            field: violation.map(|violation| violation.field.clone()),
        },
        Some(_) => AgentError::Away {
            node: node.into(),
            why: chain(status),
        },
        None if said => AgentError::Refused {
            refusal: Refusal::Unavailable,
            reason: reason.unwrap_or_else(|| "UNKNOWN".into()),
            message: status.message().to_owned(),
            field: violation.map(|violation| violation.field.clone()),
        },
        None => AgentError::Away {
            node: node.into(),
            why: chain(status),
        },
    }
}

/// An answer that an agent of our version does not give.
pub(super) fn bad_answer(node: &str, field: &str, problem: &str) -> AgentError {
    AgentError::Refused {
        refusal: Refusal::Internal,
        reason: "BAD_ANSWER".into(),
        message: format!(
            "node {node} answered a {field} that makes no sense ({problem}): do server and agent \
             have the same version?"
        ),
        field: None,
    }
}

/// What a code means when the agent says it, and its word. None for those that anything on the way
/// may make up: then only the agent's own details tell that it spoke.
const fn code(code: Code) -> Option<(Refusal, &'static str)> {
    match code {
        Code::InvalidArgument => Some((Refusal::InvalidArgument, "INVALID_ARGUMENT")),
        Code::NotFound => Some((Refusal::NotFound, "NOT_FOUND")),
        Code::AlreadyExists => Some((Refusal::AlreadyExists, "ALREADY_EXISTS")),
        Code::Aborted => Some((Refusal::Aborted, "ABORTED")),
        Code::FailedPrecondition => Some((Refusal::FailedPrecondition, "FAILED_PRECONDITION")),
        Code::OutOfRange => Some((Refusal::OutOfRange, "OUT_OF_RANGE")),
        Code::ResourceExhausted => Some((Refusal::ResourceExhausted, "RESOURCE_EXHAUSTED")),
        Code::Internal => Some((Refusal::Internal, "INTERNAL")),
        Code::DataLoss => Some((Refusal::Internal, "DATA_LOSS")),
        // An older agent, or one that wants to know us: somebody has to do something first.
        Code::Unimplemented => Some((Refusal::FailedPrecondition, "UNIMPLEMENTED")),
        Code::PermissionDenied => Some((Refusal::FailedPrecondition, "PERMISSION_DENIED")),
        Code::Unauthenticated => Some((Refusal::FailedPrecondition, "UNAUTHENTICATED")),
        Code::Ok | Code::Cancelled | Code::Unknown | Code::DeadlineExceeded => None,
        Code::Unavailable => None,
    }
}

/// The status with every cause that it does not say itself.
fn chain(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut next = status.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    if text.is_empty() {
        format!("{:?}", status.code())
    } else {
        text
    }
}
