//! Bringing an image's content to nodes.
//!
//! Called by `reconcile`, for it outlives any call. The wish is a copy in `Creating`; the effect is
//! the agent's import, begun again from nothing after a crash; the fact is the copy's phase with the
//! content's digest. How far an import has come is in memory only.

use std::collections::BTreeSet;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use goldleaf_types::{Digest, ImageId, NodeId};

use super::progress::bumped;
use super::{Held, Service, ServiceError};
use crate::agents::{AgentError, ImportStep};
use crate::domain::{Image, ImageAsked, ImageCopy, ImageReport, Phase, Refusal};
use crate::failpoint::{Point, hit};
use crate::store::rows;

/// So often an agent may say that a source does not answer until the copy counts as failed.
const SOURCE_TRIES: u32 = 8;

impl Service {
    /// Finishes whatever an image's record says is unfinished. What is wished for while it is at
    /// work is begun at once: one slow node keeps no other waiting.
    pub(super) async fn finish_image(&self, id: ImageId) -> Result<(), ServiceError> {
        // From before the record is read, so that no wish is missed.
        let mut bumps = self.board.bumps();
        if let Some(image) = self.records.by_id::<Image>(id).await? {
            self.lose_copies_on_lost_nodes(&image).await?;
        }
        let mut under_way = FuturesUnordered::new();
        let mut nodes = BTreeSet::new();
        let mut left = Ok(());
        loop {
            match self.records.by_id::<Image>(id).await? {
                Some(image) if image.phase != Phase::Deleting => {
                    for copy in image.copies.iter().filter(|copy| is_unfinished(copy)) {
                        if nodes.insert(copy.node) {
                            under_way.push(self.finish_copy(image.clone(), copy.clone()));
                        }
                    }
                }
                Some(image) if under_way.is_empty() => {
                    return self.finish_image_deletion(&image).await;
                }
                Some(_) | None => {} // what is under way ends by itself
            }
            tokio::select! {
                ended = under_way.next() => match ended {
                    Some((node, Ok(()))) => {
                        nodes.remove(&node); // it may have been wished for anew
                    }
                    Some((_, Err(error))) => left = Err(error), // tried again by the loop
                    None => return left,
                },
                alive = bumped(&mut bumps, id) => if !alive {
                    return left;
                },
            }
        }
    }

    async fn finish_copy(
        &self,
        image: Image,
        copy: ImageCopy,
    ) -> (NodeId, Result<(), ServiceError>) {
        let finished = match copy.phase {
            Phase::Deleting => self.finish_eviction(&image, copy.node).await,
            Phase::Creating | Phase::Ready | Phase::Failed | Phase::Closed => {
                self.fetch(&image, copy.node).await
            }
        };
        (copy.node, finished)
    }

    /// Brings one copy to its node.
    async fn fetch(&self, image: &Image, node: NodeId) -> Result<(), ServiceError> {
        // Given up before the image is taken: a deletion holds that while it waits for this.
        let importing = self.locks.take_inner(import_key(image.id, node)).await;
        let mut asked = image.asked.clone();
        asked.digest = asked.digest.or(image.digest);
        let imported = tokio::select! {
            imported = self.import(image, node, &asked) => imported,
            () = self.unwanted(image.id, node) => return Ok(()),
        };
        drop(importing);
        match imported {
            Ok(report) => {
                hit(Point::ImageFetched);
                self.fetched(image.id, node, &report).await
            }
            Err(ServiceError::Agent(error)) => self.not_fetched(image.id, node, error).await,
            Err(ServiceError::NodeLost { .. }) => self.lose_copies_on_lost_nodes(image).await,
            Err(error) => Err(error),
        }
    }

    async fn import(
        &self,
        image: &Image,
        node: NodeId,
        asked: &ImageAsked,
    ) -> Result<ImageReport, ServiceError> {
        let agent = self.agent_of(node).await?;
        if let Some(digest) = asked.digest {
            // A node that was taken back has it still, whatever became of its source.
            let there = agent.images().await?;
            if there.iter().any(|image| image.digest == digest)
                && let Ok(report) = agent.verify_image(digest).await
            {
                return Ok(report);
            }
        }
        let mut steps = agent.import_image(asked, image.thin).await?;
        while let Some(step) = steps.next().await {
            match step? {
                ImportStep::Progress(progress) => self.board.set(image.id, node, progress),
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
        while bumped(&mut bumps, id).await {
            let wanted = |image: Image| image.phase != Phase::Deleting && image.is_wanted_on(node);
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
        let found = self.records.by_id::<Image>(id).await?;
        let Some(mut image) = found.filter(|image| image.copy_on(node).is_some()) else {
            return self.drop_content(report.digest, &[node], id).await; // nobody wants it now
        };
        if image.phase == Phase::Deleting || !image.is_wanted_on(node) {
            return Ok(()); // settled by another try, or on its way out
        }
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
        let found = self.records.by_id::<Image>(id).await?;
        let Some(mut image) = found.filter(|image| image.is_wanted_on(node)) else {
            return Ok(());
        };
        let message = match image.thin {
            Some(_) if error.is_not_found() => format!(
                "{error}: an image of a volume or snapshot is made on that one's node alone"
            ),
            Some(_) | None => error.to_string(),
        };
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

    /// Takes a content, so that none is deleted while a record comes to point at it. Taken after an
    /// image, never before one.
    pub(super) async fn hold_content(&self, digest: Digest) -> Held {
        self.locks.take_inner(format!("content/{digest}")).await
    }
}

fn is_unfinished(copy: &ImageCopy) -> bool {
    match copy.phase {
        Phase::Creating | Phase::Deleting => true,
        Phase::Ready | Phase::Failed | Phase::Closed => false,
    }
}

pub(super) fn import_key(image: ImageId, node: NodeId) -> String {
    format!("import/{image}/{node}")
}
