//! One piece of work for a volume at a time, done to its end.
//!
//! Called by `node` around each change. A call that an orchestrator gives up is not cut short half
//! way: a second one that it sends then finds the first at work and is refused with ABORTED.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use goldleaf_rpc::call;
use goldleaf_types::VolumeId;

use crate::status::CsiError;

/// Volumes that somebody works on.
#[derive(Clone, Debug, Default)]
pub struct Work(Arc<Mutex<BTreeSet<VolumeId>>>);

/// A volume that is worked on as long as this is held.
struct Held {
    work: Work,
    volume: VolumeId,
}

impl Work {
    fn take(&self, volume: VolumeId) -> Result<Held, CsiError> {
        let mut busy = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !busy.insert(volume) {
            return Err(CsiError::Busy(volume.to_string()));
        }
        let work = self.clone();
        Ok(Held { work, volume })
    }

    /// Does the work, whoever waits for it, unless another piece is at work for the volume.
    ///
    /// # Errors
    ///
    /// [`CsiError::Busy`] then; otherwise the work's own.
    pub async fn alone<T: Send + 'static>(
        &self,
        volume: VolumeId,
        work: impl Future<Output = Result<T, CsiError>> + Send + 'static,
    ) -> Result<T, CsiError> {
        let held = self.take(volume)?;
        // As a part of the request, whose ids a task of its own would not have.
        let done = tokio::spawn(call::resume(call::current(), async move {
            let _held = held;
            work.await
        }));
        done.await.unwrap_or_else(|error| {
            tracing::error!(%error, %volume, "a call panicked");
            Err(CsiError::Panicked)
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut busy = self.work.0.lock().unwrap_or_else(PoisonError::into_inner);
        busy.remove(&self.volume);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_goes_on_when_nobody_waits_and_a_second_piece_is_refused_until_then() {
        let (work, volume) = (Work::default(), VolumeId::from_bytes([1; 16]));
        let (finish, finished) = tokio::sync::oneshot::channel::<()>();
        let first = work.clone();
        let caller = tokio::spawn(async move {
            let piece = async { finished.await.map_err(|_| CsiError::Panicked) };
            first.alone(volume, piece).await
        });
        while work.0.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
        let refused = work.alone(volume, async { Ok(()) }).await;
        assert!(matches!(refused, Err(CsiError::Busy(_))), "{refused:?}");
        let other = VolumeId::from_bytes([2; 16]);
        work.alone(other, async { Ok(()) }).await.unwrap();
        finish.send(()).unwrap();
        while work.alone(volume, async { Ok(()) }).await.is_err() {
            tokio::task::yield_now().await;
        }
    }
}
