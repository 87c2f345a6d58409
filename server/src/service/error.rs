//! Why the control plane did not do what was asked: one variant per thing a caller can do about it.
//!
//! Made by this room's rules; `grpc/status.rs` picks the code of each.

use crate::agents::AgentError;
use crate::domain::{NoPlace, Refusal};
use crate::store::StoreError;

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Nothing is called so.
    #[error("{field}: there is no {kind} {what:?}: name one that is listed, or create it")]
    NotFound {
        /// What was looked for.
        kind: &'static str,
        /// As it was asked for.
        what: String,
        /// The request's field.
        field: &'static str,
    },
    /// The name is taken by something that was asked for otherwise.
    #[error(
        "{kind} {name} exists with another {field}: repeat its parameters, or choose another name"
    )]
    Conflict {
        /// Of what.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The first field that differs.
        field: &'static str,
    },
    /// A field has a value that cannot be meant.
    #[error("{field}: {problem}")]
    BadField {
        /// Which.
        field: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// It is on its way in or out.
    #[error("{kind} {name} is {doing}: ask again when that is done")]
    Busy {
        /// Of what.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What goes on.
        doing: &'static str,
    },
    /// It is not what the caller last saw.
    #[error("{kind} {name} is at revision {now}, not {asked}: read it again, then decide again")]
    OtherRevision {
        /// Of what.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Its revision.
        now: u64,
        /// The one demanded.
        asked: u64,
    },
    /// It cannot serve this now; somebody has to do something first.
    #[error("{kind} {name} {why}")]
    Unfit {
        /// Of what.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Why, with the remedy.
        why: String,
    },
    /// An administrator keeps new volumes off the node.
    #[error(
        "node {node} is drained and takes no new volume: name a pool of another node, or end that \
         (`goldleaf node resume {node}`)"
    )]
    NodeDrained {
        /// Its name.
        node: String,
    },
    /// The node counts as lost.
    #[error(
        "node {node} was marked lost at {since} and nothing is asked of it: import its pools on \
         another node, or trust it again (`goldleaf node take-back {node}`)"
    )]
    NodeLost {
        /// Its name.
        node: String,
        /// Since when.
        since: String,
    },
    /// A size that cannot be served.
    #[error("{field}: {problem}")]
    OutOfRange {
        /// Which.
        field: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// No pool can take it.
    #[error(transparent)]
    NoPlace(#[from] NoPlace),
    /// The image is not where it is needed, and is on its way.
    #[error("image {image} is not ready on node {node}: {what}")]
    ImageOnItsWay {
        /// The image.
        image: String,
        /// The node.
        node: String,
        /// What goes on, and when to ask again.
        what: String,
    },
    /// The image is not where it is needed and cannot come by itself.
    #[error(
        "image {image} is not on node {node} and comes from a place that only its own node \
             has: name a pool on a node that holds it, or put the same file there and place the \
             image (`goldleaf image place {image} --node {node}`)"
    )]
    ImageElsewhere {
        /// The image.
        image: String,
        /// The node.
        node: String,
    },
    /// Its user wants it to stay.
    #[error(
        "{kind} {name} has deletion_protection: take that off first (`goldleaf {kind} update \
         {name} --unprotect`), then delete it"
    )]
    Protected {
        /// Of what.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// Something needs it.
    #[error("{kind} {name} is needed by {by}: delete that first")]
    InUse {
        /// Of what.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What needs it.
        by: String,
    },
    /// The law of the last whole copy.
    #[error(
        "node {node} has the last whole copy of image {image}, which {by} needs{why}: place it on \
         another node first (`goldleaf image place {image} --node ...`)"
    )]
    LastCopy {
        /// The image.
        image: String,
        /// The node.
        node: String,
        /// What needs it.
        by: String,
        /// What is wrong with other copies, if there are any.
        why: String,
    },
    /// The node has no such data though the record says so.
    #[error(
        "the data of {kind} {name} is missing on its node; nothing was made in its place: \
             look at the pool's conditions"
    )]
    DataMissing {
        /// Of what.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A page token that this list did not answer.
    #[error("page.token: is none that this list answered: begin again without one")]
    BadPageToken,
    /// A watch that cannot go on from there.
    #[error("the resume token is too old to go on from: watch again with an empty one")]
    TokenTooOld,
    /// The node's agent said no, or nothing.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The store did not do it.
    #[error("the control plane's store did not take part")]
    Store(#[source] StoreError),
    /// A stored row cannot be read.
    #[error("the record {key} cannot be read")]
    BadRow {
        /// Where.
        key: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Compacted { .. } => Self::TokenTooOld,
            other @ (StoreError::Conflict { .. } | StoreError::Unavailable(_)) => {
                Self::Store(other)
            }
        }
    }
}

impl ServiceError {
    /// Whether the same request may be carried out later without anybody doing something first: a
    /// node that is away, an image on its way, something else at work on it.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::ImageOnItsWay { .. } => true,
            Self::NoPlace(NoPlace::Unreachable(_)) => true,
            Self::Store(StoreError::Conflict { .. }) => true,
            Self::Agent(error) => error.is_transient(),
            Self::NoPlace(
                NoPlace::NoneMatches
                | NoPlace::Full(_)
                | NoPlace::MetadataLow(_)
                | NoPlace::Overcommitted { .. }
                | NoPlace::NotWritable { .. }
                | NoPlace::Drained(_)
                | NoPlace::Lost(_),
            )
            | Self::Store(StoreError::Unavailable(_) | StoreError::Compacted { .. })
            | Self::NotFound { .. }
            | Self::Conflict { .. }
            | Self::BadField { .. }
            | Self::OtherRevision { .. }
            | Self::Unfit { .. }
            | Self::NodeDrained { .. }
            | Self::NodeLost { .. }
            | Self::OutOfRange { .. }
            | Self::ImageElsewhere { .. }
            | Self::Protected { .. }
            | Self::InUse { .. }
            | Self::LastCopy { .. }
            | Self::DataMissing { .. }
            | Self::BadPageToken
            | Self::TokenTooOld
            | Self::BadRow { .. } => false,
        }
    }

    /// Whether the node is at work on it, and only needs time.
    #[must_use]
    pub const fn is_under_way(&self) -> bool {
        matches!(
            self,
            Self::Busy { .. }
                | Self::Agent(AgentError::Refused {
                    refusal: Refusal::Aborted,
                    ..
                })
        )
    }

    /// Whether something was changed by somebody else meanwhile: decide again.
    #[must_use]
    pub const fn is_conflict(&self) -> bool {
        matches!(self, Self::Store(StoreError::Conflict { .. }))
    }
}
