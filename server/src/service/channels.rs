//! Channels: made, moved, forgotten.
//!
//! Called by `grpc`. One transaction on the record and no effect anywhere, so a crash leaves the
//! change made or not made. A channel comes to point to a content over the revision of an image that
//! has it, and the last image of a content that a channel points to is not deleted.

use futures::{StreamExt, stream};
use goldleaf_types::{ChannelId, ChannelName, Labels};
use jiff::Timestamp;
use std::sync::Arc;

use super::wanted_images::Content;
use super::{
    DECISIONS, Events, Listed, Listing, Service, ServiceError, Target, Watch, at_revision, busy,
};
use crate::domain::{Channel, ImageRef, Marks, Ref, Remark};
use crate::failpoint::{Point, hit};

/// A channel to be, or where it is to point.
#[derive(Clone, Debug)]
pub struct SetChannel {
    /// Its name.
    pub name: ChannelName,
    /// What to point to.
    pub image: ImageRef,
    /// Labels to set; others stay.
    pub labels: Labels,
    /// If not 0, the revision it must have.
    pub revision: u64,
}

type ChannelRef = Ref<ChannelId, ChannelName>;

impl Service {
    /// Makes a channel or moves it. The same again changes nothing.
    ///
    /// # Errors
    ///
    /// No such image, or one that is not ready; another revision than the one demanded.
    pub async fn set_channel(&self, wanted: SetChannel) -> Result<Channel, ServiceError> {
        let _name = self.hold_name::<Channel>(&wanted.name).await?;
        for _ in 0..DECISIONS {
            let content = self.usable_image(&wanted.image, "image").await?;
            let pointed = match self.records.by_name::<Channel>(&wanted.name).await? {
                Some(channel) => self.move_channel(channel, &wanted, &content).await,
                None => self.new_channel(&wanted, &content).await,
            };
            match pointed {
                Err(error) if error.is_conflict() => {} // something it rests on changed
                pointed => return pointed,
            }
        }
        Err(busy::<Channel>(
            wanted.name.as_str(),
            "being decided on by others too",
        ))
    }

    async fn new_channel(
        &self,
        wanted: &SetChannel,
        content: &Content,
    ) -> Result<Channel, ServiceError> {
        if wanted.revision != 0 {
            let name = Ref::Name(wanted.name.clone());
            return self.records.get::<Channel>(&name, "name").await; // that there is none
        }
        let now = Timestamp::now();
        let mut channel = Channel {
            id: ChannelId::mint(),
            name: wanted.name.clone(),
            labels: wanted.labels.clone(),
            revision: 0,
            created: now,
            moved: now,
            digest: content.digest,
        };
        let expected = content.expected().collect();
        self.records.insert(&mut channel, expected).await?;
        hit(Point::ChannelRecorded);
        Ok(channel)
    }

    async fn move_channel(
        &self,
        before: Channel,
        wanted: &SetChannel,
        content: &Content,
    ) -> Result<Channel, ServiceError> {
        let mut channel = before.clone();
        let labels = Remark {
            set: wanted.labels.clone(),
            ..Remark::default()
        };
        let labelled = labels.apply(&mut channel.labels, &mut Marks::default());
        labelled.map_err(|problem| ServiceError::BadField {
            field: "labels",
            problem,
        })?;
        if channel.digest != content.digest {
            channel.digest = content.digest;
            channel.moved = Timestamp::now();
        }
        if channel == before {
            return Ok(channel);
        }
        at_revision(&before, wanted.revision)?;
        let expected = content.expected().collect();
        self.records.update_if(&mut channel, expected).await?;
        hit(Point::ChannelRecorded);
        tracing::info!(channel = %channel.name, from = %before.digest, to = %channel.digest, "moved");
        Ok(channel)
    }

    /// Forgets a channel. One that is not there is as good.
    ///
    /// # Errors
    ///
    /// Another revision than the one demanded.
    pub async fn delete_channel(&self, target: Target<ChannelRef>) -> Result<(), ServiceError> {
        for _ in 0..DECISIONS {
            let Some(channel) = self.records.find::<Channel>(&target.what).await? else {
                return Ok(());
            };
            at_revision(&channel, target.revision)?;
            match self.records.remove(&channel).await {
                Err(error) if error.is_conflict() => {} // it was moved meanwhile
                Err(error) => return Err(error),
                Ok(()) => {
                    hit(Point::ChannelForgotten);
                    return Ok(());
                }
            }
        }
        let name = target.what.to_string();
        Err(busy::<Channel>(&name, "being moved by others too"))
    }

    /// One channel.
    ///
    /// # Errors
    ///
    /// When there is none, or the store is away.
    pub async fn get_channel(&self, what: &ChannelRef) -> Result<Channel, ServiceError> {
        self.records.get::<Channel>(what, "target").await
    }

    /// Channels in order of creation.
    ///
    /// # Errors
    ///
    /// For a token that no page answered, or when the store is away.
    pub async fn list_channels(&self, listing: &Listing) -> Result<Listed<Channel>, ServiceError> {
        self.list::<Channel>(listing).await
    }

    /// Channels as they are moved.
    #[must_use]
    pub fn watch_channels(self: &Arc<Self>, watch: Watch) -> Events<Channel> {
        self.watch(watch, stream::pending().boxed(), |_, channel: Channel| {
            channel
        })
    }
}
