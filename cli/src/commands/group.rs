//! `goldleaf group`.

use goldleaf_proto::v1 as api;

use super::{Call, all, distinct, get};
use crate::args::Group;
use crate::failure::Failure;
use crate::output;

pub async fn run(call: &Call, command: Group) -> Result<(), Failure> {
    let mut volumes = call.client.volumes();
    match command {
        Group::Create(wanted) => {
            let deadline = u32::try_from(wanted.deadline.as_millis()).unwrap_or(u32::MAX);
            let request = api::CreateGroupSnapshotRequest {
                name: wanted.name,
                volumes: wanted.volumes,
                labels: distinct(wanted.labels)?,
                deadline_ms: deadline.max(1),
                wait: wanted.waiting.wait,
            };
            call.show(volumes.create_group_snapshot(request)).await
        }
        Group::List(selection) => {
            let items = all(selection, |page| {
                let mut volumes = call.client.volumes();
                async move {
                    let answer = call.answer(volumes.list_group_snapshots(page)).await?;
                    Ok((answer.groups, answer.next_page_token))
                }
            })
            .await?;
            output::many(call.global.output, &items)
        }
        Group::Get(t) => call.show(volumes.get_group_snapshot(get(t.target))).await,
        Group::Delete(t) => {
            let look = async |r| call.client.volumes().get_group_snapshot(r).await;
            call.gone(t, look, async |r| volumes.delete_group_snapshot(r).await)
                .await
        }
    }
}
