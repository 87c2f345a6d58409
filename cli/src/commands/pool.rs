//! `goldleaf pool`.

use goldleaf_proto::v1 as api;

use super::pool_space::{extension, policy, when_full};
use super::{Call, all, get, labels, update, watch};
use crate::args::{Pool, PoolCreate, PoolDestroy};
use crate::failure::Failure;
use crate::output;

pub async fn run(call: &Call, command: Pool) -> Result<(), Failure> {
    let mut pools = call.client.pools();
    match command {
        Pool::Create(wanted) => call.show(pools.create(request(wanted)?)).await,
        Pool::Import(wanted) => {
            call.show(pools.import(api::ImportPoolRequest {
                node: wanted.node.unwrap_or_default(),
                devices: wanted.devices,
                force_from_host: wanted.force_from_host.unwrap_or_default(),
            }))
            .await
        }
        Pool::List(selection) => {
            let items = all(selection, |page| {
                let mut pools = call.client.pools();
                async move {
                    let answer = call.answer(pools.list(page)).await?;
                    Ok((answer.pools, answer.next_page_token))
                }
            })
            .await?;
            output::many(call.global.output, &items)
        }
        Pool::Get(t) => call.show(pools.get(get(t.target))).await,
        Pool::Open(t) => {
            call.show(pools.open(api::OpenPoolRequest {
                pool: t.target,
                rescue: t.rescue,
                wait: t.waiting.wait,
            }))
            .await
        }
        Pool::Close(t) => {
            call.show(pools.close(api::ClosePoolRequest {
                pool: t.target,
                wait: t.waiting.wait,
            }))
            .await
        }
        Pool::Extend(wanted) => call.show(pools.extend(extension(wanted))).await,
        Pool::Set(wanted) => call.show(pools.set_policy(policy(wanted))).await,
        Pool::Update(wanted) => call.show(pools.update(update(wanted)?)).await,
        Pool::Delete(t) => {
            let look = async |r| call.client.pools().get(r).await;
            call.gone(t, look, async |r| pools.delete(r).await).await
        }
        Pool::Rename(wanted) => {
            call.show(pools.rename(api::RenamePoolRequest {
                pool: wanted.target,
                name: wanted.name,
                expected_revision: wanted.if_revision,
                wait: wanted.waiting.wait,
            }))
            .await
        }
        Pool::Repair(wanted) => super::pool_repair::run(call, wanted).await,
        Pool::Destroy(wanted) => destroy(call, wanted).await,
        Pool::Watch(selection) => {
            call.follow(pools.watch(watch(selection)?), |e| (e.kind, e.pool))
                .await
        }
    }
}

async fn destroy(call: &Call, wanted: PoolDestroy) -> Result<(), Failure> {
    let mut pools = call.client.pools();
    let target = wanted.target.clone();
    let request = api::DestroyPoolRequest {
        pool: wanted.target,
        confirm: wanted.confirm.unwrap_or_default(),
        expected_revision: wanted.if_revision,
        wait: wanted.waiting.wait,
    };
    let doomed = call.answer(pools.destroy(request)).await?;
    output::one(call.global.output, &doomed)?;
    if doomed.done {
        eprintln!("{target}: deleted, with what is listed");
    } else {
        eprintln!("{target}: nothing was done; all this would go with: --confirm and its name");
    }
    Ok(())
}

fn request(wanted: PoolCreate) -> Result<api::CreatePoolRequest, Failure> {
    let device = |path| api::PoolDevice {
        path,
        create_file_bytes: 0,
    };
    let files = wanted
        .files
        .into_iter()
        .map(|(path, create_file_bytes)| api::PoolDevice {
            path,
            create_file_bytes,
        });
    Ok(api::CreatePoolRequest {
        name: wanted.name,
        node: wanted.node.unwrap_or_default(),
        devices: wanted
            .devices
            .into_iter()
            .map(device)
            .chain(files)
            .collect(),
        metadata_device: wanted.metadata_device.map(device),
        block_size_bytes: wanted.block_size,
        when_full: when_full(wanted.when_full).into(),
        deletion_protection: wanted.labels.protect,
        wait: wanted.waiting.wait,
        labels: labels(wanted.labels)?,
    })
}
