//! The control plane's gRPC services: convert, call, answer.
//!
//! Built by `app`. Holds no rule: those are in `service`. A change runs to its end though its caller
//! goes away; a look ends with its caller. What a stop cuts short is finished by the next start. A
//! stop ends streams.

pub mod answers;
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
pub mod roles;
pub mod status;
mod volumes;
mod waiting;

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use goldleaf_rpc::call;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status};
use tracing::Instrument;

use crate::service::{Event, Events, Service, ServiceError};

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
