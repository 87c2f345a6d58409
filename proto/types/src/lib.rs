//! The words of Goldleaf as types: ids, sizes, names, digests.
//!
//! Pure: no I/O, no clock, no wire. Every crate uses these, so a value that exists is a valid one:
//! each type has one gate in (`new` or `FromStr`) and decoding passes the same gate.
#![forbid(unsafe_code)]

/// How the UUIDs of Goldleaf's devices begin, in the kernel.
pub const DEVICE_UUID_PREFIX: &str = "GOLDLEAF-";

mod digest;
mod ids;
mod names;
mod sizes;

pub use digest::{BadDigest, Digest};
pub use ids::{
    BadId, ChannelId, GroupId, ImageId, Incarnation, NodeId, PoolId, SnapshotId, ThinOwner,
    VolumeId,
};
pub use names::{BadChannelName, BadName, ChannelName, Labels, Name};
pub use sizes::{BadBytes, BadSize, BlockSize, Bytes, SECTOR, Sectors, ThinId, VolumeSize};
