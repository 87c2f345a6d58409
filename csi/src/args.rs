//! The driver's command line, checked while it is parsed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use goldleaf_rpc::telemetry::LogFormat;

/// Runs Goldleaf's CSI driver.
///
/// Serves the Container Storage Interface on a unix socket that root alone can use. It keeps
/// nothing: it can be stopped and replaced at any moment.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    name = "goldleaf-csi",
    version,
    after_help = "Examples:
  goldleaf-csi controller --server http://127.0.0.1:4700
  goldleaf-csi node --endpoint unix:///var/lib/kubelet/plugins/csi.goldleaf.dev/csi.sock \\
      --kubelet-registration /var/lib/kubelet/plugins_registry"
)]
pub struct Args {
    /// Where to serve: unix:// and an absolute path.
    #[arg(
        long,
        env = "CSI_ENDPOINT",
        default_value = "unix:///run/goldleaf/csi.sock",
        global = true
    )]
    pub endpoint: Endpoint,

    /// Where to serve health over HTTP, /livez and /readyz; absent: nowhere.
    #[arg(long, env = "CSI_HEALTH_LISTEN", global = true)]
    pub health_listen: Option<SocketAddr>,

    /// How to write the log. Levels come from RUST_LOG; `debug` shows requests, without secrets.
    #[arg(long, env = "GOLDLEAF_LOG", value_enum, default_value_t = LogFormat::Text, global = true)]
    pub log: LogFormat,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What a driver process does.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Serves one part of CSI.
    #[command(flatten)]
    Serve(Role),
    /// Lists the places at which a test can have the driver die (GOLDLEAF_FAILPOINT).
    #[command(hide = true)]
    Failpoints,
}

/// What a driver process serves.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Role {
    /// Volumes and snapshots, once in a cluster, over the control plane.
    Controller(ControllerArgs),
    /// Staging and publishing, on each node, over its agent.
    Node(NodeArgs),
}

/// How the node plugin is set up.
#[derive(Clone, Debug, clap::Args)]
pub struct NodeArgs {
    /// The socket of this host's agent.
    #[arg(
        long,
        env = "GOLDLEAF_AGENT_SOCKET",
        default_value = "/run/goldleaf/agent.sock"
    )]
    pub agent_socket: PathBuf,

    /// Most volumes that are published here at once; 0 leaves it to the orchestrator.
    #[arg(long, env = "CSI_MAX_VOLUMES", default_value_t = 0)]
    pub max_volumes: u32,

    /// The folder in which kubelet looks for plugins; absent: kubelet is not told.
    #[arg(long, env = "KUBELET_REGISTRATION")]
    pub kubelet_registration: Option<PathBuf>,

    /// The path of --endpoint as kubelet sees it, if it is another than here.
    #[arg(long, env = "KUBELET_ENDPOINT")]
    pub kubelet_endpoint: Option<PathBuf>,
}

/// How the controller is set up.
#[derive(Clone, Debug, clap::Args)]
pub struct ControllerArgs {
    /// The control plane's address.
    #[arg(long, env = "GOLDLEAF_SERVER", default_value = "http://127.0.0.1:4700")]
    pub server: String,
}

/// The address of a unix socket. CSI is served on nothing else: its calls carry credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(PathBuf);

impl Endpoint {
    /// Longest path of a unix socket in bytes: `sun_path` holds 108, the last one is its end.
    /// Twelve are left for the name that the socket has while it is made.
    pub const MAX_PATH: usize = 107 - 12;

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// Why a text is no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEndpoint {
    /// It is no unix socket's address.
    #[error("want unix:// and an absolute path, such as unix:///run/goldleaf/csi.sock")]
    NotUnix,
    /// The kernel takes no such path.
    #[error(
        "the path is longer than {} bytes, which the kernel does not take",
        Endpoint::MAX_PATH
    )]
    TooLong,
}

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    /// Reads `unix:///path`, or `unix:/path` as some orchestrators write it.
    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        let rest = text.strip_prefix("unix:").ok_or(BadEndpoint::NotUnix)?;
        let path = rest.strip_prefix("//").unwrap_or(rest);
        if !path.starts_with('/') || path.ends_with('/') {
            Err(BadEndpoint::NotUnix)
        } else if path.len() > Self::MAX_PATH {
            Err(BadEndpoint::TooLong)
        } else {
            Ok(Self(path.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn an_endpoint_is_a_unix_socket_with_an_absolute_path() {
        for good in ["unix:///run/x.sock", "unix:/run/x.sock"] {
            assert_eq!(
                good.parse::<Endpoint>().unwrap().path(),
                Path::new("/run/x.sock")
            );
        }
        for bad in [
            "",
            "/run/x.sock",
            "unix:",
            "unix://",
            "unix://run/x",
            "unix:///run/",
            "tcp://127.0.0.1:1",
            "http://unix:/x",
        ] {
            assert_eq!(
                bad.parse::<Endpoint>(),
                Err(BadEndpoint::NotUnix),
                "{bad:?}"
            );
        }
        let long = format!("unix:///{}", "x".repeat(Endpoint::MAX_PATH));
        assert_eq!(long.parse::<Endpoint>(), Err(BadEndpoint::TooLong));
        assert!(long[..long.len() - 1].parse::<Endpoint>().is_ok());
    }
}
