//! The tables in the store's file, and how their bytes are read and written.
//!
//! Used by the writer, the readers and the watches. `head` has the format, the incarnation, the
//! revision and the last revision whose changes were forgotten; `entries` has every key; `changes`
//! has every change of the last transactions, by revision and place in the transaction. All three
//! change in one commit. An entry whose bytes make no sense is named and nothing of it is used.

use std::ops::Bound;
use std::path::Path;

use goldleaf_types::Incarnation;
use redb::{
    Database, ReadTransaction, ReadableDatabase, TableDefinition, TableError, WriteTransaction,
};

use super::{Fault, OpenError, fault};
use crate::store::{Change, Entries, Entry, Range, Revision};

/// The format that is written, and the newest that is read.
pub(super) const FORMAT: u64 = 1;

pub(super) const HEAD: TableDefinition<'_, &str, u64> = TableDefinition::new("head");
pub(super) const NAMES: TableDefinition<'_, &str, &str> = TableDefinition::new("names");
pub(super) const ENTRIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("entries");
pub(super) const CHANGES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("changes");

pub(super) const REVISION: &str = "revision";
pub(super) const FORGOTTEN: &str = "forgotten";
const FORMAT_KEY: &str = "format";
const INCARNATION: &str = "incarnation";

/// What a store says of itself.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) incarnation: Incarnation,
    pub(super) revision: Revision,
}

pub(super) fn unusable<E: Into<redb::Error>>(path: &Path) -> impl Fn(E) -> OpenError {
    let path = path.to_owned();
    move |error| OpenError::Database {
        path: path.clone(),
        source: error.into(),
    }
}

/// Writes the tables of a new store, with a fresh incarnation.
pub(super) fn prepare(db: &Database, path: &Path) -> Result<(), OpenError> {
    let txn = db.begin_write().map_err(unusable(path))?;
    head(&txn, 0, path)?;
    txn.commit().map_err(unusable(path))
}

/// Writes the tables and the head of a store at a revision, with a fresh incarnation and no log of
/// changes.
pub(super) fn head(
    txn: &WriteTransaction,
    revision: Revision,
    path: &Path,
) -> Result<(), OpenError> {
    {
        let mut head = txn.open_table(HEAD).map_err(unusable(path))?;
        for (key, value) in [
            (FORMAT_KEY, FORMAT),
            (REVISION, revision),
            (FORGOTTEN, revision),
        ] {
            head.insert(key, value).map_err(unusable(path))?;
        }
        let mut names = txn.open_table(NAMES).map_err(unusable(path))?;
        names
            .insert(INCARNATION, Incarnation::mint().to_string().as_str())
            .map_err(unusable(path))?;
        txn.open_table(ENTRIES).map_err(unusable(path))?;
        txn.open_table(CHANGES).map_err(unusable(path))?;
    }
    Ok(())
}

/// The life that a store is in, as a transaction sees it.
pub(super) fn incarnation(txn: &ReadTransaction) -> Result<Incarnation, Fault> {
    let damaged = || Fault::Damaged {
        key: INCARNATION.into(),
    };
    let names = txn.open_table(NAMES).map_err(fault("a read"))?;
    let found = names.get(INCARNATION).map_err(fault("a read"))?;
    let text = found.ok_or_else(damaged)?;
    text.value().parse().map_err(|_| damaged())
}

/// Reads what a store says of itself, and refuses one that this version cannot read.
pub(super) fn load(db: &Database, path: &Path) -> Result<Head, OpenError> {
    let foreign = |problem: &str| OpenError::Foreign {
        path: path.into(),
        problem: problem.into(),
    };
    let txn = db.begin_read().map_err(unusable(path))?;
    let head = match txn.open_table(HEAD) {
        Ok(head) => head,
        Err(TableError::TableDoesNotExist(_) | TableError::TableTypeMismatch { .. }) => {
            return Err(foreign("it has no head"));
        }
        Err(error) => return Err(unusable(path)(error)),
    };
    let number = |key: &str| {
        let found = head.get(key).map_err(unusable(path))?;
        found
            .map(|value| value.value())
            .ok_or_else(|| foreign("its head lacks a number"))
    };
    let found = number(FORMAT_KEY)?;
    if found > FORMAT {
        return Err(OpenError::Newer {
            path: path.into(),
            found,
            known: FORMAT,
        });
    }
    let names = txn.open_table(NAMES).map_err(unusable(path))?;
    let incarnation = names
        .get(INCARNATION)
        .map_err(unusable(path))?
        .and_then(|text| text.value().parse().ok())
        .ok_or_else(|| foreign("its incarnation is unreadable"))?;
    Ok(Head {
        incarnation,
        revision: number(REVISION)?,
    })
}

/// An entry's bytes: the two revisions, then the value.
pub(super) fn encode_entry(created: Revision, modified: Revision, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(16 + value.len());
    bytes.extend_from_slice(&created.to_be_bytes());
    bytes.extend_from_slice(&modified.to_be_bytes());
    bytes.extend_from_slice(value);
    bytes
}

/// The revisions and the value of an entry's bytes.
pub(super) fn decode_entry<'b>(
    key: &str,
    bytes: &'b [u8],
) -> Result<(Revision, Revision, &'b [u8]), Fault> {
    split(bytes)
        .and_then(|(created, rest)| split(rest).map(|(modified, value)| (created, modified, value)))
        .ok_or_else(|| Fault::Damaged { key: key.into() })
}

fn split(bytes: &[u8]) -> Option<(u64, &[u8])> {
    bytes
        .split_first_chunk()
        .map(|(first, rest)| (u64::from_be_bytes(*first), rest))
}

fn entry(key: &str, bytes: &[u8]) -> Result<Entry, Fault> {
    let (created, modified, value) = decode_entry(key, bytes)?;
    Ok(Entry {
        key: key.into(),
        value: value.into(),
        created,
        modified,
    })
}

/// One entry.
pub(super) fn get(txn: &ReadTransaction, key: String) -> Result<Option<Entry>, Fault> {
    let table = txn.open_table(ENTRIES).map_err(fault("a read"))?;
    let found = table.get(key.as_str()).map_err(fault("a read"))?;
    found.map(|bytes| entry(&key, bytes.value())).transpose()
}

/// Entries in order of key, all at the transaction's revision.
pub(super) fn range(txn: &ReadTransaction, range: &Range) -> Result<Entries, Fault> {
    let table = txn.open_table(ENTRIES).map_err(fault("a read"))?;
    let from = match &range.after {
        Some(after) if *after >= range.prefix => Bound::Excluded(after.as_str()),
        Some(_) | None => Bound::Included(range.prefix.as_str()),
    };
    let mut entries = Vec::new();
    let mut more = false;
    let found = table
        .range::<&str>((from, Bound::Unbounded))
        .map_err(fault("a read"))?;
    for item in found {
        let (key, bytes) = item.map_err(fault("a read"))?;
        if !key.value().starts_with(&range.prefix) {
            break;
        }
        if entries.len() == range.limit.max(1) {
            more = true;
            break;
        }
        entries.push(entry(key.value(), bytes.value())?);
    }
    Ok(Entries {
        entries,
        more,
        revision: number(txn, REVISION)?,
    })
}

/// A number of the head.
pub(super) fn number(txn: &ReadTransaction, key: &str) -> Result<u64, Fault> {
    let head = txn.open_table(HEAD).map_err(fault("a read"))?;
    let found = head.get(key).map_err(fault("a read"))?;
    found
        .map(|value| value.value())
        .ok_or_else(|| Fault::Damaged { key: key.into() })
}

/// The place of a change in the log: its revision, then its place in the transaction.
pub(super) fn change_key(revision: Revision, place: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&revision.to_be_bytes());
    key[8..].copy_from_slice(&place.to_be_bytes());
    key
}

/// The revision of a place in the log.
pub(super) fn change_revision(key: &[u8]) -> Result<Revision, Fault> {
    match split(key) {
        Some((revision, _)) => Ok(revision),
        None => Err(Fault::Damaged {
            key: format!("changes/{key:02x?}"),
        }),
    }
}

/// A change's bytes: when its key was made (0: removed), the key's length, the key, the value.
pub(super) fn encode_change(key: &str, put: Option<(Revision, &[u8])>) -> Vec<u8> {
    let (created, value) = put.unwrap_or((0, &[]));
    let length = u64::try_from(key.len()).unwrap_or(u64::MAX);
    let mut bytes = Vec::with_capacity(16 + key.len() + value.len());
    bytes.extend_from_slice(&created.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(key.as_bytes());
    bytes.extend_from_slice(value);
    bytes
}

/// The change of these bytes, if its key begins with `prefix`.
pub(super) fn decode_change(
    revision: Revision,
    bytes: &[u8],
    prefix: &str,
) -> Result<Option<Change>, Fault> {
    let damaged = || Fault::Damaged {
        key: format!("changes of revision {revision}"),
    };
    let (created, rest) = split(bytes).ok_or_else(damaged)?;
    let (length, rest) = split(rest).ok_or_else(damaged)?;
    let length = usize::try_from(length).map_err(|_| damaged())?;
    let (key, value) = rest.split_at_checked(length).ok_or_else(damaged)?;
    let key = std::str::from_utf8(key).map_err(|_| damaged())?;
    if !key.starts_with(prefix) {
        return Ok(None);
    }
    let value = (created != 0).then(|| value.to_vec());
    Ok(Some(Change {
        key: key.into(),
        value,
        created,
        revision,
    }))
}
