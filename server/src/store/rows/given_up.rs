//! The row of a thin that was given up with its node. Its name is for people; no index leads to it,
//! since the name may be somebody else's by now.

use goldleaf_types::{Labels, Name, NodeId, PoolId, ThinOwner};
use serde::{Deserialize, Serialize};

use super::shapes::{read, write};
use super::{BadRow, Row, placed};
use crate::domain::GivenUp;
use crate::store::Revision;

#[derive(Serialize, Deserialize)]
#[serde(tag = "v")]
enum GivenUpRow {
    #[serde(rename = "1")]
    V1(GivenUpV1),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GivenUpV1 {
    owner: ThinOwner,
    name: Name,
    pool: PoolId,
    node: NodeId,
}

impl Row for GivenUp {
    type Id = ThinOwner;
    type Name = Name;
    const KIND: &'static str = "given-up";

    fn id(&self) -> ThinOwner {
        self.owner
    }

    fn name(&self) -> &Name {
        &self.name
    }

    fn encode(&self) -> Vec<u8> {
        let noun = self.clone();
        write(&GivenUpRow::V1(GivenUpV1 {
            owner: noun.owner,
            name: noun.name,
            pool: noun.pool,
            node: noun.node,
        }))
    }

    fn decode(key: &str, value: &[u8], modified: Revision) -> Result<Self, BadRow> {
        let GivenUpRow::V1(row) = read(key, value)?;
        placed(
            key,
            Self {
                owner: row.owner,
                name: row.name,
                pool: row.pool,
                node: row.node,
                labels: Labels::default(),
                revision: modified,
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use goldleaf_types::VolumeId;

    use super::*;
    use crate::store::rows::key;

    const GIVEN_UP_V1: &str = include_str!("../../../tests/golden/given-up-v1.json");

    #[test]
    fn a_row_of_version_1_is_read_and_written_as_ever() {
        let given_up = GivenUp {
            owner: VolumeId::from_bytes([0x11; 16]).into(),
            name: "vm1".parse().unwrap(),
            pool: PoolId::from_bytes([0x33; 16]),
            node: NodeId::from_bytes([0x44; 16]),
            labels: Labels::default(),
            revision: 7,
        };
        let row = GIVEN_UP_V1.trim_end();
        let key = key::<GivenUp>(given_up.owner);
        assert_eq!(String::from_utf8(given_up.encode()).unwrap(), row);
        assert_eq!(GivenUp::decode(&key, row.as_bytes(), 7).unwrap(), given_up);
        let strange = row.replacen("\"name\"", "\"colour\":1,\"name\"", 1);
        assert!(GivenUp::decode(&key, strange.as_bytes(), 7).is_err());
    }
}
