//! What a node keeps of the store for the day when that is lost: JSON that says its version, and in
//! it the rows of images and channels as the store has them, and what users changed of pools.
//!
//! Written whenever any of it changes, read when a node is adopted.

use std::collections::BTreeMap;

use goldleaf_types::PoolId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::kept_marks::KeptMarksV1;
use super::shapes::read;
use super::{BadRow, Row, key, prefix};
use crate::domain::{Channel, Image, KeptRecords};

/// How errors call it.
const TEXT: &str = "what the node keeps of its store";

#[derive(Serialize, Deserialize)]
#[serde(tag = "v")]
enum Stored {
    #[serde(rename = "1")]
    V1(KeptRecordsV1),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptRecordsV1 {
    /// By their keys in the store.
    rows: BTreeMap<String, Value>,
    pools: BTreeMap<PoolId, KeptMarksV1>,
}

impl KeptRecords {
    /// As text. The same records are the same text.
    #[must_use]
    pub fn encode(&self) -> String {
        let images = self.images.iter().map(row);
        let pools = self.pools.iter();
        let stored = Stored::V1(KeptRecordsV1 {
            rows: images.chain(self.channels.iter().map(row)).collect(),
            pools: pools.map(|(id, kept)| (*id, kept.clone().into())).collect(),
        });
        serde_json::to_string(&stored).expect("rows, labels and flags have a JSON form")
    }

    /// Reads the text.
    ///
    /// # Errors
    ///
    /// [`BadRow`], which names what cannot be read.
    pub fn decode(text: &str) -> Result<Self, BadRow> {
        let Stored::V1(stored) = read(TEXT, text.as_bytes())?;
        let mut found = Self::default();
        for (key, row) in &stored.rows {
            let bytes = serde_json::to_vec(row).map_err(|source| BadRow::Shape {
                key: key.clone(),
                source,
            })?;
            if key.starts_with(&prefix::<Image>()) {
                found.images.push(Image::decode(key, &bytes, 0)?);
            } else if key.starts_with(&prefix::<Channel>()) {
                found.channels.push(Channel::decode(key, &bytes, 0)?);
            } else {
                return Err(BadRow::Misplaced {
                    key: TEXT.into(),
                    found: key.clone(),
                });
            }
        }
        let pools = stored.pools.into_iter();
        found.pools = pools.map(|(id, kept)| (id, kept.into())).collect();
        Ok(found)
    }
}

fn row<T: Row>(noun: &T) -> (String, Value) {
    let value = serde_json::from_slice(&noun.encode()).expect("a row is JSON");
    (key::<T>(noun.id()), value)
}

#[cfg(test)]
mod tests {
    use goldleaf_types::{Labels, NodeId};

    use super::*;
    use crate::domain::{ImageCopy, KeptMarks, Marks, Phase};

    const KEPT_RECORDS_V1: &str = include_str!("../../../tests/golden/kept-records-v1.json");
    const IMAGE_V1: &str = include_str!("../../../tests/golden/image-v1.json");
    const CHANNEL_V1: &str = include_str!("../../../tests/golden/channel-v1.json");

    fn id_in(row: &str) -> String {
        let row: Value = serde_json::from_str(row).unwrap();
        row["id"].as_str().unwrap().to_owned()
    }

    fn golden() -> KeptRecords {
        let image_key = format!("image/{}", id_in(IMAGE_V1));
        let mut image = Image::decode(&image_key, IMAGE_V1.as_bytes(), 0).unwrap();
        image.phase = Phase::Ready;
        image.copies = vec![ImageCopy {
            phase: Phase::Ready,
            ..ImageCopy::wanted(NodeId::from_bytes([0x77; 16]))
        }];
        let channel_key = format!("channel/{}", id_in(CHANNEL_V1));
        let channel = Channel::decode(&channel_key, CHANNEL_V1.as_bytes(), 0).unwrap();
        let labels = BTreeMap::from([("tier".to_owned(), "fast".to_owned())]);
        let kept = KeptMarks {
            labels: Labels::try_from(labels).unwrap(),
            marks: Marks::new(true),
        };
        KeptRecords {
            images: vec![image],
            channels: vec![channel],
            pools: BTreeMap::from([(PoolId::from_bytes([0x44; 16]), kept)]),
        }
    }

    #[test]
    fn records_of_version_1_are_read_and_written_as_ever() {
        let text = KEPT_RECORDS_V1.trim_end();
        assert_eq!(golden().encode(), text);
        assert_eq!(KeptRecords::decode(text).unwrap(), golden());
    }

    #[test]
    fn what_cannot_be_read_whole_is_refused() {
        let text = KEPT_RECORDS_V1.trim_end();
        let newer = KeptRecords::decode("{\"v\":\"2\"}").unwrap_err();
        assert!(matches!(newer, BadRow::Newer { .. }), "{newer}");
        let other = KeptRecords::decode(&text.replace("image/img-", "imago/img-")).unwrap_err();
        assert!(matches!(other, BadRow::Misplaced { .. }), "{other}");
        let moved = text.replacen("image/img-", "image/img-0", 1);
        assert!(KeptRecords::decode(&moved).is_err());
    }
}
