//! Names and ids: what CSI calls a thing, and what Goldleaf calls it.

use std::str::FromStr;

use goldleaf_types::{GroupId, ImageId, Name, NodeId, PoolId, SnapshotId, VolumeId};
use sha2::{Digest, Sha256};

use crate::status::CsiError;

/// Longest name that the specification allows, in bytes.
const LONGEST: usize = 128;

/// Goldleaf's name for what the orchestrator calls `text`: the same, unless that is no name or
/// reads as an id. Then it is made of the text's hash, so that asking again finds it.
///
/// # Errors
///
/// [`CsiError::BadField`] for an empty or too long one.
pub fn name(field: &'static str, text: &str) -> Result<String, CsiError> {
    if text.is_empty() {
        return Err(CsiError::field(field, "is missing"));
    }
    if text.len() > LONGEST {
        return Err(CsiError::field(field, "is longer than 128 bytes"));
    }
    let like_an_id = [
        VolumeId::PREFIX,
        SnapshotId::PREFIX,
        GroupId::PREFIX,
        ImageId::PREFIX,
        PoolId::PREFIX,
        NodeId::PREFIX,
    ]
    .iter()
    .any(|prefix| text.starts_with(prefix));
    if !like_an_id && text.parse::<Name>().is_ok() {
        return Ok(text.to_owned());
    }
    Ok(hashed(text))
}

/// Longest name of a group: its snapshots are called by it, a dot and, at the longest, an id of 36
/// characters.
const LONGEST_GROUP: usize = Name::MAX - 37;

/// Goldleaf's name for a group of snapshots, as [`name`].
///
/// # Errors
///
/// As [`name`].
pub fn group_name(field: &'static str, text: &str) -> Result<String, CsiError> {
    let name = name(field, text)?;
    if name.len() <= LONGEST_GROUP {
        return Ok(name);
    }
    Ok(hashed(text))
}

/// A name that is made of a text's hash.
fn hashed(text: &str) -> String {
    format!("csi-{}", hex::encode(&Sha256::digest(text)[..16]))
}

/// A group's id. One of another form is nobody's.
///
/// # Errors
///
/// As [`volume`].
pub fn group(field: &'static str, text: &str) -> Result<GroupId, CsiError> {
    id(field, "group of snapshots", text)
}

/// A volume's id. One of another form is nobody's.
///
/// # Errors
///
/// [`CsiError::BadField`] when it is empty, [`CsiError::NotFound`] when it is of another form.
pub fn volume(field: &'static str, text: &str) -> Result<VolumeId, CsiError> {
    id(field, "volume", text)
}

fn id<Id: FromStr>(field: &'static str, what: &'static str, text: &str) -> Result<Id, CsiError> {
    if text.is_empty() {
        return Err(CsiError::field(field, "is missing"));
    }
    text.parse().map_err(|_| CsiError::NotFound {
        what,
        id: text.chars().take(LONGEST).collect(),
    })
}

/// What a snapshot's handle names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handle {
    /// A snapshot.
    Snapshot(SnapshotId),
    /// An image, which is listed and restored like a snapshot.
    Image(ImageId),
}

/// Reads a snapshot's handle.
///
/// # Errors
///
/// As [`volume`].
pub fn handle(field: &'static str, text: &str) -> Result<Handle, CsiError> {
    if text.is_empty() {
        return Err(CsiError::field(field, "is missing"));
    }
    let snapshot = text.parse().ok().map(Handle::Snapshot);
    let image = || text.parse().ok().map(Handle::Image);
    snapshot.or_else(image).ok_or_else(|| CsiError::NotFound {
        what: "snapshot",
        id: text.chars().take(LONGEST).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_as_it_is_unless_goldleaf_cannot_have_it() {
        assert_eq!(name("name", "pvc-1").unwrap(), "pvc-1");
        let strange =
            ["a b", "-x", "vol-1", "group-1", "\u{e4}"].map(|text| name("name", text).unwrap());
        for made in &strange {
            assert!(
                made.parse::<Name>().is_ok() && made.starts_with("csi-"),
                "{made}"
            );
        }
        assert_eq!(strange[0], name("name", "a b").unwrap(), "asked again");
        assert_ne!(strange[0], strange[1]);
    }

    #[test]
    fn a_groups_name_leaves_room_for_its_snapshots() {
        let (fits, long) = ("g".repeat(LONGEST_GROUP), "g".repeat(LONGEST_GROUP + 1));
        assert_eq!(group_name("name", &fits).unwrap(), fits);
        let short = group_name("name", &long).unwrap();
        assert!(short.starts_with("csi-") && short == group_name("name", &long).unwrap());
        assert!(group_name("name", &"g".repeat(129)).is_err());
    }
}
