//! Other programs: the one place that starts them.
//!
//! Called for what the field's own tools do better than we could (`blkid`). A program gets no
//! input, a C locale, a time limit and room for a bounded answer; it is killed and reaped when it
//! takes more of either, or when the caller that it runs for goes away, and no process outlives a
//! call. What its exit status means is for who asks to say.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::caller::Caller;

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
    /// Nobody waits for it any more: it was not started, or killed.
    #[error("{program} was broken off, for its caller went away")]
    Abandoned {
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
    let ended = run_streamed(None, limit, program, args, &mut keep)?;
    let (status, stderr) = ended.ok_or_else(|| too_much(program))?;
    Ok(Output {
        status,
        stdout,
        stderr,
    })
}

/// As [`run_within`], for an output of any length: `sink` gets the standard output piece by piece
/// as it is written, and keeps of it what it needs. It ends the program by breaking off; the answer
/// is then `None`, else how the program ended and what its errors were. It ends too as soon as
/// `caller`, if there is one, goes away.
///
/// # Errors
///
/// As [`run`], and [`RunError::Abandoned`].
pub fn run_streamed<A: AsRef<OsStr>>(
    caller: Option<&Caller>,
    limit: Duration,
    program: &str,
    args: &[A],
    sink: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<Option<(ExitStatus, Vec<u8>)>, RunError> {
    if caller.is_some_and(Caller::is_gone) {
        return Err(abandoned(program));
    }
    let mut child = start(program, args)?;
    let followed = follow(&mut child, caller, limit, sink).and_then(|ended| match ended {
        Ended::Itself { stderr } => Ok(Ok(Some((child.wait()?, stderr)))),
        Ended::BrokenOff => Ok(Ok(None)),
        Ended::Abandoned => Ok(Err(abandoned(program))),
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

fn abandoned(program: &str) -> RunError {
    RunError::Abandoned {
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
    Abandoned,
}

/// Reads both outputs until the process has ended and they are empty. What a grandchild that
/// keeps them open writes later is not waited for.
fn follow(
    child: &mut Child,
    caller: Option<&Caller>,
    limit: Duration,
    sink: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
) -> io::Result<Ended> {
    let deadline = Instant::now() + limit;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("a process without a number"))?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let gone = caller.map(Caller::event).transpose()?;
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let mut stderr = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Ended::TimedOut);
        }
        let mut fds = vec![PollFd::new(&process, PollFlags::IN)];
        fds.extend(gone.as_ref().map(|event| PollFd::new(event, PollFlags::IN)));
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
        let abandoned = gone.is_some() && ready.next().unwrap_or(false);
        let out_ready = out.is_some() && ready.next().unwrap_or(false);
        let err_ready = err.is_some() && ready.next().unwrap_or(false);
        drop(ready);
        if abandoned {
            return Ok(Ended::Abandoned);
        }
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
        let ended = run_streamed(None, limit, "sh", &script, &mut count).unwrap();
        let (status, stderr) = ended.unwrap();
        assert_eq!((length, status.code()), (5_000_000, Some(4)));
        assert_eq!(stderr, b"why\n");
        let mut enough = |_: &[u8]| ControlFlow::Break(());
        let ended = run_streamed(None, limit, "cat", &["/dev/zero"], &mut enough).unwrap();
        assert!(ended.is_none());
        // Errors without end are no use to anybody.
        let script = ["-c", "cat /dev/zero >&2"];
        let endless = run_streamed(None, limit, "sh", &script, &mut enough);
        assert!(matches!(endless, Err(RunError::TooMuchOutput { .. })));
    }

    /// One that is silent is not looked at again and again: its caller's going away wakes who waits.
    #[test]
    fn a_program_is_killed_and_reaped_when_its_caller_goes_away() {
        let caller = Caller::default();
        let (tell, told) = std::sync::mpsc::channel();
        let began = Instant::now();
        let mut pid = |chunk: &[u8]| {
            tell.send(String::from_utf8_lossy(chunk).trim().to_owned())
                .unwrap();
            ControlFlow::Continue(())
        };
        std::thread::scope(|scope| {
            let run = scope.spawn(|| {
                let script = ["-c", "echo $$; exec sleep 60"];
                run_streamed(Some(&caller), LIMIT, "sh", &script, &mut pid)
            });
            let process = told.recv_timeout(LIMIT).unwrap();
            let process = std::path::Path::new("/proc").join(process);
            assert!(process.exists() && !run.is_finished());
            caller.goes();
            let broken_off = run.join().unwrap();
            assert!(
                matches!(broken_off, Err(RunError::Abandoned { .. })),
                "{broken_off:?}"
            );
            // Not even as one that nobody has reaped.
            assert!(!process.exists(), "it outlived the call");
        });
        assert!(began.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn nothing_is_started_for_a_caller_that_is_gone() {
        let caller = Caller::default();
        let folder = tempfile::tempdir().unwrap();
        let made = folder.path().join("made");
        let mut all = |_: &[u8]| ControlFlow::Continue(());
        let mut touch = || run_streamed(Some(&caller), LIMIT, "touch", &[&made], &mut all);
        assert!(touch().unwrap().unwrap().0.success());
        std::fs::remove_file(&made).unwrap();
        caller.goes();
        assert!(matches!(touch(), Err(RunError::Abandoned { .. })));
        assert!(!made.exists());
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
