//! `goldleaf image`.

use goldleaf_proto::v1 as api;
use indicatif::{ProgressBar, ProgressStyle};

use super::{Call, all, delete, get, labels, watch};
use crate::args::{Image, ImageCreate, ImageFormat};
use crate::failure::Failure;
use crate::output;

pub async fn run(call: &Call, command: Image) -> Result<(), Failure> {
    let mut images = call.client.images();
    match command {
        Image::Create(wanted) => create(call, wanted).await,
        Image::List(selection) => {
            let items = all(selection, |page| {
                let mut images = call.client.images();
                async move {
                    let answer = call.answer(images.list(page)).await?;
                    Ok((answer.images, answer.next_page_token))
                }
            })
            .await?;
            output::many(call.global.output, &items)
        }
        Image::Get(t) => call.show(images.get(get(t.target))).await,
        Image::Verify(t) => {
            // As long as it takes: every byte is read.
            let request = api::VerifyImageRequest { image: t.target };
            let image = images.verify(request).await?.into_inner();
            output::one(call.global.output, &image)
        }
        Image::Delete(t) => {
            call.gone(&t.target.clone(), images.delete(delete(t.target)))
                .await
        }
        Image::Watch(selection) => {
            call.follow(images.watch(watch(selection)), |e| (e.kind, e.image))
                .await
        }
    }
}

async fn create(call: &Call, wanted: ImageCreate) -> Result<(), Failure> {
    let wait = !wanted.no_wait;
    let mut image = call
        .answer(call.client.images().create(request(wanted)))
        .await?;
    if wait && image.phase() == api::Phase::Creating {
        image = follow(call, image).await?;
    }
    output::one(call.global.output, &image)?;
    if image.phase() == api::Phase::Failed {
        let why = image
            .conditions
            .iter()
            .find(|c| !c.status)
            .map(|c| c.message.clone());
        return Err(Failure::Failed(
            why.unwrap_or_else(|| "the image failed".into()),
        ));
    }
    Ok(())
}

/// Follows the work with a progress bar until the image is ready or failed.
async fn follow(call: &Call, image: api::Image) -> Result<api::Image, Failure> {
    let bar = ProgressBar::new(0).with_message(image.name.clone());
    if let Ok(style) =
        ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
    {
        bar.set_style(style);
    }
    let everything = api::WatchRequest {
        resume_token: String::new(),
        filter: None,
    };
    let mut events = call.client.images().watch(everything).await?.into_inner();
    while let Some(event) = events.message().await? {
        let Some(now) = event.image.filter(|now| now.id == image.id) else {
            continue;
        };
        if event.kind == i32::from(api::EventKind::Gone) {
            return Err(Failure::Failed(format!(
                "{} was deleted meanwhile",
                image.name
            )));
        }
        if now.phase() != api::Phase::Creating {
            bar.finish_and_clear();
            return Ok(now);
        }
        if let Some(progress) = now.copies.first().and_then(|copy| copy.progress) {
            bar.set_length(progress.total_bytes);
            bar.set_position(progress.done_bytes);
        }
    }
    Err(Failure::Failed(
        "the control plane ended the watch: repeat the command".into(),
    ))
}

fn request(wanted: ImageCreate) -> api::CreateImageRequest {
    use api::create_image_request::Source;
    let source = wanted
        .source
        .file
        .map(Source::File)
        .or(wanted.source.device.map(Source::Device))
        .or(wanted.source.url.map(Source::Url));
    let format = match wanted.format {
        ImageFormat::Detect => api::ImageFormat::Unspecified,
        ImageFormat::Raw => api::ImageFormat::Raw,
        ImageFormat::Qcow2 => api::ImageFormat::Qcow2,
    };
    api::CreateImageRequest {
        name: wanted.name,
        source,
        format: format.into(),
        source_sha256: wanted.sha256,
        digest: wanted.digest,
        node: wanted.node.unwrap_or_default(),
        labels: labels(wanted.labels),
        wait: false,
    }
}
