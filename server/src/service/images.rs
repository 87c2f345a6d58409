//! Images: names for content, and bringing the content to nodes.
//!
//! Called by `grpc`; fetching is called by `reconcile`, for it outlives any call. The wish is a copy
//! in `Creating`; the effect is the agent's import, begun again from nothing after a crash; the fact
//! is the copy's phase with the content's digest. How far an import has come is in memory only.

use futures::StreamExt;
use futures::future::join_all;
use goldleaf_types::{Bytes, Digest, ImageId, Labels, Name, NodeId};
use jiff::Timestamp;
use tokio::sync::broadcast::error::RecvError;

use super::{Held, Listed, Listing, Service, ServiceError, Unfinished, busy, conflict, first};
use crate::agents::{AgentError, ImportStep};
use crate::domain::{
    Image, ImageAsked, ImageCopy, ImageReport, Marks, Node, Phase, Progress, Ref, Refusal,
};
use crate::failpoint::{Point, hit};
use crate::store::rows::{self, Row};

/// So often an agent may say that a source does not answer until the copy counts as failed.
const SOURCE_TRIES: u32 = 8;

/// An image to be.
#[derive(Clone, Debug)]
pub struct CreateImage {
    /// Its name.
    pub name: Name,
    /// Its parameters.
    pub asked: ImageAsked,
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
        let node = self.node_named(wanted.node.as_ref()).await?;
        let mut image = Image {
            id: ImageId::mint(),
            name: wanted.name.clone(),
            labels: wanted.labels.clone(),
            revision: 0,
            phase: Phase::Creating,
            conditions: Vec::new(),
            created: Timestamp::now(),
            asked: wanted.asked.clone(),
            digest: None,
            size: Bytes(0),
            copies: vec![ImageCopy::wanted(node.id)],
            marks: Marks::new(wanted.deletion_protection),
        };
        // Dropped at the end, well or badly: fetching is the loop's work.
        let _begun = self.pending.begin(Unfinished::Image(image.id));
        self.records.insert(&mut image, Vec::new()).await?;
        hit(Point::ImageWished);
        Ok(image)
    }

    /// Waits until an image is ready or failed.
    ///
    /// # Errors
    ///
    /// Whatever made the import fail, or that the image is being deleted.
    pub async fn settled_image(&self, id: ImageId, name: &Name) -> Result<ImageView, ServiceError> {
        let mut bumps = self.board.bumps();
        loop {
            let Some(image) = self.records.by_id::<Image>(id).await? else {
                return Err(busy::<Image>(name.as_str(), "being deleted"));
            };
            match image.phase {
                Phase::Creating => {}
                Phase::Ready => return Ok(self.view_image(image)),
                Phase::Failed | Phase::Closed | Phase::Deleting => return Err(failure(&image)),
            }
            loop {
                match bumps.recv().await {
                    Ok(bumped) if bumped != id => {}
                    Ok(_) | Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => {
                        return Err(busy::<Image>(name.as_str(), "given up: the server stops"));
                    }
                }
            }
        }
    }

    /// Finishes whatever an image's record says is unfinished.
    pub(super) async fn finish_image(&self, id: ImageId) -> Result<(), ServiceError> {
        let Some(image) = self.records.by_id::<Image>(id).await? else {
            return Ok(());
        };
        if image.phase == Phase::Deleting {
            return self.finish_image_deletion(&image).await;
        }
        let wanted = image
            .copies
            .iter()
            .filter(|copy| copy.phase == Phase::Creating);
        let fetched = join_all(wanted.map(|copy| self.fetch(&image, copy.node))).await;
        fetched.into_iter().collect()
    }

    /// Brings one copy to its node.
    async fn fetch(&self, image: &Image, node: NodeId) -> Result<(), ServiceError> {
        // Given up before the image is taken: a deletion holds that while it waits for this.
        let importing = self.locks.take_inner(import_key(image.id, node)).await;
        let mut asked = image.asked.clone();
        asked.digest = asked.digest.or(image.digest);
        let imported = tokio::select! {
            imported = self.import(image.id, node, &asked) => imported,
            () = self.unwanted(image.id, node) => return Ok(()),
        };
        drop(importing);
        match imported {
            Ok(report) => {
                hit(Point::ImageFetched);
                self.fetched(image.id, node, &report).await
            }
            Err(ServiceError::Agent(error)) => self.not_fetched(image.id, node, error).await,
            Err(error) => Err(error),
        }
    }

    async fn import(
        &self,
        image: ImageId,
        node: NodeId,
        asked: &ImageAsked,
    ) -> Result<ImageReport, ServiceError> {
        let mut steps = self.agent_of(node).await?.import_image(asked).await?;
        while let Some(step) = steps.next().await {
            match step? {
                ImportStep::Progress(progress) => self.board.set(image, node, progress),
                ImportStep::Done(report) => return Ok(report),
            }
        }
        let why = "the import ended without a result".to_owned();
        Err(AgentError::Away {
            node: node.to_string(),
            why,
        }
        .into())
    }

    /// Returns when nobody wants a copy any more.
    async fn unwanted(&self, id: ImageId, node: NodeId) {
        let mut bumps = self.board.bumps();
        loop {
            match bumps.recv().await {
                Ok(bumped) if bumped != id => continue,
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
            let wanted = |image: Image| {
                image.phase != Phase::Deleting
                    && image
                        .copy_on(node)
                        .is_some_and(|copy| copy.phase == Phase::Creating)
            };
            // A store that is away is no reason to stop; the import's own end will show it.
            if let Ok(image) = self.records.by_id::<Image>(id).await
                && !image.is_some_and(wanted)
            {
                return;
            }
        }
    }

    /// The fact of a copy that is there.
    async fn fetched(
        &self,
        id: ImageId,
        node: NodeId,
        report: &ImageReport,
    ) -> Result<(), ServiceError> {
        let _held = self.locks.take_inner(rows::key::<Image>(id)).await;
        let _content = self.hold_content(report.digest).await;
        let Some(mut image) = self.records.by_id::<Image>(id).await? else {
            return self.drop_content(report.digest, &[node], id).await; // nobody wants it now
        };
        let there = self.agent_of(node).await?.images().await?;
        if !there.iter().any(|held| held.digest == report.digest) {
            let why = "the content was deleted under its last other name meanwhile".to_owned();
            return Err(AgentError::Away {
                node: node.to_string(),
                why,
            }
            .into());
        }
        let copy = match image.digest {
            Some(known) if known != report.digest => ImageCopy {
                phase: Phase::Failed,
                message: format!(
                    "the source has other content now ({}): create an image with another name",
                    report.digest
                ),
                refusal: Some(Refusal::FailedPrecondition),
                ..ImageCopy::wanted(node)
            },
            Some(_) | None => ImageCopy {
                phase: Phase::Ready,
                ..ImageCopy::wanted(node)
            },
        };
        if copy.phase == Phase::Ready {
            image.digest = Some(report.digest);
            image.size = report.size;
        }
        self.settle(image, copy).await?;
        hit(Point::ImageRecorded);
        Ok(())
    }

    /// The fact of a copy that cannot be made; an error when it is to be tried again.
    async fn not_fetched(
        &self,
        id: ImageId,
        node: NodeId,
        error: AgentError,
    ) -> Result<(), ServiceError> {
        let (refusal, give_up) = match &error {
            AgentError::Away { .. } => (Refusal::Unavailable, false),
            AgentError::Refused { refusal, .. } => match refusal {
                Refusal::Aborted | Refusal::Internal => (*refusal, false),
                Refusal::Unavailable => (*refusal, self.board.tries(id, node) >= SOURCE_TRIES),
                Refusal::InvalidArgument
                | Refusal::NotFound
                | Refusal::AlreadyExists
                | Refusal::FailedPrecondition
                | Refusal::OutOfRange
                | Refusal::ResourceExhausted => (*refusal, true),
            },
        };
        let _held = self.locks.take_inner(rows::key::<Image>(id)).await;
        let Some(mut image) = self.records.by_id::<Image>(id).await? else {
            return Ok(());
        };
        let message = error.to_string();
        if give_up {
            let copy = ImageCopy {
                node,
                phase: Phase::Failed,
                message,
                refusal: Some(refusal),
            };
            return self.settle(image, copy).await;
        }
        if image
            .copy_on(node)
            .is_some_and(|copy| copy.message != message)
        {
            image.settle(ImageCopy {
                message,
                ..ImageCopy::wanted(node)
            });
            self.records.update(&mut image).await?;
        }
        Err(error.into())
    }

    async fn settle(&self, mut image: Image, copy: ImageCopy) -> Result<(), ServiceError> {
        let node = copy.node;
        tracing::info!(image = %image.id, name = %image.name, %node, phase = ?copy.phase,
            message = copy.message, "image copy settled");
        image.settle(copy);
        self.records.update(&mut image).await?;
        self.board.settled(image.id, node);
        Ok(())
    }

    /// Reads every copy again and compares it with the digest.
    ///
    /// # Errors
    ///
    /// When there is no such image, it has no content yet, or a node does not answer.
    pub async fn verify_image(&self, what: &Ref<ImageId>) -> Result<ImageView, ServiceError> {
        let image = self.records.get::<Image>(what, "image").await?;
        let Some(digest) = image.digest else {
            return Err(failure(&image));
        };
        let mut verified = Vec::new();
        for copy in image
            .copies
            .iter()
            .filter(|copy| copy.phase != Phase::Creating)
        {
            let agent = self.agent_of(copy.node).await?;
            match agent.verify_image(digest).await {
                Ok(_) => {
                    verified.push(ImageCopy {
                        phase: Phase::Ready,
                        ..ImageCopy::wanted(copy.node)
                    });
                }
                Err(error) if error.is_transient() => return Err(error.into()),
                Err(error) => verified.push(ImageCopy {
                    node: copy.node,
                    phase: Phase::Failed,
                    message: error.to_string(),
                    refusal: Some(Refusal::FailedPrecondition),
                }),
            }
        }
        let _held = self.locks.take_inner(rows::key::<Image>(image.id)).await;
        let mut image = self
            .records
            .get::<Image>(&Ref::Id(image.id), "image")
            .await?;
        let before = image.clone();
        verified.into_iter().for_each(|copy| image.settle(copy));
        if matches!(image.phase, Phase::Ready | Phase::Failed) {
            let any = image.copies.iter().any(|copy| copy.phase == Phase::Ready);
            image.phase = if any { Phase::Ready } else { Phase::Failed };
        }
        if image != before {
            self.records.update(&mut image).await?;
        }
        Ok(self.view_image(image))
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

    /// Takes a content, so that none is deleted while a record comes to point at it. Taken after an
    /// image, never before one.
    pub(super) async fn hold_content(&self, digest: Digest) -> Held {
        self.locks.take_inner(format!("content/{digest}")).await
    }
}

pub(super) fn import_key(image: ImageId, node: NodeId) -> String {
    format!("import/{image}/{node}")
}

/// Why an image is not ready, as its copies say it.
fn failure(image: &Image) -> ServiceError {
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
