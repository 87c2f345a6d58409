//! Steps of a life that have to do with images and channels: its beginning and its end.
//!
//! Used by `life`.

use goldleaf_proto::v1 as api;
use tonic::Status;

use super::{Step, labelled, step};
use crate::host::{Host, NODE};

/// What there is before any pool.
pub(super) const FIRST: &[Step] = &[
    step("create an image", "ImageService.Create", |h| {
        image_of_file(h, "second").map(|i| format!("{} {}", i.name, i.digest))
    }),
    step("verify the image", "ImageService.Verify", |h| {
        let image = "second".into();
        h.verify_image(api::VerifyImageRequest { image })
            .map(copies)
    }),
    step("label the image", "ImageService.Update", |h| {
        h.update_image(labelled("second"))
            .map(|i| format!("{:?}", i.labels))
    }),
    step("take the image from its node", "ImageService.Evict", |h| {
        h.evict("second", NODE).map(copies)
    }),
    step("place it there again", "ImageService.Place", |h| {
        h.place("second", &[NODE]).map(copies)
    }),
    step("point a channel at it", "ImageService.SetChannel", |h| {
        h.point("some/channel", "second")
            .map(|c| format!("{} {}", c.name, c.digest))
    }),
];

/// What is left when the pool is gone.
pub(super) const LAST: &[Step] = &[
    step(
        "delete the image of the snapshot",
        "ImageService.Delete",
        |h| h.delete_image("promoted").map(|()| "gone".into()),
    ),
    step("forget the channel", "ImageService.DeleteChannel", |h| {
        h.delete_channel(api::DeleteRequest {
            target: "some/channel".into(),
            ..Default::default()
        })
        .map(|_| "gone".into())
    }),
    step("delete the image", "ImageService.Delete", |h| {
        h.delete_image("second").map(|()| "gone".into())
    }),
];

fn copies(i: api::Image) -> String {
    let phases: Vec<_> = i.copies.iter().map(|copy| copy.phase).collect();
    format!("{} phase {} copies {phases:?}", i.name, i.phase)
}

pub(super) fn image_of_file(h: &Host, name: &str) -> Result<api::Image, Status> {
    let path = h.dir().join("import").join(format!("{name}.raw"));
    if !path.exists() {
        // Once: an import that goes on by itself may be reading it.
        h.import(&format!("{name}.raw"), &[0x77; 1 << 20]);
    }
    let source = api::create_image_request::Source::File(path.display().to_string());
    h.create_image(api::CreateImageRequest {
        name: name.into(),
        source: Some(source),
        wait: true,
        ..Default::default()
    })
}
