//! Opaque ids. A prefix tells the kind; nothing in them tells a node, a pool or a name.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// Text that is no id of the wanted kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {kind} id: want {prefix:?} and 32 hexadecimal digits")]
pub struct BadId {
    /// What was given, cut at 80 characters.
    pub text: String,
    /// The kind of thing the id was to name.
    pub kind: &'static str,
    /// How ids of that kind begin.
    pub prefix: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Uuid);

        impl $name {
            /// How the text form begins.
            pub const PREFIX: &'static str = $prefix;

            /// A new id: unique, and later ones sort after earlier ones.
            #[must_use]
            pub fn mint() -> Self {
                Self(Uuid::now_v7())
            }

            /// The id of these 16 bytes, as disk formats store them.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// The 16 bytes, as disk formats store them.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0.simple())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                parse(text, $prefix).map(Self).ok_or_else(|| BadId {
                    text: text.chars().take(80).collect(),
                    kind: $kind,
                    prefix: $prefix,
                })
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadId;

            fn try_from(text: String) -> Result<Self, BadId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }
    };
}

id!(/// A volume: what a user owns. Owns exactly one thin.
    VolumeId, "volume", "vol-");
id!(/// A snapshot: a volume frozen at a time. Owns one thin, never written.
    SnapshotId, "snapshot", "snap-");
id!(/// Snapshots of several volumes, taken at one instant.
    GroupId, "group", "group-");
id!(/// An image's record in the control plane. The content is named by its digest.
    ImageId, "image", "img-");
id!(/// A channel: a name that points to an image's content and can be moved.
    ChannelId, "channel", "chan-");
id!(/// A pool: one dm thin-pool on one node. Stands in the label of each of its devices.
    PoolId, "pool", "pool-");
id!(/// A node: one host with one agent.
    NodeId, "node", "node-");
id!(/// One life of the control plane's store. A restored backup gets a new one.
    Incarnation, "incarnation", "inc-");

/// Exactly one text per id: lower-case hex without dashes.
fn parse(text: &str, prefix: &str) -> Option<Uuid> {
    let hex = text.strip_prefix(prefix)?;
    let plain = hex.len() == 32 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if plain {
        Uuid::try_parse(hex).ok()
    } else {
        None
    }
}

/// Who owns a thin: the key of a catalogue row and the core of its dm name and UUID.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub enum ThinOwner {
    /// A volume's thin, which its user writes.
    Volume(VolumeId),
    /// A snapshot's thin, which nobody writes.
    Snapshot(SnapshotId),
}

impl ThinOwner {
    /// The volume id, if a volume owns the thin.
    #[must_use]
    pub const fn volume(self) -> Option<VolumeId> {
        match self {
            Self::Volume(id) => Some(id),
            Self::Snapshot(_) => None,
        }
    }
}

impl From<VolumeId> for ThinOwner {
    fn from(id: VolumeId) -> Self {
        Self::Volume(id)
    }
}

impl From<SnapshotId> for ThinOwner {
    fn from(id: SnapshotId) -> Self {
        Self::Snapshot(id)
    }
}

impl fmt::Display for ThinOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume(id) => fmt::Display::fmt(id, f),
            Self::Snapshot(id) => fmt::Display::fmt(id, f),
        }
    }
}

impl fmt::Debug for ThinOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ThinOwner {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        if text.starts_with(SnapshotId::PREFIX) {
            text.parse().map(Self::Snapshot)
        } else {
            text.parse().map(Self::Volume)
        }
    }
}

impl TryFrom<String> for ThinOwner {
    type Error = BadId;

    fn try_from(text: String) -> Result<Self, BadId> {
        text.parse()
    }
}

impl From<ThinOwner> for String {
    fn from(owner: ThinOwner) -> String {
        owner.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_round_trips_and_no_other_text_passes() {
        let id = VolumeId::mint();
        let text = id.to_string();
        assert_eq!(text.parse::<VolumeId>(), Ok(id));
        assert_eq!(text.len(), 4 + 32);
        for bad in [
            "",
            "vol-",
            "vol-00",
            &text.to_uppercase(),
            &format!("{text} "),
            &text.replace("vol-", "snap-"),
            "vol-../../../../../../../etc/passwd",
        ] {
            assert!(bad.parse::<VolumeId>().is_err(), "{bad:?} passed");
        }
    }

    #[test]
    fn later_ids_sort_after_earlier_ones() {
        let ids: Vec<_> = (0..1000).map(|_| SnapshotId::mint()).collect();
        assert!(ids.is_sorted());
    }

    #[test]
    fn decoding_passes_the_same_gate() {
        assert!(serde_json::from_str::<PoolId>("\"pool-nonsense\"").is_err());
        let owner = ThinOwner::Snapshot(SnapshotId::mint());
        let json = serde_json::to_string(&owner).unwrap();
        assert_eq!(serde_json::from_str::<ThinOwner>(&json).unwrap(), owner);
    }
}
