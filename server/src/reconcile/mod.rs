//! What goes on without anybody asking: finishing what was cut short, and listening to nodes.
//!
//! Started by `app`. [`recovery`] fills the set of unfinished things once at start; after that the
//! bell says when, the set which, and only the store what. There is no other way of recovery.

mod kept_records;
mod nodes;
mod repeat;
mod unfinished;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::service::{Service, ServiceError, Unfinished};

pub use nodes::listen;
pub use repeat::{Waits, run};

/// Finds everything unfinished, of every kind.
///
/// # Errors
///
/// When the store is away or a row cannot be read.
pub async fn unfinished(service: &Service) -> Result<Vec<Unfinished>, ServiceError> {
    unfinished::all(service).await
}

/// Hands the loop everything that a stop or crash left unfinished.
pub async fn recovery(service: Arc<Service>, stop: CancellationToken) {
    let mut wait = Duration::from_millis(200);
    loop {
        match unfinished(&service).await {
            Ok(all) => {
                tracing::info!(unfinished = all.len(), "looked for unfinished work");
                all.into_iter().for_each(|id| service.pending.add(id));
                return;
            }
            Err(error) => {
                tracing::error!(error = %crate::telemetry::Chain(&error), "unfinished work not found");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(Duration::from_secs(30)),
        }
    }
}
