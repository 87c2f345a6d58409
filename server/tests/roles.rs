//! Who may call what, over the wire.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

mod support;

use std::sync::Arc;

use goldleaf_proto::v1 as api;
use goldleaf_proto::v1::node_service_client::NodeServiceClient;
use goldleaf_proto::v1::pool_service_client::PoolServiceClient;
use goldleaf_proto::v1::volume_service_client::VolumeServiceClient;
use goldleaf_server::app;
use goldleaf_server::domain::Role;
use support::Rig;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// A channel to a server whose callers are all of this role.
async fn as_role(rig: &Rig, role: Role) -> Channel {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", tcp.local_addr().unwrap());
    let service = Arc::clone(rig.service());
    tokio::spawn(app::serve_as(service, tcp, CancellationToken::new(), role));
    Channel::from_shared(address)
        .unwrap()
        .connect()
        .await
        .unwrap()
}

async fn create(channel: &Channel) -> Result<api::Volume, Status> {
    let wanted = api::CreateThinRequest {
        name: "vm1".into(),
        size_bytes: support::GIB,
        ..Default::default()
    };
    let mut volumes = VolumeServiceClient::new(channel.clone());
    Ok(volumes.create_thin(wanted).await?.into_inner())
}

async fn names(channel: &Channel) -> Vec<String> {
    let mut volumes = VolumeServiceClient::new(channel.clone());
    let listed = volumes.list(api::ListRequest::default()).await.unwrap();
    let volumes = listed.into_inner().volumes;
    volumes.into_iter().map(|v| v.name).collect()
}

#[tokio::test]
async fn a_viewer_looks_and_changes_nothing() {
    let rig = Rig::furnished().await;
    let viewer = as_role(&rig, Role::Viewer).await;
    let refused = create(&viewer).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(
        refused.message().contains("needs the role user"),
        "{refused}"
    );
    let reason = refused
        .get_error_details()
        .error_info()
        .unwrap()
        .reason
        .clone();
    assert_eq!(reason, "ROLE_NEEDED");
    assert!(names(&viewer).await.is_empty(), "nothing was made");
    let mut watch = VolumeServiceClient::new(viewer.clone());
    assert!(watch.watch(api::WatchRequest::default()).await.is_ok());
}

#[tokio::test]
async fn a_user_makes_volumes_and_no_pools_and_a_node_registers_and_no_more() {
    let rig = Rig::furnished().await;
    let user = as_role(&rig, Role::User).await;
    create(&user).await.unwrap();
    assert_eq!(names(&user).await, ["vm1"]);
    let mut pools = PoolServiceClient::new(user);
    let target = "fast".to_owned();
    let close = pools.close(api::ClosePoolRequest {
        pool: target,
        ..Default::default()
    });
    let refused = close.await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(
        refused.message().contains("needs the role admin"),
        "{refused}"
    );

    let node = as_role(&rig, Role::Node).await;
    let asked = api::RegisterNodeRequest {
        id: support::OTHER_NODE.to_string(),
        name: "n2".into(),
        address: "http://127.0.0.1:4702".into(),
        ..Default::default()
    };
    let mut nodes = NodeServiceClient::new(node.clone());
    nodes.register(asked).await.unwrap();
    let listed = nodes.list(api::ListRequest::default()).await.unwrap_err();
    assert_eq!(listed.code(), Code::PermissionDenied);
    assert_eq!(
        create(&node).await.unwrap_err().code(),
        Code::PermissionDenied
    );
}
