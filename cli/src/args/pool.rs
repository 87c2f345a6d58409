//! What the commands about pools take.

use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};

use super::values::{duration, file_and_size, size};
use super::{
    PoolDestroy, PoolImport, PoolOpen, PoolRename, PoolRepair, Removal, Selection, SetLabels,
    Target, Update, WaitedTarget, Waiting,
};

/// What to do with pools.
#[derive(Debug, Subcommand)]
pub enum Pool {
    /// Makes a pool on blank devices.
    #[command(after_help = "Examples:
  goldleaf pool create fast --device /dev/nvme0n1 --metadata-device /dev/nvme1n1
  goldleaf pool create try --file /var/lib/goldleaf/pools/try.pool=20G")]
    Create(PoolCreate),
    /// Takes over a pool from its devices alone, with its volumes and snapshots.
    #[command(after_help = "Examples:
  goldleaf pool import --node n2 --device /dev/sdb --device /dev/sdc
  goldleaf pool import --device /dev/sdb --force-from-host node-0f8a42389ed20197801dc4eb97da2934")]
    Import(PoolImport),
    /// Lists pools.
    #[command(after_help = "Examples:
  goldleaf pool list
  goldleaf pool list -l team=web -o json")]
    List(Selection),
    /// Shows one pool.
    #[command(after_help = "Example:
  goldleaf pool get fast -o yaml")]
    Get(Target),
    /// Brings a closed pool back, or, for rescue, what can be read of one that does not open.
    #[command(after_help = "Examples:
  goldleaf pool open fast --wait --timeout 5m
  goldleaf pool open fast --rescue
  goldleaf volume export vm1 --file vm1.raw")]
    Open(PoolOpen),
    /// Releases a pool's devices cleanly.
    #[command(after_help = "Example:
  goldleaf pool close fast")]
    Close(WaitedTarget),
    /// Gives a pool more room while it runs.
    #[command(after_help = "Examples:
  goldleaf pool extend fast --device /dev/nvme2n1
  goldleaf pool extend fast --grow /dev/vg/fast --metadata 1G
  goldleaf pool extend try --grow-file /var/lib/goldleaf/pools/try.pool=40G
  goldleaf pool extend fast --metadata-device /dev/nvme3n1
  goldleaf pool extend fast --spare /dev/nvme4n1")]
    Extend(PoolExtend),
    /// Sets what a pool does when it fills: what writers meet, and what may be provisioned.
    #[command(after_help = "Examples:
  goldleaf pool set fast --when-full queue --queue-time 10m
  goldleaf pool set fast --overcommit 200")]
    Set(PoolSet),
    /// Changes labels and deletion protection.
    #[command(after_help = "Examples:
  goldleaf pool update fast --label team=db --unlabel old
  goldleaf pool update fast --protect
  goldleaf pool update fast --unprotect --if-revision 7")]
    Update(Update),
    /// Gives an open pool another name; no volume of it may be active.
    #[command(after_help = "Example:
  goldleaf pool rename fast nvme")]
    Rename(PoolRename),
    /// Repairs a pool's metadata with thin_repair; says first what that would bring back and what not.
    ///
    /// For a pool that does not open because thin_check finds errors, or that needs a check. The old
    /// metadata is kept whole in a file of the node. The repair goes on to its end, whoever waits.
    #[command(after_help = "Examples:
  goldleaf pool repair fast
  goldleaf pool repair fast -o json | jq '.thins[] | select(.fate != \"THIN_FATE_WHOLE\")'
  goldleaf pool repair fast --confirm fast
  goldleaf pool repair fast --confirm fast --accept-loss")]
    Repair(PoolRepair),
    /// Deletes an empty pool and wipes its labels.
    #[command(after_help = "Examples:
  goldleaf pool delete fast
  goldleaf pool delete fast --if-revision 7")]
    Delete(Removal),
    /// Deletes a pool with all that is in it; says first what that is.
    #[command(after_help = "Examples:
  goldleaf pool destroy fast
  goldleaf pool destroy fast --confirm fast")]
    Destroy(PoolDestroy),
    /// Prints pools as they change.
    #[command(after_help = "Examples:
  goldleaf pool watch
  goldleaf pool watch -o json | jq -r .item.name")]
    Watch(Selection),
}

/// A pool to be.
#[derive(Debug, ClapArgs)]
pub struct PoolCreate {
    /// Its name.
    pub name: String,
    /// A block device on the node; may be given again.
    #[arg(long = "device", required_unless_present = "files")]
    pub devices: Vec<String>,
    /// A sparse file to make in the node's pool folder, for trying out; may be given again.
    #[arg(long = "file", value_name = "PATH=SIZE", value_parser = file_and_size)]
    pub files: Vec<(String, u64)>,
    /// A device for the metadata alone.
    #[arg(long)]
    pub metadata_device: Option<String>,
    /// What the pool allocates at a time: 64K to 1G, a multiple of 64K.
    #[arg(long, value_parser = size, default_value = "64K")]
    pub block_size: u64,
    /// What writers meet when the pool is full.
    #[arg(long, value_enum, default_value_t = WhenFull::Error)]
    pub when_full: WhenFull,
    /// The node, if there are several.
    #[arg(long)]
    pub node: Option<String>,
    /// Labels.
    #[command(flatten)]
    pub labels: SetLabels,
    /// Waiting.
    #[command(flatten)]
    pub waiting: Waiting,
}

/// What writers meet when a pool is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WhenFull {
    /// Their writes fail at once.
    Error,
    /// Their writes wait for room.
    Queue,
}

/// What a pool is to do when it fills.
#[derive(Debug, ClapArgs)]
#[command(group = clap::ArgGroup::new("policy").required(true).multiple(true)
    .args(["when_full", "queue_time", "overcommit"]))]
pub struct PoolSet {
    /// Its name or id.
    pub target: String,
    /// What writers meet when it is full.
    #[arg(long, value_enum)]
    pub when_full: Option<WhenFull>,
    /// With queue: how long writers of a full pool wait, in whole seconds; 0 means as long as the
    /// node's kernel lets them.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub queue_time: Option<Duration>,
    /// What the sizes of its volumes may sum up to, in hundredths of its data; 0 means no limit.
    #[arg(long, value_name = "PERCENT")]
    pub overcommit: Option<u32>,
    /// Waiting.
    #[command(flatten)]
    pub waiting: Waiting,
}

/// More room for a pool.
#[derive(Debug, ClapArgs)]
#[command(group = clap::ArgGroup::new("room").required(true).multiple(true)
    .args(["devices", "files", "metadata_devices", "metadata_files", "grow", "grow_files", "spares",
        "spare_files"]))]
pub struct PoolExtend {
    /// Its name or id.
    pub target: String,
    /// A blank block device for data; may be given again.
    #[arg(long = "device", value_name = "PATH")]
    pub devices: Vec<String>,
    /// A sparse file to make in the node's pool folder, for data; may be given again.
    #[arg(long = "file", value_name = "PATH=SIZE", value_parser = file_and_size)]
    pub files: Vec<(String, u64)>,
    /// A blank block device for metadata alone; may be given again.
    #[arg(long = "metadata-device", value_name = "PATH")]
    pub metadata_devices: Vec<String>,
    /// A sparse file to make, for metadata alone; may be given again.
    #[arg(long = "metadata-file", value_name = "PATH=SIZE", value_parser = file_and_size)]
    pub metadata_files: Vec<(String, u64)>,
    /// A device of the pool that is larger now, to be used to its end; may be given again.
    #[arg(long, value_name = "PATH")]
    pub grow: Vec<String>,
    /// A file of the pool to make that large and use to its end; may be given again.
    #[arg(long = "grow-file", value_name = "PATH=SIZE", value_parser = file_and_size)]
    pub grow_files: Vec<(String, u64)>,
    /// A blank block device that waits until the pool's room gets scarce; may be given again.
    #[arg(long = "spare", value_name = "PATH")]
    pub spares: Vec<String>,
    /// A sparse file to make, that waits in the same way; may be given again.
    #[arg(long = "spare-file", value_name = "PATH=SIZE", value_parser = file_and_size)]
    pub spare_files: Vec<(String, u64)>,
    /// How much of the new room becomes metadata at least; without it, what the new data needs.
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "0",
        hide_default_value = true)]
    pub metadata: u64,
    /// Waiting.
    #[command(flatten)]
    pub waiting: Waiting,
}
