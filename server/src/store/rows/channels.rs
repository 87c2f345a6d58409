//! A channel's row.

use goldleaf_types::{ChannelId, ChannelName, Digest, Labels};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::shapes::{read, write};
use super::{BadRow, Row, placed};
use crate::domain::Channel;
use crate::store::Revision;

#[derive(Serialize, Deserialize)]
#[serde(tag = "v")]
enum ChannelRow {
    #[serde(rename = "1")]
    V1(ChannelV1),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChannelV1 {
    id: ChannelId,
    name: ChannelName,
    labels: Labels,
    created: Timestamp,
    moved: Timestamp,
    digest: Digest,
}

impl Row for Channel {
    type Id = ChannelId;
    type Name = ChannelName;
    const KIND: &'static str = "channel";

    fn id(&self) -> ChannelId {
        self.id
    }

    fn name(&self) -> &ChannelName {
        &self.name
    }

    fn encode(&self) -> Vec<u8> {
        let noun = self.clone();
        write(&ChannelRow::V1(ChannelV1 {
            id: noun.id,
            name: noun.name,
            labels: noun.labels,
            created: noun.created,
            moved: noun.moved,
            digest: noun.digest,
        }))
    }

    fn decode(key: &str, value: &[u8], modified: Revision) -> Result<Self, BadRow> {
        let ChannelRow::V1(row) = read(key, value)?;
        placed(
            key,
            Self {
                id: row.id,
                name: row.name,
                labels: row.labels,
                revision: modified,
                created: row.created,
                moved: row.moved,
                digest: row.digest,
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::rows::key;

    const CHANNEL_V1: &str = include_str!("../../../tests/golden/channel-v1.json");

    #[test]
    fn a_channels_row_of_version_1_is_read_and_written_as_ever() {
        let channel = Channel {
            id: ChannelId::from_bytes([0x77; 16]),
            name: "debian/stable".parse().unwrap(),
            labels: Labels::default(),
            revision: 7,
            created: "2026-11-24T06:00:00Z".parse().unwrap(),
            moved: "2026-11-24T07:00:00Z".parse().unwrap(),
            digest: Digest::from_bytes([0xab; 32]),
        };
        let row = CHANNEL_V1.trim_end();
        let key = key::<Channel>(channel.id);
        let read = Channel::decode(&key, row.as_bytes(), 7).unwrap();
        assert_eq!(read, channel);
        assert_eq!(String::from_utf8(channel.encode()).unwrap(), row);
        let strange = row.replacen("\"name\"", "\"colour\":1,\"name\"", 1);
        assert!(Channel::decode(&key, strange.as_bytes(), 7).is_err());
        let nameless = row.replacen("debian/stable", "debian", 1);
        assert!(Channel::decode(&key, nameless.as_bytes(), 7).is_err());
    }
}
