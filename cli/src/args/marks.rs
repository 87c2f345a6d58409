//! What can be changed of a pool, image, volume or snapshot at any time, the same words for each.

use clap::{ArgGroup, Args as ClapArgs};

use super::values::key_value;

/// A change of labels and protection.
#[derive(Debug, ClapArgs)]
#[command(group = ArgGroup::new("change").required(true).multiple(true)
    .args(["labels", "unlabel", "protect", "unprotect"]))]
pub struct Update {
    /// Its name or id.
    pub target: String,
    /// A label to set; may be given again. Others stay.
    #[arg(short = 'l', long = "label", value_name = "KEY=VALUE", value_parser = key_value)]
    pub labels: Vec<(String, String)>,
    /// A label to take off; may be given again.
    #[arg(long, value_name = "KEY")]
    pub unlabel: Vec<String>,
    /// Refuse to delete it from now on.
    #[arg(long, conflicts_with = "unprotect")]
    pub protect: bool,
    /// Let it be deleted again.
    #[arg(long)]
    pub unprotect: bool,
    /// Only if it has this revision still, as `get -o json` shows it.
    #[arg(
        long,
        value_name = "REVISION",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub if_revision: u64,
}
