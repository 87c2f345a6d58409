//! What a node's import of an image tells, as values.

use futures::{StreamExt, stream};
use goldleaf_proto::agent::v1 as pb;

use super::{AgentError, Import, ImportStep, convert, refusal};

/// An import's events as steps; whatever comes after the last one is not read.
pub(super) fn steps(node: String, events: tonic::Streaming<pb::ImportImageEvent>) -> Import {
    stream::unfold(Some((node, events)), |open| async move {
        let (node, mut events) = open?;
        let step = match events.message().await {
            Ok(Some(event)) => convert::import_step(&node, event),
            Ok(None) => Err(AgentError::Away {
                node: node.clone(),
                why: "its answer ended before the import did".into(),
            }),
            Err(status) => Err(refusal::read(&node, &status)),
        };
        let last = !matches!(step, Ok(ImportStep::Progress(_)));
        Some((step, (!last).then_some((node, events))))
    })
    .boxed()
}
