//! What the node plugin shows kubelet: its registration, its health, and refusals of what it is asked
//! wrongly, with no agent on the host.
#![allow(clippy::unwrap_used)] // helpers of tests are tests too

use std::path::Path;
use std::time::Duration;

use clap::Parser;
use csi::node_client::NodeClient;
use csi_proto::pluginregistration as reg;
use csi_proto::v1 as csi;
use goldleaf_csi::args::Args;
use goldleaf_csi::{app, registration};
use goldleaf_proto::agent::v1 as agent;
use reg::registration_client::RegistrationClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tonic::{Code, Status};

struct Plugin {
    folder: tempfile::TempDir,
    health: String,
    stop: CancellationToken,
    served: JoinHandle<anyhow::Result<()>>,
}

async fn connected(socket: &Path) -> Channel {
    reached(Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap()).await
}

/// As kubelet calls what it finds in the folder of registrations: see [`registration::socket`].
async fn called_by_its_path(socket: &Path) -> Channel {
    let authority = as_an_authority(&socket.display().to_string());
    let origin = Uri::builder().scheme("http").authority(authority);
    let origin = origin.path_and_query("/").build();
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
    reached(endpoint.origin(origin.expect("a host that HTTP/2 takes"))).await
}

/// What gRPC for Go makes of a path: all but these characters of an authority are escaped.
fn as_an_authority(path: &str) -> String {
    let one = |byte: u8| match byte {
        b if b.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:[]@".contains(&b) => {
            char::from(b).to_string()
        }
        b => format!("%{b:02X}"),
    };
    path.bytes().map(one).collect()
}

async fn reached(endpoint: Endpoint) -> Channel {
    for _ in 0..500 {
        if let Ok(channel) = endpoint.connect().await {
            return channel;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody serves on {:?}", endpoint.uri());
}

fn plugin() -> Plugin {
    let folder = tempfile::tempdir().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let health = free.local_addr().unwrap().to_string();
    drop(free);
    let path = |name: &str| folder.path().join(name).display().to_string();
    let args = Args::parse_from([
        "goldleaf-csi",
        "node",
        &format!("--endpoint=unix://{}", path("csi.sock")),
        &format!("--agent-socket={}", path("agent.sock")),
        &format!("--kubelet-registration={}", path("registry")),
        "--kubelet-endpoint=/var/lib/kubelet/plugins/csi.goldleaf.dev/csi.sock",
        &format!("--health-listen={health}"),
    ]);
    let stop = CancellationToken::new();
    let told = stop.clone().cancelled_owned();
    let served = tokio::spawn(async move { app::serve(&args, told).await });
    Plugin {
        folder,
        health,
        stop,
        served,
    }
}

/// Serves as an agent that says which node this is, and nothing else.
fn start_agent(plugin: &Plugin) {
    let node = tower::service_fn(async |_: tonic::Request<agent::GetNodeRequest>| {
        Ok::<_, Status>(tonic::Response::new(agent::AgentNode::default()))
    });
    let answer = async move |request: axum::extract::Request| {
        let codec = tonic_prost::ProstCodec::default();
        tonic::server::Grpc::new(codec).unary(node, request).await
    };
    let path = "/goldleaf.agent.v1.NodeAgent/GetNode";
    let routes = axum::Router::new().route(path, axum::routing::post(answer));
    let listener = tokio::net::UnixListener::bind(plugin.folder.path().join("agent.sock"));
    let listener = tokio_stream::wrappers::UnixListenerStream::new(listener.unwrap());
    let server = Server::builder().add_routes(routes.into());
    tokio::spawn(server.serve_with_incoming(listener));
}

impl Plugin {
    fn registry(&self) -> std::path::PathBuf {
        registration::socket(&self.folder.path().join("registry"))
    }

    async fn registration(&self) -> RegistrationClient<Channel> {
        RegistrationClient::new(called_by_its_path(&self.registry()).await)
    }

    async fn page(&self, page: &str) -> String {
        let mut stream = TcpStream::connect(&self.health).await.unwrap();
        let request = format!("GET {page} HTTP/1.0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.lines().next().unwrap_or_default().to_owned()
    }

    async fn ended(self) -> (anyhow::Result<()>, usize) {
        let ended = tokio::time::timeout(Duration::from_secs(20), self.served).await;
        let folder = self.folder.path();
        let registry = std::fs::read_dir(folder.join("registry"));
        let left =
            registry.map_or(0, Iterator::count) + usize::from(folder.join("csi.sock").exists());
        (ended.expect("it goes on").unwrap(), left)
    }
}

fn status(registered: bool) -> reg::RegistrationStatus {
    reg::RegistrationStatus {
        plugin_registered: registered,
        error: if registered { "" } else { "name taken" }.into(),
    }
}

#[tokio::test]
async fn kubelet_learns_of_the_plugin_and_a_refusal_ends_it() {
    let plugin = plugin();
    start_agent(&plugin);
    let mut kubelet = plugin.registration().await;
    let info = kubelet
        .get_info(reg::InfoRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (
            info.r#type.as_str(),
            info.name.as_str(),
            info.endpoint.as_str()
        ),
        (
            "CSIPlugin",
            "csi.goldleaf.dev",
            "/var/lib/kubelet/plugins/csi.goldleaf.dev/csi.sock"
        )
    );
    assert_eq!(info.supported_versions, ["1.0.0"]);
    kubelet
        .notify_registration_status(status(true))
        .await
        .unwrap();
    assert!(!plugin.served.is_finished());
    kubelet
        .notify_registration_status(status(false))
        .await
        .unwrap();
    drop(kubelet);
    let (ended, left) = plugin.ended().await;
    assert!(ended.unwrap_err().to_string().contains("kubelet refused"));
    assert_eq!(left, 0, "sockets are left");
}

#[tokio::test]
async fn health_and_registration_tell_a_plugin_that_answers_from_one_that_can_work() {
    let plugin = plugin();
    drop(connected(&plugin.folder.path().join("csi.sock")).await);
    assert_eq!(plugin.page("/livez").await, "HTTP/1.0 200 OK");
    assert_eq!(
        plugin.page("/readyz").await,
        "HTTP/1.0 503 Service Unavailable"
    );
    // Kubelet would ask it at once which node this is, and a refusal would end it.
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!plugin.registry().exists(), "kubelet finds it");
    start_agent(&plugin);
    drop(plugin.registration().await);
    assert_eq!(plugin.page("/readyz").await, "HTTP/1.0 200 OK");
    plugin.stop.cancel();
    let (ended, left) = plugin.ended().await;
    ended.unwrap();
    assert_eq!(left, 0, "sockets are left");
}

#[tokio::test]
async fn each_wrong_call_to_the_node_gets_the_code_that_the_specification_says() {
    const VOLUME: &str = "vol-00000000000000000000000000000009";
    let plugin = plugin();
    let node = NodeClient::new(connected(&plugin.folder.path().join("csi.sock")).await);
    let capability = |mode| {
        Some(csi::VolumeCapability {
            access_type: Some(csi::volume_capability::AccessType::Block(
                csi::volume_capability::BlockVolume {},
            )),
            access_mode: Some(csi::volume_capability::AccessMode { mode }),
        })
    };
    let stage = async |id: &str, path: &str, mode: i32| -> Result<(), Status> {
        let request = csi::NodeStageVolumeRequest {
            volume_id: id.into(),
            staging_target_path: path.into(),
            volume_capability: capability(mode),
            ..Default::default()
        };
        node.clone().node_stage_volume(request).await.map(drop)
    };
    let publish = async |id: &str, staging: &str, target: &str| -> Result<(), Status> {
        let request = csi::NodePublishVolumeRequest {
            volume_id: id.into(),
            staging_target_path: staging.into(),
            target_path: target.into(),
            volume_capability: capability(1),
            ..Default::default()
        };
        node.clone().node_publish_volume(request).await.map(drop)
    };
    let unpublish = async |id: &str, target: &str| -> Result<(), Status> {
        let request = csi::NodeUnpublishVolumeRequest {
            volume_id: id.into(),
            target_path: target.into(),
        };
        node.clone().node_unpublish_volume(request).await.map(drop)
    };
    let stats = async |id: &str, path: &str| -> Result<(), Status> {
        let request = csi::NodeGetVolumeStatsRequest {
            volume_id: id.into(),
            volume_path: path.into(),
            ..Default::default()
        };
        node.clone().node_get_volume_stats(request).await.map(drop)
    };
    let staged = async |change: &dyn Fn(&mut csi::NodeStageVolumeRequest)| -> Result<(), Status> {
        let mut request = csi::NodeStageVolumeRequest {
            volume_id: VOLUME.into(),
            staging_target_path: "/s".into(),
            volume_capability: capability(1),
            ..Default::default()
        };
        change(&mut request);
        node.clone().node_stage_volume(request).await.map(drop)
    };
    let published = async |change: &dyn Fn(&mut csi::NodePublishVolumeRequest)| {
        let mut request = csi::NodePublishVolumeRequest {
            volume_id: VOLUME.into(),
            staging_target_path: "/s".into(),
            target_path: "/t".into(),
            volume_capability: capability(1),
            ..Default::default()
        };
        change(&mut request);
        node.clone().node_publish_volume(request).await.map(drop)
    };
    let mounted = |fs_type: &str, group: &str| {
        let mount = csi::volume_capability::MountVolume {
            fs_type: fs_type.into(),
            volume_mount_group: group.into(),
            ..Default::default()
        };
        Some(csi::VolumeCapability {
            access_type: Some(csi::volume_capability::AccessType::Mount(mount)),
            access_mode: capability(1).and_then(|c| c.access_mode),
        })
    };
    let unstage = async |id: &str, path: &str| -> Result<(), Status> {
        let request = csi::NodeUnstageVolumeRequest {
            volume_id: id.into(),
            staging_target_path: path.into(),
        };
        node.clone().node_unstage_volume(request).await.map(drop)
    };
    let expand = async |id: &str, path: &str, mode: i32, bytes: i64| -> Result<(), Status> {
        let request = csi::NodeExpandVolumeRequest {
            volume_id: id.into(),
            volume_path: path.into(),
            volume_capability: capability(mode),
            capacity_range: Some(csi::CapacityRange {
                required_bytes: bytes,
                limit_bytes: 0,
            }),
            ..Default::default()
        };
        node.clone().node_expand_volume(request).await.map(drop)
    };
    let health = async |id: &str| -> Result<(), Status> {
        let request = csi::NodeGetVolumeHealthRequest {
            volume_id: id.into(),
            ..Default::default()
        };
        node.clone().node_get_volume_health(request).await.map(drop)
    };
    // Wrong in shape, and right but more than a volume here can do.
    let (wrong, exceeds) = (Code::InvalidArgument, Code::FailedPrecondition);
    for (what, answer, code) in [
        (
            "stage, no way",
            staged(&|r| r.volume_capability = None).await,
            wrong,
        ),
        ("stage, no mode", stage(VOLUME, "/s", 0).await, wrong),
        (
            "stage, strange fs",
            staged(&|r| r.volume_capability = mounted("ntfs", "")).await,
            exceeds,
        ),
        (
            "stage, mount group",
            staged(&|r| r.volume_capability = mounted("", "9")).await,
            exceeds,
        ),
        (
            "stage, readers anywhere",
            stage(VOLUME, "/s", 3).await,
            exceeds,
        ),
        (
            "stage, one writer anywhere",
            stage(VOLUME, "/s", 4).await,
            exceeds,
        ),
        ("unstage, no id", unstage("", "/s").await, wrong),
        ("unstage, no path", unstage(VOLUME, "").await, wrong),
        (
            "unstage, no such id",
            unstage("x", "/s").await,
            Code::NotFound,
        ),
        (
            "publish, no way",
            published(&|r| r.volume_capability = None).await,
            wrong,
        ),
        (
            "publish, no mode",
            published(&|r| r.volume_capability = capability(0)).await,
            wrong,
        ),
        (
            "publish, relative",
            published(&|r| r.target_path = "t".into()).await,
            wrong,
        ),
        (
            "publish, relative staging",
            published(&|r| r.staging_target_path = "s".into()).await,
            wrong,
        ),
        (
            "publish, multi-node",
            published(&|r| r.volume_capability = capability(5)).await,
            exceeds,
        ),
        (
            "publish, strange fs",
            published(&|r| r.volume_capability = mounted("zfs", "")).await,
            exceeds,
        ),
        (
            "publish, no such id",
            publish("x", "/s", "/t").await,
            Code::NotFound,
        ),
        (
            "unpublish, no such id",
            unpublish("x", "/t").await,
            Code::NotFound,
        ),
        ("expand, no id", expand("", "/t", 1, 0).await, wrong),
        ("expand, no path", expand(VOLUME, "", 1, 0).await, wrong),
        (
            "expand, multi-node",
            expand(VOLUME, "/t", 5, 0).await,
            wrong,
        ),
        ("expand, negative", expand(VOLUME, "/t", 1, -1).await, wrong),
        (
            "expand, not there",
            expand(VOLUME, "/t", 1, 0).await,
            Code::NotFound,
        ),
        (
            "expand, no such id",
            expand("x", "/t", 1, 0).await,
            Code::NotFound,
        ),
        ("stats, no such id", stats("x", "/t").await, Code::NotFound),
        ("health, no id", health("").await, wrong),
        ("health, no such id", health("x").await, Code::NotFound),
        (
            "stage, no id",
            stage("", "/s", 1).await,
            Code::InvalidArgument,
        ),
        (
            "stage, no path",
            stage(VOLUME, "", 1).await,
            Code::InvalidArgument,
        ),
        (
            "stage, relative",
            stage(VOLUME, "s", 1).await,
            Code::InvalidArgument,
        ),
        (
            "stage, multi-node",
            stage(VOLUME, "/s", 5).await,
            Code::FailedPrecondition,
        ),
        (
            "stage, no such id",
            stage("x", "/s", 1).await,
            Code::NotFound,
        ),
        (
            "stage, no agent",
            stage(VOLUME, "/s", 1).await,
            Code::Unavailable,
        ),
        (
            "publish, no id",
            publish("", "/s", "/t").await,
            Code::InvalidArgument,
        ),
        (
            "publish, no target",
            publish(VOLUME, "/s", "").await,
            Code::InvalidArgument,
        ),
        (
            "publish, not staged",
            publish(VOLUME, "", "/t").await,
            Code::FailedPrecondition,
        ),
        (
            "unpublish, no id",
            unpublish("", "/t").await,
            Code::InvalidArgument,
        ),
        (
            "unpublish, no target",
            unpublish(VOLUME, "").await,
            Code::InvalidArgument,
        ),
        (
            "unpublish, a foreign mount",
            unpublish(VOLUME, "/proc").await,
            Code::FailedPrecondition,
        ),
        ("stats, no id", stats("", "/t").await, Code::InvalidArgument),
        (
            "stats, no path",
            stats(VOLUME, "").await,
            Code::InvalidArgument,
        ),
        (
            "stats, not there",
            stats(VOLUME, "/t").await,
            Code::NotFound,
        ),
    ] {
        let refused = answer.expect_err(what);
        assert_eq!(refused.code(), code, "{what}: {refused:?}");
    }
    drop(node);
    plugin.stop.cancel();
    plugin.ended().await.0.unwrap();
}
