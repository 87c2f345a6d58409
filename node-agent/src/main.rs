//! `goldleaf-node-agent`: see `--help`.

use clap::Parser;
use goldleaf_node_agent::args::{Args, Command};
use goldleaf_node_agent::{app, failpoint, preflight, telemetry};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    telemetry::init(args.log);
    match &args.command {
        None => app::run(args).await,
        Some(Command::Preflight) => {
            let checks = preflight::checks();
            print!("{}", preflight::report(&checks));
            std::process::exit(i32::from(checks.iter().any(|c| !c.ok)));
        }
        Some(Command::Failpoints) => {
            failpoint::Point::ALL
                .iter()
                .for_each(|p| println!("{}", p.name()));
            Ok(())
        }
    }
}
