//! The control plane's gRPC services: convert, call, answer.
//!
//! Built by `app`. Holds no rule: those are in `service`. A caller that goes away stops its call
//! between any two steps; what that leaves unfinished is finished without it. A stop ends streams.

pub mod answers;
pub mod convert;
mod images;
mod nodes;
mod pools;
mod request;
pub mod status;
mod volumes;

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status};

use crate::service::{Event, Events, Service};

pub use request::RequestIds;

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
