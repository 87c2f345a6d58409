//! The catalogue in its region: one redb table of versioned rows.
//!
//! Used by `writer`, which owns it. Rows lie under `pool` and `thin/<owner>`. What [`Store::commit`]
//! has answered is durable; a crash in it leaves all of the batch or nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use goldleaf_types::{Bytes, ThinOwner};
use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
};

use super::error::CatalogueError;
use super::region::{Medium, RegionStorage};
use super::rows::{PoolRecord, State, StoredThin};
use super::shapes::{BadRow, decode_pool, decode_thin, encode_pool};

const ROWS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("rows");
/// How many commits there were, in each copy of a catalogue: the larger one is the newer. Not there
/// in a catalogue that only versions without a twin have written.
const COPY: TableDefinition<'_, &str, u64> = TableDefinition::new("copy");
const COMMITS: &str = "commits";
const POOL_KEY: &str = "pool";
const THIN_PREFIX: &str = "thin/";

/// Rows may take this part of the region: the rest is for pages that are partly filled, for the
/// copies that a commit makes before it frees, and for growing by doubling.
const ROWS_SHARE: u64 = 8;

/// Memory for redb's pages; every row is in memory besides.
const CACHE_BYTES: usize = 4 << 20;

/// A batch of rows: `None` removes.
pub(super) type Batch = BTreeMap<String, Option<Vec<u8>>>;

/// The rows' file.
#[derive(Debug)]
pub(super) struct Store {
    db: Database,
    /// Bytes that keys and rows may take.
    pub(super) limit: Bytes,
    /// How many commits it has.
    pub(super) commits: u64,
}

/// The key of a thin's row.
pub(super) fn thin_key(owner: ThinOwner) -> String {
    format!("{THIN_PREFIX}{owner}")
}

/// The key of the pool's row.
pub(super) fn pool_key() -> String {
    POOL_KEY.to_owned()
}

/// What a row takes.
pub(super) fn cost(key: &str, row: &[u8]) -> u64 {
    u64::try_from(key.len() + row.len()).unwrap_or(u64::MAX)
}

impl Store {
    /// Makes the table with the pool's row in a blank region.
    pub(super) fn create<M: Medium>(
        storage: RegionStorage<M>,
        pool: &PoolRecord,
    ) -> Result<(Self, State), CatalogueError> {
        if storage.len().map_err(io)? > 0 {
            return Err(CatalogueError::NotBlank);
        }
        let row = encode_pool(pool).map_err(unwritable)?;
        let batch = BTreeMap::from([(POOL_KEY.to_owned(), Some(row))]);
        let store = Self::filled(storage, &batch, 1)?;
        let state = store.load()?;
        Ok((store, state))
    }

    /// Makes the table with all of these rows in a blank region, in one transaction.
    pub(super) fn filled<M: Medium>(
        storage: RegionStorage<M>,
        rows: &Batch,
        commits: u64,
    ) -> Result<Self, CatalogueError> {
        let mut store = Self::over(storage)?;
        store.commit(rows, commits)?;
        Ok(store)
    }

    /// Opens the table, verifies and reads all of it.
    pub(super) fn open<M: Medium>(
        storage: RegionStorage<M>,
    ) -> Result<(Self, State), CatalogueError> {
        if storage.len().map_err(io)? == 0 {
            return Err(CatalogueError::Blank);
        }
        let mut store = Self::over(storage)?;
        let whole = store.db.check_integrity().map_err(opening)?;
        if !whole {
            tracing::info!("the catalogue was closed by a crash and has been made whole");
        }
        store.commits = store.count()?;
        let state = store.load()?;
        Ok((store, state))
    }

    fn over<M: Medium>(storage: RegionStorage<M>) -> Result<Self, CatalogueError> {
        let limit = Bytes(storage.capacity().0 / ROWS_SHARE);
        let db = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(storage)
            .map_err(opening)?;
        Ok(Self {
            db,
            limit,
            commits: 0,
        })
    }

    fn count(&self) -> Result<u64, CatalogueError> {
        let read = self.db.begin_read().map_err(CatalogueError::storage)?;
        let table = match read.open_table(COPY) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(0),
            Err(error) => return Err(CatalogueError::storage(error)),
        };
        let commits = table.get(COMMITS).map_err(CatalogueError::storage)?;
        Ok(commits.map_or(0, |commits| commits.value()))
    }

    fn load(&self) -> Result<State, CatalogueError> {
        let read = self.db.begin_read().map_err(CatalogueError::storage)?;
        let table = read.open_table(ROWS).map_err(|e| {
            if matches!(e, redb::TableError::TableDoesNotExist(_)) {
                CatalogueError::Unusable("it has no rows: its making was cut short".into())
            } else {
                CatalogueError::storage(e)
            }
        })?;
        let mut pool = None;
        let mut thins = BTreeMap::new();
        let mut ids = BTreeMap::new();
        let mut used = 0;
        for row in table.iter().map_err(CatalogueError::storage)? {
            let (key, row) = row.map_err(CatalogueError::storage)?;
            let (key, row) = (key.value(), row.value());
            let bad = |source: BadRow| CatalogueError::BadRow {
                key: key.to_owned(),
                source: Arc::new(source),
            };
            let cost = cost(key, row);
            used += cost;
            if key == POOL_KEY {
                pool = Some((decode_pool(row).map_err(bad)?, cost));
                continue;
            }
            let record = decode_thin(row).map_err(bad)?;
            if thin_key(record.owner) != key {
                return Err(bad(BadRow::OtherOwner(record.owner)));
            }
            if let Some(other) = ids.insert(record.thin, record.owner) {
                return Err(CatalogueError::Unusable(format!(
                    "thin {} belongs to {other} and to {}",
                    record.thin, record.owner
                )));
            }
            thins.insert(record.owner, StoredThin { record, cost });
        }
        let (pool, pool_cost) =
            pool.ok_or_else(|| CatalogueError::Unusable("it has no row of its pool".into()))?;
        Ok(State {
            pool,
            pool_cost,
            thins,
            ids,
            used,
        })
    }

    /// Makes a batch durable, as that many's commit: all of it or nothing.
    pub(super) fn commit(&mut self, batch: &Batch, commits: u64) -> Result<(), CatalogueError> {
        let commit = || -> Result<(), redb::Error> {
            let mut write = self.db.begin_write()?;
            write.set_durability(Durability::Immediate)?;
            {
                let mut table = write.open_table(ROWS)?;
                for (key, row) in batch {
                    match row {
                        Some(row) => table.insert(key.as_str(), row.as_slice())?,
                        None => table.remove(key.as_str())?,
                    };
                }
                write.open_table(COPY)?.insert(COMMITS, commits)?;
            }
            Ok(write.commit()?)
        };
        commit().map_err(|error| CatalogueError::Commit(Arc::new(error)))?;
        self.commits = commits;
        Ok(())
    }
}

pub(super) fn unwritable(error: serde_json::Error) -> CatalogueError {
    CatalogueError::Unusable(format!("a row cannot be written: {error}"))
}

fn io(error: std::io::Error) -> CatalogueError {
    opening(redb::DatabaseError::from(error))
}

/// Tells content that is wrong from a device that fails.
fn opening(error: redb::DatabaseError) -> CatalogueError {
    use redb::{DatabaseError, StorageError};
    let io_kind = if let DatabaseError::Storage(StorageError::Io(e)) = &error {
        Some(e.kind())
    } else {
        None
    };
    let damaged = matches!(
        error,
        DatabaseError::Storage(StorageError::Corrupted(_)) | DatabaseError::RepairAborted
    );
    if damaged || io_kind == Some(std::io::ErrorKind::InvalidData) {
        CatalogueError::Damaged(Arc::new(error.into()))
    } else if io_kind == Some(std::io::ErrorKind::Unsupported) {
        CatalogueError::Newer(error.to_string())
    } else if matches!(error, DatabaseError::UpgradeRequired(_)) {
        CatalogueError::Newer("it is of another redb format".into())
    } else {
        CatalogueError::storage(error)
    }
}
