//! The control plane, as the controller asks it.
//!
//! Called by `controller` alone. Every call may be repeated. The connection is made when it is
//! first needed and again whenever it was lost, so the driver starts and stops in any order.

use std::time::Duration;

use api::image_service_client::ImageServiceClient;
use api::node_service_client::NodeServiceClient;
use api::pool_service_client::PoolServiceClient;
use api::volume_service_client::VolumeServiceClient;
use goldleaf_proto::v1 as api;
use goldleaf_rpc::call::Stamp;
use tonic::Streaming;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use crate::status::CsiError;

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// Most items of a page that the control plane answers.
pub const PAGE: u32 = 1000;

/// The control plane.
#[derive(Clone, Debug)]
pub struct ControlPlane(Service);

/// A connection whose calls carry the ids of the request that they are made for.
type Service = InterceptedService<Channel, Stamp>;

type Answer<T> = Result<T, CsiError>;

fn target(id: &str) -> api::GetRequest {
    api::GetRequest {
        target: id.into(),
        ..Default::default()
    }
}

fn deletion(id: &str) -> api::DeleteRequest {
    api::DeleteRequest {
        target: id.into(),
        ..Default::default()
    }
}

fn page(size: u32, token: String) -> api::ListRequest {
    api::ListRequest {
        page: Some(api::PageRequest { size, token }),
        filter: None,
    }
}

/// `None` for what is not there.
fn found<T>(answer: Answer<T>) -> Answer<Option<T>> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// A page whose token no page answered is said in CSI's way.
fn listed<T>(answer: Answer<T>) -> Answer<T> {
    answer.map_err(|error| match error.refused_field().as_str() {
        "page.token" => CsiError::BadToken,
        _ => error,
    })
}

impl ControlPlane {
    /// The one that serves at this address, reached when it is first asked.
    #[must_use]
    pub fn at(endpoint: Endpoint) -> Self {
        let channel = endpoint.connect_timeout(CONNECT).connect_lazy();
        Self(InterceptedService::new(channel, Stamp))
    }

    fn volumes(&self) -> VolumeServiceClient<Service> {
        VolumeServiceClient::new(self.0.clone())
    }

    fn images(&self) -> ImageServiceClient<Service> {
        ImageServiceClient::new(self.0.clone())
    }

    fn pools(&self) -> PoolServiceClient<Service> {
        PoolServiceClient::new(self.0.clone())
    }

    fn nodes(&self) -> NodeServiceClient<Service> {
        NodeServiceClient::new(self.0.clone())
    }

    /// Whether it answers.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub async fn probe(&self) -> Answer<()> {
        self.list_pools(1, String::new()).await.map(drop)
    }

    pub(super) async fn create_thin(&self, r: api::CreateThinRequest) -> Answer<api::Volume> {
        Ok(self.volumes().create_thin(r).await?.into_inner())
    }

    pub(super) async fn clone_thin(&self, r: api::CloneRequest) -> Answer<api::Volume> {
        // By its full name: `clone` alone would be the trait's.
        let mut client = self.volumes();
        let call = VolumeServiceClient::<Service>::clone(&mut client, r);
        Ok(call.await?.into_inner())
    }

    /// A volume, by id or name.
    pub(super) async fn find_volume(&self, id: &str) -> Answer<Option<api::Volume>> {
        let answer = self.volumes().get(target(id)).await;
        found(answer.map(tonic::Response::into_inner).map_err(Into::into))
    }

    /// A volume that must be there, by id.
    pub(super) async fn volume(&self, id: &str) -> Answer<api::Volume> {
        let found = self.find_volume(id).await?;
        found.ok_or_else(|| CsiError::NotFound {
            what: "volume",
            id: id.into(),
        })
    }

    pub(super) async fn delete_volume(&self, id: &str) -> Answer<()> {
        self.volumes().delete(deletion(id)).await?;
        Ok(())
    }

    pub(super) async fn resize(&self, id: &str, size_bytes: u64) -> Answer<api::Volume> {
        let request = api::ResizeRequest {
            volume: id.into(),
            size_bytes,
            ..Default::default()
        };
        Ok(self.volumes().resize(request).await?.into_inner())
    }

    pub(super) async fn update(&self, r: api::UpdateRequest) -> Answer<()> {
        self.volumes().update(r).await?;
        Ok(())
    }

    pub(super) async fn list_volumes(
        &self,
        size: u32,
        token: String,
    ) -> Answer<(Vec<api::Volume>, String)> {
        let answer = self.volumes().list(page(size, token)).await;
        let answer = listed(answer.map_err(Into::into))?.into_inner();
        Ok((answer.volumes, answer.next_page_token))
    }

    pub(super) async fn create_snapshot(
        &self,
        r: api::CreateSnapshotRequest,
    ) -> Answer<api::Snapshot> {
        Ok(self.volumes().create_snapshot(r).await?.into_inner())
    }

    /// A snapshot, by id or name.
    pub(super) async fn find_snapshot(&self, id: &str) -> Answer<Option<api::Snapshot>> {
        let answer = self.volumes().get_snapshot(target(id)).await;
        found(answer.map(tonic::Response::into_inner).map_err(Into::into))
    }

    pub(super) async fn delete_snapshot(&self, id: &str) -> Answer<()> {
        self.volumes().delete_snapshot(deletion(id)).await?;
        Ok(())
    }

    pub(super) async fn list_snapshots(
        &self,
        size: u32,
        token: String,
    ) -> Answer<(Vec<api::Snapshot>, String)> {
        let answer = self.volumes().list_snapshots(page(size, token)).await;
        let answer = listed(answer.map_err(Into::into))?.into_inner();
        Ok((answer.snapshots, answer.next_page_token))
    }

    pub(super) async fn create_group(
        &self,
        r: api::CreateGroupSnapshotRequest,
    ) -> Answer<api::GroupSnapshot> {
        Ok(self.volumes().create_group_snapshot(r).await?.into_inner())
    }

    /// A group of snapshots, by id or name.
    pub(super) async fn find_group(&self, id: &str) -> Answer<Option<api::GroupSnapshot>> {
        let answer = self.volumes().get_group_snapshot(target(id)).await;
        found(answer.map(tonic::Response::into_inner).map_err(Into::into))
    }

    pub(super) async fn delete_group(&self, id: &str) -> Answer<()> {
        self.volumes().delete_group_snapshot(deletion(id)).await?;
        Ok(())
    }

    /// Ranges of a snapshot that hold something, as they come.
    pub(super) async fn list_allocated(
        &self,
        r: api::ListAllocatedRequest,
    ) -> Answer<Streaming<api::BlockRanges>> {
        Ok(self.volumes().list_allocated(r).await?.into_inner())
    }

    /// Ranges in which two snapshots differ, as they come.
    pub(super) async fn list_changed(
        &self,
        r: api::ListChangedRequest,
    ) -> Answer<Streaming<api::BlockRanges>> {
        Ok(self.volumes().list_changed(r).await?.into_inner())
    }

    /// An image, by name, id, digest or channel.
    pub(super) async fn find_image(&self, id: &str) -> Answer<Option<api::Image>> {
        let answer = self.images().get(target(id)).await;
        found(answer.map(tonic::Response::into_inner).map_err(Into::into))
    }

    pub(super) async fn list_images(
        &self,
        size: u32,
        token: String,
    ) -> Answer<(Vec<api::Image>, String)> {
        let answer = self.images().list(page(size, token)).await;
        let answer = listed(answer.map_err(Into::into))?.into_inner();
        Ok((answer.images, answer.next_page_token))
    }

    /// A pool, by name or id.
    pub(super) async fn find_pool(&self, id: &str) -> Answer<Option<api::Pool>> {
        let answer = self.pools().get(target(id)).await;
        found(answer.map(tonic::Response::into_inner).map_err(Into::into))
    }

    pub(super) async fn list_nodes(
        &self,
        size: u32,
        token: String,
    ) -> Answer<(Vec<api::Node>, String)> {
        let answer = self.nodes().list(page(size, token)).await;
        let answer = listed(answer.map_err(Into::into))?.into_inner();
        Ok((answer.nodes, answer.next_page_token))
    }

    pub(super) async fn list_pools(
        &self,
        size: u32,
        token: String,
    ) -> Answer<(Vec<api::Pool>, String)> {
        let answer = self.pools().list(page(size, token)).await;
        let answer = listed(answer.map_err(Into::into))?.into_inner();
        Ok((answer.pools, answer.next_page_token))
    }
}
