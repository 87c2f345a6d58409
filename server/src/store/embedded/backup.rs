//! Backups: every key at one revision in one file, and stores made from one.
//!
//! Writing reads one snapshot of the database, so the store serves meanwhile and the backup is of
//! one moment. A file says its version first and its checksum last, so that a newer one, a damaged
//! one or one that was cut short is refused before anything of it counts. A restored store gets an
//! incarnation of its own: what it wishes for is of another life, and nodes refuse it until an
//! administrator adopts what they have. Bytes are in `docs/disk-format.md`, with a golden file.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use futures::StreamExt;
use goldleaf_types::Incarnation;
use jiff::Timestamp;
use redb::{Database, ReadTransaction, ReadableTable, ReadableTableMetadata};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::format::{self, ENTRIES, FORMAT, REVISION};
use super::{Fault, OpenError, fault, file};
use crate::store::{Backup, Revision, StoreError};

const MAGIC: &[u8; 16] = b"GOLDLEAF BACKUP\n";
/// The version that is written, and the newest that is read.
const VERSION: u32 = 1;
/// Bytes that are handed on at a time.
const CHUNK: usize = 64 << 10;
/// Longest header, key and entry that make sense.
const LONGEST: u32 = 16 << 20;

const ENTRY: u8 = 1;
const END: u8 = 2;

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupHeader {
    /// The store's format.
    pub store_format: u64,
    /// The life that the store was in.
    pub incarnation: Incarnation,
    /// The revision that it was at.
    pub revision: Revision,
    /// When it was taken.
    pub taken: Timestamp,
    /// The server's version.
    pub server_version: String,
}

/// Why a store cannot be made from a backup. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is a store, and something in it.
    #[error(
        "{path} holds a store at revision {revision}: nothing is restored over it; move it away \
         first, or name another --state-dir"
    )]
    NotEmpty {
        /// The store's file.
        path: PathBuf,
        /// How far it has come.
        revision: Revision,
    },
    /// A newer version made it.
    #[error("{path} is of {what} {found} and this version reads up to {known}: upgrade the server")]
    Newer {
        /// The backup.
        path: PathBuf,
        /// Which version of it.
        what: &'static str,
        /// Its own.
        found: u64,
        /// The newest that is read here.
        known: u64,
    },
    /// It is not what was written.
    #[error("{path} is no whole backup of Goldleaf: {problem}; take another one")]
    Damaged {
        /// The backup.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// It cannot be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// The backup.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The new store cannot be made.
    #[error(transparent)]
    Store(#[from] OpenError),
}

/// The bytes of a backup of what a transaction sees.
pub(super) fn stream(txn: ReadTransaction) -> Backup {
    let (out, chunks) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        let mut writer = Writer::new(|bytes| out.blocking_send(Ok(bytes)).map_err(drop));
        // Who asked went away: nobody is left to be told.
        if let Err(Stopped::Fault(error)) = write(&txn, &mut writer) {
            let _ = out.blocking_send(Err(StoreError::from(error)));
        }
    });
    ReceiverStream::new(chunks).boxed()
}

enum Stopped {
    /// The store failed.
    Fault(Fault),
    /// Nobody listens.
    Left,
}

impl From<Fault> for Stopped {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Gathers bytes into chunks and sums them up.
struct Writer<F> {
    send: F,
    chunk: Vec<u8>,
    sum: u32,
}

impl<F: FnMut(Vec<u8>) -> Result<(), ()>> Writer<F> {
    fn new(send: F) -> Self {
        Self {
            send,
            chunk: Vec::with_capacity(CHUNK),
            sum: 0,
        }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Stopped> {
        self.sum = crc32c::crc32c_append(self.sum, bytes);
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= CHUNK {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Stopped> {
        (self.send)(std::mem::take(&mut self.chunk)).map_err(|()| Stopped::Left)
    }

    fn begin(&mut self, header: &BackupHeader) -> Result<(), Stopped> {
        let header = serde_json::to_vec(header).expect("numbers and texts have a JSON form");
        self.put(MAGIC)?;
        self.put(&VERSION.to_le_bytes())?;
        self.put(&length(&header))?;
        self.put(&header)
    }

    fn entry(&mut self, key: &str, bytes: &[u8]) -> Result<(), Stopped> {
        self.put(&[ENTRY])?;
        self.put(&length(key.as_bytes()))?;
        self.put(&length(bytes))?;
        self.put(key.as_bytes())?;
        self.put(bytes)
    }

    fn end(&mut self, entries: u64) -> Result<(), Stopped> {
        self.put(&[END])?;
        self.put(&entries.to_le_bytes())?;
        let sum = self.sum.to_le_bytes();
        self.chunk.extend_from_slice(&sum);
        self.flush()
    }
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes()
}

fn write<F>(txn: &ReadTransaction, writer: &mut Writer<F>) -> Result<(), Stopped>
where
    F: FnMut(Vec<u8>) -> Result<(), ()>,
{
    let table = txn.open_table(ENTRIES).map_err(fault("a backup"))?;
    writer.begin(&BackupHeader {
        store_format: FORMAT,
        incarnation: format::incarnation(txn)?,
        revision: format::number(txn, REVISION)?,
        taken: Timestamp::now(),
        server_version: env!("CARGO_PKG_VERSION").into(),
    })?;
    for item in table.iter().map_err(fault("a backup"))? {
        let (key, bytes) = item.map_err(fault("a backup"))?;
        writer.entry(key.value(), bytes.value())?;
    }
    writer.end(table.len().map_err(fault("a backup"))?)
}

/// Makes a store from a backup.
pub(super) fn restore(backup: &Path, path: &Path) -> Result<BackupHeader, RestoreError> {
    let _lock = file::lock(path)?;
    still_empty(path)?;
    let mut reader = Reader::open(backup)?;
    let header = reader.header.clone();
    file::make(path, |db, new| fill(db, new, &mut reader))?;
    Ok(header)
}

/// Reads a backup to its end.
pub(super) fn check(backup: &Path) -> Result<BackupHeader, RestoreError> {
    let mut reader = Reader::open(backup)?;
    while reader.next()?.is_some() {}
    Ok(reader.header)
}

/// Refuses to put anything in the place of a store that somebody has used.
fn still_empty(path: &Path) -> Result<(), RestoreError> {
    let there = path.try_exists().map_err(|source| OpenError::Io {
        what: "look for",
        path: path.into(),
        source,
    })?;
    if !there {
        return Ok(());
    }
    let db = file::builder()
        .open(path)
        .map_err(|error| file::database(path, error))?;
    match format::load(&db, path)?.revision {
        0 => Ok(()),
        revision => Err(RestoreError::NotEmpty {
            path: path.into(),
            revision,
        }),
    }
}

fn fill(db: &Database, new: &Path, reader: &mut Reader) -> Result<(), RestoreError> {
    let unusable = |error: redb::Error| format::unusable::<redb::Error>(new)(error);
    let txn = db.begin_write().map_err(|error| unusable(error.into()))?;
    format::head(&txn, reader.header.revision, new)?;
    {
        let mut table = txn
            .open_table(ENTRIES)
            .map_err(|error| unusable(error.into()))?;
        while let Some((key, bytes)) = reader.next()? {
            let former = table.insert(key.as_str(), bytes.as_slice());
            if former.map_err(|error| unusable(error.into()))?.is_some() {
                return Err(reader.damaged(&format!("it has {key:?} twice")));
            }
        }
    }
    txn.commit().map_err(|error| unusable(error.into()))?;
    Ok(())
}

/// Reads a backup, summing up.
struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    sum: u32,
    header: BackupHeader,
    entries: u64,
}

impl Reader {
    fn open(path: &Path) -> Result<Self, RestoreError> {
        let unreadable = |source| RestoreError::Unreadable {
            path: path.into(),
            source,
        };
        let file = BufReader::new(File::open(path).map_err(unreadable)?);
        let mut reader = Self {
            path: path.into(),
            file,
            sum: 0,
            header: BackupHeader {
                store_format: 0,
                incarnation: Incarnation::from_bytes([0; 16]),
                revision: 0,
                taken: Timestamp::UNIX_EPOCH,
                server_version: String::new(),
            },
            entries: 0,
        };
        if &reader.array::<16>()? != MAGIC {
            return Err(reader.damaged("it does not begin as one"));
        }
        let version = u32::from_le_bytes(reader.array()?);
        if version > VERSION {
            return Err(reader.newer("format", version.into(), VERSION.into()));
        }
        let text = reader.long()?;
        let header = serde_json::from_slice::<BackupHeader>(&text);
        reader.header = header.map_err(|error| reader.damaged(&format!("its header: {error}")))?;
        if reader.header.store_format > FORMAT {
            return Err(reader.newer("store format", reader.header.store_format, FORMAT));
        }
        Ok(reader)
    }

    /// The next entry; none after the last, once the checksum has been compared.
    fn next(&mut self) -> Result<Option<(String, Vec<u8>)>, RestoreError> {
        match self.array::<1>()? {
            [ENTRY] => {}
            [END] => return self.end().map(|()| None),
            [other] => return Err(self.damaged(&format!("a part of an unknown kind ({other})"))),
        }
        let (key, bytes) = (self.array()?, self.array()?);
        let key = self.bytes(u32::from_le_bytes(key))?;
        let bytes = self.bytes(u32::from_le_bytes(bytes))?;
        let key = String::from_utf8(key).map_err(|_| self.damaged("a key is no text"))?;
        let newest = format::decode_entry(&key, &bytes)
            .map(|(created, modified, _)| created.max(modified))
            .map_err(|error| self.damaged(&error.to_string()))?;
        if newest > self.header.revision {
            return Err(self.damaged(&format!("{key:?} is newer than all of it")));
        }
        self.entries += 1;
        Ok(Some((key, bytes)))
    }

    fn end(&mut self) -> Result<(), RestoreError> {
        let entries = u64::from_le_bytes(self.array()?);
        let expected = self.sum;
        let sum = u32::from_le_bytes(self.array()?);
        if sum != expected {
            return Err(self.damaged("its checksum is another"));
        }
        if entries != self.entries {
            return Err(self.damaged(&format!("it has {} of {entries} keys", self.entries)));
        }
        let mut more = [0];
        match self.file.read(&mut more) {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.damaged("something follows its end")),
            Err(source) => Err(RestoreError::Unreadable {
                path: self.path.clone(),
                source,
            }),
        }
    }

    fn long(&mut self) -> Result<Vec<u8>, RestoreError> {
        let length = u32::from_le_bytes(self.array()?);
        self.bytes(length)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RestoreError> {
        let mut bytes = [0; N];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    fn bytes(&mut self, length: u32) -> Result<Vec<u8>, RestoreError> {
        if length > LONGEST {
            return Err(self.damaged(&format!("a part of {length} bytes")));
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), RestoreError> {
        match self.file.read_exact(bytes) {
            Ok(()) => {
                self.sum = crc32c::crc32c_append(self.sum, bytes);
                Ok(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(self.damaged("it was cut short"))
            }
            Err(source) => Err(RestoreError::Unreadable {
                path: self.path.clone(),
                source,
            }),
        }
    }

    fn damaged(&self, problem: &str) -> RestoreError {
        RestoreError::Damaged {
            path: self.path.clone(),
            problem: problem.to_owned(),
        }
    }

    fn newer(&self, what: &'static str, found: u64, known: u64) -> RestoreError {
        RestoreError::Newer {
            path: self.path.clone(),
            what,
            found,
            known,
        }
    }
}

#[cfg(test)]
#[path = "backup_tests.rs"]
mod tests;
