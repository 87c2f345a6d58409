//! The ids that follow one request from the command line to the kernel.
//!
//! Set around each call that is served, passed on with each call that is made. They are for logs
//! alone: nothing decides by them. Work that no request asked for has none.

use std::future::Future;

use goldleaf_proto::{REQUEST_ID_KEY, TRACEPARENT_KEY};
use http::HeaderMap;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};
use tracing::Instrument;

use crate::traceparent::Traceparent;

/// Longest id of a request that is taken from a caller.
const LONGEST: usize = 128;

tokio::task_local! {
    /// The request that the current task serves.
    static CALL: CallId;
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallId {
    /// Its id: the caller's, or minted where it came in.
    pub request: String,
    /// The trace that it is a part of, and our own step of that.
    pub trace: Traceparent,
}

impl CallId {
    /// A request of our own.
    #[must_use]
    pub fn mint() -> Self {
        Self {
            request: uuid::Uuid::now_v7().simple().to_string(),
            trace: Traceparent::mint(),
        }
    }

    /// The request that these headers came with. What they lack, or have in a shape that nobody
    /// can use, is minted: ids are no reason to refuse a call.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let text = |key| headers.get(key).and_then(|value| value.to_str().ok());
        let sane = |id: &&str| {
            (1..=LONGEST).contains(&id.len()) && id.bytes().all(|b| (0x21..0x7f).contains(&b))
        };
        let trace = text(TRACEPARENT_KEY).and_then(|text| text.parse::<Traceparent>().ok());
        Self {
            request: text(REQUEST_ID_KEY).filter(sane).map_or_else(
                || uuid::Uuid::now_v7().simple().to_string(),
                ToOwned::to_owned,
            ),
            trace: trace.map_or_else(Traceparent::mint, |caller| caller.child()),
        }
    }

    /// Writes them on a call that is made for the request.
    pub fn stamp(&self, metadata: &mut MetadataMap) {
        let texts = [
            (REQUEST_ID_KEY, self.request.clone()),
            (TRACEPARENT_KEY, self.trace.to_string()),
        ];
        for (key, text) in texts {
            // An id that no header can carry is not worth failing a call for.
            if let Ok(value) = MetadataValue::try_from(text) {
                metadata.insert(key, value);
            }
        }
    }

    /// A span with both ids.
    #[must_use]
    pub fn span(&self, path: &str) -> tracing::Span {
        tracing::info_span!(
            "call",
            path,
            request = self.request,
            trace = self.trace.trace(),
            role = tracing::field::Empty, // where there are roles, they are known later
        )
    }
}

/// The request that the current task serves, if it serves one. A task that it spawns serves none
/// unless it is given the request with [`scope`].
#[must_use]
pub fn current() -> Option<CallId> {
    CALL.try_with(Clone::clone).ok()
}

/// Writes the ids of the request that the current task serves, if it serves one, on each call that
/// a client makes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stamp;

impl Interceptor for Stamp {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(call) = current() {
            call.stamp(request.metadata_mut());
        }
        Ok(request)
    }
}

/// Runs `work` as a part of the request.
pub fn scope<F: Future>(call: CallId, work: F) -> impl Future<Output = F::Output> {
    CALL.scope(call, work)
}

/// Runs `work` as a part of the request that asked for it, in a span of its own; as it is when no
/// request did.
pub async fn resume<F: Future>(call: Option<CallId>, work: F) -> F::Output {
    match call {
        Some(call) => {
            let span = call.span("later");
            scope(call, work).instrument(span).await
        }
        None => work.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(request: &str, traceparent: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID_KEY, request.parse().unwrap());
        headers.insert(TRACEPARENT_KEY, traceparent.parse().unwrap());
        headers
    }

    #[test]
    fn a_callers_ids_are_kept_and_the_step_is_our_own() {
        let caller = CallId::mint();
        let mut metadata = MetadataMap::new();
        caller.stamp(&mut metadata);
        let ours = CallId::of(metadata.as_ref());
        assert_eq!(ours.request, caller.request);
        assert_eq!(ours.trace.trace(), caller.trace.trace());
        assert_ne!(ours.trace.parent(), caller.trace.parent());
    }

    #[test]
    fn ids_of_a_bad_shape_are_replaced_and_absent_ones_minted() {
        let good = CallId::mint();
        for request in ["", "a b", &"x".repeat(129)] {
            let read = CallId::of(&headers(request, &good.trace.to_string()));
            assert_eq!(read.request.len(), 32, "{request:?}");
            assert_eq!(read.trace.trace(), good.trace.trace());
        }
        let read = CallId::of(&headers("r-1", "00-nonsense"));
        assert_eq!(read.request, "r-1");
        assert!(read.trace.to_string().parse::<Traceparent>().is_ok());
        let none = HeaderMap::new();
        assert_ne!(CallId::of(&none), CallId::of(&none));
    }

    #[test]
    fn a_call_for_a_request_carries_its_ids_and_one_for_none_has_none() {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let call = CallId::mint();
        runtime.unwrap().block_on(async {
            let stamped = || Stamp.call(Request::new(())).unwrap();
            assert!(stamped().metadata().is_empty());
            let made = scope(call.clone(), async { stamped() }).await;
            let read = CallId::of(made.metadata().as_ref());
            assert_eq!(read.request, call.request);
            assert_eq!(read.trace.trace(), call.trace.trace());
        });
    }

    #[test]
    fn a_request_has_its_ids_inside_and_nobody_outside() {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let call = CallId::mint();
        let wanted = Some(call.clone());
        runtime.unwrap().block_on(async {
            assert_eq!(current(), None);
            scope(call.clone(), async { assert_eq!(current(), wanted) }).await;
            resume(Some(call), async { assert_eq!(current(), wanted) }).await;
            resume(None, async { assert_eq!(current(), None) }).await;
            assert_eq!(current(), None);
        });
    }
}
