//! What an agent keeps of a thing's labels and marks for the day our store is lost: JSON that says
//! its version.
//!
//! Written with the row of each thin whose user changed them, read when records are made anew.

use goldleaf_types::{Labels, ThinOwner};
use serde::{Deserialize, Serialize};

use super::BadRow;
use super::parts::MarksV1;
use super::shapes::read;
use crate::domain::KeptMarks;

#[derive(Serialize, Deserialize)]
#[serde(tag = "v")]
enum Stored {
    #[serde(rename = "1")]
    V1(KeptMarksV1),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeptMarksV1 {
    labels: Labels,
    #[serde(default, skip_serializing_if = "MarksV1::is_none")]
    marks: MarksV1,
}

impl From<KeptMarks> for KeptMarksV1 {
    fn from(kept: KeptMarks) -> Self {
        Self {
            labels: kept.labels,
            marks: kept.marks.into(),
        }
    }
}

impl From<KeptMarksV1> for KeptMarks {
    fn from(stored: KeptMarksV1) -> Self {
        Self {
            labels: stored.labels,
            marks: stored.marks.into(),
        }
    }
}

impl KeptMarks {
    /// As text.
    #[must_use]
    pub fn encode(&self) -> String {
        serde_json::to_string(&Stored::V1(self.clone().into()))
            .expect("labels and flags have a JSON form")
    }

    /// Reads the text that the thin of `owner` carries.
    ///
    /// # Errors
    ///
    /// [`BadRow`], which names the owner.
    pub fn decode(owner: ThinOwner, text: &str) -> Result<Self, BadRow> {
        let Stored::V1(stored) = read(&owner.to_string(), text.as_bytes())?;
        Ok(stored.into())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use goldleaf_types::VolumeId;

    use super::*;
    use crate::domain::{First, Marks};

    const KEPT_MARKS_V1: &str = include_str!("../../../tests/golden/kept-marks-v1.json");

    #[test]
    fn marks_of_version_1_are_read_and_written_as_ever() {
        let labels = BTreeMap::from([("team".to_owned(), "db".to_owned())]);
        let kept = KeptMarks {
            labels: Labels::try_from(labels).unwrap(),
            marks: Marks {
                deletion_protection: true,
                first: Some(First {
                    labels: Labels::default(),
                    deletion_protection: false,
                }),
            },
        };
        let text = KEPT_MARKS_V1.trim_end();
        assert_eq!(kept.encode(), text);
        let owner = ThinOwner::from(VolumeId::from_bytes([0x11; 16]));
        assert_eq!(KeptMarks::decode(owner, text).unwrap(), kept);
        let error = KeptMarks::decode(owner, "{\"v\":\"2\"}").unwrap_err();
        assert!(matches!(error, BadRow::Newer { .. }), "{error}");
    }
}
