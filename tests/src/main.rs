//! Runs all tests of Goldleaf: see `tests/run`, which builds and starts it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> anyhow::Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    goldleaf_tests::driver::run(&words)
}
