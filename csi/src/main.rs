//! `goldleaf-csi`: see `--help`.

use clap::Parser;
use goldleaf_csi::args::Args;
use goldleaf_csi::{app, telemetry};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    telemetry::init(args.log);
    app::run(args).await
}
