//! Device-mapper events without polling: armed, then waited for, then compared by number.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::control::{arm, open_node};
use crate::error::DmError;

/// Wakes for every event of every device, and for each that comes or goes. Arm it, look at the
/// list, wait, and so on: what happens between arming and waiting wakes the wait at once.
#[derive(Debug)]
pub struct Events(File);

impl Events {
    /// A control node of its own: arming is per open file.
    ///
    /// # Errors
    ///
    /// As [`crate::Control::open`].
    pub fn open() -> Result<Self, DmError> {
        open_node().map(Self)
    }

    /// Makes the next event wake whoever waits.
    ///
    /// # Errors
    ///
    /// As the kernel says.
    pub fn arm(&self) -> Result<(), DmError> {
        arm(&self.0)
    }

    /// Waits for an event; false when none came in time. Blocks.
    ///
    /// # Errors
    ///
    /// As poll(2) says.
    pub fn wait(&self, longest: Duration) -> Result<bool, DmError> {
        let mut files = [PollFd::new(&self.0, PollFlags::IN)];
        let failed = |errno| DmError::new("poll", "device-mapper", errno);
        let timeout = Timespec::try_from(longest).map_err(|_| failed(rustix::io::Errno::INVAL))?;
        poll(&mut files, Some(&timeout))
            .map(|ready| ready > 0)
            .map_err(failed)
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
