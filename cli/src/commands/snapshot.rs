//! `goldleaf snapshot`.

use goldleaf_proto::v1 as api;

use super::{Call, all, counted, get, labels, update, watch};
use crate::args::{Snapshot, SnapshotBlocks};
use crate::failure::Failure;
use crate::output;

pub async fn run(call: &Call, command: Snapshot) -> Result<(), Failure> {
    let mut volumes = call.client.volumes();
    match command {
        Snapshot::Create(wanted) => {
            let request = api::CreateSnapshotRequest {
                name: wanted.name,
                source: wanted.source,
                deletion_protection: wanted.labels.protect,
                wait: wanted.waiting.wait,
                labels: labels(wanted.labels)?,
            };
            call.show(volumes.create_snapshot(request)).await
        }
        Snapshot::List(selection) => {
            let items = all(selection, |page| {
                let mut volumes = call.client.volumes();
                async move {
                    let answer = call.answer(volumes.list_snapshots(page)).await?;
                    Ok((answer.snapshots, answer.next_page_token))
                }
            })
            .await?;
            output::many(call.global.output, &items)
        }
        Snapshot::Get(look) if look.usage => {
            let request = counted(look.target);
            let snapshot = call.answer(volumes.get_snapshot(request)).await?;
            output::usage(call.global.output, &snapshot, snapshot.usage)
        }
        Snapshot::Get(look) => call.show(volumes.get_snapshot(get(look.target))).await,
        Snapshot::Update(wanted) => call.show(volumes.update_snapshot(update(wanted)?)).await,
        Snapshot::Export(wanted) => super::export::run(call, "snapshot", wanted).await,
        Snapshot::Blocks(wanted) => blocks(call, wanted).await,
        Snapshot::Delete(t) => {
            let look = async |r| call.client.volumes().get_snapshot(r).await;
            call.gone(t, look, async |r| volumes.delete_snapshot(r).await)
                .await
        }
        Snapshot::Watch(selection) => {
            call.follow(volumes.watch_snapshots(watch(selection)?), |e| {
                (e.kind, e.snapshot)
            })
            .await
        }
    }
}

/// Prints ranges as they come, and then how much they are in all.
async fn blocks(call: &Call, wanted: SnapshotBlocks) -> Result<(), Failure> {
    let mut volumes = call.client.volumes();
    let (target, from) = (wanted.target, wanted.from);
    let mut parts = match wanted.base {
        Some(base) => {
            let request = api::ListChangedRequest {
                base,
                target: target.clone(),
                starting_offset: from,
                max_results: 0,
            };
            call.answer(volumes.list_changed(request)).await?
        }
        None => {
            let request = api::ListAllocatedRequest {
                snapshot: target.clone(),
                starting_offset: from,
                max_results: 0,
            };
            call.answer(volumes.list_allocated(request)).await?
        }
    };
    let output = call.global.output;
    output::print(output::blocks::heading(output))?;
    let (mut count, mut sum, mut size) = (0, 0_u64, 0);
    while let Some(part) = parts.message().await.map_err(|e| call.client.refused(e))? {
        output::print(&output::blocks::lines(output, &part.ranges))?;
        count += part.ranges.len();
        sum += part.ranges.iter().map(|r| r.length_bytes).sum::<u64>();
        size = part.size_bytes;
    }
    let (sum, size) = (output::bytes(sum), output::bytes(size));
    eprintln!("{target}: {count} ranges, {sum} of {size}");
    Ok(())
}
