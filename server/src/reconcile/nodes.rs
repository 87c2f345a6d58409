//! Listening to nodes: a stream of pool reports and one of thins a node, opened again whenever
//! one ends.
//!
//! An open stream is what "reachable" means. Each report goes to memory for placement, and to the
//! pools' records where a watcher would care. Beside the streams, the node is told what to keep.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use goldleaf_types::NodeId;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::kept_records::{self, Texts};
use super::repeat::Waits;
use crate::agents::{PoolReports, ThinReports};
use crate::domain::Node;
use crate::service::{Service, ServiceError};
use crate::telemetry::Chain;

/// Nodes are looked for at least so often; registrations ring.
const LOOK: Duration = Duration::from_secs(30);

/// Keeps a stream open to every node until stopped.
pub async fn listen(service: Arc<Service>, waits: Waits, stop: CancellationToken) {
    let mut streams: HashMap<NodeId, (String, AbortHandle)> = HashMap::new();
    let texts = kept_records::texts(Arc::clone(&service), stop.clone());
    loop {
        match service.records.all::<Node>().await {
            Ok(nodes) => nodes.into_iter().for_each(|node| {
                if node.lost.is_some() {
                    // Nothing that it says counts.
                    if let Some((_, old)) = streams.remove(&node.id) {
                        old.abort();
                        service.live.away(node.id, "it was marked lost");
                        service.live_thins.away(node.id);
                    }
                    return;
                }
                let known = streams.get(&node.id);
                // A node that is away and registers again is tried at once.
                let away = service.live.reach(node.id).is_some_and(|reach| !reach.up);
                let stale = |(address, task): &(String, AbortHandle)| {
                    away || *address != node.address || task.is_finished()
                };
                if known.is_none_or(stale) {
                    if let Some((_, old)) = known {
                        old.abort();
                    }
                    let task =
                        tokio::spawn(keep(Arc::clone(&service), node.id, waits, texts.clone()));
                    streams.insert(node.id, (node.address, task.abort_handle()));
                }
            }),
            Err(error) => tracing::error!(error = %Chain(&error), "nodes not read"),
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = service.live.registered.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    streams.into_values().for_each(|(_, task)| task.abort());
}

async fn keep(service: Arc<Service>, node: NodeId, waits: Waits, texts: watch::Receiver<Texts>) {
    let mut wait = waits.first;
    loop {
        let (why, opened) = match follow(&service, node, texts.clone()).await {
            Ended::NeverOpened(why) => (why, false),
            Ended::Broke(why) => (why, true),
        };
        if opened {
            wait = waits.first;
        }
        tracing::warn!(%node, why, ?wait, "no stream from its agent");
        service.live.away(node, &why);
        service.live_thins.away(node);
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(waits.most / 2); // a node that is back should be seen soon
    }
}

enum Ended {
    NeverOpened(String),
    Broke(String),
}

/// Follows both streams, and has the node keep what it is to keep beside that.
async fn follow(service: &Service, node: NodeId, texts: watch::Receiver<Texts>) -> Ended {
    let opened = async {
        let agent = service.agent_of(node).await?;
        let thins = agent.watch_thins().await?;
        Ok::<_, ServiceError>((agent.watch_pools().await?, thins))
    };
    let (reports, thins) = match opened.await {
        Ok(streams) => streams,
        Err(error) => return Ended::NeverOpened(error.to_string()),
    };
    tokio::select! {
        why = hear(service, node, reports, thins) => Ended::Broke(why),
        never = kept_records::keep(service, node, texts) => match never {},
    }
}

/// Takes what the streams bring, until one ends: why.
async fn hear(
    service: &Service,
    node: NodeId,
    mut reports: PoolReports,
    mut thins: ThinReports,
) -> String {
    loop {
        let next = tokio::select! {
            next = reports.next() => next,
            news = thins.next() => match news {
                Some(Ok(news)) => {
                    service.live_thins.take(node, news);
                    continue;
                }
                Some(Err(error)) => return error.to_string(),
                None => break,
            },
        };
        let Some(next) = next else { break };
        let pools = match next {
            Ok(pools) => pools,
            Err(error) => return error.to_string(),
        };
        if service.live.set(node, pools.clone()) {
            tracing::info!(%node, "its agent answers");
        }
        if let Err(error) = service.follow_pools(node, &pools).await {
            tracing::warn!(%node, error = %Chain(&error), "pool records not updated");
        }
    }
    "its agent ended the stream".into()
}
