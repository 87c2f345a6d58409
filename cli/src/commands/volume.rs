//! `goldleaf volume`.

use goldleaf_proto::v1 as api;
use goldleaf_proto::v1::volume_service_client::VolumeServiceClient;

use super::{Call, all, counted, distinct, get, labels, update, watch};
use crate::args::{Volume, VolumeClone, VolumeCreate};
use crate::failure::Failure;
use crate::output;

pub async fn run(call: &Call, command: Volume) -> Result<(), Failure> {
    let mut volumes = call.client.volumes();
    match command {
        Volume::Create(wanted) => call.show(volumes.create_thin(create(wanted)?)).await,
        Volume::Clone(wanted) => {
            // By path: the method of that name would be Rust's own `Clone`.
            call.show(VolumeServiceClient::clone(&mut volumes, clone(wanted)?))
                .await
        }
        Volume::Decouple(wanted) => super::decouple::run(call, wanted).await,
        Volume::Resize(wanted) => {
            let request = api::ResizeRequest {
                volume: wanted.target,
                size_bytes: wanted.size,
                expected_revision: wanted.if_revision,
                wait: wanted.waiting.wait,
            };
            call.show(volumes.resize(request)).await
        }
        Volume::Activate(wanted) => {
            let options = Some(api::ActivateOptions {
                read_only: wanted.read_only,
                ..Default::default()
            });
            let request = api::ActivateRequest {
                volume: wanted.target,
                options,
                wait: wanted.waiting.wait,
            };
            call.show(volumes.activate(request)).await
        }
        Volume::Deactivate(t) => {
            call.show(volumes.deactivate(api::DeactivateRequest {
                volume: t.target,
                wait: t.waiting.wait,
            }))
            .await
        }
        Volume::Update(wanted) => call.show(volumes.update(update(wanted)?)).await,
        Volume::Export(wanted) => super::export::run(call, "volume", wanted).await,
        Volume::Delete(t) => {
            let look = async |r| call.client.volumes().get(r).await;
            call.gone(t, look, async |r| volumes.delete(r).await).await
        }
        Volume::List(selection) => {
            let items = all(selection, |page| {
                let mut volumes = call.client.volumes();
                async move {
                    let answer = call.answer(volumes.list(page)).await?;
                    Ok((answer.volumes, answer.next_page_token))
                }
            })
            .await?;
            output::many(call.global.output, &items)
        }
        Volume::Get(look) if look.usage => {
            let volume = call.answer(volumes.get(counted(look.target))).await?;
            output::usage(call.global.output, &volume, volume.usage)
        }
        Volume::Get(look) => call.show(volumes.get(get(look.target))).await,
        Volume::Watch(selection) => {
            call.follow(volumes.watch(watch(selection)?), |e| (e.kind, e.volume))
                .await
        }
    }
}

fn options(activate: bool) -> Option<api::ActivateOptions> {
    activate.then(api::ActivateOptions::default)
}

fn create(wanted: VolumeCreate) -> Result<api::CreateThinRequest, Failure> {
    Ok(api::CreateThinRequest {
        name: wanted.name,
        size_bytes: wanted.size,
        image: wanted.image,
        whole_image: wanted.whole_image,
        pool: wanted.pool,
        placement: Some(api::Placement {
            node: wanted.node,
            pool_labels: distinct(wanted.pool_labels)?,
        }),
        deletion_protection: wanted.labels.protect,
        wait: wanted.waiting.wait,
        labels: labels(wanted.labels)?,
        activate: options(wanted.activate),
    })
}

fn clone(wanted: VolumeClone) -> Result<api::CloneRequest, Failure> {
    Ok(api::CloneRequest {
        pool: wanted.pool,
        name: wanted.name,
        source: wanted.source,
        size_bytes: wanted.size,
        deletion_protection: wanted.labels.protect,
        wait: wanted.waiting.wait,
        labels: labels(wanted.labels)?,
        activate: options(wanted.activate),
    })
}
