//! Registration with kubelet, by the plugin itself: no other container is needed on the node.
//!
//! Served by `app` on a socket of its own in the folder that kubelet watches, once this host's agent
//! answers. Kubelet asks who is there, asks that plugin which node it is on, and says what came of it; a refusal ends the process, so that whoever runs it starts it
//! anew and the refusal is seen.

use std::path::{Path, PathBuf};

use csi_proto::pluginregistration as reg;
use reg::registration_server::Registration;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::identity::DRIVER_NAME;

/// What kubelet calls a CSI driver.
const KIND: &str = "CSIPlugin";

/// What kubelet asks for of the interface; every 1.x speaks it.
const VERSIONS: &[&str] = &["1.0.0"];

/// Where registration is served in the folder that kubelet watches.
///
/// Kubelet calls over the socket's bare path, and gRPC for Go says that path, its slashes escaped,
/// where HTTP/2 wants a host (`:authority`). A host with escapes is refused before anybody is asked;
/// what is said before an `@` may have them. So the host that kubelet asks for is `reg.sock`.
#[must_use]
pub fn socket(folder: &Path) -> PathBuf {
    folder.join(format!("{DRIVER_NAME}@reg.sock"))
}

/// The plugin as kubelet sees it.
#[derive(Clone, Debug)]
pub struct RegistrationApi {
    /// The plugin's own socket, as kubelet sees it.
    endpoint: PathBuf,
    /// Cancelled when kubelet refuses the plugin.
    refused: CancellationToken,
}

impl RegistrationApi {
    /// A plugin that serves on this socket.
    #[must_use]
    pub const fn new(endpoint: PathBuf, refused: CancellationToken) -> Self {
        Self { endpoint, refused }
    }
}

#[tonic::async_trait]
impl Registration for RegistrationApi {
    async fn get_info(
        &self,
        _: Request<reg::InfoRequest>,
    ) -> Result<Response<reg::PluginInfo>, Status> {
        Ok(Response::new(reg::PluginInfo {
            r#type: KIND.into(),
            name: DRIVER_NAME.into(),
            endpoint: self.endpoint.display().to_string(),
            supported_versions: VERSIONS.iter().map(|v| (*v).to_owned()).collect(),
        }))
    }

    async fn notify_registration_status(
        &self,
        r: Request<reg::RegistrationStatus>,
    ) -> Result<Response<reg::RegistrationStatusResponse>, Status> {
        let status = r.into_inner();
        if status.plugin_registered {
            tracing::info!("registered with kubelet");
        } else {
            tracing::error!(
                error = status.error,
                "kubelet refuses this driver; stopping"
            );
            self.refused.cancel();
        }
        Ok(Response::new(reg::RegistrationStatusResponse {}))
    }
}
