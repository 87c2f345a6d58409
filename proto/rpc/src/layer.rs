//! One span and one id for each call that is served.
//!
//! A layer around all services of a part. The ids come from the call's metadata or are minted here;
//! they go to the log with every line of the call, to the calls that are made for it, and the
//! request's own id back to the caller.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use goldleaf_proto::REQUEST_ID_KEY;
use http::{HeaderValue, Request, Response};
use tower::{Layer, Service};
use tracing::Instrument;

use crate::call::{self, CallId};

/// Adds ids to each call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Calls;

/// A service whose calls have ids.
#[derive(Clone, Debug)]
pub struct WithId<S>(S);

impl<S> Layer<S> for Calls {
    type Service = WithId<S>;

    fn layer(&self, inner: S) -> WithId<S> {
        WithId(inner)
    }
}

impl<S, B, A> Service<Request<B>> for WithId<S>
where
    S: Service<Request<B>, Response = Response<A>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<A>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<A>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let id = CallId::of(request.headers());
        let span = id.span(request.uri().path());
        let answered = HeaderValue::from_str(&id.request);
        let answer = span.in_scope(|| self.0.call(request));
        let work = async move {
            let began = Instant::now();
            let mut response = answer.await?;
            tracing::debug!(took = ?began.elapsed(), "answered");
            if let Ok(value) = answered {
                response.headers_mut().insert(REQUEST_ID_KEY, value);
            }
            Ok(response)
        };
        Box::pin(call::scope(id, work).instrument(span))
    }
}
