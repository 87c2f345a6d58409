//! What only the control plane's store knows of this node (names of images, channels, labels of
//! pools), for the day when that store is lost.
//!
//! Called by `grpc`. One file in the agent's folder, replaced whole: a crash leaves the former text or
//! the new one. Nobody here reads the text; it can hold addresses with secrets, so the file is its
//! owner's alone. It is one store's, like a pool, and another store is refused until an administrator
//! has it named as the former one.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use goldleaf_types::Incarnation;
use serde::{Deserialize, Serialize};

use super::Agent;
use crate::sys::replace::{replace, sync_folder};

/// The version that is written, and the newest that is read.
const VERSION: &str = "1";

/// Bytes of text that are taken at most: names of some thousand images, and half of what a call may bring.
const MOST: usize = 2 << 20;

/// What is kept, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptRecords {
    /// The store.
    pub store: Incarnation,
    /// Its text.
    pub records: String,
}

/// Why nothing is kept, or what is kept cannot be said.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// It is another store's.
    #[error(
        "this node keeps records of the store {owner}, not of {caller}: if that store is gone, have \
         an administrator adopt the node (`goldleaf node adopt`)"
    )]
    OtherStore {
        /// Whose it is.
        owner: Incarnation,
        /// Who called.
        caller: Incarnation,
    },
    /// The text is too long.
    #[error(
        "{bytes} bytes of records are more than the {MOST} that a node keeps: delete images that nobody \
         needs, or give images and pools fewer labels"
    )]
    TooLong {
        /// Its bytes.
        bytes: usize,
    },
    /// A newer version wrote the file.
    #[error(
        "{path} is of format {found:?}, and this version reads up to {VERSION:?}: upgrade the node agent"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: String,
    },
    /// It is no such file.
    #[error("{path} is damaged: move it away, and the control plane has its records kept anew")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The host's folder does not do it.
    #[error("cannot {what} {path}")]
    Io {
        /// What was to be done.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What was wrong.
        #[source]
        source: io::Error,
    },
}

#[derive(Deserialize)]
struct Version {
    v: String,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "v")]
enum Stored {
    #[serde(rename = "1")]
    V1(StoredV1),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredV1 {
    store: Incarnation,
    records: String,
}

/// The file.
#[derive(Debug)]
pub struct RecordsFile {
    path: PathBuf,
    /// One change at a time: who is refused must not come between a look and a change.
    turn: Mutex<()>,
}

impl RecordsFile {
    /// The file at `path`, which need not be there yet; its folder is.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self {
            path,
            turn: Mutex::new(()),
        }
    }

    fn read(&self) -> Result<Option<KeptRecords>, KeepError> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.io("read")(error)),
        };
        let damaged = |source| KeepError::Damaged {
            path: self.path.clone(),
            source,
        };
        let Version { v } = serde_json::from_slice(&bytes).map_err(damaged)?;
        if v != VERSION {
            return Err(KeepError::Newer {
                path: self.path.clone(),
                found: v,
            });
        }
        let Stored::V1(StoredV1 { store, records }) =
            serde_json::from_slice(&bytes).map_err(damaged)?;
        Ok(Some(KeptRecords { store, records }))
    }

    fn replace(&self, kept: KeptRecords) -> Result<(), KeepError> {
        let KeptRecords { store, records } = kept;
        let stored = Stored::V1(StoredV1 { store, records });
        serde_json::to_vec(&stored)
            .map_err(io::Error::from)
            .and_then(|bytes| replace(&self.path, &bytes))
            .map_err(self.io("write"))
    }

    fn make_durable(&self) -> Result<(), KeepError> {
        sync_folder(self.path.parent().unwrap_or(&self.path)).map_err(self.io("sync"))
    }

    fn io(&self, what: &'static str) -> impl FnOnce(io::Error) -> KeepError {
        let path = self.path.clone();
        move |source| KeepError::Io { what, path, source }
    }
}

impl Agent {
    /// Keeps the text in the place of an earlier one, if that is the caller's own or the `former`
    /// store's. Blocks.
    ///
    /// # Errors
    ///
    /// [`KeepError`]; what was kept before is kept then.
    pub fn keep_records(
        &self,
        caller: Incarnation,
        former: Option<Incarnation>,
        records: String,
    ) -> Result<(), KeepError> {
        if records.len() > MOST {
            return Err(KeepError::TooLong {
                bytes: records.len(),
            });
        }
        let file = &self.kept_records;
        let _turn = file.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = KeptRecords {
            store: caller,
            records,
        };
        match file.read()? {
            // Said to be on the disk, so it is: the former try may have failed at this.
            Some(kept) if kept == wanted => return file.make_durable(),
            Some(KeptRecords { store: owner, .. }) if owner != caller && former != Some(owner) => {
                return Err(KeepError::OtherStore { owner, caller });
            }
            Some(_) | None => {}
        }
        file.replace(wanted)
    }

    /// What is kept; none when nothing is. Blocks.
    ///
    /// # Errors
    ///
    /// [`KeepError`] when the file cannot be read.
    pub fn kept_records(&self) -> Result<Option<KeptRecords>, KeepError> {
        self.kept_records.read()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::rig::Rig;
    use super::*;

    const OURS: Incarnation = Incarnation::from_bytes([2; 16]);
    const OTHER: Incarnation = Incarnation::from_bytes([3; 16]);
    const RECORDS_V1: &str = include_str!("../../tests/golden/kept-records-v1.json");

    #[test]
    fn one_stores_records_are_kept_until_another_names_it_as_the_former_one() {
        let mut rig = Rig::new();
        let keep = |rig: &Rig, caller, former, text: &str| {
            rig.agent.keep_records(caller, former, text.to_owned())
        };
        assert_eq!(rig.agent.kept_records().unwrap(), None);
        for text in ["one", "two", "two"] {
            keep(&rig, OURS, None, text).unwrap();
        }
        for former in [None, Some(OTHER)] {
            let refused = keep(&rig, OTHER, former, "theirs").unwrap_err();
            assert!(matches!(refused, KeepError::OtherStore { .. }), "{refused}");
        }
        rig.restart();
        let kept = |rig: &Rig| rig.agent.kept_records().unwrap().unwrap();
        assert_eq!(
            (kept(&rig).store, kept(&rig).records.as_str()),
            (OURS, "two")
        );
        keep(&rig, OTHER, Some(OURS), "theirs").unwrap();
        assert_eq!(kept(&rig).store, OTHER);
        assert!(
            keep(&rig, OURS, None, "late").is_err(),
            "it is another's now"
        );
        let long = keep(&rig, OTHER, None, &"x".repeat(MOST + 1)).unwrap_err();
        assert!(matches!(long, KeepError::TooLong { .. }), "{long}");
        let file = &rig.agent.kept_records.path;
        assert_eq!(
            fs::metadata(file).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn a_file_of_version_1_is_read_and_written_as_ever_and_no_other_is_replaced() {
        let rig = Rig::new();
        let file = &rig.agent.kept_records.path;
        fs::write(file, RECORDS_V1).unwrap();
        let kept = rig.agent.kept_records().unwrap().unwrap();
        assert_eq!((kept.store, kept.records.as_str()), (OURS, "{\"v\":\"1\"}"));
        rig.agent.kept_records.replace(kept).unwrap();
        assert_eq!(fs::read_to_string(file).unwrap(), RECORDS_V1.trim_end());
        for (bad, says) in [
            (
                RECORDS_V1.replace("\"v\":\"1\",\"store\"", "\"v\":\"2\",\"store\""),
                "upgrade",
            ),
            (RECORDS_V1.replace("records", "recorded"), "move it away"),
        ] {
            fs::write(file, &bad).unwrap();
            let refused = rig
                .agent
                .keep_records(OURS, None, "new".into())
                .unwrap_err();
            assert!(refused.to_string().contains(says), "{refused}");
            assert_eq!(fs::read_to_string(file).unwrap(), bad);
        }
    }
}
