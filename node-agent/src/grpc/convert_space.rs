//! What a pool's room gives cause to say, as conditions. Called by `convert`.
//!
//! The sentences say limits and remedies, not figures of the moment: those are in the usage, and a
//! condition that is the same claim is not told again.

use goldleaf_dm::{NoSpacePolicy, PoolStatus};
use goldleaf_proto::v1 as api;

use super::convert::condition;
use crate::catalogue::NoSpace;
use crate::kernel::{CHECK_IT, Unwritable};
use crate::ops::space_rules::{self, DATA_WARNINGS, Scarcity, data_free, working};
use crate::ops::{BRAKED, Doubt, Policy, PoolView};

/// That an open pool takes no change, if so, by what was found first: at its opening, by the brake, by
/// the kernel.
pub(super) fn writable(
    status: Option<&PoolStatus>,
    braked: bool,
    doubt: Option<&Doubt>,
) -> Vec<api::Condition> {
    let (reason, message) = match (doubt, braked, status.and_then(Unwritable::of)) {
        (Some(doubt), _, _) => (doubt.reason(), doubt.to_string()),
        // Loaded so by us.
        (None, true, None | Some(Unwritable::ReadOnly)) => (
            "MetadataBrake",
            format!("{BRAKED}; until then what is mapped is read and rewritten, nothing else"),
        ),
        (None, _, Some(why)) => (why.reason(), format!("{why}: {CHECK_IT}")),
        (None, false, None) => return Vec::new(),
    };
    vec![condition("PoolWritable", false, reason, message)]
}

/// Conditions of an open pool's room; none while there is enough.
pub(super) fn conditions(status: Option<&PoolStatus>) -> Vec<api::Condition> {
    let Some(status) = status.and_then(working) else {
        return Vec::new();
    };
    let mut conditions = Vec::new();
    match space_rules::metadata(status) {
        Scarcity::Enough => {}
        Scarcity::Low | Scarcity::Out => conditions.push(condition(
            "MetadataSpace",
            false,
            "MetadataLow",
            "less than a quarter of its metadata is free: no volume and no snapshot is admitted; \
             extend the metadata (goldleaf pool extend --metadata), or delete snapshots"
                .into(),
        )),
    }
    match space_rules::data(status) {
        Scarcity::Enough => {}
        Scarcity::Low => {
            let [early, late] = DATA_WARNINGS;
            let few = data_free(status) * 100 <= status.total_data_blocks * late;
            let (reason, part) = if few {
                ("DataNearlyFull", late)
            } else {
                ("DataLow", early)
            };
            let message = format!(
                "at most {part} % of its data is free: extend it (goldleaf pool extend), or delete \
                 something in it"
            );
            conditions.push(condition("DataSpace", false, reason, message));
        }
        Scarcity::Out => conditions.push(condition(
            "DataSpace",
            false,
            "DataFull",
            format!(
                "it has no free data: writes that need a new block {}; extend it (goldleaf pool \
                 extend), or delete something in it",
                match status.no_space {
                    NoSpacePolicy::Queue => "wait until there is room",
                    NoSpacePolicy::Error => "fail",
                }
            ),
        )),
    }
    conditions
}

impl From<Policy> for api::PoolPolicy {
    fn from(policy: Policy) -> Self {
        Self {
            when_full: match policy.no_space {
                NoSpace::Error => api::WhenFull::Error.into(),
                NoSpace::Queue => api::WhenFull::Queue.into(),
            },
            wait_seconds: policy.wait_seconds,
            overcommit_percent: policy.overcommit_percent,
        }
    }
}

/// Conditions of a pool's spares: that some are in use, and that one cannot be.
pub(super) fn of_spares(view: &PoolView) -> Vec<api::Condition> {
    let mut conditions = Vec::new();
    if !view.were_spares.is_empty() {
        let paths: Vec<_> = view
            .were_spares
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        conditions.push(condition(
            "SparesUsed",
            true,
            "ExtendedFromSpare",
            format!(
                "its room was scarce and it was extended onto what were spares: {}; give it others \
                 (goldleaf pool extend --spare)",
                paths.join(", ")
            ),
        ));
    }
    if let Some(why) = &view.spare_trouble {
        conditions.push(condition(
            "SpareUsable",
            false,
            "CannotExtend",
            format!("its room is scarce and its spare cannot be used: {why}"),
        ));
    }
    conditions
}
