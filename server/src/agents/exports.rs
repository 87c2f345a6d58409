//! What a node's export tells, as values.

use futures::{StreamExt, stream};
use goldleaf_proto::agent::v1 as pb;
use goldleaf_proto::v1 as api;
use goldleaf_types::{Bytes, ThinOwner};

use super::refusal::bad_answer;
use super::{AgentError, Export, ExportStep, refusal};
use crate::domain::{ExportFormat, ExportOrder, ExportedFile, Progress};

/// A thin to write to a file.
pub(super) fn request(owner: ThinOwner, order: &ExportOrder) -> pb::AgentExportThinRequest {
    let format = match order.format {
        ExportFormat::Raw => api::ExportFormat::Raw,
        ExportFormat::Qcow2 => api::ExportFormat::Qcow2,
    };
    pb::AgentExportThinRequest {
        owner: owner.to_string(),
        file: order.file.clone(),
        format: format.into(),
        replace: order.replace,
        image_digest: order.image.map(|d| d.to_string()).unwrap_or_default(),
    }
}

/// An export's events as steps; whatever comes after the last one is not read.
pub(super) fn steps(node: String, events: tonic::Streaming<pb::AgentExportThinEvent>) -> Export {
    stream::unfold(Some((node, events)), |open| async move {
        let (node, mut events) = open?;
        let step = match events.message().await {
            Ok(Some(event)) => step(&node, event),
            Ok(None) => Err(AgentError::Away {
                node: node.clone(),
                why: "its answer ended before the export did".into(),
            }),
            Err(status) => Err(refusal::read(&node, &status)),
        };
        let last = !matches!(step, Ok(ExportStep::Progress(_)));
        Some((step, (!last).then_some((node, events))))
    })
    .boxed()
}

fn step(node: &str, event: pb::AgentExportThinEvent) -> Result<ExportStep, AgentError> {
    match (event.file, event.progress) {
        (Some(file), _) => Ok(ExportStep::Done(ExportedFile {
            digest: file
                .digest
                .parse()
                .map_err(|_| bad_answer(node, "file.digest", &file.digest))?,
            path: file.path,
            size: Bytes(file.size_bytes),
            file_sha256: file.file_sha256,
            file_size: Bytes(file.file_size_bytes),
            stored: Bytes(file.stored_bytes),
        })),
        (None, Some(progress)) => Ok(ExportStep::Progress(Progress {
            done: Bytes(progress.done_bytes),
            total: Bytes(progress.total_bytes),
        })),
        (None, None) => Err(bad_answer(
            node,
            "export event",
            "neither progress nor file",
        )),
    }
}
