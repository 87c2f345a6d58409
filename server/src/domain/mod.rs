//! The nouns of the control plane and the decisions about them, without I/O, clock or wire.
//!
//! Everything here is a plain value. Rules that can be said of values alone live here: whether a
//! repeated request asks for the same thing, and which pool a volume goes to.

mod blocks;
mod channel;
mod common;
mod doctor;
mod export;
mod image;
mod imported;
mod kept_records;
mod marks;
mod node;
mod parameters;
mod placement;
mod pool;
mod refusal;
mod repair;
mod role;
mod snapshot;
mod untold;
mod volume;

mod fate;
mod given_up;
mod group;

pub use blocks::{BlockOrder, BlockPart, BlockRange};
pub use channel::Channel;
pub use common::{BadReference, Condition, ImageRef, Phase, Ref, SourceRef, looks_like_an_id};
pub use doctor::{Finding, MendOutcome, Mended, Severity};
pub use export::{ExportFormat, ExportOrder, ExportedFile};
pub use fate::{Fate, Known, Row as CatalogueWord, Trust, fate};
pub use given_up::GivenUp;
pub use image::{Image, ImageAsked, ImageCopy, ImageFormat, ImageReport, ImageSource, Progress};
pub use imported::{CatalogueRow, ImportedPool};
pub use kept_records::{KeptRecords, KeptText};
pub use marks::{First, KeptMarks, Marks, Remark};
pub use node::{Check, Node, NodeAsked, Standing};
pub use parameters::{Parameters, ThinKind};
pub use placement::{Candidate, NoPlace, choose};
pub use pool::{
    Adopting, MoreRoom, PolicyChange, Pool, PoolAsked, PoolDevice, PoolMode, PoolPolicy,
    PoolReport, PoolUsage, WhenFull,
};
pub use refusal::Refusal;
pub use repair::{PoolRepair, RepairAsked, RepairOutcome, RepairStep, RepairedThin, ThinFate};
pub use role::{Caller, Role};
pub use snapshot::Snapshot;
pub use untold::Untold;
pub use volume::{
    ActivateOptions, Activation, Begin, Holder, ThinOrder, ThinReport, ThinUsage, Volume,
    VolumeAsked,
};

pub use group::{GroupMember, GroupPart, GroupSnapshot};
