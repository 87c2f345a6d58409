//! Other programs: the one place that starts them.
//!
//! Called for what the field's own tools do better than we could (`blkid`). A program gets no
//! input, a C locale, a time limit and room for a bounded answer; it is killed and reaped when it
//! takes more of either, and no process outlives a call. What its exit status means is for the
//! caller to say.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// How long a program may take unless the caller says otherwise.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Most bytes that are taken from each of a program's outputs.
pub const OUTPUT_MAX: usize = 1 << 20;

/// Where tools are besides the agent's own PATH, which may be a user's.
const TOOL_FOLDERS: &str = "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a program gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It is not installed.
    #[error("{program} is not installed")]
    Missing {
        /// Which.
        program: String,
    },
    /// It could not be started or watched.
    #[error("{program} could not be run")]
    Io {
        /// Which.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It took too long and was killed.
    #[error("{program} did not end within {limit:?} and was killed")]
    Timeout {
        /// Which.
        program: String,
        /// How long it had.
        limit: Duration,
    },
    /// It wrote too much and was killed.
    #[error("{program} wrote more than {OUTPUT_MAX} bytes and was killed")]
    TooMuchOutput {
        /// Which.
        program: String,
    },
}

/// Runs a program to its end, for at most [`LIMIT`]. Blocks.
///
/// # Errors
///
/// [`RunError`]; a program that ends with a failure is no error here.
pub fn run<A: AsRef<OsStr>>(program: &str, args: &[A]) -> Result<Output, RunError> {
    run_within(LIMIT, program, args)
}

/// As [`run`], with another time limit.
///
/// # Errors
///
/// As [`run`].
pub fn run_within<A: AsRef<OsStr>>(
    limit: Duration,
    program: &str,
    args: &[A],
) -> Result<Output, RunError> {
    let mut stdout = Vec::new();
    let mut keep = |chunk: &[u8]| {
        stdout.extend_from_slice(chunk);
        match stdout.len() > OUTPUT_MAX {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    let ended = run_streamed(limit, program, args, &mut keep)?;
    let (status, stderr) = ended.ok_or_else(|| too_much(program))?;
    Ok(Output {
        status,
        stdout,
        stderr,
    })
}

/// As [`run_within`], for an output of any length: `sink` gets the standard output piece by piece
/// as it is written, and keeps of it what it needs. It ends the program by breaking off; the answer
/// is then `None`, else how the program ended and what its errors were.
///
/// # Errors
///
/// As [`run`].
pub fn run_streamed<A: AsRef<OsStr>>(
    limit: Duration,
    program: &str,
    args: &[A],
    sink: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<Option<(ExitStatus, Vec<u8>)>, RunError> {
    let mut child = start(program, args)?;
    let followed = follow(&mut child, limit, sink).and_then(|ended| match ended {
        Ended::Itself { stderr } => Ok(Ok(Some((child.wait()?, stderr)))),
        Ended::BrokenOff => Ok(Ok(None)),
        Ended::TimedOut => Ok(Err(RunError::Timeout {
            program: program.to_owned(),
            limit,
        })),
        Ended::TooMuchOutput => Ok(Err(too_much(program))),
    });
    let answer = followed.unwrap_or_else(|source| {
        Err(RunError::Io {
            program: program.to_owned(),
            source,
        })
    });
    if !matches!(answer, Ok(Some(_))) {
        // Both fail only when it has ended by itself meanwhile.
        let _ = child.kill();
        let _ = child.wait();
    }
    answer
}

fn too_much(program: &str) -> RunError {
    RunError::TooMuchOutput {
        program: program.to_owned(),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that starts processes"
)]
fn start<A: AsRef<OsStr>>(program: &str, args: &[A]) -> Result<Child, RunError> {
    let path = match std::env::var("PATH") {
        Ok(own) if !own.is_empty() => format!("{own}:{TOOL_FOLDERS}"),
        Ok(_) | Err(_) => TOOL_FOLDERS.to_owned(),
    };
    Command::new(program)
        .args(args)
        .env("PATH", path)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| {
            let program = program.to_owned();
            if source.kind() == io::ErrorKind::NotFound {
                RunError::Missing { program }
            } else {
                RunError::Io { program, source }
            }
        })
}

enum Ended {
    Itself { stderr: Vec<u8> },
    TimedOut,
    TooMuchOutput,
    BrokenOff,
}

/// Reads both outputs until the process has ended and they are empty. What a grandchild that
/// keeps them open writes later is not waited for.
fn follow(
    child: &mut Child,
    limit: Duration,
    sink: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
) -> io::Result<Ended> {
    let deadline = Instant::now() + limit;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("a process without a number"))?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let mut stderr = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Ended::TimedOut);
        }
        let mut fds = vec![PollFd::new(&process, PollFlags::IN)];
        fds.extend(out.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        fds.extend(err.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        let wait = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut fds, Some(&wait)) {
            Ok(0) => return Ok(Ended::TimedOut),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let ended = ready.next().unwrap_or(false);
        let out_ready = out.is_some() && ready.next().unwrap_or(false);
        let err_ready = err.is_some() && ready.next().unwrap_or(false);
        drop(ready);
        if out_ready && sink(take(&mut out, &mut chunk)?).is_break() {
            return Ok(Ended::BrokenOff);
        }
        if err_ready {
            stderr.extend_from_slice(take(&mut err, &mut chunk)?);
        }
        if stderr.len() > OUTPUT_MAX {
            return Ok(Ended::TooMuchOutput);
        }
        if ended && !out_ready && !err_ready {
            return Ok(Ended::Itself { stderr });
        }
    }
}

/// One read of what is there; the pipe goes when it has ended.
fn take<'c, P: Read>(pipe: &mut Option<P>, chunk: &'c mut [u8]) -> io::Result<&'c [u8]> {
    let Some(open) = pipe else { return Ok(&[]) };
    match open.read(chunk) {
        Ok(0) => {
            *pipe = None;
            Ok(&[])
        }
        Ok(n) => Ok(&chunk[..n]),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(&[]),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Result<Output, RunError> {
        run_within(Duration::from_secs(10), "sh", &["-c", script])
    }

    #[test]
    fn both_outputs_and_the_status_come_back() {
        let output = sh("echo one; echo two >&2; exit 3").unwrap();
        assert_eq!(output.stdout, b"one\n");
        assert_eq!(output.stderr, b"two\n");
        assert_eq!(output.status.code(), Some(3));
        let output = sh("head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2").unwrap();
        assert_eq!(
            (output.stdout.len(), output.stderr.len()),
            (300_000, 300_000)
        );
    }

    #[test]
    fn a_program_that_takes_too_long_is_killed() {
        let began = Instant::now();
        let slow = run_within(Duration::from_millis(100), "sleep", &["20"]);
        assert!(matches!(slow, Err(RunError::Timeout { .. })), "{slow:?}");
        // One that closes its outputs is waited for all the same.
        let script = ["-c", "exec >&- 2>&-; sleep 20"];
        let silent = run_within(Duration::from_millis(100), "sh", &script);
        assert!(
            matches!(silent, Err(RunError::Timeout { .. })),
            "{silent:?}"
        );
        assert!(began.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_program_that_writes_without_end_is_killed() {
        let endless = sh("cat /dev/zero");
        assert!(
            matches!(endless, Err(RunError::TooMuchOutput { .. })),
            "{endless:?}"
        );
    }

    #[test]
    fn an_output_of_any_length_is_taken_piece_by_piece_and_can_be_broken_off() {
        let limit = Duration::from_secs(60);
        let script = ["-c", "head -c 5000000 /dev/zero; echo why >&2; exit 4"];
        let mut length = 0;
        let mut count = |chunk: &[u8]| {
            length += chunk.len();
            ControlFlow::Continue(())
        };
        let ended = run_streamed(limit, "sh", &script, &mut count).unwrap();
        let (status, stderr) = ended.unwrap();
        assert_eq!((length, status.code()), (5_000_000, Some(4)));
        assert_eq!(stderr, b"why\n");
        let mut enough = |_: &[u8]| ControlFlow::Break(());
        let ended = run_streamed(limit, "cat", &["/dev/zero"], &mut enough).unwrap();
        assert!(ended.is_none());
        // Errors without end are no use to anybody.
        let script = ["-c", "cat /dev/zero >&2"];
        let endless = run_streamed(limit, "sh", &script, &mut enough);
        assert!(matches!(endless, Err(RunError::TooMuchOutput { .. })));
    }

    #[test]
    fn a_program_that_is_not_installed_says_so() {
        let missing = run::<&str>("goldleaf-no-such-program", &[]);
        assert!(
            matches!(missing, Err(RunError::Missing { .. })),
            "{missing:?}"
        );
    }

    #[test]
    fn a_grandchild_that_keeps_the_outputs_is_not_waited_for() {
        let began = Instant::now();
        let output = sh("sleep 5 & echo done").unwrap();
        assert_eq!(output.stdout, b"done\n");
        assert!(began.elapsed() < Duration::from_secs(4));
    }
}
