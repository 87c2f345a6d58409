//! Volumes and snapshots written to files of their node.
//!
//! Called by `grpc`. Nothing is recorded: the work ends with its caller, its node leaves a whole file
//! or none, and asking again begins anew. Its node keeps the source as it is meanwhile.

use goldleaf_types::{NodeId, ThinOwner};

use super::{Service, ServiceError};
use crate::agents::Export;
use crate::domain::{ExportOrder, ImageRef, Node, Ref, SourceRef, Volume};

impl Service {
    /// Begins to write a volume or snapshot to a file: its steps, and the node that does it. `over` is
    /// the image of a thin of which nobody else knows it.
    ///
    /// # Errors
    ///
    /// No such volume or snapshot, one that cannot be used now, or a node that is away. What the
    /// node refuses comes as the last step.
    pub async fn export(
        &self,
        source: &SourceRef,
        mut order: ExportOrder,
        over: Option<&ImageRef>,
    ) -> Result<(NodeId, Export), ServiceError> {
        if let Some(over) = over {
            order.image = Some(self.usable_image(over, "image").await?.digest);
        }
        let (owner, node) = match self.source(source).await {
            Ok(source) => (source.owner, source.node),
            Err(unknown) => self.without_record(source).await.ok_or(unknown)?,
        };
        let steps = self
            .agent_of(node)
            .await?
            .export_thin(owner, &order)
            .await?;
        tracing::info!(%owner, %node, file = order.file, "exporting");
        Ok((node, steps))
    }

    /// A thin that some node has and no record here names: one that a rescue shows by its number.
    async fn without_record(&self, source: &SourceRef) -> Option<(ThinOwner, NodeId)> {
        let SourceRef::Volume(Ref::Id(id)) = source else {
            return None;
        };
        if self.records.by_id::<Volume>(*id).await.ok()?.is_some() {
            return None; // it is known, and cannot be exported
        }
        for node in self.records.all::<Node>().await.ok()? {
            let Ok(agent) = self.agent_of(node.id).await else {
                continue;
            };
            if agent.thin((*id).into()).await.is_ok() {
                return Some(((*id).into(), node.id));
            }
        }
        None
    }
}
