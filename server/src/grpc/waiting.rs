//! `wait`: a call that blocks until its work is done, or until that cannot come by itself.
//!
//! Called by the handlers of everything that changes something. Every change is idempotent, so
//! waiting is asking again: when a node or an image came, at the latest after a pause that grows.
//! The wait ends with its caller; each try runs to its end, and what it wished for stays wished.

use std::sync::Arc;
use std::time::Duration;

use super::Api;
use crate::service::{Service, ServiceError};
use crate::telemetry::Chain;

/// The first pause; none is shorter, however much happens elsewhere.
const SHORTEST: Duration = Duration::from_millis(100);
/// No pause is longer: what is busy tells nobody when it is not.
const LONGEST: Duration = Duration::from_secs(2);

impl Api {
    /// Carries out a change; with `wait` until it is done or refused for what does not pass.
    pub(super) async fn change<T, W>(
        &self,
        wait: bool,
        change: impl Fn(Arc<Service>) -> W,
    ) -> Result<T, ServiceError>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, ServiceError>> + Send + 'static,
    {
        let mut nodes = self.service.live.node_changes();
        let mut images = self.service.board.bumps();
        let mut pause = SHORTEST;
        loop {
            let error = match self.to_the_end(&change).await {
                Err(error) if wait && error.may_pass() => error,
                done => return done,
            };
            tracing::info!(error = %Chain(&error), "waits, as asked");
            tokio::time::sleep(SHORTEST).await;
            // A receiver that lags missed news: that is news too.
            tokio::select! {
                () = self.stop.cancelled() => return Err(error),
                _ = nodes.recv() => {}
                _ = images.recv() => {}
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST),
            }
        }
    }
}
