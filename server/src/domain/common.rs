//! What every noun shares: phases, conditions, and how a request points at one.

use std::str::FromStr;

use goldleaf_types::{
    ChannelId, ChannelName, Digest, GroupId, ImageId, Name, NodeId, PoolId, SnapshotId, ThinOwner,
    VolumeId,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Where a thing is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// A wish: recorded, not usable yet.
    Creating,
    /// Usable.
    Ready,
    /// A wish: being taken away.
    Deleting,
    /// Cannot become ready as asked.
    Failed,
    /// Closed on purpose, nothing lost.
    Closed,
}

impl Phase {
    /// Whether the thing is being made or deleted.
    #[must_use]
    pub const fn is_underway(self) -> bool {
        match self {
            Self::Creating | Self::Deleting => true,
            Self::Ready | Self::Failed | Self::Closed => false,
        }
    }
}

/// One thing that is worth knowing about a resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// What is spoken of, in `CamelCase`.
    pub kind: String,
    /// Whether it holds.
    pub status: bool,
    /// Why, as one `CamelCase` word.
    pub reason: String,
    /// Why, as a sentence with what to do about it.
    pub message: String,
    /// Since when.
    pub since: Timestamp,
}

impl Condition {
    /// Whether the two say the same, whenever they began to.
    #[must_use]
    pub fn same_claim(&self, other: &Self) -> bool {
        (&self.kind, self.status, &self.reason, &self.message)
            == (&other.kind, other.status, &other.reason, &other.message)
    }
}

/// How a request points at one thing of a kind: by its id or by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ref<Id, N = Name> {
    /// By id.
    Id(Id),
    /// By name.
    Name(N),
}

/// Text that points at nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither an id nor a name of the wanted kind")]
pub struct BadReference(pub String);

impl BadReference {
    fn of(text: &str) -> Self {
        Self(text.chars().take(80).collect())
    }
}

impl<Id: FromStr, N: FromStr> FromStr for Ref<Id, N> {
    type Err = BadReference;

    fn from_str(text: &str) -> Result<Self, BadReference> {
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        if looks_like_an_id(text) {
            return Err(BadReference::of(text)); // of another kind: no name can look so
        }
        text.parse()
            .map(Self::Name)
            .map_err(|_| BadReference::of(text))
    }
}

impl<Id: std::fmt::Display, N: std::fmt::Display> std::fmt::Display for Ref<Id, N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// How a request points at an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageRef {
    /// By its id or name.
    Record(Ref<ImageId>),
    /// By its content.
    Digest(Digest),
    /// By a channel, as it points now.
    Channel(ChannelName),
}

impl FromStr for ImageRef {
    type Err = BadReference;

    fn from_str(text: &str) -> Result<Self, BadReference> {
        if let Ok(channel) = text.parse() {
            return Ok(Self::Channel(channel));
        }
        match text.parse() {
            Ok(digest) => Ok(Self::Digest(digest)),
            Err(_) => text.parse().map(Self::Record),
        }
    }
}

/// How a request points at what a snapshot or clone begins as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceRef {
    /// A volume.
    Volume(Ref<VolumeId>),
    /// A snapshot.
    Snapshot(Ref<SnapshotId>),
    /// An image, which only a clone can begin as.
    Image(ImageRef),
}

impl FromStr for SourceRef {
    type Err = BadReference;

    fn from_str(text: &str) -> Result<Self, BadReference> {
        match text.parse::<ThinOwner>() {
            Ok(ThinOwner::Volume(id)) => return Ok(Self::Volume(Ref::Id(id))),
            Ok(ThinOwner::Snapshot(id)) => return Ok(Self::Snapshot(Ref::Id(id))),
            Err(_) => {}
        }
        if let Ok(digest) = text.parse() {
            return Ok(Self::Image(ImageRef::Digest(digest)));
        }
        if let Ok(id) = text.parse() {
            return Ok(Self::Image(ImageRef::Record(Ref::Id(id))));
        }
        let by_name = |name: &str| {
            name.parse()
                .map(Ref::Name)
                .map_err(|_| BadReference::of(text))
        };
        match text.split_once('/') {
            Some(("volume", name)) => by_name(name).map(Self::Volume),
            Some(("snapshot", name)) => Ok(Self::Snapshot(Ref::Name(
                name.parse().map_err(|_| BadReference::of(text))?,
            ))),
            Some(("image", name)) => match name.parse() {
                Ok(channel) => Ok(Self::Image(ImageRef::Channel(channel))),
                Err(_) => Ok(Self::Image(ImageRef::Record(Ref::Name(
                    name.parse().map_err(|_| BadReference::of(text))?,
                )))),
            },
            Some(_) | None => Err(BadReference::of(text)),
        }
    }
}

/// Whether a text could be taken for an id or digest of ours; such names are refused.
#[must_use]
pub fn looks_like_an_id(text: &str) -> bool {
    text.parse::<ThinOwner>().is_ok()
        || text.parse::<GroupId>().is_ok()
        || text.parse::<ImageId>().is_ok()
        || text.parse::<ChannelId>().is_ok()
        || text.parse::<PoolId>().is_ok()
        || text.parse::<NodeId>().is_ok()
        || text.parse::<Digest>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_an_id_or_a_name_and_never_an_id_of_another_kind() {
        let volume = VolumeId::mint();
        assert_eq!(volume.to_string().parse(), Ok(Ref::<VolumeId>::Id(volume)));
        for other in [PoolId::mint().to_string(), GroupId::mint().to_string()] {
            assert!(other.parse::<Ref<VolumeId>>().is_err());
        }
        assert!(matches!("vm1".parse(), Ok(Ref::<VolumeId>::Name(_))));
        assert!("a/b".parse::<Ref<VolumeId>>().is_err());
    }

    #[test]
    fn a_source_says_its_kind_unless_it_is_an_id() {
        let snapshot = SnapshotId::mint();
        assert_eq!(
            snapshot.to_string().parse(),
            Ok(SourceRef::Snapshot(Ref::Id(snapshot)))
        );
        assert!(matches!(
            "volume/vm1".parse(),
            Ok(SourceRef::Volume(Ref::Name(_)))
        ));
        assert!(matches!(
            "snapshot/s1".parse(),
            Ok(SourceRef::Snapshot(Ref::Name(_)))
        ));
        let image = ImageId::mint();
        for (text, wanted) in [
            (image.to_string(), ImageRef::Record(Ref::Id(image))),
            ("image/x".into(), "x".parse().unwrap()),
            ("image/x/y".into(), "x/y".parse().unwrap()),
        ] {
            assert_eq!(text.parse(), Ok(SourceRef::Image(wanted)));
        }
        for bad in ["", "vm1", "pool/x", "image/", "volume/", "volume/a/b"] {
            assert!(bad.parse::<SourceRef>().is_err(), "{bad:?} passed");
        }
    }
}
