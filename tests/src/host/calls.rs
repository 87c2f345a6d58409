//! The public API as plain calls, and requests as tests say them; and the agent's list of thins, for
//! what the public API does not show.

use std::time::Duration;

use goldleaf_proto::agent::v1 as agent;
use goldleaf_proto::agent::v1::node_agent_client::NodeAgentClient;
use goldleaf_proto::v1 as api;
use goldleaf_proto::v1::image_service_client::ImageServiceClient;
use goldleaf_proto::v1::node_service_client::NodeServiceClient;
use goldleaf_proto::v1::pool_service_client::PoolServiceClient;
use goldleaf_proto::v1::volume_service_client::VolumeServiceClient;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::Host;

type Answer<T> = Result<T, Status>;

/// A blank volume.
#[must_use]
pub fn blank(name: &str, size_bytes: u64) -> api::CreateThinRequest {
    api::CreateThinRequest {
        name: name.into(),
        size_bytes,
        ..Default::default()
    }
}

/// An active volume over an image.
#[must_use]
pub fn over(name: &str, size_bytes: u64, image: &str) -> api::CreateThinRequest {
    api::CreateThinRequest {
        image: image.into(),
        activate: Some(api::ActivateOptions::default()),
        ..blank(name, size_bytes)
    }
}

fn target(target: &str) -> api::GetRequest {
    api::GetRequest {
        target: target.into(),
        ..Default::default()
    }
}

/// As many as a page may have: more than any test makes.
fn all() -> api::ListRequest {
    api::ListRequest {
        page: Some(api::PageRequest {
            size: 1000,
            token: String::new(),
        }),
        filter: None,
    }
}

fn deletion(target: &str) -> api::DeleteRequest {
    api::DeleteRequest {
        target: target.into(),
        expected_revision: 0,
        ..Default::default()
    }
}

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($request:ty) -> $answer:ty, $client:ident.$method:ident;)*) => {
        #[expect(clippy::missing_errors_doc, reason = "the API's own status, as the protos say")]
        impl Host {
            $($(#[$doc])*
            pub fn $name(&self, request: $request) -> Answer<$answer> {
                let mut client = $client::<Channel>::new(self.channel.clone());
                self.runtime.block_on(client.$method(request)).map(tonic::Response::into_inner)
            })*
        }
    };
}

calls! {
    /// Makes a pool.
    create_pool(api::CreatePoolRequest) -> api::Pool, PoolServiceClient.create;
    /// Imports a pool.
    import_pool(api::ImportPoolRequest) -> api::Pool, PoolServiceClient.import;
    /// Closes a pool.
    close_pool(api::ClosePoolRequest) -> api::Pool, PoolServiceClient.close;
    /// Gives a pool more room.
    extend_pool(api::ExtendPoolRequest) -> api::Pool, PoolServiceClient.extend;
    /// Sets what a pool does when it fills.
    set_policy(api::SetPoolPolicyRequest) -> api::Pool, PoolServiceClient.set_policy;
    /// Opens a pool.
    open_pool(api::OpenPoolRequest) -> api::Pool, PoolServiceClient.open;
    /// Gives a pool another name.
    rename_pool(api::RenamePoolRequest) -> api::Pool, PoolServiceClient.rename;
    /// Deletes a pool with all that is in it, or says what that is.
    destroy_pool(api::DestroyPoolRequest) -> api::DestroyPoolResponse, PoolServiceClient.destroy;
    /// Changes a pool's labels and protection.
    update_pool(api::UpdateRequest) -> api::Pool, PoolServiceClient.update;
    /// Lists pools.
    list_pools(api::ListRequest) -> api::ListPoolsResponse, PoolServiceClient.list;
    /// Makes an image.
    create_image(api::CreateImageRequest) -> api::Image, ImageServiceClient.create;
    /// Verifies an image.
    verify_image(api::VerifyImageRequest) -> api::Image, ImageServiceClient.verify;
    /// Changes an image's labels and protection.
    update_image(api::UpdateRequest) -> api::Image, ImageServiceClient.update;
    /// Has nodes hold an image.
    place_image(api::PlaceImageRequest) -> api::Image, ImageServiceClient.place;
    /// Takes a node's copy of an image away.
    evict_image(api::EvictImageRequest) -> api::Image, ImageServiceClient.evict;
    /// Makes a channel or moves it.
    set_channel(api::SetChannelRequest) -> api::Channel, ImageServiceClient.set_channel;
    /// Forgets a channel.
    delete_channel(api::DeleteRequest) -> api::DeleteResponse, ImageServiceClient.delete_channel;
    /// Lists images.
    list_images(api::ListRequest) -> api::ListImagesResponse, ImageServiceClient.list;
    /// Makes a volume.
    create_thin(api::CreateThinRequest) -> api::Volume, VolumeServiceClient.create_thin;
    /// Grows a volume.
    resize_volume(api::ResizeRequest) -> api::Volume, VolumeServiceClient.resize;
    /// Changes a volume's labels and protection.
    update_volume(api::UpdateRequest) -> api::Volume, VolumeServiceClient.update;
    /// Lists volumes.
    list_volumes(api::ListRequest) -> api::ListVolumesResponse, VolumeServiceClient.list;
    /// Takes a snapshot.
    create_snapshot(api::CreateSnapshotRequest) -> api::Snapshot, VolumeServiceClient.create_snapshot;
    /// Takes snapshots at one instant.
    create_group(api::CreateGroupSnapshotRequest) -> api::GroupSnapshot, VolumeServiceClient.create_group_snapshot;
    /// Makes a volume independent of its image.
    decouple_volume(api::DecoupleRequest) -> api::Volume, VolumeServiceClient.decouple;
    /// Changes a snapshot's labels and protection.
    update_snapshot(api::UpdateRequest) -> api::Snapshot, VolumeServiceClient.update_snapshot;
    /// Lists groups.
    list_groups(api::ListRequest) -> api::ListGroupSnapshotsResponse, VolumeServiceClient.list_group_snapshots;
    /// Lists snapshots.
    list_snapshots(api::ListRequest) -> api::ListSnapshotsResponse, VolumeServiceClient.list_snapshots;
}

#[expect(
    clippy::missing_errors_doc,
    reason = "the API's own status, as the protos say"
)]
impl Host {
    /// One node.
    pub fn node(&self, name: &str) -> Answer<api::Node> {
        let mut client = NodeServiceClient::new(self.channel.clone());
        self.runtime
            .block_on(client.get(target(name)))
            .map(tonic::Response::into_inner)
    }

    /// Keeps new volumes off the node, and takes unused devices away.
    pub fn drain_node(&self, deactivate_unused: bool) -> Answer<api::DrainNodeResponse> {
        let mut client = NodeServiceClient::new(self.channel.clone());
        let node = super::NODE.into();
        let request = api::DrainNodeRequest {
            node,
            deactivate_unused,
        };
        self.runtime
            .block_on(client.drain(request))
            .map(tonic::Response::into_inner)
    }

    /// Lets new volumes go to the node again.
    pub fn resume_node(&self) -> Answer<api::Node> {
        let mut client = NodeServiceClient::new(self.channel.clone());
        let node = super::NODE.into();
        self.runtime
            .block_on(client.resume(api::ResumeNodeRequest { node }))
            .map(tonic::Response::into_inner)
    }

    /// Gives the node up, or says what that would mean.
    pub fn lose_node(&self, apply: bool) -> Answer<api::MarkNodeLostResponse> {
        let mut client = NodeServiceClient::new(self.channel.clone());
        let node = super::NODE.into();
        self.runtime
            .block_on(client.mark_lost(api::MarkNodeLostRequest { node, apply }))
            .map(tonic::Response::into_inner)
    }

    /// Trusts the node again.
    pub fn take_node_back(&self) -> Answer<api::Node> {
        let mut client = NodeServiceClient::new(self.channel.clone());
        let node = super::NODE.into();
        self.runtime
            .block_on(client.take_back(api::TakeBackNodeRequest { node }))
            .map(tonic::Response::into_inner)
    }

    /// Takes over what the node has open, or says what that would change.
    pub fn adopt_node(&self, apply: bool) -> Answer<api::AdoptNodeResponse> {
        let mut client = NodeServiceClient::new(self.channel.clone());
        let node = super::NODE.into();
        self.runtime
            .block_on(client.adopt(api::AdoptNodeRequest { node, apply }))
            .map(tonic::Response::into_inner)
    }

    /// Every thin that the agent's catalogues have, up to 1000.
    pub fn thins(&self) -> Answer<Vec<agent::AgentThin>> {
        let address = format!("http://127.0.0.1:{}", self.agent_port);
        let endpoint = Endpoint::from_shared(address).expect("an address");
        self.runtime.block_on(async {
            let mut client = NodeAgentClient::new(endpoint.connect_lazy());
            let answer = client
                .list_thins(agent::ListThinsRequest::default())
                .await?;
            Ok(answer.into_inner().thins)
        })
    }

    fn volumes(&self) -> VolumeServiceClient<Channel> {
        VolumeServiceClient::new(self.channel.clone())
    }

    fn pools(&self) -> PoolServiceClient<Channel> {
        PoolServiceClient::new(self.channel.clone())
    }

    fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone())
    }

    /// Clones a volume or snapshot.
    pub fn clone_volume(&self, request: api::CloneRequest) -> Answer<api::Volume> {
        let mut client = self.volumes();
        // By its full name: `client.clone(..)` would be the trait's.
        let call = VolumeServiceClient::<Channel>::clone(&mut client, request);
        self.runtime.block_on(call).map(tonic::Response::into_inner)
    }

    /// One volume.
    pub fn volume(&self, name: &str) -> Answer<api::Volume> {
        let mut client = self.volumes();
        self.runtime
            .block_on(client.get(target(name)))
            .map(tonic::Response::into_inner)
    }

    /// One volume with what it takes.
    pub fn volume_usage(&self, name: &str) -> Answer<api::ThinUsage> {
        let mut client = self.volumes();
        let request = api::GetRequest {
            usage: true,
            ..target(name)
        };
        let answer = self.runtime.block_on(client.get(request))?;
        Ok(answer.into_inner().usage.expect("its usage"))
    }

    /// One snapshot with what it takes.
    pub fn snapshot_usage(&self, name: &str) -> Answer<api::ThinUsage> {
        let mut client = self.volumes();
        let request = api::GetRequest {
            usage: true,
            ..target(name)
        };
        let answer = self.runtime.block_on(client.get_snapshot(request))?;
        Ok(answer.into_inner().usage.expect("its usage"))
    }

    /// One pool.
    pub fn get_pool(&self, name: &str) -> Answer<api::Pool> {
        let mut client = self.pools();
        self.runtime
            .block_on(client.get(target(name)))
            .map(tonic::Response::into_inner)
    }

    /// One image.
    pub fn get_image(&self, name: &str) -> Answer<api::Image> {
        let mut client = self.images();
        self.runtime
            .block_on(client.get(target(name)))
            .map(tonic::Response::into_inner)
    }

    /// Makes a volume's device appear.
    pub fn activate(&self, volume: &str) -> Answer<api::Volume> {
        let request = api::ActivateRequest {
            volume: volume.into(),
            options: None,
            ..Default::default()
        };
        let mut client = self.volumes();
        self.runtime
            .block_on(client.activate(request))
            .map(tonic::Response::into_inner)
    }

    /// Takes a volume's device away.
    pub fn deactivate(&self, volume: &str) -> Answer<api::Volume> {
        let request = api::DeactivateRequest {
            volume: volume.into(),
            ..Default::default()
        };
        let mut client = self.volumes();
        self.runtime
            .block_on(client.deactivate(request))
            .map(tonic::Response::into_inner)
    }

    /// Takes a snapshot.
    pub fn snapshot(&self, name: &str, source: &str) -> Answer<api::Snapshot> {
        self.create_snapshot(api::CreateSnapshotRequest {
            name: name.into(),
            source: source.into(),
            ..Default::default()
        })
    }

    /// An active clone.
    pub fn active_clone(&self, name: &str, source: &str, size_bytes: u64) -> Answer<api::Volume> {
        self.clone_volume(api::CloneRequest {
            name: name.into(),
            source: source.into(),
            size_bytes,
            activate: Some(api::ActivateOptions::default()),
            ..Default::default()
        })
    }

    /// Grows a volume.
    pub fn resize(&self, volume: &str, size_bytes: u64) -> Answer<api::Volume> {
        self.resize_volume(api::ResizeRequest {
            volume: volume.into(),
            size_bytes,
            expected_revision: 0,
            ..Default::default()
        })
    }

    /// Deletes a volume.
    pub fn delete_volume(&self, name: &str) -> Answer<()> {
        let mut client = self.volumes();
        self.runtime
            .block_on(client.delete(deletion(name)))
            .map(drop)
    }

    /// Which bytes of a snapshot hold something: where, and how many.
    pub fn allocated(&self, name: &str) -> Answer<Vec<(u64, u64)>> {
        let request = api::ListAllocatedRequest {
            snapshot: name.into(),
            ..Default::default()
        };
        let mut client = self.volumes();
        self.runtime.block_on(async {
            let mut stream = client.list_allocated(request).await?.into_inner();
            let mut all = vec![];
            while let Some(part) = stream.message().await? {
                all.extend(part.ranges.iter().map(|r| (r.offset_bytes, r.length_bytes)));
            }
            Ok(all)
        })
    }

    /// Deletes a snapshot.
    pub fn delete_snapshot(&self, name: &str) -> Answer<()> {
        let mut client = self.volumes();
        self.runtime
            .block_on(client.delete_snapshot(deletion(name)))
            .map(drop)
    }

    /// Takes snapshots of volumes at one instant.
    pub fn group(&self, name: &str, volumes: &[&str]) -> Answer<api::GroupSnapshot> {
        self.create_group(api::CreateGroupSnapshotRequest {
            name: name.into(),
            volumes: volumes.iter().map(|&name| name.to_owned()).collect(),
            ..Default::default()
        })
    }

    /// Makes a volume independent of its image, and asks until it is.
    ///
    /// # Errors
    ///
    /// What is refused meanwhile.
    pub fn decouple(&self, volume: &str) -> Answer<api::Volume> {
        loop {
            let volume = self.decouple_volume(api::DecoupleRequest {
                volume: volume.into(),
                rate_bytes_per_second: 0,
                wait: false,
            })?;
            if volume.image_digest.is_empty() {
                return Ok(volume);
            }
            self.pause(Duration::from_millis(20));
        }
    }

    /// Deletes a group.
    pub fn delete_group(&self, name: &str) -> Answer<()> {
        let mut client = self.volumes();
        self.runtime
            .block_on(client.delete_group_snapshot(deletion(name)))
            .map(drop)
    }

    /// Deletes a pool.
    pub fn delete_pool(&self, name: &str) -> Answer<()> {
        let mut client = self.pools();
        self.runtime
            .block_on(client.delete(deletion(name)))
            .map(drop)
    }

    /// Has nodes hold an image, and waits until they do.
    pub fn place(&self, image: &str, nodes: &[&str]) -> Answer<api::Image> {
        self.place_image(api::PlaceImageRequest {
            image: image.into(),
            nodes: nodes.iter().map(|&node| node.to_owned()).collect(),
            wait: true,
        })
    }

    /// Takes a node's copy of an image away.
    pub fn evict(&self, image: &str, node: &str) -> Answer<api::Image> {
        self.evict_image(api::EvictImageRequest {
            image: image.into(),
            node: node.into(),
            wait: false,
        })
    }

    /// Has a channel point to an image.
    pub fn point(&self, channel: &str, image: &str) -> Answer<api::Channel> {
        self.set_channel(api::SetChannelRequest {
            name: channel.into(),
            image: image.into(),
            ..Default::default()
        })
    }

    /// Writes a volume or snapshot to a file; how far it said to have come, and the file.
    pub fn export(&self, request: api::ExportRequest) -> Answer<(Vec<u64>, api::ExportedFile)> {
        let mut client = self.volumes();
        self.runtime.block_on(async {
            let mut events = client.export(request).await?.into_inner();
            let mut told = Vec::new();
            while let Some(event) = events.message().await? {
                told.extend(event.progress.map(|progress| progress.done_bytes));
                if let Some(file) = event.file {
                    return Ok((told, file));
                }
            }
            panic!("an export ended without a file, after {told:?}");
        })
    }

    /// Deletes an image.
    pub fn delete_image(&self, name: &str) -> Answer<()> {
        let mut client = self.images();
        self.runtime
            .block_on(client.delete(deletion(name)))
            .map(drop)
    }

    /// Every volume's name, whatever the number of pages.
    pub fn volume_names(&self) -> Answer<Vec<String>> {
        let mut names = Vec::new();
        let mut token = String::new();
        loop {
            let page = Some(api::PageRequest { size: 50, token });
            let answer = self.list_volumes(api::ListRequest { page, filter: None })?;
            names.extend(answer.volumes.into_iter().map(|v| v.name));
            token = answer.next_page_token;
            if token.is_empty() {
                return Ok(names);
            }
        }
    }

    /// Deletes all volumes, snapshots and groups, through the API.
    ///
    /// # Panics
    ///
    /// When something does not go.
    pub fn delete_volumes(&self) {
        for name in self.volume_names().expect("a list of volumes") {
            self.fine(&name, self.deactivate(&name).map(drop));
            self.fine(&name, self.delete_volume(&name));
        }
        let groups = self.list_groups(all()).expect("a list of groups");
        for group in groups.groups {
            self.fine(&group.name, self.delete_group(&group.name));
        }
        let snapshots = self.list_snapshots(all()).expect("a list of snapshots");
        for snapshot in snapshots.snapshots {
            self.fine(&snapshot.name, self.delete_snapshot(&snapshot.name));
        }
    }

    /// Deletes all there is, through the API.
    ///
    /// # Panics
    ///
    /// When something does not go.
    pub fn delete_everything(&self) {
        self.delete_volumes();
        for pool in self.list_pools(all()).expect("a list of pools").pools {
            self.fine(&pool.name, self.delete_pool(&pool.name));
        }
        for image in self.list_images(all()).expect("a list of images").images {
            self.fine(&image.name, self.delete_image(&image.name));
        }
    }

    fn fine(&self, what: &str, answer: Answer<()>) {
        answer.unwrap_or_else(|e| panic!("{what}: {e:?}\n{}", self.logs()));
    }
}
