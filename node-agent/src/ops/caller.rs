//! Whether anybody still waits for the answer of an operation.
//!
//! Operations block, so each runs on a thread of its own, where nothing can stop it. One that waits
//! for a lock while its caller goes away must not act later: the caller may have asked for the
//! opposite since. So it looks once it has its lock, before anything is changed. One that has begun
//! goes on to its end, unless it takes long and changes nothing: that one takes `current` with it,
//! and ends. `grpc` begins operations here; the sweep has no caller, and goes on always.

use std::cell::RefCell;
use std::sync::Arc;

use tokio::task::JoinError;

use crate::sys::caller::Caller;

thread_local!(static CALLER: RefCell<Option<Arc<Caller>>> = const { RefCell::new(None) });

/// Says that the caller is gone when it is dropped, as a cancelled call drops all it has.
struct Waits(Arc<Caller>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.goes();
    }
}

/// This thread works for a caller as long as it is there.
struct Works;

impl Works {
    fn for_caller(caller: Arc<Caller>) -> Self {
        CALLER.set(Some(caller));
        Self
    }
}

impl Drop for Works {
    fn drop(&mut self) {
        CALLER.set(None);
    }
}

/// Runs an operation where it may block, for as long as the answer is waited for.
///
/// # Errors
///
/// When the operation panicked.
pub async fn blocking<T: Send + 'static>(
    operation: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    let caller = Arc::new(Caller::default());
    let _waits = Waits(Arc::clone(&caller));
    let works = move || {
        let _works = Works::for_caller(caller);
        operation()
    };
    tokio::task::spawn_blocking(works).await
}

/// Whether the caller that this thread works for has gone away.
pub(super) fn is_gone() -> bool {
    CALLER.with_borrow(|caller| caller.as_ref().is_some_and(|c| c.is_gone()))
}

/// The caller that this thread works for, if it works for one.
pub(super) fn current() -> Option<Arc<Caller>> {
    CALLER.with_borrow(Option::clone)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[tokio::test]
    async fn an_operation_knows_that_its_caller_went_away_and_the_next_one_has_its_own() {
        let (go, wait) = channel::<()>();
        let (tell, told) = channel();
        let operation = move || {
            tell.send(is_gone()).unwrap();
            wait.recv().unwrap();
            tell.send(is_gone()).unwrap();
        };
        let call = tokio::spawn(blocking(operation));
        let first = tokio::task::spawn_blocking(move || (told.recv().unwrap(), told));
        let (first, told) = first.await.unwrap();
        assert!(!first);
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
        go.send(()).unwrap();
        let second = tokio::task::spawn_blocking(move || told.recv().unwrap());
        assert!(second.await.unwrap(), "it goes on as if somebody waited");
        assert!(!blocking(is_gone).await.unwrap());
    }
}
