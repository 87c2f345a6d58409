//! The server's command line, checked while it is parsed.

use std::net::SocketAddr;
use std::path::PathBuf;

use goldleaf_rpc::address::loopback;
use goldleaf_rpc::telemetry::LogFormat;

/// Runs Goldleaf's control plane: which pools, images, volumes and snapshots exist, and where.
///
/// Agents register with it; people and programs call it over gRPC.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    name = "goldleaf-server",
    version,
    after_help = "Examples:
  goldleaf-server
  goldleaf-server --listen 127.0.0.1:4800 --state-dir /srv/goldleaf-server
  grpcurl -plaintext 127.0.0.1:4700 list"
)]
pub struct Args {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Address to serve gRPC on. Loopback only.
    #[arg(long, env = "GOLDLEAF_SERVER_LISTEN", default_value = "127.0.0.1:4700", value_parser = loopback)]
    pub listen: SocketAddr,

    /// Folder of the store, `store.redb` in it. One server at a time.
    #[arg(
        long,
        env = "GOLDLEAF_SERVER_STATE_DIR",
        default_value = "/var/lib/goldleaf-server"
    )]
    pub state_dir: PathBuf,

    /// How to write the log. Levels come from RUST_LOG.
    #[arg(long, env = "GOLDLEAF_SERVER_LOG", value_enum, default_value_t = LogFormat::Text)]
    pub log: LogFormat,
}

/// What the server does besides serving.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Makes a store from a backup (`goldleaf store backup`) in a state folder that has none. Nodes
    /// refuse its changes until an administrator adopts what they have (`goldleaf node adopt`).
    #[command(after_help = "Example:
  goldleaf-server --state-dir /srv/goldleaf-server restore /backup/goldleaf.backup")]
    Restore {
        /// The backup.
        file: PathBuf,
    },
    /// Reads a backup to its end and says whether it is whole.
    #[command(after_help = "Example:
  goldleaf-server check-backup /backup/goldleaf.backup")]
    CheckBackup {
        /// The backup.
        file: PathBuf,
    },
    /// Prints the places where a test can make the server die.
    #[command(hide = true)]
    Failpoints,
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_has_its_defaults() {
        Args::command().debug_assert();
        let args = Args::parse_from(["goldleaf-server"]);
        assert_eq!(args.listen.port(), 4700);
        assert_eq!(args.state_dir, PathBuf::from("/var/lib/goldleaf-server"));
    }
}
