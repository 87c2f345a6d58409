//! The doctor's part of the command line.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

/// What the doctor is to do; without a verb it looks.
#[derive(Debug, ClapArgs)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Doctor {
    /// Names or ids of the nodes to look at; all if none is given.
    pub nodes: Vec<String>,
    /// Something else than looking.
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// What the doctor can do beside looking.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Mends findings by their ids; without --apply it only says what it would do.
    ///
    /// Data of unknown owner is quarantined by the first mending and deleted by a second one of the
    /// finding that it then is. Nothing else that is mended holds data.
    #[command(after_help = "Examples:
  goldleaf doctor mend host1/StrayLoop//dev/loop4
  goldleaf doctor mend --apply host1/StrayLoop//dev/loop4")]
    Mend {
        /// Ids as `goldleaf doctor` prints them.
        #[arg(required = true)]
        findings: Vec<String>,
        /// Do it.
        #[arg(long)]
        apply: bool,
    },
    /// Writes what a supporter wants to see into one file: records, findings, what hosts lack.
    ///
    /// It holds names, ids and sizes, and neither data of users nor secrets.
    #[command(after_help = "Example:
  goldleaf doctor bundle goldleaf-support.tar.gz")]
    Bundle {
        /// The file to write, a gzip-compressed tar archive. It must not exist.
        file: PathBuf,
    },
}
