//! Forgetting an image: its name always, its content with its last name.
//!
//! Called by `grpc`, and by `image_fetching` to finish it. Nothing that a volume or snapshot needs is ever
//! deleted: that is looked at again after the wish is durable, when no new one can come to need it.

use goldleaf_types::{Digest, ImageId, NodeId};

use super::image_fetching::import_key;
use super::updates::unprotected;
use super::{Begun, Op, Service, ServiceError, Target, Unfinished, at_revision, is_precondition};
use crate::domain::{Channel, Image, Phase, Ref, Snapshot, Volume};
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
                image.phase = image.phase_of_copies();
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

    /// Deletes a content on these nodes, but not where another image has it. The caller holds the
    /// content.
    pub(super) async fn drop_content(
        &self,
        digest: Digest,
        nodes: &[NodeId],
        except: ImageId,
    ) -> Result<(), ServiceError> {
        for node in nodes {
            let other = |image: &Image| image.id != except && image.keeps(digest, *node);
            if self.records.first::<Image>(other).await?.is_none() {
                match self.agent_of(*node).await {
                    Ok(agent) => agent.delete_image(digest).await?,
                    Err(ServiceError::NodeLost { .. }) => {} // nobody asks it for the copy again
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    async fn not_needed(&self, image: &Image) -> Result<(), ServiceError> {
        let Some(digest) = image.digest else {
            return Ok(());
        };
        if let Some(by) = self.needed_by(digest, None).await? {
            return Err(in_use(image, by));
        }
        let points = |channel: &Channel| channel.digest == digest;
        let other = |other: &Image| {
            let same = other.id != image.id && other.digest == Some(digest);
            same && other.phase != Phase::Deleting
        };
        match self.records.first::<Channel>(points).await? {
            Some(channel) if self.records.first::<Image>(other).await?.is_none() => {
                let by = format!("channel {}, which points to it", channel.name);
                Err(in_use(image, by))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// A volume or snapshot that needs a content, on this node if one is named.
    pub(super) async fn needed_by(
        &self,
        digest: Digest,
        node: Option<NodeId>,
    ) -> Result<Option<String>, ServiceError> {
        let there = |at: NodeId| node.is_none_or(|node| node == at);
        let volume = |v: &Volume| v.image == Some(digest) && there(v.node);
        if let Some(volume) = self.records.first::<Volume>(volume).await? {
            return Ok(Some(format!("volume {}", volume.name)));
        }
        let snapshot = |s: &Snapshot| s.image == Some(digest) && there(s.node);
        let snapshot = self.records.first::<Snapshot>(snapshot).await?;
        Ok(snapshot.map(|snapshot| format!("snapshot {}", snapshot.name)))
    }
}

pub(super) fn in_use(image: &Image, by: String) -> ServiceError {
    ServiceError::InUse {
        kind: Image::KIND,
        name: image.name.to_string(),
        by,
    }
}
