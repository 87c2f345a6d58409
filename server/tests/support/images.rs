//! What a life does with images, each in one call so that a death may come anywhere in it.

use std::sync::Arc;

use goldleaf_server::domain::ImageSource;
use goldleaf_server::service::{ImageView, Service, ServiceError, SetChannel, Unfinished};
use goldleaf_types::{Bytes, ImageId, Labels};

use super::{GIB, GOLDEN, NODE, OTHER_NODE, Rig, digest, image, named};

/// Content that both nodes can fetch.
pub fn offer(rig: &Rig) {
    for node in [NODE, OTHER_NODE] {
        let node = rig.agents.node(node);
        node.offer(GOLDEN, digest(7), Bytes(GIB));
    }
}

/// Creates an image and fetches it, in one go so that death may come in either.
pub async fn fetched(service: Arc<Service>, name: &'static str) -> Result<ImageView, ServiceError> {
    let view = service.create_image(image(name)).await?;
    service.finish(Unfinished::Image(view.image.id)).await?;
    service.get_image(&named::<ImageId>(name)).await
}

/// Has another node hold the image, and fetches it there.
pub async fn placed(service: Arc<Service>) -> Result<ImageView, ServiceError> {
    let golden = named::<ImageId>("golden");
    let view = service.place_image(&golden, &[named("n2")]).await?;
    service.finish(Unfinished::Image(view.image.id)).await?;
    service.get_image(&golden).await
}

/// Makes an image of a snapshot.
pub async fn made_of_snapshot(service: Arc<Service>) -> Result<ImageView, ServiceError> {
    let mut wanted = image("promoted");
    wanted.asked.source = ImageSource::Volume("snapshot/both.vm1".into());
    wanted.source = Some("snapshot/both.vm1".parse().unwrap());
    let view = service.create_image(wanted).await?;
    service.finish(Unfinished::Image(view.image.id)).await?;
    service.get_image(&named("promoted")).await
}

/// A channel that points to this image.
pub fn stable(image: &str) -> SetChannel {
    SetChannel {
        name: "debian/stable".parse().unwrap(),
        image: image.parse().unwrap(),
        labels: Labels::default(),
        revision: 0,
    }
}
