//! Repairs of pools on the wire.
//!
//! Called by `pools`. A repair goes on to its end, whether its caller waits for that or not. A look at
//! what one would do ends with its caller, or with the control plane, and its node's with it.

use goldleaf_proto::v1 as api;
use goldleaf_rpc::call;
use goldleaf_types::PoolId;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tracing::Instrument;

use super::{Api, EventStream, status};
use crate::domain::{
    PoolRepair, Progress, Ref, RepairAsked, RepairOutcome, RepairStep, RepairedThin, ThinFate,
};

/// Begins, and answers the events.
pub(super) fn begin(
    api: Api,
    what: Ref<PoolId>,
    asked: RepairAsked,
) -> EventStream<api::RepairPoolEvent> {
    let (events, stream) = mpsc::channel(16);
    let told = events.clone();
    let tell = move |step, progress| {
        // A slow reader misses a step, never the end.
        let _ = told.try_send(Ok(so_far(step, progress)));
    };
    let task = async move {
        let last = match asked.is_look() {
            true => tokio::select! {
                () = events.closed() => return,
                () = api.stop.cancelled() => Err(status::stopping()),
                looked = api.service.repair_pool(&what, &asked, tell) => {
                    looked.map(done).map_err(Status::from)
                }
            },
            false => {
                let done = api.to_the_end(|service| async move {
                    let repaired = service.repair_pool(&what, &asked, tell).await;
                    repaired.map(done)
                });
                done.await.map_err(Status::from)
            }
        };
        let _ = events.send(last).await; // the caller may have gone
    };
    let task = task.in_current_span();
    match call::current() {
        Some(id) => tokio::spawn(call::scope(id, task)),
        None => tokio::spawn(task),
    };
    Box::pin(ReceiverStream::new(stream))
}

/// What is asked for.
pub(super) fn asked(r: api::RepairPoolRequest) -> RepairAsked {
    RepairAsked {
        confirm: r.confirm,
        accept_loss: r.accept_loss,
        revision: r.expected_revision,
    }
}

fn so_far(step: RepairStep, progress: Progress) -> api::RepairPoolEvent {
    let step = match step {
        RepairStep::Waiting => api::RepairStep::Waiting,
        RepairStep::Copying => api::RepairStep::Copying,
        RepairStep::Checking => api::RepairStep::Checking,
        RepairStep::Repairing => api::RepairStep::Repairing,
        RepairStep::CheckingResult => api::RepairStep::CheckingResult,
        RepairStep::Putting => api::RepairStep::Putting,
    };
    api::RepairPoolEvent {
        step: step.into(),
        progress: Some(api::Progress {
            done_bytes: progress.done.0,
            total_bytes: progress.total.0,
        }),
        repair: None,
    }
}

fn done(repair: PoolRepair) -> api::RepairPoolEvent {
    let outcome = match repair.outcome {
        RepairOutcome::NothingToDo => api::RepairOutcome::NothingToDo,
        RepairOutcome::WouldDo => api::RepairOutcome::WouldDo,
        RepairOutcome::WouldResume => api::RepairOutcome::WouldResume,
        RepairOutcome::Done => api::RepairOutcome::Done,
    };
    let repair = api::PoolRepair {
        outcome: outcome.into(),
        damage: repair.damage,
        needs_check: repair.needs_check,
        recorded_transaction: repair.recorded_transaction,
        found_transaction: repair.found_transaction,
        thins: repair.thins.into_iter().map(thin).collect(),
        ownerless_thins: repair.ownerless,
        kept: repair.kept,
    };
    api::RepairPoolEvent {
        step: api::RepairStep::Unspecified.into(),
        progress: None,
        repair: Some(repair),
    }
}

fn thin(thin: RepairedThin) -> api::RepairedThin {
    let fate = match thin.fate {
        ThinFate::Whole => api::ThinFate::Whole,
        ThinFate::Unsure => api::ThinFate::Unsure,
        ThinFate::Shortened => api::ThinFate::Shortened,
        ThinFate::Lost => api::ThinFate::Lost,
        ThinFate::LostBefore => api::ThinFate::LostBefore,
    };
    api::RepairedThin {
        owner: thin.owner,
        name: thin.name,
        thin_id: thin.thin,
        mapped_before_bytes: thin.before.map(|bytes| bytes.0),
        mapped_after_bytes: thin.after.map(|bytes| bytes.0),
        fate: fate.into(),
    }
}
