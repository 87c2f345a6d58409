//! `goldleaf node`.

use goldleaf_proto::v1 as api;

use super::{Call, all, get, watch};
use crate::args::{Node, NodeAdopt, NodeDrain, NodeLost};
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
        Node::Drain(wanted) => drain(call, wanted).await,
        Node::Resume(t) => {
            let node = t.target;
            call.show(nodes.resume(api::ResumeNodeRequest { node }))
                .await
        }
        Node::Lost(wanted) => lost(call, wanted).await,
        Node::TakeBack(t) => {
            let node = t.target;
            call.show(nodes.take_back(api::TakeBackNodeRequest { node }))
                .await
        }
        Node::Adopt(wanted) => adopt(call, wanted).await,
        Node::Watch(selection) => {
            call.follow(nodes.watch(watch(selection)?), |e| (e.kind, e.node))
                .await
        }
    }
}

async fn drain(call: &Call, wanted: NodeDrain) -> Result<(), Failure> {
    let request = api::DrainNodeRequest {
        node: wanted.target.clone(),
        deactivate_unused: wanted.deactivate_unused,
    };
    let answer = call.answer(call.client.nodes().drain(request)).await?;
    if wanted.deactivate_unused {
        eprintln!(
            "{}: {} device(s) taken away",
            wanted.target, answer.deactivated
        );
    }
    output::whole(call.global.output, &answer, &answer.active)?;
    if !answer.unknown.is_empty() {
        return Err(Failure::ActiveUnknown {
            node: wanted.target,
            why: answer.unknown,
        });
    }
    let active = answer.active.len();
    eprintln!("{}: drained, {active} volume(s) active", wanted.target);
    Ok(())
}

async fn lost(call: &Call, wanted: NodeLost) -> Result<(), Failure> {
    let request = api::MarkNodeLostRequest {
        node: wanted.target.clone(),
        apply: wanted.apply,
    };
    let answer = call.answer(call.client.nodes().mark_lost(request)).await?;
    output::many(call.global.output, &answer.given_up)?;
    if answer.applied {
        eprintln!("{}: marked lost", wanted.target);
    } else {
        eprintln!("nothing was changed: say --apply to do it");
    }
    Ok(())
}

async fn adopt(call: &Call, wanted: NodeAdopt) -> Result<(), Failure> {
    let request = api::AdoptNodeRequest {
        node: wanted.target.clone(),
        apply: wanted.apply,
    };
    let answer = call.answer(call.client.nodes().adopt(request)).await?;
    output::many(call.global.output, &answer.changes)?;
    if answer.applied {
        eprintln!("{}: adopted", wanted.target);
    } else {
        eprintln!("nothing was changed: say --apply to do it");
    }
    Ok(())
}
