//! `goldleaf`: pools, images, volumes, snapshots and nodes from a terminal. Also installed as
//! `kubectl-goldleaf`. Owns nothing: it converts, calls and prints.
#![forbid(unsafe_code)]

mod args;
mod client;
mod commands;
mod failure;
mod output;

use std::process::ExitCode;

use clap::Parser;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = args::Args::parse();
    match commands::run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let code = failure.exit_code();
            if code != 0 {
                eprintln!("{failure}");
            }
            ExitCode::from(code)
        }
    }
}
