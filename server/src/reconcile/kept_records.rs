//! Having nodes keep what only the store knows of them.
//!
//! One task makes the texts of all nodes anew when a record of which they tell has changed; beside each
//! node's streams, another has its node keep its own. Nothing waits for either, and a node that was
//! away is told when it is back. A node that keeps another store's is not told before it is adopted.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::select_all;
use goldleaf_types::{Labels, NodeId};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::domain::{Channel, Image, Node, Pool};
use crate::service::{Service, ServiceError};
use crate::store::{Changes, rows};
use crate::telemetry::Chain;

/// Changes that come together are told together.
const GATHER: Duration = Duration::from_secs(1);

/// When what failed is tried again: a node that refused or did not answer, a row that is not read.
const AGAIN: Duration = Duration::from_secs(60);

/// When a node is told again what it keeps already, which costs it no write: the file may have been
/// moved away, or an earlier call that was given up came last.
const ANEW: Duration = Duration::from_secs(600);

/// The text of each node.
pub(super) type Texts = Arc<HashMap<NodeId, String>>;

/// Makes the texts, now and at each change, until stopped.
pub(super) fn texts(service: Arc<Service>, stop: CancellationToken) -> watch::Receiver<Texts> {
    let (told, texts) = watch::channel(Texts::default());
    tokio::spawn(async move {
        let make = async {
            loop {
                let wait = match follow(&service, &told).await {
                    Ok(()) => GATHER,
                    Err(error) => {
                        tracing::warn!(error = %Chain(&error), "what nodes are to keep is not known");
                        AGAIN
                    }
                };
                tokio::time::sleep(wait).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            never = make => match never {},
        }
    });
    texts
}

/// Ends when the store says no more, or fails.
async fn follow(service: &Service, told: &watch::Sender<Texts>) -> Result<(), ServiceError> {
    let mut news = changes(service).await?;
    loop {
        let texts = Texts::from(service.records_to_keep().await?);
        told.send_if_modified(|last| {
            let changed = *last != texts;
            *last = texts;
            changed
        });
        match news.next().await {
            Some(change) => drop(change?),
            None => return Ok(()),
        }
        tokio::time::sleep(GATHER).await;
        while let Some(Some(change)) = futures::FutureExt::now_or_never(news.next()) {
            drop(change?);
        }
    }
}

/// Every change of what nodes are told of, from now on.
async fn changes(service: &Service) -> Result<Changes, ServiceError> {
    let store = service.records.store();
    let all = Labels::default();
    let now = service.records.page::<Node>(None, 1, &all).await?.revision;
    let mut all = Vec::new();
    for prefix in [
        rows::prefix::<Image>(),
        rows::prefix::<Channel>(),
        rows::prefix::<Pool>(),
        rows::prefix::<Node>(),
    ] {
        all.push(store.watch(&prefix, now).await?);
    }
    Ok(select_all(all).boxed())
}

/// Has a node that answers keep its text, again whenever that is another one.
pub(super) async fn keep(
    service: &Service,
    node: NodeId,
    mut texts: watch::Receiver<Texts>,
) -> Infallible {
    let mut kept: Option<(String, Instant)> = None;
    loop {
        let text = texts.borrow_and_update().get(&node).cloned();
        let is_kept = |text: &String| {
            let mut last = kept.iter();
            last.any(|(kept, at)| kept == text && at.elapsed() < ANEW)
        };
        if let Some(text) = text.filter(|text| !is_kept(text)) {
            let refusal = match service.have_records_kept(node, text.clone()).await {
                Ok(()) => {
                    kept = Some((text, Instant::now()));
                    None
                }
                Err(error) => Some(Chain(&error).to_string()),
            };
            if service.live.note_records(node, refusal.clone())
                && let Some(error) = refusal
            {
                tracing::info!(%node, error, "it does not keep our records");
            }
        }
        tokio::select! {
            changed = texts.changed() => if changed.is_err() {
                return std::future::pending().await; // we stop
            },
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}
