//! What a repair does to a pool's volumes and snapshots: their rows beside what the metadata had of
//! them and what the repaired metadata has.
//!
//! Used by `repair`. Pure. A thin of which it cannot be known whether something is lost is said to
//! be so, and counts as a loss: nobody is to find out later.

use std::collections::BTreeMap;
use std::path::PathBuf;

use goldleaf_types::{Bytes, Name, ThinId, ThinOwner};

use super::subject::Subject;
use crate::catalogue::{Phase, PoolRecord};

/// What became of a request to repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepairOutcome {
    /// Its metadata is sound and takes changes.
    NothingToDo,
    /// It can be done.
    WouldDo,
    /// A repair was cut short; it would go on.
    WouldResume,
    /// It was done.
    Done,
}

/// What a repair makes of a volume or snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// All that the metadata had of it.
    Whole,
    /// Nobody can say, for the old list of thins is damaged.
    Unsure,
    /// A part of it.
    Shortened,
    /// Nothing.
    Lost,
    /// Nothing, and the metadata had nothing of it before either.
    LostBefore,
}

/// A volume or snapshot that a repair is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepairedThin {
    /// Whose thin.
    pub owner: ThinOwner,
    /// Its name.
    pub name: Name,
    /// Its number in the pool.
    pub thin: ThinId,
    /// What the metadata says it maps; `None` when it has no such thin, or does not say.
    pub before: Option<Bytes>,
    /// What the repaired metadata maps for it; `None` when it has no such thin.
    pub after: Option<Bytes>,
    /// What that means.
    pub fate: Fate,
    /// Blocks of which it is known that they are lost.
    lost_blocks: u64,
}

/// What a repair would do, or did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepairReport {
    /// What became of the request.
    pub outcome: RepairOutcome,
    /// What `thin_check` finds; `None` when that is nothing.
    pub damage: Option<String>,
    /// Whether the kernel asks for a check before it takes changes.
    pub needs_check: bool,
    /// The transaction id that the catalogue has.
    pub recorded_transaction: u64,
    /// The one that the pool's metadata has or will have, where that is known.
    pub found_transaction: Option<u64>,
    /// Volumes and snapshots, in order of owner.
    pub thins: Vec<RepairedThin>,
    /// Thins in the repaired metadata that nobody owns.
    pub ownerless: Vec<ThinId>,
    /// Where the old metadata is kept.
    pub kept: Option<PathBuf>,
}

impl RepairReport {
    /// Of metadata that was checked.
    pub(super) fn of(record: &PoolRecord, damage: Option<String>, needs_check: bool) -> Self {
        Self {
            outcome: RepairOutcome::NothingToDo,
            damage,
            needs_check,
            recorded_transaction: record.transaction_id,
            found_transaction: None,
            thins: Vec::new(),
            ownerless: Vec::new(),
            kept: None,
        }
    }

    /// Of a pool that is open and takes changes.
    pub(super) fn takes_changes(record: &PoolRecord) -> Self {
        Self::of(record, None, false)
    }

    /// Of a pool whose repair was cut short.
    pub(super) fn would_resume(record: &PoolRecord) -> Self {
        Self {
            outcome: RepairOutcome::WouldResume,
            ..Self::of(record, Some("a repair of it was cut short".into()), false)
        }
    }

    /// What is lost by it, in words; nothing when nothing is.
    pub(super) fn losses(&self) -> Option<String> {
        let by = |fate: Fate, how: &str| {
            let names = self.thins.iter().filter(|thin| thin.fate == fate);
            let names: Vec<_> = names.map(|thin| thin.name.to_string()).collect();
            (!names.is_empty()).then(|| format!("{how} {}", names.join(", ")))
        };
        let parts = [
            by(Fate::Lost, "it loses"),
            by(Fate::Shortened, "it loses a part of"),
            by(Fate::Unsure, "nobody can say whether it loses a part of"),
        ];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// Blocks that each thin is known to lose a part of.
    pub(super) fn lost_blocks(&self) -> Vec<(ThinOwner, u64)> {
        let shortened = self
            .thins
            .iter()
            .filter(|thin| thin.fate == Fate::Shortened);
        shortened
            .map(|thin| (thin.owner, thin.lost_blocks))
            .collect()
    }
}

/// Puts rows, old metadata, where it can be listed, and new metadata side by side.
pub(super) fn compare(
    report: &mut RepairReport,
    subject: &Subject,
    before: Option<&[(ThinId, u64)]>,
    after: &[(ThinId, u64)],
) {
    let block = subject.spec.block.bytes().0;
    let known = before.map(|list| list.iter().copied().collect::<BTreeMap<_, _>>());
    let mut made: BTreeMap<ThinId, u64> = after.iter().copied().collect();
    for row in &subject.rows {
        let old = known.as_ref().map(|list| list.get(&row.thin).copied());
        let new = made.remove(&row.thin);
        // One that is being made or deleted may well have no thin.
        if row.phase != Phase::Ready {
            continue;
        }
        let (fate, lost_blocks) = fate(old, new);
        let bytes = |blocks: u64| Bytes(blocks.saturating_mul(block));
        report.thins.push(RepairedThin {
            owner: row.owner,
            name: row.name.clone(),
            thin: row.thin,
            before: old.flatten().map(bytes),
            after: new.map(bytes),
            fate,
            lost_blocks,
        });
    }
    report.ownerless = made.into_keys().collect();
    report.outcome = RepairOutcome::WouldDo;
}

/// `old`: what the list had of it, if there is a list.
const fn fate(old: Option<Option<u64>>, new: Option<u64>) -> (Fate, u64) {
    match (old, new) {
        (Some(None), None) => (Fate::LostBefore, 0),
        (Some(Some(_)) | None, None) => (Fate::Lost, 0),
        (Some(Some(old)), Some(new)) if new < old => (Fate::Shortened, old - new),
        (Some(Some(_)), Some(_)) => (Fate::Whole, 0),
        // A list without it, and yet there it is: older than the list perhaps.
        (Some(None) | None, Some(_)) => (Fate::Unsure, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thin_is_whole_only_if_it_is_known_to_be() {
        for (old, new, wanted) in [
            (Some(Some(5)), Some(5), (Fate::Whole, 0)),
            (Some(Some(0)), Some(0), (Fate::Whole, 0)),
            (Some(Some(5)), Some(3), (Fate::Shortened, 2)),
            (Some(Some(5)), Some(0), (Fate::Shortened, 5)),
            (Some(Some(5)), None, (Fate::Lost, 0)),
            (None, None, (Fate::Lost, 0)),
            (Some(None), None, (Fate::LostBefore, 0)),
            (None, Some(5), (Fate::Unsure, 0)),
            (Some(None), Some(5), (Fate::Unsure, 0)),
        ] {
            assert_eq!(fate(old, new), wanted, "{old:?} {new:?}");
        }
    }
}
