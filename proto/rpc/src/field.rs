//! The first look at a request's field: its type's own gate, and a refusal that names it.
//!
//! Called by each part's conversion from the wire. A bad field means the same everywhere, so its
//! code is said here; every other error gets its code in its part's own `status.rs`.

use std::collections::HashMap;
use std::fmt::Display;
use std::str::FromStr;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// A field that does not have the shape it must have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct BadField {
    /// Which.
    pub field: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

/// A refusal of a field.
pub fn bad(field: &str, problem: impl Display) -> BadField {
    BadField {
        field: field.into(),
        problem: problem.to_string(),
    }
}

/// Parses a field with its type's own gate.
///
/// # Errors
///
/// [`BadField`] that names it.
pub fn field<T: FromStr>(name: &str, text: &str) -> Result<T, BadField>
where
    T::Err: Display,
{
    if text.is_empty() {
        return Err(bad(name, "is empty"));
    }
    text.parse().map_err(|e: T::Err| bad(name, e))
}

/// As [`field`]; an empty text is no value.
///
/// # Errors
///
/// [`BadField`] that names it.
pub fn optional<T: FromStr>(name: &str, text: &str) -> Result<Option<T>, BadField>
where
    T::Err: Display,
{
    if text.is_empty() {
        Ok(None)
    } else {
        field(name, text).map(Some)
    }
}

impl From<BadField> for Status {
    fn from(e: BadField) -> Self {
        tracing::info!(error = %e, "refused");
        let mut details = ErrorDetails::with_error_info("BAD_FIELD", "goldleaf", HashMap::new());
        details.add_bad_request_violation(&e.field, e.to_string());
        Self::with_error_details(Code::InvalidArgument, e.to_string(), details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_field_is_named_with_what_is_wrong() {
        assert_eq!(field::<u8>("n", "7"), Ok(7));
        assert_eq!(optional::<u8>("n", ""), Ok(None));
        let empty = field::<u8>("n", "").unwrap_err();
        assert_eq!(empty.to_string(), "n: is empty");
        let status = Status::from(optional::<u8>("n", "x").unwrap_err());
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, "BAD_FIELD");
        let bad = details.bad_request().unwrap();
        assert_eq!(bad.field_violations[0].field, "n");
    }
}
