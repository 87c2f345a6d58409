//! A repair of a pool's metadata.

use goldleaf_types::Bytes;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepairAsked {
    /// The pool's name: then it is done. Empty: say what would be done.
    pub confirm: String,
    /// Whether to do it even if something is lost by it.
    pub accept_loss: bool,
    /// If not 0, the revision that the pool must have.
    pub revision: u64,
}

impl RepairAsked {
    /// Whether it is only asked what a repair would do.
    #[must_use]
    pub const fn is_look(&self) -> bool {
        self.confirm.is_empty()
    }
}

/// What a repair is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepairStep {
    /// Another repair of its node, or a look at one, is at work.
    Waiting,
    /// The metadata is copied to a file.
    Copying,
    /// The copy is checked.
    Checking,
    /// It is repaired into another file.
    Repairing,
    /// What that made is checked.
    CheckingResult,
    /// It is put in place, and the pool is opened.
    Putting,
}

/// What became of a request to repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepairOutcome {
    /// Nothing: there is nothing to repair.
    NothingToDo,
    /// It can be done, and was not.
    WouldDo,
    /// One that was cut short would go on.
    WouldResume,
    /// It was done.
    Done,
}

/// What a repair makes of a volume or snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThinFate {
    /// All of it.
    Whole,
    /// Nobody can say.
    Unsure,
    /// A part of it.
    Shortened,
    /// Nothing.
    Lost,
    /// Nothing, and there was nothing before.
    LostBefore,
}

/// A volume or snapshot that a repair is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepairedThin {
    /// Its id.
    pub owner: String,
    /// Its name in its pool's catalogue.
    pub name: String,
    /// Its number in the pool.
    pub thin: u32,
    /// What the metadata says it maps.
    pub before: Option<Bytes>,
    /// What the repaired metadata maps for it.
    pub after: Option<Bytes>,
    /// What that means.
    pub fate: ThinFate,
}

/// What a repair would do, or did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolRepair {
    /// What became of the request.
    pub outcome: RepairOutcome,
    /// What the check finds; empty when that is nothing.
    pub damage: String,
    /// Whether the kernel asks for a check.
    pub needs_check: bool,
    /// The transaction id that the pool's record has.
    pub recorded_transaction: u64,
    /// The one that its metadata has or will have, where that is known.
    pub found_transaction: Option<u64>,
    /// Volumes and snapshots, in order of id.
    pub thins: Vec<RepairedThin>,
    /// Thins in the repaired metadata that nobody owns.
    pub ownerless: Vec<u32>,
    /// Where the old metadata is kept on the node; empty when nothing was done.
    pub kept: String,
}
