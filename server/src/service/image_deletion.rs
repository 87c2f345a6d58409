//! Forgetting an image: its name always, its content with its last name.
//!
//! Called by `grpc`, and by `images` to finish it. Nothing that a volume or snapshot needs is ever
//! deleted: that is looked at again after the wish is durable, when no new one can come to need it.

use goldleaf_types::{Digest, ImageId, NodeId};

use super::images::import_key;
use super::updates::unprotected;
use super::{Begun, Op, Service, ServiceError, Target, Unfinished, at_revision, is_precondition};
use crate::domain::{Image, Phase, Ref, Snapshot, Volume};
use crate::failpoint::{Point, hit};
use crate::store::rows::Row;

impl Service {
    /// Forgets an image. One that is not there is as good.
    ///
    /// # Errors
    ///
    /// [`ServiceError::InUse`] while a volume or snapshot needs its content.
    pub async fn delete_image(&self, target: Target<Ref<ImageId>>) -> Result<(), ServiceError> {
        let Some(found) = self.records.find::<Image>(&target.what).await? else {
            return Ok(());
        };
        let (_held, image) = self.hold(&found, Op::Delete).await?;
        let Some(mut image) = image else {
            return Ok(());
        };
        if image.phase != Phase::Deleting {
            at_revision(&image, target.revision)?;
            unprotected(&image)?;
            self.not_needed(&image).await?;
        }
        let begun = self.pending.begin(Unfinished::Image(image.id));
        if image.phase != Phase::Deleting {
            // From here no volume can be made of it: they are wished for over its revision.
            image.phase = Phase::Deleting;
            self.records.update(&mut image).await?;
            hit(Point::ImageDeletionWished);
        }
        self.take_image_away(image, begun).await
    }

    pub(super) async fn finish_image_deletion(&self, found: &Image) -> Result<(), ServiceError> {
        let (_held, image) = self.hold(found, Op::Delete).await?;
        match image {
            Some(image) if image.phase == Phase::Deleting => {
                let begun = self.pending.begin(Unfinished::Image(image.id));
                self.take_image_away(image, begun).await
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Effect and fact of a deletion. The caller holds the image.
    async fn take_image_away(&self, mut image: Image, begun: Begun) -> Result<(), ServiceError> {
        for copy in &image.copies {
            self.board.settled(image.id, copy.node); // stops an import
            let _over = self.locks.take_inner(import_key(image.id, copy.node)).await;
        }
        let nodes: Vec<_> = image.copies.iter().map(|copy| copy.node).collect();
        let deleted = async {
            self.not_needed(&image).await?;
            let Some(digest) = image.digest else {
                return Ok(());
            };
            let _content = self.hold_content(digest).await;
            self.drop_content(digest, &nodes, image.id).await
        };
        match deleted.await {
            Ok(()) => {}
            Err(error)
                if is_precondition(&error) || matches!(error, ServiceError::InUse { .. }) =>
            {
                image.phase = phase_of_copies(&image);
                self.records.update(&mut image).await?;
                if image.phase != Phase::Creating {
                    begun.done();
                }
                return Err(error);
            }
            Err(error) => return Err(error),
        }
        hit(Point::ImageDeleted);
        self.records.remove(&image).await?;
        hit(Point::ImageForgotten);
        for node in nodes {
            self.board.settled(image.id, node);
        }
        begun.done();
        Ok(())
    }

    /// Deletes a content on these nodes unless another image has it. The caller holds the content.
    pub(super) async fn drop_content(
        &self,
        digest: Digest,
        nodes: &[NodeId],
        except: ImageId,
    ) -> Result<(), ServiceError> {
        let other = |image: &Image| {
            image.id != except && image.digest == Some(digest) && image.phase != Phase::Deleting
        };
        if self.records.first::<Image>(other).await?.is_some() {
            return Ok(());
        }
        for node in nodes {
            self.agent_of(*node).await?.delete_image(digest).await?;
        }
        Ok(())
    }

    async fn not_needed(&self, image: &Image) -> Result<(), ServiceError> {
        let Some(digest) = image.digest else {
            return Ok(());
        };
        let in_use = |by: String| ServiceError::InUse {
            kind: Image::KIND,
            name: image.name.to_string(),
            by,
        };
        if let Some(volume) = self
            .records
            .first::<Volume>(|v| v.image == Some(digest))
            .await?
        {
            return Err(in_use(format!("volume {}", volume.name)));
        }
        match self
            .records
            .first::<Snapshot>(|s| s.image == Some(digest))
            .await?
        {
            Some(snapshot) => Err(in_use(format!("snapshot {}", snapshot.name))),
            None => Ok(()),
        }
    }
}

/// Where an image is in its life, by its copies alone.
pub(super) fn phase_of_copies(image: &Image) -> Phase {
    let any = |phase| image.copies.iter().any(|copy| copy.phase == phase);
    match (any(Phase::Ready), any(Phase::Creating)) {
        (true, _) => Phase::Ready,
        (false, true) => Phase::Creating,
        (false, false) => Phase::Failed,
    }
}
