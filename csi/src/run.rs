//! Other programs: the one place that starts them.
//!
//! Called by `node` for what the field's own tools do: `blkid` says what a device holds, `mkfs`,
//! `e2fsck`, `resize2fs` and `xfs_growfs` make, check and grow file systems. A program gets a C locale and a time limit;
//! it is killed and reaped when it takes longer or when nobody waits for it any more. One that is
//! running when this process dies goes on by itself: what must not be done twice at once is given a
//! lock to hold ([`run_holding`]).

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;

/// How long a program may take. Making a file system on a thin writes little, whatever its size.
const LIMIT: Duration = Duration::from_secs(300);

/// How long a check may take. One that was cut short begins anew, so a limit that is too short never
/// lets a large file system be used.
const CHECK_LIMIT: Duration = Duration::from_secs(4 * 3600);

/// Where tools are besides the driver's own PATH.
const TOOL_FOLDERS: &str = "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a program gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not be started; most often it is not installed.
    #[error("{program} could not be started: is it installed?")]
    Start {
        /// Which.
        program: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It took too long and was killed.
    #[error("{program} did not end within {limit:?} and was killed")]
    Timeout {
        /// Which.
        program: &'static str,
        /// What it was given.
        limit: Duration,
    },
}

/// Runs a program to its end, without input. What its exit status means is for the caller to say.
///
/// # Errors
///
/// [`RunError`]; a program that ends with a failure is no error here.
pub async fn run<A: AsRef<OsStr>>(program: &'static str, args: &[A]) -> Result<Output, RunError> {
    with_input(program, args, Stdio::null(), LIMIT).await
}

/// Runs a program as [`run`] does, and has it hold a file that is locked (by `flock`). The lock lasts
/// until the program has ended, even when this process is killed before: the program's standard input
/// is the open file to which the lock belongs.
///
/// # Errors
///
/// As [`run`].
pub async fn run_holding<A: AsRef<OsStr>>(
    program: &'static str,
    args: &[A],
    locked: File,
) -> Result<Output, RunError> {
    with_input(program, args, locked.into(), LIMIT).await
}

/// As [`run_holding`], for a check of all that is on a device.
///
/// # Errors
///
/// As [`run`].
pub async fn check_holding<A: AsRef<OsStr>>(
    program: &'static str,
    args: &[A],
    locked: File,
) -> Result<Output, RunError> {
    with_input(program, args, locked.into(), CHECK_LIMIT).await
}

async fn with_input<A: AsRef<OsStr>>(
    program: &'static str,
    args: &[A],
    input: Stdio,
    limit: Duration,
) -> Result<Output, RunError> {
    let path = match std::env::var("PATH") {
        Ok(own) if !own.is_empty() => format!("{own}:{TOOL_FOLDERS}"),
        Ok(_) | Err(_) => TOOL_FOLDERS.to_owned(),
    };
    let ended = Command::new(program)
        .args(args)
        .env("PATH", path)
        .env("LC_ALL", "C")
        .stdin(input)
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(limit, ended).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(source)) => Err(RunError::Start { program, source }),
        Err(_) => Err(RunError::Timeout { program, limit }),
    }
}

/// The end of what a program said, for people: its errors, or else its words.
#[must_use]
pub fn said(output: &Output) -> String {
    let text = if output.stderr.trim_ascii().is_empty() {
        &output.stdout
    } else {
        &output.stderr
    };
    let text = String::from_utf8_lossy(text);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    lines[lines.len().saturating_sub(4)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_answers_and_one_that_is_missing_is_named() {
        let output = run("echo", &["so"]).await.unwrap();
        assert!(output.status.success());
        assert_eq!(said(&output), "so");
        let missing = run::<&str>("no-such-program", &[]).await.unwrap_err();
        assert!(missing.to_string().contains("no-such-program"), "{missing}");
    }

    #[tokio::test]
    async fn a_program_alone_keeps_the_lock_that_it_was_given_until_it_ends() {
        use rustix::fs::{FlockOperation, flock};
        let there = tempfile::NamedTempFile::new().unwrap();
        let locked = there.reopen().unwrap();
        flock(&locked, FlockOperation::NonBlockingLockExclusive).unwrap();
        let other = there.reopen().unwrap();
        let is_free = || flock(&other, FlockOperation::NonBlockingLockExclusive).is_ok();
        // It ends when it is told to, so it certainly runs when the lock is looked at.
        let told = tempfile::tempdir().unwrap();
        let script = format!(
            "until [ -e {}/end ]; do sleep 0.01; done",
            told.path().display()
        );
        let running =
            tokio::spawn(async move { run_holding("sh", &["-c", &script], locked).await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!is_free() && !running.is_finished());
        std::fs::write(told.path().join("end"), "").unwrap();
        assert!(running.await.unwrap().unwrap().status.success());
        assert!(is_free());
    }
}
