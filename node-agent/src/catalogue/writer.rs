//! The one thread that changes a catalogue: many callers, one durable transaction.
//!
//! Made by `Catalogue`. Takes the changes that wait, runs each on top of the ones before it, makes
//! them durable together, shows them to readers, and only then answers. When a commit fails nobody
//! knows what the disk has, so nothing more is taken and readers keep the last state that is known.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, PoisonError, RwLock};

use goldleaf_types::{Bytes, ThinOwner};

use super::error::{CatalogueError, WriteError};
use super::rows::{Changes, Rows, State, StoredThin};
use super::shapes::{encode_pool, encode_thin};
use super::store::{Batch, cost, pool_key, thin_key, unwritable};
use super::twin::Copies;

/// Most changes that one transaction takes.
const BATCH_MAX: usize = 256;

/// So many times what rows may take, with their marks.
const MARKS_SHARE: u64 = 2;

/// What a caller of `write` gets.
pub(super) enum Answer<T, E> {
    /// Its change is durable, or was not made.
    Settled(Result<T, WriteError<E>>),
    /// Its closure panicked; nothing was changed.
    Panicked(Box<dyn Any + Send>),
}

/// Tells a caller what became of its change: `None` when it is durable.
type Tell = Box<dyn FnOnce(Option<CatalogueError>) + Send>;

/// A change that was tried.
pub(super) struct Tried {
    /// What it does; `None` when it refused itself and its caller knows.
    changes: Option<Changes>,
    tell: Tell,
}

/// A change that waits.
pub(super) type Job = Box<dyn FnOnce(&State, &Changes) -> Tried + Send>;

/// A change as the queue carries it.
pub(super) fn job<T, E, F>(change: F, answer: SyncSender<Answer<T, E>>) -> Job
where
    T: Send + 'static,
    E: Send + 'static,
    F: FnOnce(&mut Rows<'_>) -> Result<T, E> + Send + 'static,
{
    Box::new(move |durable, staged| {
        let mut rows = Rows::new(durable, staged);
        let outcome = catch_unwind(AssertUnwindSafe(|| change(&mut rows)));
        // A caller that has gone away needs no answer.
        let settle = move |result| drop(answer.send(result));
        match (outcome, rows.finish()) {
            (Ok(Ok(value)), Ok(changes)) => Tried {
                changes: Some(changes),
                tell: Box::new(move |failed| {
                    settle(Answer::Settled(match failed {
                        None => Ok(value),
                        Some(error) => Err(WriteError::Catalogue(error)),
                    }));
                }),
            },
            (Ok(Ok(_)), Err(broken)) => {
                settle(Answer::Settled(Err(WriteError::Catalogue(broken))));
                Tried {
                    changes: None,
                    tell: Box::new(|_| ()),
                }
            }
            (Ok(Err(refused)), _) => {
                settle(Answer::Settled(Err(WriteError::Refused(refused))));
                Tried {
                    changes: None,
                    tell: Box::new(|_| ()),
                }
            }
            (Err(panic), _) => {
                settle(Answer::Panicked(panic));
                Tried {
                    changes: None,
                    tell: Box::new(|_| ()),
                }
            }
        }
    })
}

/// The thread's own.
pub(super) struct Writer {
    copies: Copies,
    state: Arc<RwLock<State>>,
    /// Why it takes nothing any more, if so.
    broken: Option<CatalogueError>,
}

/// Changes that were accepted and are to become durable together.
#[derive(Default)]
struct Group {
    changes: Changes,
    /// The thins' rows as they will be; `None` removes.
    thins: BTreeMap<ThinOwner, Option<Vec<u8>>>,
    pool: Option<Vec<u8>>,
    tells: Vec<Tell>,
}

impl Writer {
    pub(super) fn new(copies: Copies, state: Arc<RwLock<State>>) -> Self {
        Self {
            copies,
            state,
            broken: None,
        }
    }

    /// Serves until the queue is closed and empty.
    pub(super) fn run(mut self, queue: &Receiver<Job>) -> Result<(), CatalogueError> {
        while let Ok(first) = queue.recv() {
            let rest = std::iter::from_fn(|| queue.try_recv().ok());
            let jobs: Vec<Job> = std::iter::once(first).chain(rest).take(BATCH_MAX).collect();
            self.serve(jobs);
        }
        Ok(())
    }

    fn serve(&mut self, jobs: Vec<Job>) {
        let limit = self.copies.limit();
        let mut group = Group::default();
        {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            for job in jobs {
                let tried = job(&state, &group.changes);
                let Some(changes) = tried.changes else {
                    continue;
                };
                if let Some(error) = &self.broken {
                    (tried.tell)(Some(error.clone()));
                    continue;
                }
                match group.add(&state, changes, limit) {
                    Ok(()) => group.tells.push(tried.tell),
                    Err(error) => (tried.tell)(Some(error)),
                }
            }
        }
        let batch = group.batch();
        let failed = if batch.is_empty() {
            None
        } else {
            self.copies.commit(&batch).err()
        };
        match &failed {
            None => {
                let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
                group.apply(&mut state);
            }
            Some(error) => {
                tracing::error!(error = %crate::telemetry::Chain(error), "a catalogue takes no more");
                self.broken = Some(if let CatalogueError::Commit(cause) = error {
                    CatalogueError::ReadOnly(Arc::clone(cause))
                } else {
                    error.clone()
                });
            }
        }
        for tell in group.tells {
            tell(failed.clone());
        }
    }
}

impl Group {
    /// Takes a change on top of the others unless there is no room for what it adds.
    fn add(&mut self, state: &State, changes: Changes, limit: Bytes) -> Result<(), CatalogueError> {
        let mut rows = BTreeMap::new();
        for (owner, record) in &changes.thins {
            let row = record
                .as_ref()
                .map(encode_thin)
                .transpose()
                .map_err(unwritable)?;
            rows.insert(*owner, row);
        }
        let pool = changes
            .pool
            .as_ref()
            .map(encode_pool)
            .transpose()
            .map_err(unwritable)?;
        // Only what adds a row or has marks grow is refused: what is there can always be changed and
        // removed. Marks may take as much again, so that a full catalogue still lets labels change.
        let adds = rows
            .iter()
            .any(|(owner, row)| row.is_some() && !self.has(state, *owner));
        let marks = changes.thins.iter().any(|(owner, record)| {
            let grown = record.as_ref().map_or(0, |record| record.marks.len());
            grown > self.marks(state, *owner)
        });
        let limit = match (adds, marks) {
            (true, _) => Some(limit),
            (false, true) => Some(Bytes(limit.0.saturating_mul(MARKS_SHARE))),
            (false, false) => None,
        };
        if let Some(limit) = limit {
            let used = self.used(state) + rows.values().flatten().map(|r| cost("", r)).sum::<u64>();
            if used > limit.0 {
                return Err(CatalogueError::Full {
                    used: Bytes(used),
                    limit,
                });
            }
        }
        self.thins.extend(rows);
        if let Some(pool) = pool {
            self.pool = Some(pool);
        }
        self.changes.add(changes);
        Ok(())
    }

    fn has(&self, state: &State, owner: ThinOwner) -> bool {
        match self.thins.get(&owner) {
            Some(row) => row.is_some(),
            None => state.thins.contains_key(&owner),
        }
    }

    /// Bytes of a row's marks as the group leaves them so far.
    fn marks(&self, state: &State, owner: ThinOwner) -> usize {
        let staged = self.changes.thins.get(&owner);
        let record = staged.map_or_else(
            || state.thins.get(&owner).map(|stored| &stored.record),
            Option::as_ref,
        );
        record.map_or(0, |record| record.marks.len())
    }

    /// What all rows take after the group, rows that it replaces counted twice: a bound.
    fn used(&self, state: &State) -> u64 {
        let added = self
            .thins
            .iter()
            .filter_map(|(owner, row)| row.as_ref().map(|row| cost(&thin_key(*owner), row)));
        state.used + added.sum::<u64>()
    }

    fn batch(&self) -> Batch {
        let thins = self
            .thins
            .iter()
            .map(|(owner, row)| (thin_key(*owner), row.clone()));
        let pool = self.pool.iter().map(|row| (pool_key(), Some(row.clone())));
        thins.chain(pool).collect()
    }

    /// Shows what is durable now.
    fn apply(&mut self, state: &mut State) {
        let changes = std::mem::take(&mut self.changes);
        for (owner, record) in changes.thins {
            let row = self.thins.get(&owner).and_then(Option::as_ref);
            let former = match (record, row) {
                (Some(record), Some(row)) => {
                    let cost = cost(&thin_key(owner), row);
                    state.used += cost;
                    state.thins.insert(owner, StoredThin { record, cost })
                }
                _ => state.thins.remove(&owner),
            };
            state.used -= former.map_or(0, |former| former.cost);
        }
        for (thin, owner) in changes.ids {
            match owner {
                Some(owner) => state.ids.insert(thin, owner),
                None => state.ids.remove(&thin),
            };
        }
        if let (Some(pool), Some(row)) = (changes.pool, &self.pool) {
            let cost = cost(&pool_key(), row);
            state.used = state.used + cost - state.pool_cost;
            state.pool_cost = cost;
            state.pool = pool;
        }
    }
}
