//! Whether anybody still waits for the answer of an operation.
//!
//! Operations block, so each runs on a thread of its own, where nothing can stop it. One that waits
//! for a lock while its caller goes away must not act later: the caller may have asked for the
//! opposite since. So it looks once it has its lock, before anything is changed. One that has begun
//! goes on to its end. `grpc` begins operations here; the sweep has no caller, and goes on always.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinError;

thread_local!(static GONE: RefCell<Option<Arc<AtomicBool>>> = const { RefCell::new(None) });

/// Says that the caller is gone when it is dropped, as a cancelled call drops all it has.
struct Waits(Arc<AtomicBool>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// This thread works for a caller as long as it is there.
struct Works;

impl Works {
    fn for_caller(gone: Arc<AtomicBool>) -> Self {
        GONE.set(Some(gone));
        Self
    }
}

impl Drop for Works {
    fn drop(&mut self) {
        GONE.set(None);
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
    let gone = Arc::new(AtomicBool::new(false));
    let _waits = Waits(Arc::clone(&gone));
    let works = move || {
        let _works = Works::for_caller(gone);
        operation()
    };
    tokio::task::spawn_blocking(works).await
}

/// Whether the caller that this thread works for has gone away.
pub(super) fn is_gone() -> bool {
    GONE.with_borrow(|gone| gone.as_ref().is_some_and(|g| g.load(Ordering::Acquire)))
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
