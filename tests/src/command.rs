//! Other programs: the one place of the test bed that starts them.

use std::ffi::OsStr;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};

/// A program to be set up and started by the caller.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that starts processes"
)]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    Command::new(program)
}

/// Runs a program to its end and answers what it printed.
///
/// # Errors
///
/// When it cannot be started, or ends with a failure; then with what it said.
pub fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let Output {
        status,
        stdout,
        stderr,
    } = command(program)
        .args(arguments)
        .output()
        .with_context(|| format!("{program} did not start"))?;
    let said = String::from_utf8_lossy(&stderr);
    ensure!(
        status.success(),
        "{program} {arguments:?} ended with {status}: {said}"
    );
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}
