//! Volumes and snapshots written to files of their node.
//!
//! Called by `grpc`. Nothing is recorded: the work ends with its caller, its node leaves a whole file
//! or none, and asking again begins anew. Its node keeps the source as it is meanwhile.

use goldleaf_types::NodeId;

use super::{Service, ServiceError};
use crate::agents::Export;
use crate::domain::{ExportOrder, SourceRef};

impl Service {
    /// Begins to write a volume or snapshot to a file: its steps, and the node that does it.
    ///
    /// # Errors
    ///
    /// No such volume or snapshot, one that cannot be used now, or a node that is away. What the
    /// node refuses comes as the last step.
    pub async fn export(
        &self,
        source: &SourceRef,
        order: &ExportOrder,
    ) -> Result<(NodeId, Export), ServiceError> {
        let source = self.source(source).await?;
        let agent = self.agent_of(source.node).await?;
        let steps = agent.export_thin(source.owner, order).await?;
        tracing::info!(owner = %source.owner, node = %source.node, file = order.file, "exporting");
        Ok((source.node, steps))
    }
}
