//! Long work as a stream: how far it has come, then its result. It ends with its caller.

use goldleaf_proto::v1 as api;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tracing::Instrument;

use super::{Events, status};
use crate::images::{ImportProgress, Meter};
use crate::ops::caller;

/// Begins work and answers its events; `so_far` makes one of its progress. Dropping the events
/// stops the work, which then leaves nothing.
pub(super) fn follow<E, W>(
    so_far: impl Fn(api::Progress) -> E + Send + Sync + 'static,
    work: impl FnOnce(Meter) -> W + Send + 'static,
) -> Events<E>
where
    E: Send + 'static,
    W: Future<Output = Result<E, Status>> + Send + 'static,
{
    let (events, stream) = mpsc::channel(16);
    let told = events.clone();
    let meter = Meter::new(move |p: ImportProgress| {
        // A slow reader misses a step, never the end.
        let _ = told.try_send(Ok(so_far(api::Progress {
            done_bytes: p.done_bytes,
            total_bytes: p.total_bytes.unwrap_or(0),
        })));
    });
    let task = async move {
        let _stop = meter.stop_on_drop();
        let last = tokio::select! {
            () = events.closed() => return,
            last = work(meter.clone()) => last,
        };
        let _ = events.send(last).await;
    };
    tokio::spawn(task.in_current_span());
    Box::pin(ReceiverStream::new(stream))
}

/// Runs work where it may block; it does not learn of its caller's going away.
pub(super) async fn blocking<T, X>(
    work: impl FnOnce() -> Result<T, X> + Send + 'static,
) -> Result<T, Status>
where
    T: Send + 'static,
    X: Into<Status> + Send + 'static,
{
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work))
        .await
        .map_err(|e| status::panicked(&e))?
        .map_err(Into::into)
}

/// As [`blocking`], for a caller: dropping this is its going away.
pub(super) async fn blocking_for<T, X>(
    work: impl FnOnce() -> Result<T, X> + Send + 'static,
) -> Result<T, Status>
where
    T: Send + 'static,
    X: Into<Status> + Send + 'static,
{
    let span = tracing::Span::current();
    caller::blocking(move || span.in_scope(work))
        .await
        .map_err(|e| status::panicked(&e))?
        .map_err(Into::into)
}
