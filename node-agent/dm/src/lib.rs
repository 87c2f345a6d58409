//! Device-mapper, loop devices and block devices, typed and safe over their ioctls.
//!
//! The only crate with `unsafe`, and only in `ioctl`: one ioctl each for device-mapper, loop and
//! block devices, each with a buffer that it owns. Above it stand names, tables, statuses and
//! messages as types, all of which print what the kernel reads and read what it prints. Called by
//! the node agent, and by the CSI driver to find a volume's device. Holds no state: a crash leaves what the kernel has.

pub mod block;
mod buffer;
mod control;
mod error;
mod events;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod ioctl;
pub mod loopdev;
mod message;
pub mod names;
pub mod nodes;
mod number;
mod options;
mod status;
mod suspended;
mod table;
mod udev;

pub use control::{
    Commit, Control, Device, Flush, Listed, LockFs, Removal, Status, TargetLine, TargetVersion,
    Version,
};
pub use error::DmError;
pub use events::Events;
pub use loopdev::{Access, Autoclear, DirectIo, LoopDevice, LoopStatus};
pub use message::{MessageReply, PoolMessage};
pub use names::{DmName, DmUuid, Owned};
pub use number::DevNumber;
pub use status::{
    DiscardPolicy, METADATA_BLOCK, METADATA_BLOCKS_MAX, NoSpacePolicy, PoolMode, PoolStatus,
    ThinStatus, WorkingPool,
};
pub use suspended::{Suspended, swap_table};
pub use table::{LinearSegment, PoolFeatures, Table, Target, Thin, ThinPool, Verity};
