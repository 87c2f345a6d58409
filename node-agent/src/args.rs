//! The agent's command line, checked while it is parsed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use goldleaf_rpc::address::loopback;
use goldleaf_rpc::telemetry::LogFormat;
use goldleaf_types::{Bytes, Labels, Name};

/// Runs Goldleaf's node agent on this host: pools, images and volumes of one node.
///
/// Needs root. Brings back by itself what this host had before it went down.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    version,
    after_help = "Examples:
  goldleaf-node-agent --server http://127.0.0.1:4700
  goldleaf-node-agent --state-dir /srv/goldleaf --image-source /srv/isos
  goldleaf-node-agent preflight"
)]
pub struct Args {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Address to serve gRPC on. Loopback only.
    #[arg(long, env = "GOLDLEAF_AGENT_LISTEN", default_value = "127.0.0.1:4701", value_parser = loopback)]
    pub listen: SocketAddr,

    /// Unix socket to serve gRPC on for local callers. Root alone can use it.
    #[arg(
        long,
        env = "GOLDLEAF_AGENT_SOCKET",
        default_value = "/run/goldleaf/agent.sock"
    )]
    pub socket: PathBuf,

    /// URI of the control plane to register with; empty registers with none.
    #[arg(long, env = "GOLDLEAF_SERVER", default_value = "")]
    pub server: String,

    /// Name of this node; the host's name unless said.
    #[arg(long, env = "GOLDLEAF_NODE_NAME")]
    pub node_name: Option<Name>,

    /// Label of this node: `key=value`. May be given again.
    #[arg(long = "label", env = "GOLDLEAF_NODE_LABELS", value_delimiter = ',', value_parser = label)]
    pub labels: Vec<(String, String)>,

    /// Identity of this host, which owns pools: any text that no other host has. The machine id
    /// unless said.
    #[arg(long, env = "GOLDLEAF_HOST_ID")]
    pub host_id: Option<String>,

    /// Folder of this agent: image copies below `images`, file-backed pools below `pools`,
    /// exported files below `export`, the metadata that a repair replaced below `repair`.
    #[arg(long, env = "GOLDLEAF_STATE_DIR", default_value = "/var/lib/goldleaf")]
    pub state_dir: PathBuf,

    /// Most bytes that image copies may take: a number with K, M, G, T or P, powers of 1024.
    #[arg(long, env = "GOLDLEAF_IMAGE_BUDGET", default_value = "100G")]
    pub image_budget: Bytes,

    /// Folder under which image files may be read. May be given again.
    #[arg(
        long = "image-source",
        env = "GOLDLEAF_IMAGE_SOURCES",
        value_delimiter = ':',
        default_value = "/var/lib/goldleaf/import"
    )]
    pub image_sources: Vec<PathBuf>,

    /// Folder that volumes are exported to, and nowhere else; `export` in the state folder unless
    /// said.
    #[arg(long, env = "GOLDLEAF_EXPORT_DIR")]
    pub export_dir: Option<PathBuf>,

    /// Folder for the devices' links: `<pool>/<volume>` below it.
    #[arg(long, env = "GOLDLEAF_DEVICE_DIR", default_value = "/dev/goldleaf")]
    pub device_dir: PathBuf,

    /// What a volume maps from which on its deletion is done in steps, for the sake of its pool's
    /// other volumes: a number with K, M, G or T, powers of 1024.
    #[arg(long, env = "GOLDLEAF_DELETE_IN_STEPS_FROM", default_value = "256M")]
    pub delete_in_steps_from: Bytes,

    /// How to write the log. Levels come from RUST_LOG.
    #[arg(long, env = "GOLDLEAF_LOG", value_enum, default_value_t = LogFormat::Text)]
    pub log: LogFormat,
}

/// What the agent does besides serving.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Says what this host lacks for Goldleaf to work, and how to get it. Exit code 1 if anything.
    Preflight,
    /// Prints the places where a test can make the agent die.
    #[command(hide = true)]
    Failpoints,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("want KEY=VALUE")?;
    let pair = (key.to_owned(), value.to_owned());
    Labels::try_from(BTreeMap::from([pair.clone()]))
        .map(|_| pair)
        .map_err(|_| {
            "want printable ASCII, the key of 1 to 128 and the value of 256 at most".into()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_has_a_key_and_a_value() {
        assert_eq!(label("zone=a=b"), Ok(("zone".into(), "a=b".into())));
        for bad in ["zone", "=a", "", "a\n=b"] {
            assert!(label(bad).is_err(), "{bad:?} passed");
        }
    }
}
