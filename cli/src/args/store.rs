//! What is done with the control plane's store.

use std::path::PathBuf;

use clap::Subcommand;

/// What to do with the store.
#[derive(Debug, Subcommand)]
pub enum Store {
    /// Writes a backup of the whole store at one moment to a file, while the server serves.
    #[command(after_help = "Examples:
  goldleaf store backup /backup/goldleaf.backup
  goldleaf-server check-backup /backup/goldleaf.backup
  goldleaf-server --state-dir /srv/new restore /backup/goldleaf.backup")]
    Backup {
        /// The file to make; one that is there is not replaced.
        file: PathBuf,
    },
}
