//! Which thins became other than they were: a hint for watchers, who look for themselves.
//!
//! Told by every operation after its fact, whoever asked for it: the control plane, a local caller,
//! the sweep. Memory only. Who lags is told so and looks at everything.

use goldleaf_types::ThinOwner;
use tokio::sync::broadcast;

use super::Agent;

/// How many a watcher may lag.
const KEPT: usize = 1024;

/// Owners of thins that changed.
#[derive(Debug)]
pub(super) struct ThinNews(broadcast::Sender<ThinOwner>);

impl Default for ThinNews {
    fn default() -> Self {
        Self(broadcast::channel(KEPT).0)
    }
}

impl Agent {
    /// Says that a thin, its device or its row, is other than before.
    pub(super) fn thin_changed(&self, owner: ThinOwner) {
        let _ = self.thin_news.0.send(owner); // nobody may be watching
    }

    /// Owners of thins that change from now on.
    #[must_use]
    pub fn thin_news(&self) -> broadcast::Receiver<ThinOwner> {
        self.thin_news.0.subscribe()
    }
}
