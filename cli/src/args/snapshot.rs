//! Snapshots: a part of the command line.

use clap::{Args as ClapArgs, Subcommand};

use super::{Export, Look, Removal, Selection, SetLabels, Update, Waiting};

/// What to do with snapshots.
#[derive(Debug, Subcommand)]
pub enum Snapshot {
    /// Freezes a volume, or a snapshot once more.
    #[command(after_help = "Example:
  goldleaf snapshot create before-upgrade --source volume/vm1")]
    Create(SnapshotCreate),
    /// Lists snapshots.
    #[command(after_help = "Examples:
  goldleaf snapshot list
  goldleaf snapshot list -l team=web -o json")]
    List(Selection),
    /// Shows one snapshot.
    #[command(after_help = "Examples:
  goldleaf snapshot get before-upgrade -o yaml
  goldleaf snapshot get before-upgrade --usage")]
    Get(Look),
    /// Changes labels and deletion protection.
    #[command(after_help = "Examples:
  goldleaf snapshot update before-upgrade --label team=db --unlabel old
  goldleaf snapshot update before-upgrade --protect
  goldleaf snapshot update before-upgrade --unprotect --if-revision 7")]
    Update(Update),
    /// Prints which bytes of a snapshot hold something, or differ from another snapshot.
    #[command(after_help = "Examples:
  goldleaf snapshot blocks monday
  goldleaf snapshot blocks tuesday --base monday -o json")]
    Blocks(SnapshotBlocks),
    /// Writes a snapshot to a file of its node.
    #[command(after_help = "Examples:
  goldleaf snapshot export before-upgrade --file before-upgrade.raw
  goldleaf snapshot export before-upgrade --file s.qcow2 --format qcow2 --replace")]
    Export(Export),
    /// Deletes a snapshot.
    #[command(after_help = "Examples:
  goldleaf snapshot delete before-upgrade
  goldleaf snapshot delete before-upgrade --if-revision 7")]
    Delete(Removal),
    /// Prints snapshots as they change.
    #[command(after_help = "Examples:
  goldleaf snapshot watch
  goldleaf snapshot watch -o json | jq -r .item.name")]
    Watch(Selection),
}

/// A snapshot to be.
#[derive(Debug, ClapArgs)]
pub struct SnapshotCreate {
    /// Its name.
    pub name: String,
    /// What to freeze: an id, volume/NAME or snapshot/NAME.
    #[arg(long)]
    pub source: String,
    /// Labels.
    #[command(flatten)]
    pub labels: SetLabels,
    /// Waiting.
    #[command(flatten)]
    pub waiting: Waiting,
}

/// Ranges of a snapshot.
#[derive(Debug, ClapArgs)]
pub struct SnapshotBlocks {
    /// Its name or id.
    pub target: String,
    /// Another one of the same pool over the same image: print what differs from it, instead of all
    /// that is held.
    #[arg(long)]
    pub base: Option<String>,
    /// The first byte that matters: where an earlier answer broke off.
    #[arg(long, default_value_t = 0)]
    pub from: u64,
}
