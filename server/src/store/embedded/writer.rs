//! The one writer: takes what waits, writes it in one transaction, flushes once, answers all.
//!
//! Runs on its own thread, for commits block. Each transaction's expectations are looked at, with
//! the ones before it in the batch applied, before its first write; one that does not hold writes
//! nothing and its neighbours stand. Nobody is answered before the commit. When the commit fails, or
//! the database panics in it, nobody knows what is on the disk, so nothing more is written or read
//! until the file is reopened.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use redb::{ReadableTable, ReadableTableMetadata, Table};
use tokio::sync::{mpsc, oneshot};

use super::format::{
    CHANGES, ENTRIES, FORGOTTEN, HEAD, REVISION, change_key, change_revision, decode_entry,
    encode_change, encode_entry,
};
use super::{Fault, Shared, fault};
use crate::store::{Expect, Revision, StoreError, Txn, Write};
use crate::telemetry::Chain;

/// Most transactions that share a commit.
const BATCH: usize = 256;

/// A transaction that waits, and who waits for it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) txn: Txn,
    pub(super) answer: oneshot::Sender<Result<Revision, StoreError>>,
}

/// Starts the writer. It ends when the queue's last sender is gone and the queue is empty.
pub(super) fn start(
    shared: Arc<Shared>,
    mut queue: mpsc::Receiver<Job>,
    keep: u64,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name("store-writer".into())
        .spawn(move || {
            let mut jobs = Vec::with_capacity(BATCH);
            while queue.blocking_recv_many(&mut jobs, BATCH) > 0 {
                serve(&shared, &mut jobs, keep);
            }
        })
}

/// Commits a batch and answers it.
fn serve(shared: &Arc<Shared>, jobs: &mut Vec<Job>, keep: u64) {
    // What a panic leaves half changed is never looked at: the store is closed by it.
    let caught = || catch_unwind(AssertUnwindSafe(|| commit(shared, jobs, keep)));
    let done = shared.usable().and_then(|()| {
        caught().unwrap_or_else(|_| {
            // Nor is it closed in order, which would panic again at the first lock that it left.
            std::mem::forget(Arc::clone(shared));
            Err(Fault::Panicked)
        })
    });
    match done {
        Ok((revision, answers)) => {
            shared
                .committed
                .send_if_modified(|last| std::mem::replace(last, revision) != revision);
            for (job, answer) in jobs.drain(..).zip(answers) {
                // A caller that went away does not want to know.
                let _ = job.answer.send(answer);
            }
        }
        Err(error) => {
            let first = Arc::clone(shared.broken.get_or_init(|| {
                tracing::error!(error = %Chain(&error), "a commit failed: the store is closed until the \
                    server is started again; make room for its file, or see to the disk under it");
                Arc::new(error)
            }));
            shared.committed.send_modify(|_| {});
            for job in jobs.drain(..) {
                let _ = job
                    .answer
                    .send(Err(Fault::Broken(Arc::clone(&first)).into()));
            }
        }
    }
}

type Answer = Result<Revision, StoreError>;

/// One commit of every transaction whose expectations hold; the newest revision and each answer.
fn commit(shared: &Shared, jobs: &[Job], keep: u64) -> Result<(Revision, Vec<Answer>), Fault> {
    let txn = shared.db.begin_write().map_err(fault("a transaction"))?;
    let before = *shared.committed.borrow();
    let (revision, answers) = {
        let mut batch = Batch {
            revision: before,
            entries: txn.open_table(ENTRIES).map_err(fault("a table"))?,
            changes: txn.open_table(CHANGES).map_err(fault("a table"))?,
        };
        let answers = jobs
            .iter()
            .map(|job| batch.apply(&job.txn))
            .collect::<Result<Vec<_>, _>>()?;
        if batch.revision != before {
            let mut head = txn.open_table(HEAD).map_err(fault("a table"))?;
            head.insert(REVISION, batch.revision)
                .map_err(fault("a write"))?;
            if let Some(forgotten) = batch.forget(keep)? {
                head.insert(FORGOTTEN, forgotten)
                    .map_err(fault("a write"))?;
            }
        }
        (batch.revision, answers)
    };
    if revision == before {
        txn.abort().map_err(fault("an abort"))?;
    } else {
        txn.commit().map_err(fault("a commit"))?;
    }
    Ok((revision, answers))
}

/// The tables while a batch is written.
struct Batch<'t> {
    revision: Revision,
    entries: Table<'t, &'static str, &'static [u8]>,
    changes: Table<'t, &'static [u8], &'static [u8]>,
}

impl Batch<'_> {
    /// Applies one transaction, or finds that it must not be. The outer error is the storage's.
    fn apply(&mut self, txn: &Txn) -> Result<Answer, Fault> {
        let mut seen = HashSet::new();
        for write in &txn.writes {
            let (Write::Put(key, _) | Write::Delete(key)) = write;
            if !seen.insert(key) {
                return Ok(Err(Fault::Twice { key: key.clone() }.into()));
            }
        }
        for expect in &txn.expect {
            let (key, wanted) = match expect {
                Expect::Absent(key) => (key, None),
                Expect::At(key, revision) => (key, Some(*revision)),
            };
            if self.find(key)?.map(|(_, modified)| modified) != wanted {
                return Ok(Err(StoreError::Conflict { key: key.clone() }));
            }
        }
        let revision = self.revision + 1;
        let mut place = 0;
        for write in &txn.writes {
            let change = match write {
                Write::Put(key, value) => {
                    let created = self.find(key)?.map_or(revision, |(created, _)| created);
                    let bytes = encode_entry(created, revision, value);
                    self.entries
                        .insert(key.as_str(), bytes.as_slice())
                        .map_err(fault("a write"))?;
                    encode_change(key, Some((created, value)))
                }
                Write::Delete(key) => {
                    let gone = self
                        .entries
                        .remove(key.as_str())
                        .map_err(fault("a write"))?;
                    if gone.is_none() {
                        continue; // nothing changed, so there is nothing to tell
                    }
                    encode_change(key, None)
                }
            };
            self.changes
                .insert(change_key(revision, place).as_slice(), change.as_slice())
                .map_err(fault("a write"))?;
            place += 1;
        }
        if place > 0 {
            self.revision = revision;
        }
        Ok(Ok(self.revision))
    }

    /// When a key was made and last written.
    fn find(&self, key: &str) -> Result<Option<(Revision, Revision)>, Fault> {
        let found = self.entries.get(key).map_err(fault("a read"))?;
        found
            .map(|bytes| decode_entry(key, bytes.value()).map(|(made, last, _)| (made, last)))
            .transpose()
    }

    /// Drops the oldest transactions of the log until at most `keep` changes are left. The last
    /// revision that was dropped, if any was.
    fn forget(&mut self, keep: u64) -> Result<Option<Revision>, Fault> {
        let mut left = self.changes.len().map_err(fault("a read"))?;
        let mut forgotten = None;
        while let Some((key, revision)) = self.oldest()? {
            if left <= keep && forgotten != Some(revision) {
                break;
            }
            self.changes
                .remove(key.as_slice())
                .map_err(fault("a write"))?;
            left = left.saturating_sub(1);
            forgotten = Some(revision);
        }
        Ok(forgotten)
    }

    /// The log's first change, and its revision.
    fn oldest(&self) -> Result<Option<(Vec<u8>, Revision)>, Fault> {
        let first = self.changes.first().map_err(fault("a read"))?;
        first
            .map(|(key, _)| Ok((key.value().to_vec(), change_revision(key.value())?)))
            .transpose()
    }
}
