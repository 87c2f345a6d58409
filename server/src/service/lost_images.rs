//! Copies of images that turn out not to be there, or to be spoilt, and bringing failed ones anew.
//!
//! Called by every rule that has an agent work on a thin over an image, and by a repeated creation
//! of the image. The agent's word counts over the record's: a copy that it lacks is not offered
//! again. Bringing it anew is a wish in the record, so a crash loses none.

use goldleaf_types::{Digest, NodeId};

use super::{Service, ServiceError, Unfinished};
use crate::agents::AgentError;
use crate::domain::{Image, ImageCopy, ImageSource, Phase, Refusal};
use crate::store::rows;
use crate::telemetry::Chain;

impl Service {
    /// Takes note of a refusal that says that a node does not have an image's content whole. The
    /// refusal is the caller's answer, whatever becomes of the note.
    pub(super) async fn note_refusal(
        &self,
        node: NodeId,
        image: Option<Digest>,
        error: &AgentError,
    ) {
        let AgentError::Refused { reason, .. } = error else {
            return;
        };
        if let Some(digest) = image
            && matches!(reason.as_str(), "IMAGE_NOT_HERE" | "IMAGE_CHANGED")
            && let Err(failed) = self.lose_copies(node, digest, error).await
        {
            // The next volume that needs it is refused again, and that is noted again.
            tracing::warn!(%node, %digest, error = %Chain(&failed), "a lost image is not noted");
        }
    }

    /// No copy of this content on this node counts as ready any more.
    async fn lose_copies(
        &self,
        node: NodeId,
        digest: Digest,
        error: &AgentError,
    ) -> Result<(), ServiceError> {
        let lost = |image: &Image| image.digest == Some(digest) && image.is_on(node);
        for image in self
            .records
            .all::<Image>()
            .await?
            .iter()
            .filter(|i| lost(i))
        {
            let _held = self.locks.take_inner(rows::key::<Image>(image.id)).await;
            let Some(mut image) = self.records.by_id::<Image>(image.id).await? else {
                continue;
            };
            if !lost(&image) || image.phase == Phase::Deleting {
                continue;
            }
            let copy = lost_copy(&image, node, error);
            self.change_copies(&mut image, [copy]).await?;
        }
        Ok(())
    }

    /// Wishes for those copies again that could not be made: everywhere, or on one node.
    pub(super) async fn wish_failed_copies(
        &self,
        image: &Image,
        node: Option<NodeId>,
    ) -> Result<Image, ServiceError> {
        let _held = self.locks.take_inner(rows::key::<Image>(image.id)).await;
        let found = self.records.by_id::<Image>(image.id).await?;
        let Some(mut image) = found.filter(|image| image.phase != Phase::Deleting) else {
            return Err(super::busy::<Image>(image.name.as_str(), "being deleted"));
        };
        let failed = |copy: &&ImageCopy| {
            copy.phase == Phase::Failed && node.is_none_or(|node| copy.node == node)
        };
        let again: Vec<_> = image
            .copies
            .iter()
            .filter(failed)
            .map(|copy| ImageCopy::wanted(copy.node))
            .collect();
        if !again.is_empty() {
            self.change_copies(&mut image, again).await?;
        }
        Ok(image)
    }

    /// Writes copies that are other than they were; the loop gets those that are wanted. The caller
    /// holds the image.
    pub(super) async fn change_copies(
        &self,
        image: &mut Image,
        copies: impl IntoIterator<Item = ImageCopy>,
    ) -> Result<(), ServiceError> {
        for copy in copies {
            tracing::info!(image = %image.id, name = %image.name, node = %copy.node,
                phase = ?copy.phase, message = copy.message, "image copy changed");
            image.settle(copy);
        }
        image.phase = image.phase_of_copies();
        // Dropped at the end, well or badly: fetching is the loop's work.
        let _begun = self.pending.begin(Unfinished::Image(image.id));
        self.records.update(image).await?;
        self.board.wished(image.id);
        Ok(())
    }
}

/// What becomes of a copy that is not there.
fn lost_copy(image: &Image, node: NodeId, error: &AgentError) -> ImageCopy {
    match image.asked.source {
        ImageSource::Url(_) => ImageCopy {
            message: error.to_string(),
            ..ImageCopy::wanted(node)
        },
        // Its place on the node may be gone since, and only its user knows.
        ImageSource::File(_) | ImageSource::Device(_) | ImageSource::Volume(_) => ImageCopy {
            node,
            phase: Phase::Failed,
            message: format!(
                "{error}; create the image again with the same parameters to bring it back"
            ),
            refusal: Some(Refusal::FailedPrecondition),
        },
    }
}
