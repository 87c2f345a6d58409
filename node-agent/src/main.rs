//! `goldleaf-node-agent`: see `--help`.

use clap::Parser;
use goldleaf_node_agent::args::{Args, Command};
use goldleaf_node_agent::{app, failpoint, preflight, telemetry};

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    telemetry::init(args.log);
    match &args.command {
        None => {
            let runtime = tokio::runtime::Runtime::new()?;
            let (_only, ended) = runtime.block_on(app::run(args));
            // Dropping it would wait for whatever blocks, a tool of hours among them.
            runtime.shutdown_background();
            ended
        }
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
