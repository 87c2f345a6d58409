//! `goldleaf-csi`: see `--help`.

use clap::Parser;
use goldleaf_csi::args::{Args, Command};
use goldleaf_csi::{app, failpoint};
use goldleaf_rpc::telemetry;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    telemetry::init(args.log);
    match &args.command {
        Command::Serve(_) => app::run(args).await,
        Command::Failpoints => {
            let points = failpoint::Point::ALL.iter();
            points.for_each(|point| println!("{}", point.name()));
            Ok(())
        }
    }
}
