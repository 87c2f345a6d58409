//! `goldleaf image`.

use std::time::Duration;

use goldleaf_proto::v1 as api;
use indicatif::{ProgressBar, ProgressStyle};

use super::{Call, all, get, labels, update, watch};
use crate::args::{Image, ImageCreate, ImageFormat, ImagePlace};
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
        Image::Verify(t) => verify(call, t.target).await,
        Image::Place(wanted) => place(call, wanted).await,
        Image::Evict(wanted) => {
            let request = api::EvictImageRequest {
                image: wanted.target,
                node: wanted.node,
                wait: wanted.waiting.wait,
            };
            call.show(images.evict(request)).await
        }
        Image::Copies(t) => {
            let image = call.answer(images.get(get(t.target))).await?;
            output::many(call.global.output, &image.copies)
        }
        Image::Channel(command) => super::channel::run(call, command).await,
        Image::Update(wanted) => call.show(images.update(update(wanted)?)).await,
        Image::Delete(t) => {
            let look = async |r| call.client.images().get(r).await;
            call.gone(t, look, async |r| images.delete(r).await).await
        }
        Image::Watch(selection) => {
            call.follow(images.watch(watch(selection)?), |e| (e.kind, e.image))
                .await
        }
    }
}

async fn create(call: &Call, wanted: ImageCreate) -> Result<(), Failure> {
    let wait = !wanted.no_wait;
    let request = request(wanted)?;
    let mut image = call.answer(call.client.images().create(request)).await?;
    if wait && image.phase() == api::Phase::Creating {
        let settled = |image: &api::Image| image.phase() != api::Phase::Creating;
        image = follow(call, &image, settled).await?;
    }
    output::one(call.global.output, &image)?;
    if image.phase() == api::Phase::Failed {
        Err(failed(image))
    } else {
        Ok(())
    }
}

/// Has nodes hold an image, and follows the work until each does or cannot.
async fn place(call: &Call, wanted: ImagePlace) -> Result<(), Failure> {
    let mut nodes = Vec::new();
    for node in &wanted.nodes {
        let node = call
            .answer(call.client.nodes().get(get(node.clone())))
            .await?;
        nodes.push(node.id);
    }
    let request = api::PlaceImageRequest {
        image: wanted.target,
        nodes: nodes.clone(),
        wait: false,
    };
    let mut image = call.answer(call.client.images().place(request)).await?;
    let meant = |copy: &&api::ImageCopy| nodes.contains(&copy.node);
    let on_its_way = |image: &api::Image| {
        let mut copies = image.copies.iter().filter(meant);
        copies.any(|copy| copy.phase() == api::Phase::Creating)
    };
    if !wanted.no_wait && on_its_way(&image) {
        image = follow(call, &image, |image| !on_its_way(image)).await?;
    }
    output::one(call.global.output, &image)?;
    let mut copies = image.copies.iter().filter(meant);
    match copies.find(|copy| copy.phase() == api::Phase::Failed) {
        Some(copy) => Err(Failure::ImageFailed {
            name: image.name.clone(),
            why: format!("node {}: {}", copy.node, copy.message),
        }),
        None => Ok(()),
    }
}

/// Reads every copy again, as long as that takes: every byte is read.
async fn verify(call: &Call, image: String) -> Result<(), Failure> {
    let spinner = ProgressBar::new_spinner().with_message(format!("verifying {image}"));
    spinner.enable_steady_tick(Duration::from_millis(200));
    let answer = call
        .client
        .images()
        .verify(api::VerifyImageRequest { image })
        .await;
    spinner.finish_and_clear();
    let image = answer.map_err(|e| call.client.refused(e))?.into_inner();
    output::one(call.global.output, &image)?;
    let copies = image.copies.iter().map(api::ImageCopy::phase);
    if copies
        .chain([image.phase()])
        .any(|phase| phase == api::Phase::Failed)
    {
        Err(failed(image))
    } else {
        Ok(())
    }
}

/// A bar for bytes.
pub(super) fn bar(name: &str) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
            .expect("the template is sound");
    ProgressBar::new(0)
        .with_message(name.to_owned())
        .with_style(style)
}

/// Follows the work, with a bar, until it is settled.
async fn follow(
    call: &Call,
    image: &api::Image,
    settled: impl Fn(&api::Image) -> bool,
) -> Result<api::Image, Failure> {
    let bar = bar(&image.name);
    let followed = follow_on(call, image, &bar, settled).await;
    bar.finish_and_clear();
    followed
}

async fn follow_on(
    call: &Call,
    image: &api::Image,
    bar: &ProgressBar,
    settled: impl Fn(&api::Image) -> bool,
) -> Result<api::Image, Failure> {
    let everything = api::WatchRequest {
        resume_token: String::new(),
        filter: None,
    };
    let mut events = call.answer(call.client.images().watch(everything)).await?;
    // Deleted before the watch began, it would never show there.
    call.answer(call.client.images().get(get(image.id.clone())))
        .await?;
    while let Some(event) = events.message().await.map_err(|e| call.client.refused(e))? {
        let Some(now) = event.image.filter(|now| now.id == image.id) else {
            continue;
        };
        if event.kind == i32::from(api::EventKind::Gone) {
            let why = "it was deleted meanwhile".into();
            return Err(Failure::ImageFailed {
                name: image.name.clone(),
                why,
            });
        }
        if settled(&now) {
            return Ok(now);
        }
        let parts = || now.copies.iter().filter_map(|copy| copy.progress);
        let done = parts().map(|p| p.done_bytes).sum::<u64>();
        bar.set_length(parts().map(|p| p.total_bytes).sum::<u64>().max(done));
        bar.set_position(done);
    }
    Err(Failure::WatchEnded)
}

/// Why an image failed, in its own words or in those of a copy.
fn failed(image: api::Image) -> Failure {
    let conditions = image
        .conditions
        .into_iter()
        .filter(|c| !c.status)
        .map(|c| c.message);
    let copies = image.copies.into_iter().map(|copy| copy.message);
    let mut reasons = conditions.chain(copies).filter(|text| !text.is_empty());
    let why = reasons
        .next()
        .unwrap_or_else(|| "it failed: see `goldleaf image get -o json`".into());
    Failure::ImageFailed {
        name: image.name,
        why,
    }
}

fn request(wanted: ImageCreate) -> Result<api::CreateImageRequest, Failure> {
    use api::create_image_request::Source;
    let source = wanted
        .source
        .file
        .map(Source::File)
        .or(wanted.source.device.map(Source::Device))
        .or(wanted.source.url.map(Source::Url))
        .or(wanted.source.from.map(Source::Volume));
    let format = match wanted.format {
        ImageFormat::Detect => api::ImageFormat::Unspecified,
        ImageFormat::Raw => api::ImageFormat::Raw,
        ImageFormat::Qcow2 => api::ImageFormat::Qcow2,
    };
    Ok(api::CreateImageRequest {
        name: wanted.name,
        source,
        format: format.into(),
        source_sha256: wanted.sha256.unwrap_or_default(),
        digest: wanted.digest.unwrap_or_default(),
        node: wanted.node.unwrap_or_default(),
        deletion_protection: wanted.labels.protect,
        labels: labels(wanted.labels)?,
        wait: false,
    })
}
