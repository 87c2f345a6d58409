//! `goldleaf image channel`.

use goldleaf_proto::v1 as api;

use super::{Call, all, distinct, get, watch};
use crate::args::Channel;
use crate::failure::Failure;
use crate::output;

pub async fn run(call: &Call, command: Channel) -> Result<(), Failure> {
    let mut images = call.client.images();
    match command {
        Channel::Set(wanted) => {
            let request = api::SetChannelRequest {
                name: wanted.name,
                image: wanted.image,
                labels: distinct(wanted.labels)?,
                expected_revision: wanted.if_revision,
                wait: wanted.waiting.wait,
            };
            call.show(images.set_channel(request)).await
        }
        Channel::List(selection) => {
            let items = all(selection, |page| {
                let mut images = call.client.images();
                async move {
                    let answer = call.answer(images.list_channels(page)).await?;
                    Ok((answer.channels, answer.next_page_token))
                }
            })
            .await?;
            output::many(call.global.output, &items)
        }
        Channel::Get(t) => call.show(images.get_channel(get(t.target))).await,
        Channel::Delete(t) => {
            let look = async |r| call.client.images().get_channel(r).await;
            call.gone(t, look, async |r| images.delete_channel(r).await)
                .await
        }
        Channel::Watch(selection) => {
            call.follow(images.watch_channels(watch(selection)?), |e| {
                (e.kind, e.channel)
            })
            .await
        }
    }
}
