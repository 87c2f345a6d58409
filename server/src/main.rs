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
        Some(Command::Restore { file }) => app::restore(file, &args.state_dir),
        Some(Command::CheckBackup { file }) => app::check_backup(file),
        Some(Command::Failpoints) => {
            failpoint::Point::ALL
                .iter()
                .for_each(|p| println!("{}", p.name()));
            Ok(())
        }
    }
}
