//! How an agent or a rule says no, as a value that outlives the call.

use serde::{Deserialize, Serialize};

/// The kind of a refusal: what the caller can do about it, one for each code of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The request has a wrong shape; asking again never helps.
    InvalidArgument,
    /// What was named is not there.
    NotFound,
    /// It exists with other parameters.
    AlreadyExists,
    /// It is busy or on its way out; ask again.
    Aborted,
    /// Right request, wrong moment; somebody has to do something first.
    FailedPrecondition,
    /// A size that cannot be served.
    OutOfRange,
    /// No bytes left.
    ResourceExhausted,
    /// Somebody is away; ask again.
    Unavailable,
    /// A bug on the other side.
    Internal,
}
