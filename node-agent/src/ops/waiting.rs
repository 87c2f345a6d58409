//! How long writers of a full pool wait.
//!
//! Used by `space`. The kernel has one time for all pools of a host (dm-thin's `no_space_timeout`),
//! and counts it anew at each resume of a pool. So a pool whose writers are to wait longer is
//! resumed in time, again and again, and one whose time has come is loaded to refuse. Nothing is
//! recorded: an agent that restarts lets them wait for the whole time once more.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::Agent;
use super::open_pool::OpenPool;

/// No two resumes of a pool are closer: a kernel that refuses sooner cannot be kept from it.
const RENEW_MIN: Duration = Duration::from_millis(50);

/// Writers of a full pool wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    /// Since when, as far as we saw.
    pub(super) since: Instant,
    /// When the kernel began to count.
    pub(super) renewed: Instant,
    /// When somebody has to look again.
    pub(super) due: Instant,
}

/// What is to be done for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// Their time has come: they are to get an error.
    Ends,
    /// The kernel is to count anew.
    Renews,
    /// They wait; look again at that time.
    Lasts(Instant),
}

/// What is to be done now. `kernel`: how long the kernel lets them wait, if not for ever; `refuses`:
/// it has lost its patience already.
pub(super) fn patience(
    now: Instant,
    (since, renewed): (Instant, Instant),
    wait: Duration,
    (kernel, refuses): (Option<Duration>, bool),
) -> Patience {
    let end = since + wait;
    if now >= end {
        return Patience::Ends;
    }
    let renewal = kernel.map(|limit| renewed + (limit / 2).max(RENEW_MIN));
    match renewal {
        _ if refuses && now >= renewed + RENEW_MIN => Patience::Renews,
        _ if refuses => Patience::Lasts(end.min(renewed + RENEW_MIN)),
        Some(renewal) if now >= renewal => Patience::Renews,
        Some(renewal) => Patience::Lasts(renewal.min(end)),
        None => Patience::Lasts(end),
    }
}

impl OpenPool {
    pub(super) fn waiting(&self) -> Option<Waiting> {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_waiting(&self, waiting: Option<Waiting>) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = waiting;
    }

    /// Nobody waits, or whoever does begins anew.
    pub(super) fn forget_waiting(&self) {
        self.set_waiting(None);
    }
}

impl Agent {
    /// Minds the pools whose writers wait and for whom something is to be done now; when the next
    /// such time is. Blocks.
    pub fn mind_waiting(&self) -> Option<Instant> {
        let now = Instant::now();
        let pools = self.pools.all_open();
        for pool in &pools {
            if pool.waiting().is_some_and(|waiting| waiting.due <= now) {
                self.mind_space(pool);
            }
        }
        let due = pools.iter().filter_map(|pool| pool.waiting());
        due.map(|waiting| waiting.due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_counts_anew_in_time_until_the_pools_own_time_has_come() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let wait = Duration::from_secs(100);
        let kernel = (Some(Duration::from_secs(60)), false);
        let look = |now, renewed, kernel| patience(at(now), (start, at(renewed)), wait, kernel);
        assert_eq!(look(0, 0, kernel), Patience::Lasts(at(30)));
        assert_eq!(look(29, 0, kernel), Patience::Lasts(at(30)));
        assert_eq!(look(30, 0, kernel), Patience::Renews);
        assert_eq!(look(90, 90, kernel), Patience::Lasts(at(100)));
        assert_eq!(look(100, 90, kernel), Patience::Ends);
        // It was not counted anew in time: an agent was away.
        assert_eq!(look(70, 0, (kernel.0, true)), Patience::Renews);
        assert_eq!(look(100, 0, (kernel.0, true)), Patience::Ends);
        // A kernel that never loses its patience.
        assert_eq!(look(0, 0, (None, false)), Patience::Lasts(at(100)));
        assert_eq!(look(100, 0, (None, false)), Patience::Ends);
    }
}
