//! Which nodes hold an image: having more of them hold it, and taking one's copy away.
//!
//! Called by `grpc`, and by `image_fetching` to finish what was cut short. Both wishes are phases of
//! the copy, durable before any node hears of them. The law of the last whole copy is kept before an
//! eviction is wished for, under the content's lock, so that no two evictions count on each other.

use goldleaf_types::{Digest, ImageId, Name, NodeId};

use super::image_deletion::in_use;
use super::image_fetching::import_key;
use super::{Begun, ImageView, Op, Service, ServiceError, Unfinished, busy, is_precondition};
use crate::agents::AgentError;
use crate::domain::{Image, ImageCopy, Node, Phase, Ref, Refusal};
use crate::failpoint::{Point, hit};
use crate::store::rows::{self, Row};

impl Service {
    /// Has nodes hold an image. Asking again changes nothing but what failed, which is tried anew.
    ///
    /// # Errors
    ///
    /// No such image or node, or the image is being deleted.
    pub async fn place_image(
        &self,
        what: &Ref<ImageId>,
        nodes: &[Ref<NodeId>],
    ) -> Result<ImageView, ServiceError> {
        let found = self.records.get::<Image>(what, "image").await?;
        let nodes = self.nodes_named(nodes).await?;
        let _held = self.locks.take_inner(rows::key::<Image>(found.id)).await;
        let by_id = Ref::Id(found.id);
        let mut image = self.records.get::<Image>(&by_id, "image").await?;
        if image.phase == Phase::Deleting {
            return Err(busy::<Image>(image.name.as_str(), "being deleted"));
        }
        let lacks = |node: &&NodeId| {
            let phase = image.copy_on(**node).map(|copy| copy.phase);
            !matches!(phase, Some(Phase::Creating | Phase::Ready))
        };
        let wanted: Vec<_> = nodes.iter().filter(lacks).copied().collect();
        if !wanted.is_empty() {
            self.change_copies(&mut image, wanted.into_iter().map(ImageCopy::wanted))
                .await?;
            hit(Point::ImagePlacementWished);
        }
        Ok(self.view_image(image))
    }

    /// Waits until each of these nodes holds an image.
    ///
    /// # Errors
    ///
    /// What the first one said that cannot get it; that a copy is not wished for any more.
    pub async fn placed_image(
        &self,
        (id, name): (ImageId, &Name),
        nodes: &[Ref<NodeId>],
    ) -> Result<ImageView, ServiceError> {
        let nodes = self.nodes_named(nodes).await?;
        self.image_when(id, name, |image| {
            let copies = nodes.iter().map(|node| image.copy_on(*node));
            let mut waits = false;
            for copy in copies {
                match copy.map(|copy| (copy.phase, copy)) {
                    Some((Phase::Ready, _)) => {}
                    Some((Phase::Creating, _)) => waits = true,
                    Some((Phase::Failed | Phase::Closed, copy)) => {
                        return Some(Err(not_placed(image, copy)));
                    }
                    Some((Phase::Deleting, _)) | None => {
                        let doing = Op::Evict.doing();
                        return Some(Err(busy::<Image>(name.as_str(), doing)));
                    }
                }
            }
            (!waits).then_some(Ok(()))
        })
        .await
    }

    async fn nodes_named(&self, nodes: &[Ref<NodeId>]) -> Result<Vec<NodeId>, ServiceError> {
        let mut ids = Vec::new();
        for node in nodes {
            ids.push(self.records.get::<Node>(node, "nodes").await?.id);
        }
        Ok(ids)
    }

    /// Takes a node's copy away. One that is not there is as good.
    ///
    /// # Errors
    ///
    /// [`ServiceError::InUse`] while a volume or snapshot of that node needs it,
    /// [`ServiceError::LastCopy`] for the last whole one of what any needs; both change nothing.
    pub async fn evict_image(
        &self,
        what: &Ref<ImageId>,
        node: &Ref<NodeId>,
    ) -> Result<ImageView, ServiceError> {
        let found = self.records.get::<Image>(what, "image").await?;
        let node = self.records.get::<Node>(node, "node").await?;
        let (_held, image) = self.hold(&found, Op::Evict).await?;
        let Some(mut image) = image.filter(|image| image.phase != Phase::Deleting) else {
            return Err(busy::<Image>(found.name.as_str(), Op::Delete.doing()));
        };
        let Some(copy) = image.copy_on(node.id).cloned() else {
            return Ok(self.view_image(image));
        };
        let begun = self.pending.begin(Unfinished::Image(image.id));
        if copy.phase != Phase::Deleting {
            let _content = match image.digest {
                Some(digest) => Some(self.hold_content(digest).await),
                None => None,
            };
            if let Err(error) = self.may_evict(&image, &copy, &node).await {
                if copy.phase != Phase::Creating {
                    begun.done(); // nothing was wished for
                }
                return Err(error);
            }
            image.settle(ImageCopy {
                phase: Phase::Deleting,
                ..ImageCopy::wanted(node.id)
            });
            self.records.update(&mut image).await?;
            hit(Point::ImageEvictionWished);
        }
        self.take_copy_away(image, node.id, begun).await
    }

    pub(super) async fn finish_eviction(
        &self,
        found: &Image,
        node: NodeId,
    ) -> Result<(), ServiceError> {
        let (_held, image) = self.hold(found, Op::Evict).await?;
        let evicted = |image: &Image| {
            image.phase != Phase::Deleting
                && image.copy_on(node).map(|copy| copy.phase) == Some(Phase::Deleting)
        };
        match image.filter(evicted) {
            Some(image) => {
                let begun = self.pending.begin(Unfinished::Image(image.id));
                self.take_copy_away(image, node, begun).await.map(drop)
            }
            None => Ok(()),
        }
    }

    /// Refuses to take away what is needed. The caller holds image and content.
    async fn may_evict(
        &self,
        image: &Image,
        copy: &ImageCopy,
        node: &Node,
    ) -> Result<(), ServiceError> {
        let Some(digest) = image.digest else {
            return Ok(());
        };
        let same = |other: &Image| other.digest == Some(digest) && other.phase != Phase::Deleting;
        let all = self.records.all::<Image>().await?;
        let others: Vec<_> = all.iter().filter(|other| same(other)).collect();
        if others.iter().any(|i| i.id != image.id && i.is_on(node.id)) {
            return Ok(()); // the content stays there, under another name
        }
        if let Some(by) = self.needed_by(digest, Some(node.id)).await? {
            return Err(in_use(image, format!("{by} of node {}", node.name)));
        }
        if copy.phase != Phase::Ready {
            return Ok(());
        }
        let Some(by) = self.needed_by(digest, None).await? else {
            return Ok(());
        };
        let copies = others.iter().flat_map(|other| &other.copies);
        let elsewhere = copies.filter(|c| c.phase == Phase::Ready && c.node != node.id);
        self.whole_on_one_of(digest, elsewhere.map(|copy| copy.node))
            .await
            .map_err(|why| ServiceError::LastCopy {
                image: image.name.to_string(),
                node: node.name.to_string(),
                by,
                why,
            })
    }

    /// Has one of the nodes read its copy whole; says why none did.
    async fn whole_on_one_of(
        &self,
        digest: Digest,
        nodes: impl Iterator<Item = NodeId>,
    ) -> Result<(), String> {
        let mut why = Vec::new();
        for node in nodes {
            let verified = match self.agent_of(node).await {
                Ok(agent) => agent.verify_image(digest).await.map_err(Into::into),
                Err(error) => Err(error),
            };
            match verified {
                Ok(_) => return Ok(()),
                Err(error) => why.push(format!("; the one on {node} does not count: {error}")),
            }
        }
        Err(why.concat())
    }

    /// Effect and fact of an eviction. The caller holds the image.
    async fn take_copy_away(
        &self,
        mut image: Image,
        node: NodeId,
        begun: Begun,
    ) -> Result<ImageView, ServiceError> {
        self.board.settled(image.id, node); // stops an import
        let over = self.locks.take_inner(import_key(image.id, node)).await;
        drop(over);
        if let Some(digest) = image.digest {
            let _content = self.hold_content(digest).await;
            match self.drop_content(digest, &[node], image.id).await {
                Ok(()) => {}
                Err(error) if is_precondition(&error) => {
                    // Its node needs it still, and knows that better than the records do.
                    let there = self.agent_of(node).await?.images().await?;
                    let there = there.iter().any(|held| held.digest == digest);
                    image.settle(kept(node, there, &error));
                    image.phase = image.phase_of_copies();
                    self.records.update(&mut image).await?;
                    begun.done();
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
        }
        hit(Point::ImageEvicted);
        image.forget_copy(node);
        self.records.update(&mut image).await?;
        hit(Point::ImageEvictionRecorded);
        tracing::info!(image = %image.id, name = %image.name, %node, "image copy evicted");
        self.board.wished(image.id);
        begun.done();
        Ok(self.view_image(image))
    }
}

/// A copy that its node does not let go.
fn kept(node: NodeId, there: bool, error: &ServiceError) -> ImageCopy {
    if there {
        return ImageCopy {
            phase: Phase::Ready,
            ..ImageCopy::wanted(node)
        };
    }
    ImageCopy {
        node,
        phase: Phase::Failed,
        message: format!("it is needed there and is not there ({error}): place it there again"),
        refusal: Some(Refusal::FailedPrecondition),
    }
}

/// What a node said that cannot get a copy.
fn not_placed(image: &Image, copy: &ImageCopy) -> ServiceError {
    ServiceError::Agent(AgentError::Refused {
        refusal: copy.refusal.unwrap_or(Refusal::FailedPrecondition),
        reason: "IMAGE_FAILED".into(),
        message: format!(
            "{} {} on node {}: {}",
            Image::KIND,
            image.name,
            copy.node,
            copy.message
        ),
        field: None,
    })
}
