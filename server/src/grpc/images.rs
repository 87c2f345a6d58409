//! Images on the wire.

use goldleaf_proto::v1 as api;
use goldleaf_proto::v1::image_service_server::ImageService;
use tonic::{Request, Response};

use super::convert::{self, field};
use super::{Answer, Api, EventStream, answers, convert_images, convert_update};
use crate::domain::Ref;
use crate::service::{CreateImage, Event, ImageView, SetChannel};

fn image_event(event: Event<ImageView>) -> api::ImageEvent {
    let gone = |id| api::Image {
        id,
        ..Default::default()
    };
    let (kind, image, resume_token) = answers::event(event, answers::image, gone);
    api::ImageEvent {
        kind,
        image,
        resume_token,
    }
}

fn channel_event(event: Event<crate::domain::Channel>) -> api::ChannelEvent {
    let gone = |id| api::Channel {
        id,
        ..Default::default()
    };
    let (kind, channel, resume_token) = answers::event(event, answers::channel, gone);
    api::ChannelEvent {
        kind,
        channel,
        resume_token,
    }
}

#[tonic::async_trait]
impl ImageService for Api {
    async fn create(&self, r: Request<api::CreateImageRequest>) -> Answer<api::Image> {
        let mut wanted = CreateImage::try_from(r.into_inner())?;
        let name = wanted.name.clone();
        // The wait is no change: it ends with its caller.
        let wait = std::mem::take(&mut wanted.wait);
        let mut view = self
            .change(wait, move |service| {
                let wanted = wanted.clone();
                async move { service.create_image(wanted).await }
            })
            .await?;
        if wait {
            let settled = self.service.settled_image(view.image.id, &name);
            view = self.unless_stopped(settled).await?;
        }
        Ok(Response::new(answers::image(&view)))
    }

    async fn get(&self, r: Request<api::GetRequest>) -> Answer<api::Image> {
        let what = field("target", &r.into_inner().target)?;
        let view = self.service.find_image(&what).await?;
        Ok(Response::new(answers::image(&view)))
    }

    async fn list(&self, r: Request<api::ListRequest>) -> Answer<api::ListImagesResponse> {
        let listed = self
            .service
            .list_images(&convert::listing(r.into_inner())?)
            .await?;
        Ok(Response::new(api::ListImagesResponse {
            images: listed.items.iter().map(answers::image).collect(),
            next_page_token: listed.next,
        }))
    }

    async fn verify(&self, r: Request<api::VerifyImageRequest>) -> Answer<api::Image> {
        let what = field("image", &r.into_inner().image)?;
        let view = self.service.verify_image(&what).await?;
        Ok(Response::new(answers::image(&view)))
    }

    async fn place(&self, r: Request<api::PlaceImageRequest>) -> Answer<api::Image> {
        let (what, nodes, wait) = convert_images::place(&r.into_inner())?;
        let wanted = nodes.clone();
        let mut view = self
            .to_the_end(|service| async move { service.place_image(&what, &wanted).await })
            .await?;
        if wait {
            // The wait is no change: it ends with its caller.
            let image = (view.image.id, &view.image.name);
            let placed = self.service.placed_image(image, &nodes);
            view = self.unless_stopped(placed).await?;
        }
        Ok(Response::new(answers::image(&view)))
    }

    async fn evict(&self, r: Request<api::EvictImageRequest>) -> Answer<api::Image> {
        let body = r.into_inner();
        let what: Ref<_> = field("image", &body.image)?;
        let node: Ref<_> = field("node", &body.node)?;
        let view = self
            .change(body.wait, move |service| {
                let (what, node) = (what.clone(), node.clone());
                async move { service.evict_image(&what, &node).await }
            })
            .await?;
        Ok(Response::new(answers::image(&view)))
    }

    async fn update(&self, r: Request<api::UpdateRequest>) -> Answer<api::Image> {
        let wanted = convert_update::update(r.into_inner())?;
        let view = self
            .to_the_end(|service| async move { service.update_image(wanted).await })
            .await?;
        Ok(Response::new(answers::image(&view)))
    }

    async fn delete(&self, r: Request<api::DeleteRequest>) -> Answer<api::DeleteResponse> {
        let body = r.into_inner();
        let target = convert::target(&body)?;
        self.change(body.wait, move |service| {
            let target = target.clone();
            async move { service.delete_image(target).await }
        })
        .await?;
        Ok(Response::new(api::DeleteResponse {}))
    }

    type WatchStream = EventStream<api::ImageEvent>;

    async fn watch(&self, r: Request<api::WatchRequest>) -> Answer<Self::WatchStream> {
        let events = self.service.watch_images(convert::watch(r.into_inner())?);
        Ok(Response::new(self.stream(events, image_event)))
    }

    async fn set_channel(&self, r: Request<api::SetChannelRequest>) -> Answer<api::Channel> {
        let body = r.into_inner();
        let (wait, wanted) = (body.wait, SetChannel::try_from(body)?);
        let channel = self
            .change(wait, move |service| {
                let wanted = wanted.clone();
                async move { service.set_channel(wanted).await }
            })
            .await?;
        Ok(Response::new(answers::channel(&channel)))
    }

    async fn get_channel(&self, r: Request<api::GetRequest>) -> Answer<api::Channel> {
        let what = field("target", &r.into_inner().target)?;
        let channel = self.service.get_channel(&what).await?;
        Ok(Response::new(answers::channel(&channel)))
    }

    async fn list_channels(
        &self,
        r: Request<api::ListRequest>,
    ) -> Answer<api::ListChannelsResponse> {
        let listing = convert::listing(r.into_inner())?;
        let listed = self.service.list_channels(&listing).await?;
        Ok(Response::new(api::ListChannelsResponse {
            channels: listed.items.iter().map(answers::channel).collect(),
            next_page_token: listed.next,
        }))
    }

    async fn delete_channel(&self, r: Request<api::DeleteRequest>) -> Answer<api::DeleteResponse> {
        let body = r.into_inner();
        let target = convert::target(&body)?;
        self.change(body.wait, move |service| {
            let target = target.clone();
            async move { service.delete_channel(target).await }
        })
        .await?;
        Ok(Response::new(api::DeleteResponse {}))
    }

    type WatchChannelsStream = EventStream<api::ChannelEvent>;

    async fn watch_channels(
        &self,
        r: Request<api::WatchRequest>,
    ) -> Answer<Self::WatchChannelsStream> {
        let events = self.service.watch_channels(convert::watch(r.into_inner())?);
        Ok(Response::new(self.stream(events, channel_event)))
    }
}
