//! How a part stops: when it is told, and not much later.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How long calls in flight may take at a stop.
const GRACE: Duration = Duration::from_secs(10);

/// Cancels `stop` at SIGTERM or SIGINT; ends when it is cancelled, by whomever.
pub async fn until_told(stop: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        tracing::error!("signals cannot be caught; stop this process with SIGKILL");
        return;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
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
