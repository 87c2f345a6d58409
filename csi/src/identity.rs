//! The Identity service: who the driver is and what it serves.
//!
//! Called by every orchestrator first, and by probes all the time. Invariant: nothing is announced
//! that the driver does not serve. It holds no state, so a crash leaves nothing.

use csi::plugin_capability::Type;
use csi::plugin_capability::service::Type as Service;
use csi::plugin_capability::volume_expansion::Type as Growth;
use csi_proto::v1 as csi;
use csi_proto::v1::identity_server::Identity;
use tonic::{Request, Response, Status};

/// The driver's name, as StorageClasses, PersistentVolumes and CSIDriver objects spell it. It is
/// stored in every PersistentVolume and never changes.
pub const DRIVER_NAME: &str = "csi.goldleaf.dev";

/// What every process of this driver announces: volumes have places and grow while in use. Which
/// services the driver has as a whole does not depend on which of them this process serves.
const SERVICES: &[Service] = &[
    Service::ControllerService,
    Service::VolumeAccessibilityConstraints,
    Service::SnapshotAccessibilityConstraints,
    Service::GroupControllerService,
    Service::SnapshotMetadataService,
];

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

    async fn get_plugin_capabilities(
        &self,
        _: Request<csi::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<csi::GetPluginCapabilitiesResponse>, Status> {
        let service = SERVICES.iter().map(|service| {
            Type::Service(csi::plugin_capability::Service {
                r#type: (*service).into(),
            })
        });
        let growth = Type::VolumeExpansion(csi::plugin_capability::VolumeExpansion {
            r#type: Growth::Online.into(),
        });
        let capability = |kind| csi::PluginCapability { r#type: Some(kind) };
        Ok(Response::new(csi::GetPluginCapabilitiesResponse {
            capabilities: service.chain([growth]).map(capability).collect(),
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
