//! The id that follows one request from the command line to the kernel.
//!
//! Set by `grpc` around each call it serves, read by the agents' client, which passes it on. It is
//! for logs alone: nothing decides by it. Work that no request asked for has none.

use std::future::Future;

tokio::task_local! {
    /// The request that the current task serves.
    static REQUEST_ID: String;
}

/// Runs `work` as a part of the request `id`.
pub fn scope<F: Future>(id: String, work: F) -> impl Future<Output = F::Output> {
    REQUEST_ID.scope(id, work)
}

/// The request that the current task serves, if it serves one. A task that it spawns serves none
/// unless it is given the id with [`scope`].
#[must_use]
pub fn current() -> Option<String> {
    REQUEST_ID.try_with(Clone::clone).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_has_its_id_inside_and_nobody_outside() {
        assert_eq!(current(), None);
        scope("r1".into(), async {
            assert_eq!(current().as_deref(), Some("r1"))
        })
        .await;
        assert_eq!(current(), None);
    }
}
