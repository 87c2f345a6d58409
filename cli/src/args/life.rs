//! What happens to a volume or snapshot after it was made: a part of the command line.

use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};

use super::values::{duration, key_value, size};
use super::{Removal, Selection, SetLabels, Target, Waiting};

/// One volume or snapshot to look at.
#[derive(Debug, ClapArgs)]
pub struct Look {
    /// Its name or id.
    pub target: String,
    /// Count what it takes in its pool: of its own, and shared. A walk over the whole pool's
    /// mappings, about a second for each million.
    #[arg(long)]
    pub usage: bool,
}

/// A volume or snapshot to write to a file.
#[derive(Debug, ClapArgs)]
pub struct Export {
    /// Its name or id.
    pub target: String,
    /// The file's path below the export folder of the node's agent.
    #[arg(long)]
    pub file: String,
    /// How to store it.
    #[arg(long, value_enum, default_value_t = ExportFormat::Raw)]
    pub format: ExportFormat,
    /// Take the place of a file that has that name.
    #[arg(long)]
    pub replace: bool,
    /// Of a thin that a rescue shows by its number alone, as goldleaf doctor lists it: the image that it
    /// lies over, which nobody else knows any more.
    #[arg(long)]
    pub image: Option<String>,
}

/// How an exported file is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// As a disk reads it, with holes.
    Raw,
    /// QEMU's format.
    Qcow2,
}

/// What to do with groups.
#[derive(Debug, Subcommand)]
pub enum Group {
    /// Freezes several volumes of one pool at one instant.
    #[command(after_help = "Examples:
  goldleaf group create nightly --volume db --volume log
  goldleaf group create nightly --volume db --volume log --deadline 500ms")]
    Create(GroupCreate),
    /// Lists groups.
    #[command(after_help = "Example:
  goldleaf group list -o json")]
    List(Selection),
    /// Shows one group and its snapshots.
    #[command(after_help = "Example:
  goldleaf group get nightly -o yaml")]
    Get(Target),
    /// Deletes a group and every snapshot of it.
    #[command(after_help = "Example:
  goldleaf group delete nightly")]
    Delete(Removal),
}

/// Snapshots to be, all of one instant.
#[derive(Debug, ClapArgs)]
pub struct GroupCreate {
    /// The group's name; each snapshot is called so, a dot, and the volume's name.
    pub name: String,
    /// A volume to freeze, by name or id; may be given again.
    #[arg(long = "volume", required = true)]
    pub volumes: Vec<String>,
    /// How long writers may be made to wait, at most a minute.
    #[arg(long, default_value = "5s", value_parser = duration)]
    pub deadline: Duration,
    /// Waiting.
    #[command(flatten)]
    pub waiting: Waiting,
    /// A label of the group and of each snapshot; may be given again.
    #[arg(short = 'l', long = "label", value_name = "KEY=VALUE", value_parser = key_value)]
    pub labels: Vec<(String, String)>,
}

/// A volume to make independent of its image.
#[derive(Debug, ClapArgs)]
pub struct VolumeDecouple {
    /// Its name or id.
    pub target: String,
    /// Most bytes to go through in a second.
    #[arg(long, value_parser = size, default_value = "0", hide_default_value = true)]
    pub rate: u64,
    /// Return at once; `volume get` says how far it is.
    #[arg(long)]
    pub no_wait: bool,
}

/// A clone to be.
#[derive(Debug, ClapArgs)]
pub struct VolumeClone {
    /// Its name.
    pub name: String,
    /// What it begins as: an id, volume/NAME, snapshot/NAME or image/NAME.
    #[arg(long)]
    pub source: String,
    /// Its size, if larger than the source's.
    #[arg(long, value_parser = size, default_value = "0", hide_default_value = true)]
    pub size: u64,
    /// The pool for the clone of an image; placement chooses unless said.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub pool: String,
    /// Make its device too.
    #[arg(long)]
    pub activate: bool,
    /// Labels.
    #[command(flatten)]
    pub labels: SetLabels,
    /// Waiting.
    #[command(flatten)]
    pub waiting: Waiting,
}
