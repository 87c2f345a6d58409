//! The plug of a test kernel that a test starts itself.

use std::path::{Path, PathBuf};

use crate::command::command;

/// Pulled when the test that holds it panics: else its kernel would work on, and keep its disks and
/// its name from the next run.
#[derive(Debug)]
pub struct Plug {
    kill: PathBuf,
    name: &'static str,
}

impl Plug {
    /// Of the kernel that runs under this name.
    #[must_use]
    pub fn of(repo: &Path, name: &'static str) -> Self {
        let kill = repo.join("tests/vm/kill");
        Self { kill, name }
    }
}

impl Drop for Plug {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = command(&self.kill).arg(self.name).status();
        }
    }
}
