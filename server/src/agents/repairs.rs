//! What a node's repair tells, as values.

use futures::{StreamExt, stream};
use goldleaf_proto::agent::v1 as pb;
use goldleaf_proto::v1 as api;
use goldleaf_types::Bytes;

use super::refusal::bad_answer;
use super::{AgentError, Repair, RepairStage, convert, refusal};
use crate::domain::{PoolRepair, Progress, RepairOutcome, RepairStep, RepairedThin, ThinFate};

/// A repair's events as stages; whatever comes after the last one is not read.
pub(super) fn stages(node: String, events: tonic::Streaming<pb::AgentRepairPoolEvent>) -> Repair {
    stream::unfold(Some((node, events)), |open| async move {
        let (node, mut events) = open?;
        let stage = match events.message().await {
            Ok(Some(event)) => stage(&node, event),
            Ok(None) => Err(AgentError::Away {
                node: node.clone(),
                why: "its answer ended before the repair did".into(),
            }),
            Err(status) => Err(refusal::read(&node, &status)),
        };
        let last = !matches!(stage, Ok(RepairStage::At(..)));
        Some((stage, (!last).then_some((node, events))))
    })
    .boxed()
}

fn stage(node: &str, event: pb::AgentRepairPoolEvent) -> Result<RepairStage, AgentError> {
    let bad = |field: &str, problem: &str| bad_answer(node, field, problem);
    if let Some(repair) = event.repair {
        let pool = event.pool.ok_or_else(|| bad("pool", "is missing"))?;
        let report = convert::pool(node, pool)?;
        return Ok(RepairStage::Done(Box::new((
            repaired(node, repair)?,
            report,
        ))));
    }
    let step = match api::RepairStep::try_from(event.step) {
        Ok(api::RepairStep::Waiting) => RepairStep::Waiting,
        Ok(api::RepairStep::Copying) => RepairStep::Copying,
        Ok(api::RepairStep::Checking) => RepairStep::Checking,
        Ok(api::RepairStep::Repairing) => RepairStep::Repairing,
        Ok(api::RepairStep::CheckingResult) => RepairStep::CheckingResult,
        Ok(api::RepairStep::Putting) => RepairStep::Putting,
        Ok(api::RepairStep::Unspecified) => return Err(bad("step", "is missing")),
        Err(error) => return Err(bad("step", &error.to_string())),
    };
    let progress = event.progress.unwrap_or_default();
    let progress = Progress {
        done: Bytes(progress.done_bytes),
        total: Bytes(progress.total_bytes),
    };
    Ok(RepairStage::At(step, progress))
}

fn repaired(node: &str, r: api::PoolRepair) -> Result<PoolRepair, AgentError> {
    let outcome = match api::RepairOutcome::try_from(r.outcome) {
        Ok(api::RepairOutcome::NothingToDo) => RepairOutcome::NothingToDo,
        Ok(api::RepairOutcome::WouldDo) => RepairOutcome::WouldDo,
        Ok(api::RepairOutcome::WouldResume) => RepairOutcome::WouldResume,
        Ok(api::RepairOutcome::Done) => RepairOutcome::Done,
        Ok(api::RepairOutcome::Unspecified) => {
            return Err(bad_answer(node, "repair.outcome", "is missing"));
        }
        Err(error) => return Err(bad_answer(node, "repair.outcome", &error.to_string())),
    };
    let thins = r.thins.into_iter().map(|t| thin(node, t));
    Ok(PoolRepair {
        outcome,
        damage: r.damage,
        needs_check: r.needs_check,
        recorded_transaction: r.recorded_transaction,
        found_transaction: r.found_transaction,
        thins: thins.collect::<Result<_, _>>()?,
        ownerless: r.ownerless_thins,
        kept: r.kept,
    })
}

fn thin(node: &str, t: api::RepairedThin) -> Result<RepairedThin, AgentError> {
    let fate = match api::ThinFate::try_from(t.fate) {
        Ok(api::ThinFate::Whole) => ThinFate::Whole,
        Ok(api::ThinFate::Unsure) => ThinFate::Unsure,
        Ok(api::ThinFate::Shortened) => ThinFate::Shortened,
        Ok(api::ThinFate::Lost) => ThinFate::Lost,
        Ok(api::ThinFate::LostBefore) => ThinFate::LostBefore,
        Ok(api::ThinFate::Unspecified) => {
            return Err(bad_answer(node, "repair.thins.fate", "is missing"));
        }
        Err(error) => return Err(bad_answer(node, "repair.thins.fate", &error.to_string())),
    };
    Ok(RepairedThin {
        owner: t.owner,
        name: t.name,
        thin: t.thin_id,
        before: t.mapped_before_bytes.map(Bytes),
        after: t.mapped_after_bytes.map(Bytes),
        fate,
    })
}
