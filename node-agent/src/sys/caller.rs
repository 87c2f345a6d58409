//! Who waits for the answer of something that blocks, and the event that it waits no longer.
//!
//! Made by `ops::caller` for each call, and passed down to what takes long and changes nothing: that
//! looks here between two steps, and has the event among what it polls while a program runs. What has
//! no caller, or is to go on without it, gets none. Who is gone does not come back.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

/// A caller that may go away.
#[derive(Debug, Default)]
pub struct Caller(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    gone: bool,
    /// Made when somebody first polls for it: most calls are short.
    event: Option<Arc<OwnedFd>>,
}

impl Caller {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It waits no longer.
    pub fn goes(&self) {
        let mut state = self.state();
        state.gone = true;
        if let Some(event) = &state.event {
            // It fails only where the event has been told more often than can be counted.
            let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
        }
    }

    /// Whether it waits no longer.
    pub fn is_gone(&self) -> bool {
        self.state().gone
    }

    /// Can be read as soon as it waits no longer, and from then on.
    ///
    /// # Errors
    ///
    /// When the kernel has no descriptor left.
    pub fn event(&self) -> io::Result<Arc<OwnedFd>> {
        let mut state = self.state();
        if let Some(event) = &state.event {
            return Ok(Arc::clone(event));
        }
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let made = Arc::new(eventfd(u32::from(state.gone), flags)?);
        state.event = Some(Arc::clone(&made));
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn is_told(event: &OwnedFd) -> bool {
        let mut fds = [PollFd::new(event, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
    }

    #[test]
    fn the_event_is_told_whether_it_is_asked_for_before_or_after() {
        let caller = Caller::default();
        let before = caller.event().unwrap();
        assert!(!caller.is_gone() && !is_told(&before));
        caller.goes();
        assert!(caller.is_gone() && is_told(&before));
        assert!(is_told(&caller.event().unwrap()), "it is told once alone");
        let late = Caller::default();
        late.goes();
        assert!(is_told(&late.event().unwrap()));
    }
}
