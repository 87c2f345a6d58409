//! A repair of a pool's metadata as a stream: what it is at, then its result.
//!
//! Called by the handler. A repair goes on to its end without its caller: half a repair helps nobody, and
//! asking again says what came of it. A look at what one would do helps nobody but its caller: it ends
//! with that, or with the agent.

use std::sync::Arc;

use goldleaf_proto::agent::v1 as pb;
use goldleaf_proto::v1 as api;
use goldleaf_rpc::field::{BadField, field};
use goldleaf_types::{Bytes, Incarnation};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{Events, convert, progress, status};
use crate::ops::{
    Agent, Fate, PoolError, RepairOutcome, RepairPool, RepairReport, RepairStep, RepairedThin,
};

/// Begins, and answers the events.
pub(super) fn begin(
    agent: Arc<Agent>,
    caller: Option<Incarnation>,
    wanted: RepairPool,
    stop: CancellationToken,
) -> Events<pb::AgentRepairPoolEvent> {
    let (events, stream) = mpsc::channel(16);
    let told = events.clone();
    let work = move || {
        let tell = |at: RepairStep, done: Bytes, total: Bytes| {
            // A slow reader misses a step, never the end.
            let _ = told.try_send(Ok(so_far(at, done, total)));
        };
        let report = agent.repair_pool(caller, wanted, &tell)?;
        let pool = agent.pool_as_it_is(wanted.id)?;
        Ok::<_, PoolError>(pb::AgentRepairPoolEvent {
            step: api::RepairStep::Unspecified.into(),
            progress: None,
            repair: Some(to_wire(&report)),
            pool: Some(convert::pool(&pool)),
        })
    };
    let task = async move {
        let last = match wanted.apply {
            true => progress::blocking(work).await,
            false => tokio::select! {
                () = events.closed() => return,
                () = stop.cancelled() => Err(status::stopping()),
                last = progress::blocking_for(work) => last,
            },
        };
        let _ = events.send(last).await; // the caller may have gone
    };
    tokio::spawn(task.in_current_span());
    Box::pin(ReceiverStream::new(stream))
}

/// What is asked for.
pub(super) fn wanted(r: &pb::AgentRepairPoolRequest) -> Result<RepairPool, BadField> {
    Ok(RepairPool {
        id: field("pool", &r.pool)?,
        apply: r.apply,
        accept_loss: r.accept_loss,
    })
}

fn so_far(at: RepairStep, done: Bytes, total: Bytes) -> pb::AgentRepairPoolEvent {
    let step = match at {
        RepairStep::Waiting => api::RepairStep::Waiting,
        RepairStep::Copying => api::RepairStep::Copying,
        RepairStep::Checking => api::RepairStep::Checking,
        RepairStep::Repairing => api::RepairStep::Repairing,
        RepairStep::CheckingResult => api::RepairStep::CheckingResult,
        RepairStep::Putting => api::RepairStep::Putting,
    };
    pb::AgentRepairPoolEvent {
        step: step.into(),
        progress: Some(api::Progress {
            done_bytes: done.0,
            total_bytes: total.0,
        }),
        ..Default::default()
    }
}

fn to_wire(report: &RepairReport) -> api::PoolRepair {
    let outcome = match report.outcome {
        RepairOutcome::NothingToDo => api::RepairOutcome::NothingToDo,
        RepairOutcome::WouldDo => api::RepairOutcome::WouldDo,
        RepairOutcome::WouldResume => api::RepairOutcome::WouldResume,
        RepairOutcome::Done => api::RepairOutcome::Done,
    };
    let kept = report.kept.as_ref();
    api::PoolRepair {
        outcome: outcome.into(),
        damage: report.damage.clone().unwrap_or_default(),
        needs_check: report.needs_check,
        recorded_transaction: report.recorded_transaction,
        found_transaction: report.found_transaction,
        thins: report.thins.iter().map(thin).collect(),
        ownerless_thins: report.ownerless.iter().map(|thin| thin.get()).collect(),
        kept: kept
            .map(|path| path.display().to_string())
            .unwrap_or_default(),
    }
}

fn thin(thin: &RepairedThin) -> api::RepairedThin {
    let fate = match thin.fate {
        Fate::Whole => api::ThinFate::Whole,
        Fate::Unsure => api::ThinFate::Unsure,
        Fate::Shortened => api::ThinFate::Shortened,
        Fate::Lost => api::ThinFate::Lost,
        Fate::LostBefore => api::ThinFate::LostBefore,
    };
    api::RepairedThin {
        owner: thin.owner.to_string(),
        name: thin.name.to_string(),
        thin_id: thin.thin.get(),
        mapped_before_bytes: thin.before.map(|bytes| bytes.0),
        mapped_after_bytes: thin.after.map(|bytes| bytes.0),
        fate: fate.into(),
    }
}
