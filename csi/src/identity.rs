//! The Identity service: who the driver is and what it serves.
//!
//! Called by every orchestrator first, and by probes all the time. Invariant: nothing is announced
//! that is not served. It holds no state, so a crash leaves nothing.

use csi_proto::v1 as csi;
use csi_proto::v1::identity_server::Identity;
use tonic::{Request, Response, Status};

/// The driver's name, as StorageClasses, PersistentVolumes and CSIDriver objects spell it. It is
/// stored in every PersistentVolume and never changes.
pub const DRIVER_NAME: &str = "csi.goldleaf.dev";

/// Who this driver is.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdentityApi;

#[tonic::async_trait]
impl Identity for IdentityApi {
    async fn get_plugin_info(
        &self,
        _: Request<csi::GetPluginInfoRequest>,
    ) -> Result<Response<csi::GetPluginInfoResponse>, Status> {
        Ok(Response::new(csi::GetPluginInfoResponse {
            name: DRIVER_NAME.into(),
            vendor_version: env!("CARGO_PKG_VERSION").into(),
            manifest: Default::default(),
        }))
    }

    /// None: no other service is served.
    async fn get_plugin_capabilities(
        &self,
        _: Request<csi::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<csi::GetPluginCapabilitiesResponse>, Status> {
        Ok(Response::new(csi::GetPluginCapabilitiesResponse {
            capabilities: Vec::new(),
        }))
    }

    /// Ready as soon as it answers: it waits for nothing at start.
    async fn probe(
        &self,
        _: Request<csi::ProbeRequest>,
    ) -> Result<Response<csi::ProbeResponse>, Status> {
        Ok(Response::new(csi::ProbeResponse { ready: Some(true) }))
    }
}
