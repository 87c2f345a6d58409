//! The row of a thin whose pool does not know yet what its user changed. Its name is for people; no
//! index leads to it.

use goldleaf_types::{Labels, Name, ThinOwner};
use serde::{Deserialize, Serialize};

use super::shapes::{read, write};
use super::{BadRow, Row, placed};
use crate::domain::Untold;
use crate::store::Revision;

#[derive(Serialize, Deserialize)]
#[serde(tag = "v")]
enum UntoldRow {
    #[serde(rename = "1")]
    V1(UntoldV1),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UntoldV1 {
    owner: ThinOwner,
    name: Name,
}

impl Row for Untold {
    type Id = ThinOwner;
    type Name = Name;
    const KIND: &'static str = "untold";

    fn id(&self) -> ThinOwner {
        self.owner
    }

    fn name(&self) -> &Name {
        &self.name
    }

    fn encode(&self) -> Vec<u8> {
        let noun = self.clone();
        write(&UntoldRow::V1(UntoldV1 {
            owner: noun.owner,
            name: noun.name,
        }))
    }

    fn decode(key: &str, value: &[u8], modified: Revision) -> Result<Self, BadRow> {
        let UntoldRow::V1(row) = read(key, value)?;
        placed(
            key,
            Self {
                owner: row.owner,
                name: row.name,
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

    const UNTOLD_V1: &str = include_str!("../../../tests/golden/untold-v1.json");

    #[test]
    fn a_row_of_version_1_is_read_and_written_as_ever() {
        let untold = Untold {
            owner: VolumeId::from_bytes([0x11; 16]).into(),
            name: "vm1".parse().unwrap(),
            labels: Labels::default(),
            revision: 7,
        };
        let row = UNTOLD_V1.trim_end();
        let key = key::<Untold>(untold.owner);
        assert_eq!(String::from_utf8(untold.encode()).unwrap(), row);
        assert_eq!(Untold::decode(&key, row.as_bytes(), 7).unwrap(), untold);
        let strange = row.replacen("\"name\"", "\"colour\":1,\"name\"", 1);
        assert!(Untold::decode(&key, strange.as_bytes(), 7).is_err());
    }
}
