//! The command line, checked while it is parsed: what `commands` gets is well-formed.
//!
//! One type for each noun and each of its verbs; `values` reads sizes, labels and digests. Every
//! command shows examples with `--help`, which a test demands.

mod doctor;
mod image;
mod import;
mod life;
mod marks;
mod nodes;
mod pool;
mod pool_life;
mod snapshot;
mod store;
mod values;
mod wait;

use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

pub use doctor::{Doctor, Verb as DoctorVerb};
pub use image::{Channel, Image, ImageCreate, ImageFormat, ImagePlace};
pub use import::PoolImport;
pub use marks::Update;
pub use nodes::{Node, NodeAdopt, NodeDrain, NodeLost};
pub use pool::{Pool, PoolCreate, PoolExtend, PoolSet, WhenFull};
pub use pool_life::{PoolDestroy, PoolOpen, PoolRename, PoolRepair};
pub use snapshot::{Snapshot, SnapshotBlocks};
pub use store::Store;
use values::{duration, key_value, server, size};

pub use life::{Export, ExportFormat, Group, Look, VolumeClone, VolumeDecouple};
pub use wait::{WaitedTarget, Waiting};

/// Thin volumes over golden images: each ready in milliseconds, none copying the image.
#[derive(Debug, Parser)]
#[command(
    name = "goldleaf",
    version,
    after_help = "Examples:
  goldleaf pool create fast --device /dev/nvme0n1
  goldleaf image create debian-12 --file /var/lib/goldleaf/import/debian-12.qcow2
  goldleaf volume create vm1 --size 20G --image debian-12 --activate
  goldleaf snapshot create before-upgrade --source volume/vm1
  goldleaf volume list -o json
  source <(goldleaf completion bash)"
)]
pub struct Args {
    /// Everything that all commands share.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Everything that all commands share.
#[derive(Debug, ClapArgs)]
pub struct Global {
    /// URI of the control plane.
    #[arg(
        long,
        global = true,
        env = "GOLDLEAF_SERVER",
        default_value = "http://127.0.0.1:4700",
        value_parser = server
    )]
    pub server: String,
    /// How to print what comes back.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Longest wait for an answer: "30s", "5m". Long work that is followed is not limited.
    #[arg(long, global = true, default_value = "60s", value_parser = duration)]
    pub timeout: Duration,
}

/// A way of printing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// The wire's JSON, one object, or a list under "items".
    Json,
    /// The same as YAML.
    Yaml,
    /// Only names, one a line.
    Name,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Pools: where volumes keep what was written to them.
    #[command(
        subcommand,
        visible_alias = "pools",
        after_help = "Examples:
  goldleaf pool create fast --device /dev/nvme0n1
  goldleaf pool list"
    )]
    Pool(Pool),
    /// Images: immutable content that volumes begin as.
    #[command(
        subcommand,
        visible_alias = "images",
        after_help = "Examples:
  goldleaf image create debian-12 --file /var/lib/goldleaf/import/debian-12.qcow2
  goldleaf image list"
    )]
    Image(Image),
    /// Volumes: thin devices that may begin as an image.
    #[command(subcommand, visible_aliases = ["volumes", "vol"], after_help = "Examples:
  goldleaf volume create vm1 --size 20G --image debian-12 --activate
  goldleaf volume list")]
    Volume(Volume),
    /// Snapshots: volumes as they were at one instant.
    #[command(subcommand, visible_aliases = ["snapshots", "snap"], after_help = "Examples:
  goldleaf snapshot create before-upgrade --source volume/vm1
  goldleaf snapshot list")]
    Snapshot(Snapshot),
    /// Groups: snapshots of several volumes at one instant.
    #[command(
        subcommand,
        visible_alias = "groups",
        after_help = "Examples:
  goldleaf group create nightly --volume db --volume log
  goldleaf group list"
    )]
    Group(Group),
    /// Nodes: hosts with an agent.
    #[command(
        subcommand,
        visible_alias = "nodes",
        after_help = "Examples:
  goldleaf node list
  goldleaf node preflight"
    )]
    Node(Node),
    /// The control plane's own store.
    #[command(
        subcommand,
        after_help = "Example:
  goldleaf store backup /backup/goldleaf.backup"
    )]
    Store(Store),
    /// Looks whether everything is as it should be, and says what to do where it is not. Exit code 1
    /// if anything is wrong.
    #[command(after_help = "Examples:
  goldleaf doctor
  goldleaf doctor host1 -o json
  goldleaf doctor mend host1/UnknownThin/pool-0193.../17
  goldleaf doctor bundle goldleaf-support.tar.gz")]
    Doctor(Doctor),
    /// Prints a completion script for a shell.
    #[command(after_help = "Examples:
  source <(goldleaf completion bash)
  goldleaf completion zsh > ~/.zfunc/_goldleaf")]
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Which items of a list.
#[derive(Debug, ClapArgs)]
pub struct Selection {
    /// Only items with this label; may be given again.
    #[arg(short = 'l', long = "label", value_name = "KEY=VALUE", value_parser = key_value)]
    pub labels: Vec<(String, String)>,
}

/// What a new thing is marked with.
#[derive(Debug, ClapArgs)]
pub struct SetLabels {
    /// A label to set; may be given again.
    #[arg(short = 'l', long = "label", value_name = "KEY=VALUE", value_parser = key_value)]
    pub labels: Vec<(String, String)>,
    /// Refuse to delete it until `update --unprotect`.
    #[arg(long)]
    pub protect: bool,
}

/// One resource.
#[derive(Debug, ClapArgs)]
pub struct Target {
    /// Its name or id.
    pub target: String,
}

/// One resource to delete.
#[derive(Debug, ClapArgs)]
pub struct Removal {
    /// Its name or id.
    pub target: String,
    /// Only if it has this revision still, as `get -o json` shows it.
    #[arg(
        long,
        value_name = "REVISION",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub if_revision: u64,
    /// Waiting.
    #[command(flatten)]
    pub waiting: Waiting,
}

/// What to do with volumes.
#[derive(Debug, Subcommand)]
pub enum Volume {
    /// Makes a volume, blank or over an image.
    #[command(after_help = "Examples:
  goldleaf volume create vm1 --size 20G --image debian-12 --activate
  goldleaf volume create scratch --size 100G --pool fast --wait --timeout 10m")]
    Create(VolumeCreate),
    /// Makes a volume that begins as a volume, snapshot or image, without copying.
    #[command(after_help = "Examples:
  goldleaf volume clone vm2 --source volume/vm1 --activate
  goldleaf volume clone vm3 --source image/debian-12 --size 40G --activate
  goldleaf volume clone old --source snapshot/before-upgrade --size 40G")]
    Clone(VolumeClone),
    /// Makes a volume that is not active independent of its image.
    #[command(after_help = "Examples:
  goldleaf volume decouple vm1
  goldleaf volume decouple vm1 --rate 50M --no-wait")]
    Decouple(VolumeDecouple),
    /// Grows a volume.
    #[command(after_help = "Example:
  goldleaf volume resize vm1 --size 40G")]
    Resize(VolumeResize),
    /// Makes a volume's device appear on its node.
    #[command(after_help = "Examples:
  goldleaf volume activate vm1
  goldleaf volume activate vm1 --read-only")]
    Activate(VolumeActivate),
    /// Takes a volume's device away.
    #[command(after_help = "Example:
  goldleaf volume deactivate vm1")]
    Deactivate(WaitedTarget),
    /// Changes labels and deletion protection.
    #[command(after_help = "Examples:
  goldleaf volume update vm1 --label team=db --unlabel old
  goldleaf volume update vm1 --protect
  goldleaf volume update vm1 --unprotect --if-revision 7")]
    Update(Update),
    /// Writes a volume that is not active to a file of its node.
    #[command(after_help = "Examples:
  goldleaf volume export vm1 --file vm1.raw
  goldleaf volume export vm1 --file backup/vm1.qcow2 --format qcow2 --replace")]
    Export(Export),
    /// Deletes a volume that is not active.
    #[command(after_help = "Examples:
  goldleaf volume delete vm1
  goldleaf volume delete vm1 --if-revision 7")]
    Delete(Removal),
    /// Lists volumes.
    #[command(after_help = "Examples:
  goldleaf volume list
  goldleaf volume list -l team=web -o json")]
    List(Selection),
    /// Shows one volume.
    #[command(after_help = "Examples:
  goldleaf volume get vm1 -o yaml
  goldleaf volume get vm1 --usage")]
    Get(Look),
    /// Prints volumes as they change.
    #[command(after_help = "Examples:
  goldleaf volume watch
  goldleaf volume watch -o json | jq -r .item.name")]
    Watch(Selection),
}

/// A volume to be.
#[derive(Debug, ClapArgs)]
pub struct VolumeCreate {
    /// Its name.
    pub name: String,
    /// Its size: bytes, or a number with K, M, G or T.
    #[arg(long, value_parser = size)]
    pub size: u64,
    /// The image that shows through where nothing was written, or a channel as it points now.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub image: String,
    /// Refuse a size that shows less than all of the image.
    #[arg(long, requires = "image")]
    pub whole_image: bool,
    /// The pool; placement chooses unless said.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub pool: String,
    /// Only pools of this node.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub node: String,
    /// Only pools with this label; may be given again.
    #[arg(long = "pool-label", value_name = "KEY=VALUE", value_parser = key_value)]
    pub pool_labels: Vec<(String, String)>,
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

/// A larger size.
#[derive(Debug, ClapArgs)]
pub struct VolumeResize {
    /// Its name or id.
    pub target: String,
    /// The new size.
    #[arg(long, value_parser = size)]
    pub size: u64,
    /// Only if it has this revision still, as `get -o json` shows it.
    #[arg(
        long,
        value_name = "REVISION",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub if_revision: u64,
    /// Waiting.
    #[command(flatten)]
    pub waiting: Waiting,
}

/// A device to be.
#[derive(Debug, ClapArgs)]
pub struct VolumeActivate {
    /// Its name or id.
    pub target: String,
    /// Refuse writes.
    #[arg(long)]
    pub read_only: bool,
    /// Waiting.
    #[command(flatten)]
    pub waiting: Waiting,
}

#[cfg(test)]
mod tests;
