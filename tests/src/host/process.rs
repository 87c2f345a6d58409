//! Goldleaf's programs as processes: started, waited for, stopped, killed.
//!
//! A process says by itself when it serves (`NOTIFY_SOCKET`, as under systemd), so nothing is
//! guessed by time. It dies with what started it.

use std::fs::File;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::command::command;
use crate::support::patience;

/// How long a program may take to serve: it opens pools and revives volumes first.
const READY: Duration = Duration::from_secs(60);

/// How long one that dies may take until it has.
const MOMENT: Duration = Duration::from_secs(10);

const SIGABRT: i32 = 6;

/// A running program.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

/// Where this workspace's programs are.
///
/// # Panics
///
/// When the driver did not say.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let folder = std::env::var_os("GOLDLEAF_BINARIES").expect("run by `tests/run`");
    Path::new(&folder).join(name)
}

impl Process {
    /// Starts a program that serves and waits until it does.
    ///
    /// # Errors
    ///
    /// What its log said, when it ended instead.
    ///
    /// # Panics
    ///
    /// When it neither serves nor ends in time.
    pub fn serve(
        name: &str,
        dir: &Path,
        arguments: &[String],
        environment: &[(&str, &str)],
    ) -> Result<Self, String> {
        let socket = dir.join(format!("{name}.notify"));
        let _ = std::fs::remove_file(&socket);
        let ready = UnixDatagram::bind(&socket).expect("a socket for its readiness");
        // Short waits only so that an early end is seen; readiness itself wakes at once.
        ready
            .set_read_timeout(Some(Duration::from_millis(200)))
            .expect("a time limit");
        let log = dir.join(format!("{name}.log"));
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("a log for its words");
        let child = command(program(name))
            .args(arguments)
            .envs(environment.iter().copied())
            .env("NOTIFY_SOCKET", &socket)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("the log"))
            .stderr(output)
            .spawn()
            .expect("a program of ours");
        let mut process = Self { child, log };
        let mut message = [0; 64];
        let limit = patience(READY);
        for _ in 0..limit.as_millis() / 200 {
            match ready.recv(&mut message) {
                Ok(n) if message[..n].starts_with(b"READY=1") => return Ok(process),
                Ok(_) | Err(_) => {}
            }
            if let Some(status) = process.child.try_wait().expect("its status") {
                return Err(format!("{name} ended with {status}:\n{}", process.words()));
            }
        }
        panic!(
            "{name} does not serve after {limit:?}:\n{}",
            process.words()
        );
    }

    /// All that it logged.
    #[must_use]
    pub fn words(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it aborts, as at a failpoint, by now or within a moment.
    ///
    /// # Panics
    ///
    /// When nobody can say.
    pub fn died(&mut self) -> bool {
        if self.child.try_wait().expect("its status").is_none() {
            let process = pidfd_open(self.pid(), PidfdFlags::empty()).expect("the process");
            let mut end = [PollFd::new(&process, PollFlags::IN)];
            let moment = Timespec::try_from(patience(MOMENT)).expect("seconds");
            poll(&mut end, Some(&moment)).expect("its end");
        }
        let ended = self.child.try_wait().expect("its status");
        ended.is_some_and(|status| status.signal() == Some(SIGABRT))
    }

    /// Whether it still runs.
    ///
    /// # Panics
    ///
    /// When nobody can say.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("its status").is_none()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and its end.
    ///
    /// # Panics
    ///
    /// When nobody can say how it ended.
    pub fn stop(&mut self) -> ExitStatus {
        let _ = kill_process(self.pid(), Signal::TERM);
        self.child.wait().expect("its status")
    }

    fn pid(&self) -> Pid {
        let raw = i32::try_from(self.child.id()).expect("a process number");
        Pid::from_raw(raw).expect("a process number")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
