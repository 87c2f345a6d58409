//! The refusals of a fake agent, with the codes and reasons of a real one.

use std::fmt::Display;

use crate::agents::AgentError;
use crate::domain::Refusal;

fn refused(refusal: Refusal, reason: &str, message: String) -> AgentError {
    AgentError::Refused {
        refusal,
        reason: reason.into(),
        message,
        field: None,
    }
}

pub(super) fn not_found(reason: &str, what: impl Display) -> AgentError {
    refused(
        Refusal::NotFound,
        reason,
        format!("{what} is not on this node"),
    )
}

pub(super) fn other_parameters(what: impl Display, field: &str) -> AgentError {
    let message = format!("{what} exists with another {field}");
    refused(Refusal::AlreadyExists, "OTHER_PARAMETERS", message)
}

pub(super) fn precondition(reason: &str, message: String) -> AgentError {
    refused(Refusal::FailedPrecondition, reason, message)
}

pub(super) fn unavailable(reason: &str, message: String) -> AgentError {
    refused(Refusal::Unavailable, reason, message)
}

pub(super) fn out_of_range(message: String) -> AgentError {
    refused(Refusal::OutOfRange, "OUT_OF_RANGE", message)
}

pub(super) fn exhausted(reason: &str, message: String) -> AgentError {
    refused(Refusal::ResourceExhausted, reason, message)
}

pub(super) fn bad_field(field: &str, problem: &str) -> AgentError {
    AgentError::Refused {
        refusal: Refusal::InvalidArgument,
        reason: "BAD_FIELD".into(),
        message: format!("{field}: {problem}"),
        field: Some(field.into()),
    }
}
