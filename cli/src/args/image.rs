//! Images: a part of the command line.

use clap::{Args as ClapArgs, Subcommand, ValueEnum};

use super::values::{key_value, sha256};
use super::{Removal, Selection, SetLabels, Target, Update, Waiting};

/// What to do with images.
#[derive(Debug, Subcommand)]
pub enum Image {
    /// Brings an image to a node.
    #[command(after_help = "Examples:
  goldleaf image create debian-12 --file /var/lib/goldleaf/import/debian-12.qcow2
  goldleaf image create debian-12 --url https://mirror.example/debian-12.raw --sha256 $SUM
  goldleaf image create web-1.4 --from snapshot/web-built")]
    Create(ImageCreate),
    /// Lists images.
    #[command(after_help = "Examples:
  goldleaf image list
  goldleaf image list -l team=web -o json")]
    List(Selection),
    /// Shows one image.
    #[command(after_help = "Example:
  goldleaf image get debian-12 -o yaml")]
    Get(Target),
    /// Reads every copy's content again and compares it with the digest.
    #[command(after_help = "Example:
  goldleaf image verify debian-12")]
    Verify(Target),
    /// Has nodes hold a copy, fetched from where the image came from.
    #[command(after_help = "Examples:
  goldleaf image place debian-12 --node host2 --node host3
  goldleaf image place debian-12 --node host2 --no-wait")]
    Place(ImagePlace),
    /// Takes a node's copy away; never the last whole one of what a volume needs.
    #[command(after_help = "Example:
  goldleaf image evict debian-12 --node host2 --wait")]
    Evict(ImageEvict),
    /// Shows each node's copy, and how far it has come.
    #[command(after_help = "Examples:
  goldleaf image copies debian-12
  goldleaf image copies debian-12 -o json")]
    Copies(Target),
    /// Channels: names like debian/stable that point to an image's content and can be moved.
    #[command(
        subcommand,
        visible_alias = "channels",
        after_help = "Examples:
  goldleaf image channel set debian/stable --image debian-12.8
  goldleaf volume create vm1 --size 20G --image debian/stable --activate
  goldleaf image channels list"
    )]
    Channel(Channel),
    /// Changes labels and deletion protection.
    #[command(after_help = "Examples:
  goldleaf image update debian-12 --label team=db --unlabel old
  goldleaf image update debian-12 --protect
  goldleaf image update debian-12 --unprotect --if-revision 7")]
    Update(Update),
    /// Forgets a name, and the content with its last name.
    #[command(after_help = "Examples:
  goldleaf image delete debian-12
  goldleaf image delete debian-12 --if-revision 7")]
    Delete(Removal),
    /// Prints images as they change.
    #[command(after_help = "Examples:
  goldleaf image watch
  goldleaf image watch -o json | jq -r .item.name")]
    Watch(Selection),
}

/// An image to be.
#[derive(Debug, ClapArgs)]
pub struct ImageCreate {
    /// Its name.
    pub name: String,
    /// Where it is.
    #[command(flatten)]
    pub source: ImageSource,
    /// How it is stored there.
    #[arg(long, value_enum, default_value_t = ImageFormat::Detect)]
    pub format: ImageFormat,
    /// SHA-256 of the source as it comes; required with --url.
    #[arg(long, value_name = "HEX", value_parser = sha256)]
    pub sha256: Option<String>,
    /// SHA-256 of the raw content, if known.
    #[arg(long, value_name = "HEX", value_parser = sha256)]
    pub digest: Option<String>,
    /// The node, if there are several.
    #[arg(long)]
    pub node: Option<String>,
    /// Return at once; `image watch` follows the work.
    #[arg(long)]
    pub no_wait: bool,
    /// Labels.
    #[command(flatten)]
    pub labels: SetLabels,
}

/// Where an image is.
#[derive(Debug, ClapArgs)]
#[group(required = true, multiple = false)]
pub struct ImageSource {
    /// A file on the node, under a folder that its agent allows.
    #[arg(long)]
    pub file: Option<String>,
    /// A block device on the node, used in place.
    #[arg(long)]
    pub device: Option<String>,
    /// http or https.
    #[arg(long, requires = "sha256")]
    pub url: Option<String>,
    /// A volume that is not active, or a snapshot: an id, volume/NAME or snapshot/NAME.
    #[arg(long, value_name = "SOURCE")]
    pub from: Option<String>,
}

/// How an image is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ImageFormat {
    /// By its first bytes.
    Detect,
    /// As a disk reads it.
    Raw,
    /// QEMU's format.
    Qcow2,
}

/// Nodes that are to hold an image.
#[derive(Debug, ClapArgs)]
pub struct ImagePlace {
    /// The image's name or id.
    pub target: String,
    /// A node to hold it, by name or id; may be given again.
    #[arg(long = "node", required = true)]
    pub nodes: Vec<String>,
    /// Return at once; `image watch` and `image copies` show the work.
    #[arg(long)]
    pub no_wait: bool,
}

/// A copy to take away.
#[derive(Debug, ClapArgs)]
pub struct ImageEvict {
    /// The image's name or id.
    pub target: String,
    /// The node, by name or id.
    #[arg(long)]
    pub node: String,
    /// Waiting.
    #[command(flatten)]
    pub waiting: Waiting,
}

/// What to do with channels.
#[derive(Debug, Subcommand)]
pub enum Channel {
    /// Makes a channel, or moves it, in one step.
    #[command(after_help = "Examples:
  goldleaf image channel set debian/stable --image debian-12.8
  goldleaf image channel set debian/stable --image debian/testing --if-revision 7")]
    Set(ChannelSet),
    /// Lists channels.
    #[command(after_help = "Examples:
  goldleaf image channel list
  goldleaf image channel list -l team=web -o json")]
    List(Selection),
    /// Shows one channel.
    #[command(after_help = "Example:
  goldleaf image channel get debian/stable -o yaml")]
    Get(Target),
    /// Forgets a channel; volumes that were made through it stay.
    #[command(after_help = "Example:
  goldleaf image channel delete debian/stable")]
    Delete(Removal),
    /// Prints channels as they are moved.
    #[command(after_help = "Example:
  goldleaf image channel watch")]
    Watch(Selection),
}

/// Where a channel is to point.
#[derive(Debug, ClapArgs)]
pub struct ChannelSet {
    /// Its name, with a '/' in it.
    pub name: String,
    /// The image to point to: a name, id, digest, or another channel as it points now.
    #[arg(long)]
    pub image: String,
    /// A label to set; may be given again.
    #[arg(short = 'l', long = "label", value_name = "KEY=VALUE", value_parser = key_value)]
    pub labels: Vec<(String, String)>,
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
