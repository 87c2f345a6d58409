//! One span and one id for each call, from the command line to the kernel.
//!
//! A layer around all services. The id comes from the call's metadata or is minted here; it goes to
//! the log with every line of the call, to the agents, and back to the caller.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use goldleaf_proto::REQUEST_ID_KEY;
use http::{HeaderValue, Request, Response};
use tower::{Layer, Service};
use tracing::Instrument;

use crate::request_id;

/// Longest id that is taken from a caller.
const LONGEST: usize = 128;

/// Adds an id to each call.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestIds;

/// A service whose calls have ids.
#[derive(Clone, Debug)]
pub struct WithId<S>(S);

impl<S> Layer<S> for RequestIds {
    type Service = WithId<S>;

    fn layer(&self, inner: S) -> WithId<S> {
        WithId(inner)
    }
}

fn id_of<B>(request: &Request<B>) -> String {
    let given = request
        .headers()
        .get(REQUEST_ID_KEY)
        .and_then(|value| value.to_str().ok());
    match given {
        Some(id) if (1..=LONGEST).contains(&id.len()) => id.to_owned(),
        Some(_) | None => uuid::Uuid::now_v7().simple().to_string(),
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
        let id = id_of(&request);
        let span = tracing::info_span!(
            "call",
            path = request.uri().path(),
            request = id,
            role = tracing::field::Empty // the next layer knows
        );
        let call = span.in_scope(|| self.0.call(request));
        Box::pin(
            request_id::scope(id.clone(), async move {
                let mut response = call.await?;
                if let Ok(value) = HeaderValue::from_str(&id) {
                    response.headers_mut().insert(REQUEST_ID_KEY, value);
                }
                Ok(response)
            })
            .instrument(span),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_callers_if_it_is_a_sane_one() {
        let with = |value: &str| {
            Request::builder()
                .header(REQUEST_ID_KEY, value)
                .body(())
                .unwrap()
        };
        assert_eq!(id_of(&with("r-1")), "r-1");
        assert_ne!(id_of(&with(&"x".repeat(129))).len(), 129);
        let (one, other) = (Request::new(()), Request::new(()));
        assert_ne!(id_of(&one), id_of(&other));
    }
}
