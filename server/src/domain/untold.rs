//! A thin whose pool does not know yet what its user changed.

use goldleaf_types::{Labels, Name, ThinOwner};

/// What is left to be done after a change of labels or marks: its pool's catalogue is to have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untold {
    /// Whose thin.
    pub owner: ThinOwner,
    /// What its owner is called.
    pub name: Name,
    /// None: the owner's record has them.
    pub labels: Labels,
    /// The transaction that wrote it.
    pub revision: u64,
}
