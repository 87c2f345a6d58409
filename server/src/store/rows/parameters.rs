//! What an agent keeps of a request for the day our store is lost: JSON that says its version.
//!
//! Written with each thin by the agents' client, read when volumes are rebuilt from a pool. An agent
//! stores it and never looks inside.

use goldleaf_types::{GroupId, Name, ThinOwner};
use serde::{Deserialize, Serialize};

use super::BadRow;
use super::shapes::read;
use crate::domain::{GroupPart, Parameters, ThinKind, VolumeAsked};

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
                ThinKind::Volume => KindV1::Volume,
                ThinKind::Snapshot => KindV1::Snapshot,
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
                KindV1::Volume => ThinKind::Volume,
                KindV1::Snapshot => ThinKind::Snapshot,
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
