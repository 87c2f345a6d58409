//! What an agent keeps of a request for the day our store is lost: JSON that says its version.
//!
//! Written with each thin by the agents' client, read when volumes are rebuilt from a pool. An agent
//! stores it and never looks inside.

use goldleaf_types::{GroupId, Name, ThinOwner};
use serde::{Deserialize, Serialize};

use super::BadRow;
use super::shapes::read;
use crate::domain::{GroupPart, VolumeAsked};

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A volume.
    Volume,
    /// A snapshot.
    Snapshot,
}

impl From<ThinOwner> for Kind {
    fn from(owner: ThinOwner) -> Self {
        match owner {
            ThinOwner::Volume(_) => Self::Volume,
            ThinOwner::Snapshot(_) => Self::Snapshot,
        }
    }
}

/// A request's parameters with what they were for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// What was asked for.
    pub kind: Kind,
    /// How.
    pub asked: VolumeAsked,
    /// The group that it is a part of.
    pub part: Option<GroupPart>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "v")]
enum Stored {
    #[serde(rename = "1")]
    V1(ParametersV1),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ParametersV1 {
    kind: KindV1,
    size_bytes: u64,
    image: String,
    source: String,
    // Left out when there is none, so that older versions read such texts too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<PartV1>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PartV1 {
    id: GroupId,
    name: Name,
    asked_volume: String,
    index: u32,
    count: u32,
    deadline_ms: u32,
}

impl From<GroupPart> for PartV1 {
    fn from(part: GroupPart) -> Self {
        Self {
            id: part.group,
            name: part.name,
            asked_volume: part.asked_volume,
            index: part.index,
            count: part.count,
            deadline_ms: part.deadline_ms,
        }
    }
}

impl From<PartV1> for GroupPart {
    fn from(part: PartV1) -> Self {
        Self {
            group: part.id,
            name: part.name,
            asked_volume: part.asked_volume,
            index: part.index,
            count: part.count,
            deadline_ms: part.deadline_ms,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum KindV1 {
    Volume,
    Snapshot,
}

impl Parameters {
    /// As text.
    #[must_use]
    pub fn encode(&self) -> String {
        let asked = self.asked.clone();
        serde_json::to_string(&Stored::V1(ParametersV1 {
            kind: match self.kind {
                Kind::Volume => KindV1::Volume,
                Kind::Snapshot => KindV1::Snapshot,
            },
            size_bytes: asked.size_bytes,
            image: asked.image,
            source: asked.source,
            group: self.part.clone().map(PartV1::from),
        }))
        .expect("plain numbers and texts have a JSON form")
    }

    /// Reads the text that the thin of `owner` carries.
    ///
    /// # Errors
    ///
    /// [`BadRow`], which names the owner.
    pub fn decode(owner: ThinOwner, text: &str) -> Result<Self, BadRow> {
        let Stored::V1(stored) = read(&owner.to_string(), text.as_bytes())?;
        Ok(Self {
            kind: match stored.kind {
                KindV1::Volume => Kind::Volume,
                KindV1::Snapshot => Kind::Snapshot,
            },
            asked: VolumeAsked {
                size_bytes: stored.size_bytes,
                image: stored.image,
                source: stored.source,
            },
            part: stored.group.map(GroupPart::from),
        })
    }
}
