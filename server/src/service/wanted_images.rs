//! What a request means by an image: which content, and whether it can be used now.
//!
//! Called by `volumes`, `placing` and `channels`. A channel is read once for each decision; what is
//! decided is written over the channel's revision too, so that it is right at one instant.

use goldleaf_types::{Digest, NodeId};

use super::records::unchanged;
use super::{ImageView, Service, ServiceError, busy};
use crate::domain::{Channel, Image, ImageRef, Phase, Ref};
use crate::store::Expect;
use crate::store::rows::Row;

/// A content that a request named, and the records that it was found by.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub(super) digest: Digest,
    pub(super) image: Image,
    pub(super) channel: Option<Channel>,
}

impl Content {
    /// What must still be so when something comes to rest on it.
    pub(super) fn expected(&self) -> impl Iterator<Item = Expect> + use<> {
        let image = unchanged(&self.image);
        std::iter::once(image).chain(self.channel.as_ref().map(unchanged))
    }
}

impl Service {
    /// A ready image by name, id, content or channel; `field` is the request's.
    pub(super) async fn usable_image(
        &self,
        wanted: &ImageRef,
        field: &'static str,
    ) -> Result<Content, ServiceError> {
        let (image, channel) = self.pointed_at(wanted, field).await?;
        match (image.phase, image.digest) {
            (Phase::Ready, Some(digest)) => Ok(Content {
                digest,
                image,
                channel,
            }),
            (Phase::Creating | Phase::Ready, _) => Err(self.on_its_way(&image, None).await),
            (Phase::Deleting, _) => Err(busy::<Image>(image.name.as_str(), "being deleted")),
            (Phase::Failed | Phase::Closed, _) => Err(ServiceError::Unfit {
                kind: Image::KIND,
                name: image.name.to_string(),
                why: format!(
                    "is on no node ({}): create it again with the same parameters, or delete it",
                    why(&image)
                ),
            }),
        }
    }

    /// One image, however it is pointed at.
    ///
    /// # Errors
    ///
    /// When there is none, or the store is away.
    pub async fn find_image(&self, what: &ImageRef) -> Result<ImageView, ServiceError> {
        Ok(self.view_image(self.pointed_at(what, "target").await?.0))
    }

    /// What a reference points at, and the channel that it does so by.
    async fn pointed_at(
        &self,
        what: &ImageRef,
        field: &'static str,
    ) -> Result<(Image, Option<Channel>), ServiceError> {
        match what {
            ImageRef::Record(what) => Ok((self.records.get::<Image>(what, field).await?, None)),
            ImageRef::Digest(digest) => Ok((self.image_of(*digest, field).await?, None)),
            ImageRef::Channel(name) => {
                let name = Ref::Name(name.clone());
                let channel = self.records.get::<Channel>(&name, field).await?;
                Ok((self.image_of(channel.digest, field).await?, Some(channel)))
            }
        }
    }

    /// A record of a content, a ready one if there is one.
    async fn image_of(&self, digest: Digest, field: &'static str) -> Result<Image, ServiceError> {
        let holds = |image: &Image| image.digest == Some(digest);
        let ready = |image: &Image| holds(image) && image.phase == Phase::Ready;
        let found = match self.records.first(ready).await? {
            Some(image) => Some(image),
            None => self.records.first(holds).await?,
        };
        found.ok_or_else(|| ServiceError::NotFound {
            kind: Image::KIND,
            what: digest.to_string(),
            field,
        })
    }

    /// Says that an image is not there yet, and how far it has come.
    pub(super) async fn on_its_way(&self, image: &Image, node: Option<NodeId>) -> ServiceError {
        let copy = match node {
            Some(node) => image.copy_on(node),
            None => image.copies.first(),
        };
        let progress = copy.and_then(|copy| self.board.of(image.id, copy.node));
        let what = match progress {
            Some(p) if p.total.0 > 0 => format!("{} of {} B are there", p.done.0, p.total.0),
            Some(p) => format!("{} B are there", p.done.0),
            None => match copy {
                Some(copy) if !copy.message.is_empty() => copy.message.clone(),
                Some(_) | None => "it is on its way".into(),
            },
        };
        let name = match copy {
            Some(copy) => match self.node(copy.node).await {
                Ok(node) => node.name.to_string(),
                Err(_) => copy.node.to_string(),
            },
            None => "any".into(),
        };
        ServiceError::ImageOnItsWay {
            image: image.name.to_string(),
            node: name,
            what: format!("{what}; ask again"),
        }
    }
}

/// What an image's copies say of their failure.
fn why(image: &Image) -> String {
    let said: Vec<_> = image
        .copies
        .iter()
        .filter(|copy| !copy.message.is_empty())
        .map(|copy| copy.message.as_str())
        .collect();
    said.join("; ")
}
