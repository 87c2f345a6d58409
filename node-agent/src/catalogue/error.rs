//! Why a catalogue could not be opened or changed.
//!
//! One failed commit answers every caller of its batch, so the causes are shared.

use std::sync::Arc;

use goldleaf_types::{Bytes, ThinOwner};

use super::shapes::BadRow;

/// Why a catalogue cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CatalogueError {
    /// Nothing was ever made here.
    #[error("the region holds no catalogue")]
    Blank,
    /// Something is here already.
    #[error("the region holds a catalogue already: erase it first")]
    NotBlank,
    /// What is here is no catalogue that could be read.
    #[error("the catalogue is damaged")]
    Damaged(#[source] Arc<redb::Error>),
    /// What is here contradicts itself, or was written by a newer version.
    #[error("the catalogue cannot be used: {0}")]
    Unusable(String),
    /// A row was not written by this version or an older one, or is damaged.
    #[error("the catalogue's row {key:?} cannot be read, so nothing of it is used")]
    BadRow {
        /// Which.
        key: String,
        /// Why.
        #[source]
        source: Arc<BadRow>,
    },
    /// A newer version wrote it.
    #[error("the catalogue cannot be used: {0}")]
    Newer(String),
    /// No copy of it can be used.
    #[error("no copy of the catalogue can be used: {0}")]
    NoCopy(String),
    /// The one copy that can be read lacks changes that were answered; the other has them.
    #[error(
        "copy {newest} of the catalogue alone has the latest changes and cannot be used ({why}); \
         the other one is older, and nothing is read from it"
    )]
    OnlyOlderCopy {
        /// The copy that has everything.
        newest: usize,
        /// What is wrong with it.
        why: String,
    },
    /// The device failed.
    #[error("the catalogue's device failed")]
    Storage(#[source] Arc<redb::Error>),
    /// The change did not become durable; whether it is stored shows at the next open.
    #[error("the catalogue did not store the change and takes no more until it is opened again")]
    Commit(#[source] Arc<redb::Error>),
    /// An earlier change did not become durable.
    #[error(
        "the catalogue takes no changes since one was not stored: start the agent again, which opens \
         it anew and touches no volume"
    )]
    ReadOnly(#[source] Arc<redb::Error>),
    /// There is no room for the change. Deleting makes room.
    #[error("the catalogue is full: its rows have {used} and the limit is {limit}")]
    Full {
        /// What the rows would have taken.
        used: Bytes,
        /// What they may take.
        limit: Bytes,
    },
    /// A change that would have broken a rule of the catalogue: our bug.
    #[error("the change of {owner} breaks a rule of the catalogue: {problem}")]
    Rule {
        /// Whose row.
        owner: ThinOwner,
        /// Which rule.
        problem: &'static str,
    },
    /// It was closed.
    #[error("the catalogue is closed")]
    Closed,
}

impl CatalogueError {
    /// Whether it was written by a newer version, which is no damage.
    #[must_use]
    pub fn is_newer(&self) -> bool {
        match self {
            Self::Newer(_) => true,
            Self::BadRow { source, .. } => matches!(**source, BadRow::Newer { .. }),
            Self::Blank
            | Self::NotBlank
            | Self::Damaged(_)
            | Self::Unusable(_)
            | Self::NoCopy(_)
            | Self::OnlyOlderCopy { .. }
            | Self::Storage(_)
            | Self::Commit(_)
            | Self::ReadOnly(_)
            | Self::Full { .. }
            | Self::Rule { .. }
            | Self::Closed => false,
        }
    }

    /// A copy of it cannot be had in memory.
    #[must_use]
    pub fn memory(error: std::io::Error) -> Self {
        Self::storage(redb::Error::Io(error))
    }

    pub(super) fn storage(error: impl Into<redb::Error>) -> Self {
        Self::Storage(Arc::new(error.into()))
    }
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum WriteError<E> {
    /// The closure itself refused.
    #[error(transparent)]
    Refused(E),
    /// The catalogue did not take it.
    #[error(transparent)]
    Catalogue(CatalogueError),
}
