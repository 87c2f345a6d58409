//! `goldleaf-server`: see `--help`.

use clap::Parser;
use goldleaf_server::args::{Args, Command};
use goldleaf_server::{app, failpoint, telemetry};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    telemetry::init(args.log);
    match &args.command {
        None => app::run(args).await,
        Some(Command::Failpoints) => {
            failpoint::Point::ALL
                .iter()
                .for_each(|p| println!("{}", p.name()));
            Ok(())
        }
    }
}
