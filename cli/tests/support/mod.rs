//! The real binary, run against a control plane that a test plays.
#![allow(clippy::unwrap_used)] // helpers of tests are tests too

use std::process::Output;
use std::time::Duration;

/// Runs a command line to its end.
pub async fn goldleaf(server: &str, line: &str) -> Output {
    let command = tokio::process::Command::new(env!("CARGO_BIN_EXE_goldleaf"))
        .args(line.split_whitespace())
        .env("GOLDLEAF_SERVER", server)
        .kill_on_drop(true)
        .output();
    tokio::time::timeout(Duration::from_secs(60), command)
        .await
        .expect("it hangs")
        .unwrap()
}

pub fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

pub fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}
