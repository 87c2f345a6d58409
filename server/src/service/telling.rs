//! Telling a pool's catalogue what a user changed of a volume or snapshot, so that it is not lost with
//! our store.
//!
//! Called by `updates`, by creations of what is marked from the start, and by `reconcile`. The wish
//! is a note beside the record, written in the transaction that changes it; the effect is the
//! agent's; the fact is that the note is gone. A node that is away delays nobody: the loop goes on.

use goldleaf_types::{Name, NodeId, PoolId, ThinOwner};

use super::records::unchanged;
use super::{Begun, Revised, Service, ServiceError, Unfinished, busy};
use crate::domain::{KeptMarks, Marks, Phase, Snapshot, Untold, Volume};
use crate::failpoint::{Point, hit};
use crate::store::rows::{self, Row};
use crate::store::{Txn, Write};
use crate::telemetry::Chain;

/// What a thin's owner is marked with, and where it is.
struct Marked {
    kept: Option<KeptMarks>,
    name: String,
    phase: Phase,
    at: (PoolId, NodeId),
    epoch: u64,
}

/// The note of one thin.
pub(super) fn untold<T: Revised + Row<Name = Name>>(record: &T, owner: ThinOwner) -> Write {
    Untold {
        owner,
        name: record.name().clone(),
        labels: goldleaf_types::Labels::default(),
        revision: 0,
    }
    .put()
}

/// The note of a thin to be, if its creation says more of it than an order does.
pub(super) fn untold_from_the_start<T: Revised + Row<Name = Name>>(
    record: &T,
    marks: &Marks,
    owner: ThinOwner,
) -> Option<Write> {
    (*marks != Marks::default()).then(|| untold(record, owner))
}

impl Service {
    /// Tells a catalogue now, if its node answers; else the loop does.
    pub(super) async fn tell(&self, owner: ThinOwner, begun: Begun) {
        match self.finish_untold(owner).await {
            Ok(()) => begun.done(),
            Err(error) => {
                tracing::info!(%owner, error = %Chain(&error), "its catalogue is told later");
            }
        }
    }

    /// Notes of what catalogues are to be told, of nodes that do not count as lost.
    ///
    /// # Errors
    ///
    /// When the store is away or a row cannot be read.
    pub async fn untold(&self) -> Result<Vec<Unfinished>, ServiceError> {
        let mut all = Vec::new();
        for note in self.records.all::<Untold>().await? {
            let waits = match self.marked(note.owner).await? {
                Some(marked) => self.is_lost(marked.at.1).await?,
                None => false,
            };
            if !waits {
                all.push(Unfinished::Untold(note.owner));
            }
        }
        Ok(all)
    }

    /// Tells a catalogue what its record says now.
    pub(super) async fn finish_untold(&self, owner: ThinOwner) -> Result<(), ServiceError> {
        let _held = self.locks.take_inner(rows::key::<Untold>(owner)).await;
        let Some(note) = self.records.by_id::<Untold>(owner).await? else {
            return Ok(());
        };
        // Read after the note: what is written from here on brings a note of its own.
        let Some(marked) = self.marked(owner).await? else {
            return self.told(&note).await;
        };
        match marked.phase {
            Phase::Creating => return Err(busy::<Volume>(&marked.name, "being created")),
            Phase::Deleting | Phase::Failed | Phase::Closed => return self.told(&note).await,
            Phase::Ready => {}
        }
        if self.is_lost(marked.at.1).await? {
            return Ok(()); // found again when that changes
        }
        let text = marked.kept.map(|kept| kept.encode()).unwrap_or_default();
        let agent = self.agent_of(marked.at.1).await?;
        match agent.mark_thin(owner, text, marked.epoch).await {
            Ok(()) => {}
            Err(error) if error.is_not_found() => {
                // Only an open pool says that there is nothing to mark.
                self.require_open(marked.at.0, marked.at.1).await?;
            }
            Err(error) => return Err(error.into()),
        }
        hit(Point::MarksTold);
        self.told(&note).await
    }

    /// The fact, unless something was changed since.
    async fn told(&self, note: &Untold) -> Result<(), ServiceError> {
        let txn = Txn {
            expect: vec![unchanged(note)],
            writes: vec![Write::Delete(rows::key::<Untold>(note.owner))],
        };
        self.records.store().txn(txn).await?;
        Ok(())
    }

    async fn marked(&self, owner: ThinOwner) -> Result<Option<Marked>, ServiceError> {
        let kept = |labels: &goldleaf_types::Labels, marks: &Marks| {
            (*marks != Marks::default()).then(|| KeptMarks {
                labels: labels.clone(),
                marks: marks.clone(),
            })
        };
        Ok(match owner {
            ThinOwner::Volume(id) => {
                let volume = self.records.by_id::<Volume>(id).await?;
                volume.map(|v| Marked {
                    kept: kept(&v.labels, &v.marks),
                    name: v.name.to_string(),
                    phase: v.phase,
                    at: (v.pool, v.node),
                    epoch: v.epoch,
                })
            }
            ThinOwner::Snapshot(id) => {
                let snapshot = self.records.by_id::<Snapshot>(id).await?;
                snapshot.map(|s| Marked {
                    kept: kept(&s.labels, &s.marks),
                    name: s.name.to_string(),
                    phase: s.phase,
                    at: (s.pool, s.node),
                    epoch: 0,
                })
            }
        })
    }
}
