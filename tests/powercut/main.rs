//! One start of the power cut test's kernel: see `tests/e2e/powercut.rs`, which starts it.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use goldleaf_tests::power::load::{Start, run};

/// Looks at what survived the last cut, and works until the next.
#[derive(Debug, Parser)]
struct Args {
    /// The outer host's folder for the ledger and the notice of the cut.
    #[arg(long)]
    window: PathBuf,
    /// What chance follows from.
    #[arg(long)]
    seed: u64,
    /// Makes what later starts find.
    #[arg(long)]
    first: bool,
    /// Takes everything away instead of waiting for a cut.
    #[arg(long)]
    last: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let disks = std::env::var("VM_DISKS").context("run by tests/vm/run")?;
    let mut disks = disks.split_whitespace().map(PathBuf::from);
    let mut disk = || disks.next().context("two disks");
    run(&Start {
        window: args.window,
        seed: args.seed,
        first: args.first,
        last: args.last,
        disks: [disk()?, disk()?],
    })
}
