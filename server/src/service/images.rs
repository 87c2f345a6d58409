//! Images: names for content. Made, shown, verified.
//!
//! Called by `grpc`. The wish is a copy in `Creating`; bringing it is the work of `image_fetching`.

use goldleaf_types::{Bytes, ImageId, Labels, Name, NodeId};
use jiff::Timestamp;

use super::progress::bumped;
use super::{Listed, Listing, Service, ServiceError, Unfinished, busy, conflict, first, trusted};
use crate::agents::AgentError;
use crate::domain::{
    Image, ImageAsked, ImageCopy, Marks, Node, Phase, Progress, Ref, Refusal, SourceRef,
};
use crate::failpoint::{Point, hit};
use crate::store::rows::{self, Row};

/// An image to be.
#[derive(Clone, Debug)]
pub struct CreateImage {
    /// Its name.
    pub name: Name,
    /// Its parameters.
    pub asked: ImageAsked,
    /// The volume or snapshot to make it of, if its source is one.
    pub source: Option<SourceRef>,
    /// The node to bring it to; none while there is just one.
    pub node: Option<Ref<NodeId>>,
    /// Its labels.
    pub labels: Labels,
    /// Whether it is protected from deletion.
    pub deletion_protection: bool,
    /// Answer only when it is ready or failed.
    pub wait: bool,
}

/// An image with how far its copies have come.
#[derive(Clone, Debug)]
pub struct ImageView {
    /// The record.
    pub image: Image,
    /// Of those copies that are being made.
    pub progress: Vec<(NodeId, Progress)>,
}

impl Service {
    /// Brings an image to a node. The same request again answers the same image, and tries again
    /// to bring what could not be brought.
    ///
    /// # Errors
    ///
    /// A conflict, no such node; with `wait`, also whatever made the import fail.
    pub async fn create_image(&self, wanted: CreateImage) -> Result<ImageView, ServiceError> {
        let image = self.image_wished(&wanted).await?;
        if wanted.wait {
            self.settled_image(image.id, &wanted.name).await
        } else {
            Ok(self.view_image(image))
        }
    }

    async fn image_wished(&self, wanted: &CreateImage) -> Result<Image, ServiceError> {
        let _name = self.hold_name::<Image>(&wanted.name).await?;
        if let Some(image) = self.records.by_name::<Image>(&wanted.name).await? {
            if image.phase == Phase::Deleting {
                return Err(busy::<Image>(wanted.name.as_str(), "being deleted"));
            }
            image
                .same_or_conflict(
                    &wanted.asked,
                    &first(&wanted.labels, wanted.deletion_protection),
                )
                .map_err(|field| conflict(&image, field))?;
            let node = match &wanted.node {
                Some(node) => Some(self.records.get::<Node>(node, "node").await?.id),
                None => None,
            };
            if node.is_some_and(|node| image.copy_on(node).is_none()) {
                return Err(conflict(&image, "node"));
            }
            let image = self.wish_failed_copies(&image, node).await?;
            if image.phase == Phase::Creating {
                self.pending.add(Unfinished::Image(image.id));
            }
            return Ok(image);
        }
        let source = match &wanted.source {
            Some(source) => Some(self.image_source(source, wanted.node.as_ref()).await?),
            None => None,
        };
        let node = match &source {
            Some(source) => source.node,
            None => {
                let node = self.node_named(wanted.node.as_ref()).await?;
                trusted(&node)?;
                node.id
            }
        };
        let mut image = Image {
            id: ImageId::mint(),
            name: wanted.name.clone(),
            labels: wanted.labels.clone(),
            revision: 0,
            phase: Phase::Creating,
            conditions: Vec::new(),
            created: Timestamp::now(),
            asked: wanted.asked.clone(),
            thin: source.as_ref().map(|source| source.owner),
            digest: None,
            size: Bytes(0),
            copies: vec![ImageCopy::wanted(node)],
            marks: Marks::new(wanted.deletion_protection),
        };
        // Dropped at the end, well or badly: fetching is the loop's work.
        let _begun = self.pending.begin(Unfinished::Image(image.id));
        let rests_on = source.map(|source| source.unchanged);
        self.records
            .insert(&mut image, rests_on.into_iter().collect())
            .await?;
        hit(Point::ImageWished);
        Ok(image)
    }

    /// Waits until an image is ready or failed.
    ///
    /// # Errors
    ///
    /// Whatever made the import fail, or that the image is being deleted.
    pub async fn settled_image(&self, id: ImageId, name: &Name) -> Result<ImageView, ServiceError> {
        self.image_when(id, name, |image| match image.phase {
            Phase::Creating => None,
            Phase::Ready => Some(Ok(())),
            Phase::Failed | Phase::Closed | Phase::Deleting => Some(Err(failure(image))),
        })
        .await
    }

    /// Waits until something can be said of an image.
    pub(super) async fn image_when(
        &self,
        id: ImageId,
        name: &Name,
        said: impl Fn(&Image) -> Option<Result<(), ServiceError>>,
    ) -> Result<ImageView, ServiceError> {
        let mut bumps = self.board.bumps();
        loop {
            let Some(image) = self.records.by_id::<Image>(id).await? else {
                return Err(busy::<Image>(name.as_str(), "being deleted"));
            };
            if let Some(said) = said(&image) {
                return said.map(|()| self.view_image(image));
            }
            if !bumped(&mut bumps, id).await {
                return Err(busy::<Image>(name.as_str(), "given up: the server stops"));
            }
        }
    }

    /// Reads every copy again and compares it with the digest.
    ///
    /// # Errors
    ///
    /// When there is no such image, it has no content yet, or a node does not answer: what is known
    /// of the copies of others is recorded then too.
    pub async fn verify_image(&self, what: &Ref<ImageId>) -> Result<ImageView, ServiceError> {
        let image = self.records.get::<Image>(what, "image").await?;
        let Some(digest) = image.digest else {
            return Err(failure(&image));
        };
        let (mut verified, mut unread) = (Vec::new(), None);
        for copy in image.copies.iter().filter(|copy| is_settled(copy)) {
            let read = match self.agent_of(copy.node).await {
                Ok(agent) => agent.verify_image(digest).await.map_err(Into::into),
                Err(error) => Err(error),
            };
            match read {
                Ok(_) => verified.push(ImageCopy {
                    phase: Phase::Ready,
                    ..ImageCopy::wanted(copy.node)
                }),
                Err(ServiceError::Agent(error)) if !error.is_transient() => {
                    verified.push(ImageCopy {
                        node: copy.node,
                        phase: Phase::Failed,
                        message: error.to_string(),
                        refusal: Some(Refusal::FailedPrecondition),
                    });
                }
                Err(error) => unread = unread.or(Some(error)),
            }
        }
        let _held = self.locks.take_inner(rows::key::<Image>(image.id)).await;
        let mut image = self
            .records
            .get::<Image>(&Ref::Id(image.id), "image")
            .await?;
        let before = image.clone();
        for copy in verified {
            // What became of it meanwhile counts more.
            if image.copy_on(copy.node).is_some_and(is_settled) {
                image.settle(copy);
            }
        }
        if matches!(image.phase, Phase::Ready | Phase::Failed) {
            image.phase = image.phase_of_copies();
        }
        if image != before {
            self.records.update(&mut image).await?;
        }
        match unread {
            Some(error) => Err(error),
            None => Ok(self.view_image(image)),
        }
    }

    /// An image with how far its copies have come.
    pub(super) fn view_image(&self, image: Image) -> ImageView {
        let making = image
            .copies
            .iter()
            .filter(|copy| copy.phase == Phase::Creating);
        let progress = making.filter_map(|copy| {
            self.board
                .of(image.id, copy.node)
                .map(|progress| (copy.node, progress))
        });
        ImageView {
            progress: progress.collect(),
            image,
        }
    }

    /// One image.
    ///
    /// # Errors
    ///
    /// When there is none, or the store is away.
    pub async fn get_image(&self, what: &Ref<ImageId>) -> Result<ImageView, ServiceError> {
        Ok(self.view_image(self.records.get::<Image>(what, "target").await?))
    }

    /// Images in order of creation.
    ///
    /// # Errors
    ///
    /// For a token that no page answered, or when the store is away.
    pub async fn list_images(&self, listing: &Listing) -> Result<Listed<ImageView>, ServiceError> {
        let listed = self.list::<Image>(listing).await?;
        let items = listed
            .items
            .into_iter()
            .map(|image| self.view_image(image))
            .collect();
        Ok(Listed {
            items,
            next: listed.next,
        })
    }
}

/// Whether a copy is there or failed to come, and nothing goes on with it.
fn is_settled(copy: &ImageCopy) -> bool {
    match copy.phase {
        Phase::Ready | Phase::Failed => true,
        Phase::Creating | Phase::Deleting | Phase::Closed => false,
    }
}

/// Why an image is not ready, as its copies say it.
pub(super) fn failure(image: &Image) -> ServiceError {
    let failed = image
        .copies
        .iter()
        .find_map(|copy| copy.refusal.map(|refusal| (refusal, copy)));
    match failed {
        Some((refusal, copy)) => ServiceError::Agent(AgentError::Refused {
            refusal,
            reason: "IMAGE_FAILED".into(),
            message: format!("image {}: {}", image.name, copy.message),
            field: None,
        }),
        None => ServiceError::Busy {
            kind: Image::KIND,
            name: image.name.to_string(),
            doing: match image.phase {
                Phase::Deleting => "being deleted",
                Phase::Creating | Phase::Ready | Phase::Failed | Phase::Closed => "being created",
            },
        },
    }
}
