//! Messages to a thin-pool, as types.
//!
//! Source: Linux `Documentation/admin-guide/device-mapper/thin-provisioning.rst`, "Messages".

use std::fmt;

use goldleaf_types::ThinId;

/// A message to a thin-pool. The kernel commits before it answers, but answers 0 even when that
/// commit failed: the pool's mode must be read before anybody is told of success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolMessage {
    /// Makes an empty thin.
    CreateThin(ThinId),
    /// Makes a thin that begins as another; a live origin must be suspended meanwhile.
    CreateSnap {
        /// The new one.
        id: ThinId,
        /// The one it begins as.
        origin: ThinId,
    },
    /// Deletes a thin that has no device.
    Delete(ThinId),
    /// Replaces the metadata's transaction id if it is `old`.
    SetTransactionId {
        /// What it must be.
        old: u64,
        /// What it becomes.
        new: u64,
    },
    /// Holds the metadata's present root for reading by tools. One at a time.
    ReserveMetadataSnap,
    /// Lets it go.
    ReleaseMetadataSnap,
}

impl fmt::Display for PoolMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateThin(id) => write!(f, "create_thin {id}"),
            Self::CreateSnap { id, origin } => write!(f, "create_snap {id} {origin}"),
            Self::Delete(id) => write!(f, "delete {id}"),
            Self::SetTransactionId { old, new } => write!(f, "set_transaction_id {old} {new}"),
            Self::ReserveMetadataSnap => f.write_str("reserve_metadata_snap"),
            Self::ReleaseMetadataSnap => f.write_str("release_metadata_snap"),
        }
    }
}

/// What the kernel answered to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageReply {
    /// The device's event number after it.
    pub event_nr: u32,
    /// Text, of the few messages that answer any.
    pub text: String,
}
