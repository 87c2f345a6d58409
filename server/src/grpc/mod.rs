//! The control plane's gRPC services: convert, call, answer.
//!
//! Built by `app`. Holds no rule: those are in `service`. A change runs to its end though its caller
//! goes away; a look ends with its caller. What a stop cuts short is finished by the next start. A
//! stop ends streams.

pub mod answers;
pub mod answers_node;
pub mod convert;
pub mod convert_images;
mod convert_import;
mod convert_life;
mod convert_pools;
mod convert_update;
mod doctor;
mod images;
mod nodes;
mod pools;
mod repairs;
pub mod roles;
pub mod status;
mod store;
mod volumes;
mod waiting;

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt, stream};
use goldleaf_proto::v1 as api;
use goldleaf_rpc::call;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status};
use tracing::Instrument;

use crate::agents::AgentError;
use crate::domain::BlockPart;
use crate::service::{Event, Events, Service, ServiceError, WantedBlocks};

pub use roles::Roles;

type Answer<T> = Result<Response<T>, Status>;
type EventStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Every service over one control plane.
#[derive(Clone)]
pub struct Api {
    service: Arc<Service>,
    stop: CancellationToken,
}

impl Api {
    /// The services; their streams end with `stop`.
    #[must_use]
    pub const fn new(service: Arc<Service>, stop: CancellationToken) -> Self {
        Self { service, stop }
    }

    /// Runs a change to its end, whether its caller waits for that or not: one that was dropped
    /// while its wish is committed would hand the loop a record that cannot be seen yet.
    async fn to_the_end<T, W>(
        &self,
        change: impl FnOnce(Arc<Service>) -> W,
    ) -> Result<T, ServiceError>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, ServiceError>> + Send + 'static,
    {
        let change = change(Arc::clone(&self.service)).in_current_span();
        let task = match call::current() {
            Some(id) => tokio::spawn(call::scope(id, change)),
            None => tokio::spawn(change),
        };
        match task.await.map_err(JoinError::try_into_panic) {
            Ok(done) => done,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            // Nobody aborts it: the runtime ends, and this task with it.
            Err(Err(_)) => std::future::pending().await,
        }
    }

    /// A wait that changes nothing, until a stop: what is waited for goes on at the next start.
    async fn unless_stopped<T>(
        &self,
        wait: impl Future<Output = Result<T, ServiceError>>,
    ) -> Result<T, Status> {
        tokio::select! {
            biased;
            ended = wait => Ok(ended?),
            () = self.stop.cancelled() => Err(status::stopping()),
        }
    }

    /// A snapshot's ranges. The first part is waited for, so that a refusal is the call's own.
    async fn ranges(&self, wanted: WantedBlocks) -> Answer<EventStream<api::BlockRanges>> {
        let mut parts = self.service.blocks(wanted).await?;
        let to_wire = |part: Result<BlockPart, AgentError>| match part {
            Ok(part) => Ok(answers::block_ranges(&part)),
            Err(error) => Err(Status::from(ServiceError::from(error))),
        };
        let first = parts.next().await.map(to_wire).transpose()?;
        let all = stream::iter(first.map(Ok)).chain(parts.map(to_wire));
        Ok(Response::new(whole_or_broken_off(
            Box::pin(all),
            self.stop.clone(),
        )))
    }

    fn stream<V: Send + 'static, P: 'static>(
        &self,
        events: Events<V>,
        to_wire: impl Fn(Event<V>) -> P + Send + 'static,
    ) -> EventStream<P> {
        let stop = self.stop.clone();
        let events = events.map(move |event| event.map(&to_wire).map_err(Status::from));
        Box::pin(events.take_until(stop.cancelled_owned()))
    }
}

/// A stream whose end says that nothing is missing: a stop makes it end with an error.
fn whole_or_broken_off<T: Send + 'static>(
    all: EventStream<T>,
    stop: CancellationToken,
) -> EventStream<T> {
    let parts = stream::unfold(Some((all, stop)), |open| async move {
        let (mut all, stop) = open?;
        tokio::select! {
            biased;
            () = stop.cancelled() => Some((Err(status::stopping()), None)),
            part = all.next() => Some((part?, Some((all, stop)))),
        }
    });
    Box::pin(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stop_never_looks_like_the_end_of_all_ranges() {
        let stop = CancellationToken::new();
        let parts = || -> EventStream<u32> { Box::pin(stream::iter([Ok(1), Ok(2)])) };
        let whole = whole_or_broken_off(parts(), stop.clone());
        let whole: Vec<_> = whole.map(Result::unwrap).collect().await;
        assert_eq!(whole, [1, 2]);
        let endless = parts().chain(stream::pending());
        let mut broken = whole_or_broken_off(Box::pin(endless), stop.clone());
        assert_eq!(broken.next().await.unwrap().unwrap(), 1);
        stop.cancel();
        let last = broken.next().await.unwrap().unwrap_err();
        assert_eq!(last.code(), tonic::Code::Unavailable);
        assert!(broken.next().await.is_none());
    }
}
