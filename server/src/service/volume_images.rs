//! Images made of volumes and snapshots: which may be, and what is kept for them meanwhile.
//!
//! Called by `images` for a creation, and by every deletion of a volume or snapshot. The wish of the
//! image names the thin, over its revision; from then on until the content is there its deletion is
//! refused here, and on its node it is neither activated nor changed while it is read.

use goldleaf_types::{NodeId, ThinOwner};

use super::volumes::Source;
use super::{Service, ServiceError};
use crate::domain::{Image, Node, Ref, SourceRef};

impl Service {
    /// The thin that an image is to be made of, if it can be read now.
    pub(super) async fn image_source(
        &self,
        wanted: &SourceRef,
        node: Option<&Ref<NodeId>>,
    ) -> Result<Source, ServiceError> {
        let source = self.source(wanted).await.map_err(named_volume)?;
        if let Some(node) = node
            && self.records.get::<Node>(node, "node").await?.id != source.node
        {
            return Err(ServiceError::BadField {
                field: "node",
                problem: "is not where the volume or snapshot is: leave it out".into(),
            });
        }
        // Its node says so again when it is read; here it costs nobody a failed image.
        let seen = self.agent_of(source.node).await?.thin(source.owner).await;
        if seen.is_ok_and(|thin| thin.activation.is_some()) {
            return Err(ServiceError::Unfit {
                kind: "volume",
                name: source.owner.to_string(),
                why: "is active: deactivate it, or take a snapshot and make the image of that"
                    .into(),
            });
        }
        Ok(source)
    }

    /// Refuses the deletion of what an image is being made of.
    pub(super) async fn not_imaged(
        &self,
        kind: &'static str,
        owner: ThinOwner,
    ) -> Result<(), ServiceError> {
        match self.records.first::<Image>(|i| i.is_made_of(owner)).await? {
            Some(image) => Err(ServiceError::InUse {
                kind,
                name: owner.to_string(),
                by: format!("image {}, which is being made of it", image.name),
            }),
            None => Ok(()),
        }
    }
}

/// The field of the request that names the source.
fn named_volume(mut error: ServiceError) -> ServiceError {
    if let ServiceError::NotFound { field, .. } = &mut error {
        *field = "volume";
    }
    error
}
