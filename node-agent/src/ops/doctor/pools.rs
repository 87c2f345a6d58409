//! Pools and what their metadata holds, against their rows.
//!
//! A row is durable before its thin exists and outlives it, so whatever the metadata has between
//! two looks at the rows has a row in one of them. What still seems ownerless is looked at twice.

use std::collections::BTreeSet;
use std::sync::Arc;

use goldleaf_dm::PoolMode;
use goldleaf_types::{Bytes, ThinId};

use super::{Code, Finding, Remedy, Severity};
use crate::catalogue::{Phase, ThinRecord};
use crate::kernel::{CHECK_IT, KernelError, Unwritable};
use crate::ops::open_pool::OpenPool;
use crate::ops::space_rules::working;
use crate::ops::view::{PoolState, PoolView};
use crate::ops::{Agent, BRAKED, Shown};
use crate::telemetry::Chain;

/// Pools that are not open though they should be.
pub(super) fn closed(pools: &[PoolView]) -> Vec<Finding> {
    let mut found = Vec::new();
    for pool in pools {
        if let PoolState::Unopenable(why) = &pool.state {
            found.push(Finding {
                code: Code::PoolNotOpen,
                severity: Severity::Error,
                subject: pool.id.to_string(),
                reason: format!("pool {} did not open: {why}", pool.name),
                advice: format!(
                    "mend what is said there, then: goldleaf pool open {0}; damaged metadata: goldleaf \
                     pool repair {0}; what can be read of it as it is: goldleaf pool open {0} --rescue",
                    pool.name
                ),
                remedy: None,
            });
        }
    }
    found
}

impl Agent {
    pub(super) fn examine_pool(&self, pool: &Arc<OpenPool>) -> Vec<Finding> {
        let mut found = Vec::new();
        found.extend(self.state(pool));
        found.extend(copies(pool));
        match pool.shown() {
            // Its metadata is not compared: that is why it is open so.
            Some(Shown::Whole | Shown::Older) => {}
            Some(Shown::MadeUp) => {
                found.extend(pool.catalogue.all().iter().map(|r| rescued(pool, r)))
            }
            None => found.extend(self.thins_of(pool)),
        }
        found.extend(shortened(pool));
        found.extend(self.unfinished(pool));
        found
    }

    fn state(&self, pool: &OpenPool) -> Option<Finding> {
        let finding = |code, severity, reason: String, advice: &str| Finding {
            code,
            severity,
            subject: pool.id.to_string(),
            reason: format!("pool {}: {reason}", pool.name()),
            advice: advice.into(),
            remedy: None,
        };
        let read_only =
            |reason, advice| Some(finding(Code::PoolReadOnly, Severity::Error, reason, advice));
        if let Some(doubt) = &pool.doubt {
            return read_only(
                doubt.to_string(),
                "its volumes can be activated for reading; docs/failure-modes.md says how to go on",
            );
        }
        let status = match self.kernel.pool_status(pool.id) {
            Ok(status) => status,
            Err(KernelError::NoPool(_)) => {
                return read_only(
                    "it has no device though it is open".into(),
                    "close it and open it again",
                );
            }
            Err(error) => {
                return read_only(
                    format!("the kernel does not say how it is: {}", Chain(&error)),
                    "look at the agent's log and at dmesg",
                );
            }
        };
        match (Unwritable::of(&status), working(&status).map(|s| s.mode)) {
            (Some(Unwritable::ReadOnly), _) if pool.is_braked() => {
                read_only(BRAKED.into(), "goldleaf pool extend --metadata")
            }
            (Some(why), _) => read_only(why.to_string(), CHECK_IT),
            (None, Some(PoolMode::OutOfDataSpace)) => Some(finding(
                Code::PoolFull,
                Severity::Error,
                "it has no free data block".into(),
                "extend it (goldleaf pool extend), delete volumes or snapshots, or discard inside \
                 volumes",
            )),
            (None, _) => None,
        }
    }

    fn thins_of(&self, pool: &OpenPool) -> Vec<Finding> {
        let before = pool.catalogue.all();
        let known = match self.known(pool) {
            Ok(known) => known,
            Err(problem) => return vec![problem],
        };
        let after = pool.catalogue.all();
        let mut found = lost(pool, &before, &known, &after);

        let quarantined: BTreeSet<u32> = pool.record().quarantined.into_iter().collect();
        let owned: BTreeSet<ThinId> = before.iter().chain(&after).map(|row| row.thin).collect();
        let strange: Vec<ThinId> = known.difference(&owned).copied().collect();
        // One that came and went between the two looks is not there any more.
        let still = match strange.is_empty() {
            true => BTreeSet::new(),
            false => self.known(pool).unwrap_or_default(),
        };
        for thin in strange.into_iter().filter(|thin| still.contains(thin)) {
            found.push(ownerless(pool, thin, quarantined.contains(&thin.get())));
        }
        found
    }

    fn known(&self, pool: &OpenPool) -> Result<BTreeSet<ThinId>, Finding> {
        match self.kernel.known_thins(pool.id) {
            Ok(known) => Ok(known.into_iter().collect()),
            Err(error) => Err(Finding {
                code: Code::PoolReadOnly,
                severity: Severity::Warning,
                subject: pool.id.to_string(),
                reason: format!(
                    "pool {}: its metadata could not be read: {}",
                    pool.name(),
                    Chain(&error)
                ),
                advice: "nothing was compared; mend the pool and examine again".into(),
                remedy: None,
            }),
        }
    }

    /// Rows whose operation did not end, though nobody works on them now.
    fn unfinished(&self, pool: &Arc<OpenPool>) -> Vec<Finding> {
        let mut found = Vec::new();
        for row in pool.catalogue.all() {
            if row.phase == Phase::Ready {
                continue;
            }
            let keys: Vec<_> = std::iter::once(row.owner).chain(row.parent).collect();
            let _held = pool.locks.take(&keys);
            let Some(now) = pool.catalogue.find(row.owner) else {
                continue;
            };
            let doing = match now.phase {
                Phase::Creating => "creation",
                Phase::Deleting => "deletion",
                Phase::Ready => continue,
            };
            found.push(Finding {
                code: Code::UnfinishedRow,
                severity: Severity::Warning,
                subject: now.owner.to_string(),
                reason: format!("its {doing} did not come to its end, and nobody is at it"),
                advice: "the agent tries again by itself; its log says what was in the way".into(),
                remedy: Some(Remedy::Settle(pool.id, now.owner)),
            });
        }
        found
    }
}

/// A thin of which nobody knows whose it is, and how to get at it.
fn rescued(pool: &OpenPool, row: &ThinRecord) -> Finding {
    Finding {
        code: Code::RescuedThin,
        severity: Severity::Notice,
        subject: row.owner.to_string(),
        reason: format!(
            "thin {} of pool {} is written up to {}; no catalogue says whose it is, how large, and over \
             which image",
            row.thin,
            pool.name(),
            row.size.bytes()
        ),
        advice: format!(
            "goldleaf volume export {} --file NAME; if it lay over an image, with --image and its name, \
             for else that reads as zeroes",
            row.owner
        ),
        remedy: None,
    }
}

/// A catalogue that has one copy left.
fn copies(pool: &OpenPool) -> Option<Finding> {
    pool.degraded().map(|why| Finding {
        code: Code::CatalogueDegraded,
        severity: Severity::Warning,
        subject: pool.id.to_string(),
        reason: format!("pool {}: {why}", pool.name()),
        advice: format!(
            "see to that device, then close and open the pool, which makes the copy anew: goldleaf \
             pool close {0} && goldleaf pool open {0}",
            pool.name()
        ),
        remedy: None,
    })
}

/// Rows that were `Ready` all the while and have no thin: what they held is lost.
fn lost(
    pool: &OpenPool,
    before: &[ThinRecord],
    known: &BTreeSet<ThinId>,
    after: &[ThinRecord],
) -> Vec<Finding> {
    let still: BTreeSet<_> = after
        .iter()
        .filter(|row| row.phase == Phase::Ready)
        .map(|row| (row.owner, row.thin))
        .collect();
    before
        .iter()
        .filter(|row| row.phase == Phase::Ready)
        .filter(|row| !known.contains(&row.thin) && still.contains(&(row.owner, row.thin)))
        .map(|row| Finding {
            code: Code::LostThin,
            severity: Severity::Error,
            subject: row.owner.to_string(),
            reason: format!(
                "{} is recorded as thin {} of pool {}, and the pool's metadata has no such thin",
                row.name,
                row.thin,
                pool.name()
            ),
            advice:
                "what it held is lost: restore it from a backup under another name, or delete it"
                    .into(),
            remedy: None,
        })
        .collect()
}

/// Rows of which a repair lost a part.
fn shortened(pool: &OpenPool) -> Vec<Finding> {
    let rows = pool.catalogue.all().into_iter();
    rows.filter(|row| row.lost_blocks > 0)
        .map(|row| Finding {
            code: Code::ShortenedThin,
            severity: Severity::Error,
            subject: row.owner.to_string(),
            reason: format!(
                "a repair of the metadata of pool {} did not bring back {} of {}: there it reads as \
                 if it had never been written",
                pool.name(),
                Bytes(row.lost_blocks.saturating_mul(pool.block().bytes().0)),
                row.name
            ),
            advice: "restore it from a backup under another name and delete it; or look through it, \
                     and mend this finding once it is well"
                .into(),
            remedy: Some(Remedy::ForgetLoss(pool.id, row.owner)),
        })
        .collect()
}

fn ownerless(pool: &OpenPool, thin: ThinId, quarantined: bool) -> Finding {
    let reason = format!(
        "the metadata of pool {} has thin {thin}, and no record owns it",
        pool.name()
    );
    let subject = format!("{}/{thin}", pool.id);
    if quarantined {
        Finding {
            code: Code::QuarantinedThin,
            severity: Severity::Warning,
            subject,
            reason,
            advice:
                "if nobody misses it, mend this finding: the thin and what it holds are deleted"
                    .into(),
            remedy: Some(Remedy::DeleteThin(pool.id, thin)),
        }
    } else {
        Finding {
            code: Code::UnknownThin,
            severity: Severity::Warning,
            subject,
            reason,
            advice: "mend this finding to quarantine it; deleting it is a second step".into(),
            remedy: Some(Remedy::Quarantine(pool.id, thin)),
        }
    }
}
