//! How a part stops: when it is told, and not much later.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long calls in flight may take at a stop.
const GRACE: Duration = Duration::from_secs(10);

/// What asks a process to stop: SIGTERM and SIGINT.
#[derive(Debug)]
pub struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    /// Catches them from now on. To be done before anybody is told that the process is ready: who
    /// then stops it at once is obeyed.
    ///
    /// # Errors
    ///
    /// When the host lets no signal be caught.
    pub fn catch() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
        })
    }
}

/// Cancels `stop` at a signal; ends when it is cancelled, by whomever.
pub async fn until_told(mut signals: Signals, stop: CancellationToken) {
    tokio::select! {
        _ = signals.term.recv() => {}
        _ = signals.int.recv() => {}
        () = stop.cancelled() => {}
    }
    stop.cancel();
}

/// Ends when what was in flight at the stop has had its time: a caller that keeps a stream open
/// must not keep the process.
pub async fn patience(stop: CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(GRACE).await;
    tracing::warn!(
        ?GRACE,
        "calls in flight did not end in time; the next start finishes them"
    );
}
