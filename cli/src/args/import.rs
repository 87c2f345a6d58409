//! What `goldleaf pool import` is given.

use clap::Args as ClapArgs;

/// A pool to import.
#[derive(Debug, ClapArgs)]
pub struct PoolImport {
    /// A device of it on the node; given again for each other one.
    #[arg(long = "device", required = true)]
    pub devices: Vec<String>,
    /// The node, if there are several.
    #[arg(long)]
    pub node: Option<String>,
    /// Take it from this host although it did not release it. Only when that host is gone for good:
    /// two hosts that write one pool destroy it.
    #[arg(long, value_name = "NODE-ID")]
    pub force_from_host: Option<String>,
}
