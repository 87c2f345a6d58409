//! `goldleaf node`.

use goldleaf_proto::v1 as api;

use super::{Call, all, get, watch};
use crate::args::Node;
use crate::failure::Failure;
use crate::output;

pub async fn run(call: &Call, command: Node) -> Result<(), Failure> {
    let mut nodes = call.client.nodes();
    match command {
        Node::List(selection) => {
            let items = all(selection, |page| {
                let mut nodes = call.client.nodes();
                async move {
                    let answer = call.answer(nodes.list(page)).await?;
                    Ok((answer.nodes, answer.next_page_token))
                }
            })
            .await?;
            output::many(call.global.output, &items)
        }
        Node::Get(t) => call.show(nodes.get(get(t.target))).await,
        Node::Preflight { node } => {
            let answer = call
                .answer(nodes.preflight(api::PreflightRequest { node }))
                .await?;
            output::many(call.global.output, &answer.checks)?;
            if answer.ok {
                Ok(())
            } else {
                Err(Failure::Lacking)
            }
        }
        Node::Watch(selection) => {
            call.follow(nodes.watch(watch(selection)?), |e| (e.kind, e.node))
                .await
        }
    }
}
