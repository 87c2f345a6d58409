//! `goldleaf pool repair`.

use goldleaf_proto::v1 as api;
use indicatif::ProgressBar;

use super::Call;
use crate::args::PoolRepair;
use crate::failure::Failure;
use crate::output;

/// Says what a repair would do, or has it done, as long as that takes.
pub async fn run(call: &Call, wanted: PoolRepair) -> Result<(), Failure> {
    let target = wanted.target.clone();
    let bar = super::image::bar(&target);
    let request = api::RepairPoolRequest {
        pool: wanted.target,
        confirm: wanted.confirm.unwrap_or_default(),
        accept_loss: wanted.accept_loss,
        expected_revision: wanted.if_revision,
    };
    let repaired = follow(call, request, &bar).await;
    bar.finish_and_clear();
    let repaired = repaired?;
    output::repair(call.global.output, &repaired)?;
    eprintln!("{}", verdict(&target, &repaired));
    Ok(())
}

async fn follow(
    call: &Call,
    request: api::RepairPoolRequest,
    bar: &ProgressBar,
) -> Result<api::PoolRepair, Failure> {
    let mut events = call.answer(call.client.pools().repair(request)).await?;
    while let Some(event) = events.message().await.map_err(|e| call.client.refused(e))? {
        bar.set_message(doing(event.step()));
        if let Some(progress) = event.progress {
            bar.set_length(progress.total_bytes.max(progress.done_bytes));
            bar.set_position(progress.done_bytes);
        }
        if let Some(repair) = event.repair {
            return Ok(repair);
        }
    }
    Err(Failure::WatchEnded)
}

const fn doing(step: api::RepairStep) -> &'static str {
    match step {
        api::RepairStep::Unspecified => "",
        api::RepairStep::Waiting => "waiting for another repair of its node",
        api::RepairStep::Copying => "copying the metadata",
        api::RepairStep::Checking => "checking it",
        api::RepairStep::Repairing => "repairing it into a file",
        api::RepairStep::CheckingResult => "checking that",
        api::RepairStep::Putting => "putting it in place",
    }
}

/// What it comes to, and what to do next.
fn verdict(target: &str, repair: &api::PoolRepair) -> String {
    match repair.outcome() {
        api::RepairOutcome::Unspecified => format!("{target}: of an unknown outcome"),
        api::RepairOutcome::NothingToDo => format!(
            "{target}: nothing to repair; an open pool that takes changes is not looked at: close it \
             first to have it checked"
        ),
        api::RepairOutcome::WouldResume => format!(
            "{target}: a repair was cut short; it goes on with: goldleaf pool open {target}"
        ),
        api::RepairOutcome::WouldDo => {
            let more = match repair.thins.iter().any(|thin| is_loss(thin.fate())) {
                true => ", and --accept-loss, for not everything would come back",
                false => "",
            };
            format!("{target}: nothing was done; to do it: --confirm and its name{more}")
        }
        api::RepairOutcome::Done if repair.kept.is_empty() => {
            format!("{target}: the repair that was cut short is done, and the pool is open")
        }
        api::RepairOutcome::Done => format!(
            "{target}: repaired and open; the old metadata is kept on its node in {}",
            repair.kept
        ),
    }
}

/// Whether something is lost by the repair, as far as can be known.
const fn is_loss(fate: api::ThinFate) -> bool {
    match fate {
        api::ThinFate::Unsure | api::ThinFate::Shortened | api::ThinFate::Lost => true,
        api::ThinFate::Unspecified | api::ThinFate::Whole | api::ThinFate::LostBefore => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_would_lose_something_is_told_what_to_add() {
        let would = |fate: api::ThinFate| {
            let thin = api::RepairedThin {
                fate: fate.into(),
                ..Default::default()
            };
            let repair = api::PoolRepair {
                outcome: api::RepairOutcome::WouldDo.into(),
                thins: vec![thin],
                ..Default::default()
            };
            verdict("fast", &repair)
        };
        assert!(would(api::ThinFate::Lost).contains("--accept-loss"));
        assert!(would(api::ThinFate::Unsure).contains("--accept-loss"));
        assert!(!would(api::ThinFate::Whole).contains("--accept-loss"));
        assert!(would(api::ThinFate::Whole).contains("--confirm"));
    }
}
