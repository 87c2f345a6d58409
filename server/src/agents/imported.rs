//! Imported pools, catalogue rows and kept records from the agents' wire.
//!
//! Used by the client, as `convert`.

use goldleaf_proto::agent::v1 as pb;
use goldleaf_proto::v1 as api;
use goldleaf_types::{BlockSize, Incarnation, Labels};

use super::AgentError;
use super::convert::{self, optional, parse};
use super::refusal::bad_answer;
use crate::domain::{
    CatalogueRow, ImportedPool, KeptMarks, KeptText, Parameters, VolumeAsked, WhenFull,
};

/// A pool that a node imported.
pub(super) fn pool(node: &str, answer: pb::AgentPool) -> Result<ImportedPool, AgentError> {
    let block_size = BlockSize::new(answer.block_size_bytes)
        .map_err(|error| bad_answer(node, "pool.block_size_bytes", &error.to_string()))?;
    Ok(ImportedPool {
        name: parse(node, "pool.name", &answer.name)?,
        devices: answer.devices.clone(),
        block_size,
        when_full: match api::WhenFull::try_from(answer.when_full) {
            Ok(api::WhenFull::Queue) => WhenFull::Queue,
            Ok(api::WhenFull::Error | api::WhenFull::Unspecified) => WhenFull::Error,
            Err(error) => return Err(bad_answer(node, "pool.when_full", &error.to_string())),
        },
        report: convert::pool(node, answer)?,
    })
}

/// A thin as its pool's catalogue has it.
pub(super) fn row(node: &str, answer: pb::AgentThin) -> Result<CatalogueRow, AgentError> {
    let labels: std::collections::BTreeMap<_, _> = answer.labels.clone().into_iter().collect();
    let parameters = answer.parameters.clone();
    let (name, source) = (
        parse(node, "thin.name", &answer.name)?,
        optional(node, "thin.source", &answer.source)?,
    );
    let (epoch, marks) = (answer.epoch, answer.marks.clone());
    let report = convert::thin(node, answer)?;
    let (asked, part) = match parameters.as_str() {
        "" => (VolumeAsked::default(), None), // made by a caller that kept none
        text => {
            let kept = Parameters::decode(report.owner, text)
                .map_err(|error| bad_answer(node, "thin.parameters", &error.to_string()))?;
            (kept.asked, kept.part)
        }
    };
    Ok(CatalogueRow {
        name,
        labels: Labels::try_from(labels)
            .map_err(|error| bad_answer(node, "thin.labels", &format!("{:?}", error.0)))?,
        source,
        asked,
        part,
        marks: match marks.as_str() {
            "" => None, // as it was made
            text => {
                let kept = KeptMarks::decode(report.owner, text);
                Some(kept.map_err(|e| bad_answer(node, "thin.marks", &e.to_string()))?)
            }
        },
        epoch,
        report,
    })
}

pub(super) fn keep_records(
    records: String,
    former: Option<Incarnation>,
) -> pb::AgentKeepRecordsRequest {
    pb::AgentKeepRecordsRequest {
        records,
        former: former.map(|store| store.to_string()).unwrap_or_default(),
    }
}

/// What a node keeps of a store, if anything.
pub(super) fn kept_records(
    node: &str,
    answer: pb::AgentKeptRecords,
) -> Result<Option<KeptText>, AgentError> {
    let store = optional(node, "kept_records.store", &answer.store)?;
    Ok(store.map(|store| KeptText {
        store,
        records: answer.records,
    }))
}
