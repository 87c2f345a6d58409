//! How far an import has come, and whether anybody still waits for it.
//!
//! Used by everything that reads or writes a lot. An import's future may be dropped while its work
//! is on a blocking thread: the work asks here between two pieces and ends by itself.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::error::ImageError;

/// Bytes between two reports.
const EVERY: u64 = 32 << 20;

/// How far an import has come. Each stage (download, conversion, hashing) begins at 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImportProgress {
    /// Bytes of this stage that are done.
    pub done_bytes: u64,
    /// Bytes of this stage, where that is known.
    pub total_bytes: Option<u64>,
}

/// Reports progress and knows when to stop.
#[derive(Clone)]
pub struct Meter {
    tell: Arc<dyn Fn(ImportProgress) + Send + Sync>,
    told: Arc<AtomicU64>,
    stopped: Arc<AtomicBool>,
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter")
            .field("told", &self.told)
            .finish_non_exhaustive()
    }
}

impl Meter {
    /// One that reports to `tell`.
    pub fn new(tell: impl Fn(ImportProgress) + Send + Sync + 'static) -> Self {
        Self {
            tell: Arc::new(tell),
            told: Arc::default(),
            stopped: Arc::default(),
        }
    }

    /// One that reports to nobody.
    pub(super) fn silent() -> Self {
        Self::new(|_| {})
    }

    /// Reports a stage's beginning.
    pub(super) fn begin(&self, total: Option<u64>) {
        self.told.store(0, Ordering::Relaxed);
        (self.tell)(ImportProgress {
            done_bytes: 0,
            total_bytes: total,
        });
    }

    /// Reports progress now and then.
    ///
    /// # Errors
    ///
    /// [`ImageError::Stopped`] once nobody waits any more.
    pub(super) fn at(&self, done: u64, total: Option<u64>) -> Result<(), ImageError> {
        self.go_on()?;
        if total == Some(done) || done.abs_diff(self.told.load(Ordering::Relaxed)) >= EVERY {
            self.told.store(done, Ordering::Relaxed);
            (self.tell)(ImportProgress {
                done_bytes: done,
                total_bytes: total,
            });
        }
        Ok(())
    }

    /// Fails once nobody waits any more.
    pub(super) fn go_on(&self) -> Result<(), ImageError> {
        if self.stopped.load(Ordering::Relaxed) {
            Err(ImageError::Stopped)
        } else {
            Ok(())
        }
    }

    /// Stops the work when the guard goes.
    #[must_use]
    pub fn stop_on_drop(&self) -> StopOnDrop {
        StopOnDrop(Arc::clone(&self.stopped))
    }
}

/// Tells the work that nobody waits for it any more.
#[derive(Debug)]
pub struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
