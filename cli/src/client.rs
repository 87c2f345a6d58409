//! The connection to the control plane, and one id for each request.

use goldleaf_proto::v1 as api;
use goldleaf_rpc::CallId;
use tonic::Request;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use crate::args::Global;
use crate::failure::Failure;

/// Gives each request of one command the ids that the logs of all parts carry.
#[derive(Clone, Debug)]
pub struct Identified(CallId);

impl Interceptor for Identified {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, tonic::Status> {
        self.0.stamp(request.metadata_mut());
        Ok(request)
    }
}

/// What is said in one message: of a thousand nodes that are all away, or of everything in a pool or on
/// a node that is given up, destroyed, drained or adopted.
const LARGEST_ANSWER: usize = 64 << 20;

type Service = InterceptedService<Channel, Identified>;

/// A client of every service.
#[derive(Clone, Debug)]
pub struct Client {
    service: Service,
    request: String,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    ///
    /// [`Failure::Unreachable`] with what to look at.
    pub async fn connect(global: &Global) -> Result<Self, Failure> {
        let unreachable = |error: tonic::transport::Error| Failure::Unreachable {
            server: global.server.clone(),
            source: error,
        };
        let channel = Endpoint::from_shared(global.server.clone())
            .map_err(unreachable)?
            .connect_timeout(global.timeout)
            .connect()
            .await
            .map_err(unreachable)?;
        let id = CallId::mint();
        let request = id.request.clone();
        let service = InterceptedService::new(channel, Identified(id));
        Ok(Self { service, request })
    }

    /// What the control plane's answer means for the person, with this command's request id.
    pub fn refused(&self, status: tonic::Status) -> Failure {
        Failure::refused(status, &self.request)
    }

    /// Pools.
    pub fn pools(&self) -> api::pool_service_client::PoolServiceClient<Service> {
        api::pool_service_client::PoolServiceClient::new(self.service.clone())
            .max_decoding_message_size(LARGEST_ANSWER)
    }

    /// Images.
    pub fn images(&self) -> api::image_service_client::ImageServiceClient<Service> {
        api::image_service_client::ImageServiceClient::new(self.service.clone())
            .max_decoding_message_size(LARGEST_ANSWER)
    }

    /// Volumes and snapshots.
    pub fn volumes(&self) -> api::volume_service_client::VolumeServiceClient<Service> {
        api::volume_service_client::VolumeServiceClient::new(self.service.clone())
            .max_decoding_message_size(LARGEST_ANSWER)
    }

    /// The doctor.
    pub fn doctor(&self) -> api::doctor_service_client::DoctorServiceClient<Service> {
        api::doctor_service_client::DoctorServiceClient::new(self.service.clone())
            .max_decoding_message_size(LARGEST_ANSWER)
    }

    /// The store.
    pub fn store(&self) -> api::store_service_client::StoreServiceClient<Service> {
        api::store_service_client::StoreServiceClient::new(self.service.clone())
            .max_decoding_message_size(LARGEST_ANSWER)
    }

    /// Nodes.
    pub fn nodes(&self) -> api::node_service_client::NodeServiceClient<Service> {
        api::node_service_client::NodeServiceClient::new(self.service.clone())
            .max_decoding_message_size(LARGEST_ANSWER)
    }
}
