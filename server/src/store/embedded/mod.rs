//! The store in one file of this machine: redb, one writer thread, one flush for all who wait.
//!
//! Made by `app`, used through [`Store`]. Reads see one revision each and wait for nobody. Writes
//! queue for the writer, which commits as many as wait together. Each commit holds its changes in a
//! log beside the rows, from which watches are served, so that a watch sees what is durable and
//! nothing else. A crash leaves whole commits. A commit that fails closes the store for everybody:
//! whether it counts is known only when the file is opened again.

mod backup;
mod file;
mod format;
mod watch;
mod writer;

#[cfg(test)]
pub(crate) mod power_tests;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use async_trait::async_trait;
use goldleaf_types::Incarnation;
use redb::{Database, ReadTransaction, ReadableDatabase};
use tokio::sync::{mpsc, oneshot, watch as signal};

use super::{Backup, Changes, Entries, Entry, Range, Revision, Store, StoreError, Txn};
pub use backup::{BackupHeader, RestoreError};
use writer::Job;

/// How many changes are kept for watches to begin from.
pub const KEEP_CHANGES: u64 = 100_000;

/// Transactions that may wait for the writer before callers are made to wait.
const QUEUE: usize = 1024;

/// Why a store cannot be opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another server has it.
    #[error(
        "{path} is in use by another server: stop that one first, or give this one another file"
    )]
    InUse {
        /// The store's file.
        path: PathBuf,
    },
    /// A newer version made it.
    #[error("{path} is of format {found} and this version reads up to {known}: upgrade the server")]
    Newer {
        /// The store's file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The newest that is read here.
        known: u64,
    },
    /// It is a database, but not ours.
    #[error("{path} is no store of Goldleaf: {problem}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it lacks.
        problem: String,
    },
    /// The file cannot be used.
    #[error("cannot {what} {path}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The database in it cannot be used.
    #[error("the database in {path} cannot be used: restore it from a backup")]
    Database {
        /// The store's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: redb::Error,
    },
}

/// The storage did not do what it was told.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("the database refused {what}")]
    Database {
        what: &'static str,
        #[source]
        source: redb::Error,
    },
    #[error("an entry at {key:?} of the store is damaged")]
    Damaged { key: String },
    #[error("a transaction writes {key:?} twice")]
    Twice { key: String },
    #[error("the database panicked in a commit, as the log says")]
    Panicked,
    #[error("the store was closed, because an earlier commit failed: restart the server")]
    Broken(#[source] Arc<Fault>),
    #[error("the store is shut")]
    Shut,
}

fn fault<E: Into<redb::Error>>(what: &'static str) -> impl FnOnce(E) -> Fault {
    move |error| Fault::Database {
        what,
        source: error.into(),
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        let cause: Arc<dyn Error + Send + Sync> = Arc::new(fault);
        Self::Unavailable(cause)
    }
}

/// What readers, watches and the writer share.
#[derive(Debug)]
struct Shared {
    db: Database,
    /// The commit that failed, if one did.
    broken: OnceLock<Arc<Fault>>,
    /// The newest revision; told after each commit, and once more when the store breaks.
    committed: signal::Sender<Revision>,
}

impl Shared {
    fn usable(&self) -> Result<(), Fault> {
        match self.broken.get() {
            Some(first) => Err(Fault::Broken(Arc::clone(first))),
            None => Ok(()),
        }
    }

    fn read(&self) -> Result<ReadTransaction, Fault> {
        self.usable()?;
        self.db.begin_read().map_err(fault("a read"))
    }
}

/// The store in one file.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    incarnation: Incarnation,
    /// Taken when it is dropped: the writer ends with its queue.
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    /// Keeps other servers out.
    lock: Option<File>,
}

impl fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedStore")
            .field("incarnation", &self.incarnation)
            .field("lock", &self.lock)
            .finish_non_exhaustive()
    }
}

impl EmbeddedStore {
    /// Opens the store at `path`, or makes it there, in a folder that exists. Blocks.
    ///
    /// # Errors
    ///
    /// [`OpenError`], each with what to do.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_keeping(path, KEEP_CHANGES)
    }

    /// As [`Self::open`]; watches can begin from the last `keep` changes.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn open_keeping(path: &Path, keep: u64) -> Result<Self, OpenError> {
        let lock = file::lock(path)?;
        file::ensure(path)?;
        let db = file::builder()
            .open(path)
            .map_err(|error| file::database(path, error))?;
        let mut store = Self::over(db, path, keep)?;
        store.lock = Some(lock);
        Ok(store)
    }

    /// Ends when the store is closed for good, because a commit failed. Keeps it open for nobody.
    pub fn broken(&self) -> impl Future<Output = ()> + Send + use<> {
        let (shared, mut news) = (
            Arc::downgrade(&self.shared),
            self.shared.committed.subscribe(),
        );
        async move {
            loop {
                if shared
                    .upgrade()
                    .is_some_and(|shared| shared.broken.get().is_some())
                {
                    return;
                }
                if news.changed().await.is_err() {
                    return std::future::pending().await; // it was shut, well
                }
            }
        }
    }

    /// Makes a store at `path` from a backup, with an incarnation of its own: another life, whose
    /// changes no node takes until it is adopted. Answers what the backup says of itself. Blocks.
    ///
    /// # Errors
    ///
    /// [`RestoreError`], each with what to do; `path` is as it was then.
    pub fn restore(backup: &Path, path: &Path) -> Result<BackupHeader, RestoreError> {
        backup::restore(backup, path)
    }

    /// Reads a backup to its end and says what it is. Blocks.
    ///
    /// # Errors
    ///
    /// [`RestoreError`] when it cannot be restored here.
    pub fn check_backup(backup: &Path) -> Result<BackupHeader, RestoreError> {
        backup::check(backup)
    }

    /// The store in an open database that `format` has prepared.
    fn over(db: Database, path: &Path, keep: u64) -> Result<Self, OpenError> {
        let head = format::load(&db, path)?;
        let shared = Arc::new(Shared {
            db,
            broken: OnceLock::new(),
            committed: signal::Sender::new(head.revision),
        });
        let (jobs, queue) = mpsc::channel(QUEUE);
        let writer =
            writer::start(Arc::clone(&shared), queue, keep).map_err(|source| OpenError::Io {
                what: "start the writer of",
                path: path.into(),
                source,
            })?;
        Ok(Self {
            shared,
            incarnation: head.incarnation,
            jobs: Some(jobs),
            writer: Some(writer),
            lock: None,
        })
    }

    /// Runs a read where it may block.
    async fn reading<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Shared) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.shared);
        match tokio::task::spawn_blocking(move || read(&shared)).await {
            Ok(done) => done.map_err(Into::into),
            Err(panic) => Err(StoreError::Unavailable(Arc::new(panic))),
        }
    }
}

impl Drop for EmbeddedStore {
    /// Finishes what is queued, which takes one commit or a few.
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer panicked");
        }
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        // One key is a few pages, nearly always in memory, and no flush is waited for: handing it
        // to another thread and back would cost more than the read.
        Ok(format::get(&self.shared.read()?, key.to_owned())?)
    }

    async fn range(&self, range: Range) -> Result<Entries, StoreError> {
        self.reading(move |shared| format::range(&shared.read()?, &range))
            .await
    }

    async fn txn(&self, txn: Txn) -> Result<Revision, StoreError> {
        self.shared.usable()?;
        let jobs = self.jobs.as_ref().ok_or(Fault::Shut)?;
        let (answer, answered) = oneshot::channel();
        jobs.send(Job { txn, answer })
            .await
            .map_err(|_| Fault::Shut)?;
        answered.await.map_err(|_| Fault::Shut)?
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Changes, StoreError> {
        watch::begin(&self.shared, prefix.to_owned(), after).await
    }

    async fn backup(&self) -> Result<Backup, StoreError> {
        Ok(backup::stream(self.shared.read()?))
    }
}
