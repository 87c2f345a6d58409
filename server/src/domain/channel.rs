//! A channel: a name that points to an image's content and can be moved.

use goldleaf_types::{ChannelId, ChannelName, Digest, Labels};
use jiff::Timestamp;

/// A channel's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    /// Its id.
    pub id: ChannelId,
    /// Its user's name for it.
    pub name: ChannelName,
    /// Its user's labels.
    pub labels: Labels,
    /// Grows with each change.
    pub revision: u64,
    /// When it was made.
    pub created: Timestamp,
    /// When it came to point where it does.
    pub moved: Timestamp,
    /// The content that it points to.
    pub digest: Digest,
}
