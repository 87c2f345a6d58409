//! The driver over a real unix socket, called as an orchestrator calls it.
#![allow(clippy::unwrap_used)] // helpers of tests are tests too

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use csi_proto::v1 as csi;
use csi_proto::v1::identity_client::IdentityClient;
use goldleaf_csi::app;
use goldleaf_csi::args::Args;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint as Address};

/// A driver in this process, on a socket in a folder of its own.
struct Driver {
    folder: tempfile::TempDir,
    stop: CancellationToken,
    served: JoinHandle<anyhow::Result<()>>,
}

impl Driver {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (stop, served) = serve(&folder.path().join("csi.sock"));
        let driver = Self {
            folder,
            stop,
            served,
        };
        appears(&driver.socket()).await;
        driver
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("csi.sock")
    }

    async fn stop(self) -> tempfile::TempDir {
        self.stop.cancel();
        self.served.await.unwrap().unwrap();
        self.folder
    }
}

#[tokio::test]
async fn an_answer_carries_the_id_of_its_request() {
    let driver = Driver::start().await;
    let address = format!("unix://{}", driver.socket().display());
    let channel = Address::from_shared(address).unwrap().connect().await;
    let mut request = tonic::Request::new(csi::ProbeRequest {});
    let key = goldleaf_proto::REQUEST_ID_KEY;
    request.metadata_mut().insert(key, "r-7".parse().unwrap());
    let answer = IdentityClient::new(channel.unwrap()).probe(request).await;
    assert_eq!(answer.unwrap().metadata().get(key).unwrap(), "r-7");
    driver.stop().await;
}

fn serve(socket: &Path) -> (CancellationToken, JoinHandle<anyhow::Result<()>>) {
    let stop = CancellationToken::new();
    let endpoint = format!("--endpoint=unix://{}", socket.display());
    let args = Args::parse_from(["goldleaf-csi", "controller", &endpoint]);
    let told = stop.clone().cancelled_owned();
    (
        stop,
        tokio::spawn(async move { app::serve(&args, told).await }),
    )
}

async fn appears(socket: &Path) {
    for _ in 0..500 {
        if socket.exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no socket at {}", socket.display());
}

async fn client(socket: &Path) -> IdentityClient<Channel> {
    let address = Address::from_shared(format!("unix://{}", socket.display())).unwrap();
    IdentityClient::new(address.connect().await.unwrap())
}

/// Why a driver did not begin to serve.
async fn refusal(served: JoinHandle<anyhow::Result<()>>) -> String {
    let ended = tokio::time::timeout(Duration::from_secs(20), served).await;
    ended.expect("it serves").unwrap().unwrap_err().to_string()
}

async fn is_ready(socket: &Path) -> bool {
    let answer = client(socket)
        .await
        .probe(csi::ProbeRequest {})
        .await
        .unwrap();
    answer.into_inner().ready.unwrap()
}

#[tokio::test]
async fn the_driver_says_who_it_is_and_announces_only_what_it_serves() {
    let driver = Driver::start().await;
    let mut client = client(&driver.socket()).await;
    let who = client
        .get_plugin_info(csi::GetPluginInfoRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(who.name, "csi.goldleaf.dev");
    assert_eq!(who.vendor_version, env!("CARGO_PKG_VERSION"));
    let can = client
        .get_plugin_capabilities(csi::GetPluginCapabilitiesRequest {})
        .await
        .unwrap()
        .into_inner();
    use csi::plugin_capability::{Type, service};
    let services: Vec<_> = can
        .capabilities
        .iter()
        .filter_map(|c| match &c.r#type {
            Some(Type::Service(service)) => Some(service.r#type()),
            Some(Type::VolumeExpansion(_)) | None => None,
        })
        .collect();
    assert_eq!(
        services,
        [
            service::Type::ControllerService,
            service::Type::VolumeAccessibilityConstraints,
            service::Type::SnapshotAccessibilityConstraints,
            service::Type::GroupControllerService,
            service::Type::SnapshotMetadataService,
        ]
    );
    let ready = client
        .probe(csi::ProbeRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(ready.ready, Some(true));
    driver.stop().await;
}

#[tokio::test]
async fn a_service_that_is_not_announced_is_not_served() {
    let driver = Driver::start().await;
    let address = Address::from_shared(format!("unix://{}", driver.socket().display())).unwrap();
    let mut node = csi::node_client::NodeClient::new(address.connect().await.unwrap());
    let refused = node
        .node_get_info(csi::NodeGetInfoRequest {})
        .await
        .unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unimplemented);
    driver.stop().await;
}

#[tokio::test]
async fn only_its_owner_can_use_the_socket() {
    let driver = Driver::start().await;
    let mode = std::fs::metadata(driver.socket())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    driver.stop().await;
}

#[tokio::test]
async fn a_second_driver_is_refused_and_the_first_serves_on() {
    let driver = Driver::start().await;
    let (_stop, second) = serve(&driver.socket());
    let refusal = refusal(second).await;
    assert!(refusal.contains("another process serves on"), "{refusal}");
    assert!(refusal.contains("a socket of its own"), "{refusal}");
    assert!(is_ready(&driver.socket()).await);
    driver.stop().await;
}

#[tokio::test]
async fn a_socket_that_a_crash_left_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("csi.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap()); // the file stays
    assert!(socket.exists());
    let (stop, served) = serve(&socket);
    for _ in 0..500 {
        if tokio::net::UnixStream::connect(&socket).await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(is_ready(&socket).await);
    stop.cancel();
    served.await.unwrap().unwrap();
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("csi.sock");
    std::fs::write(&file, "somebody's").unwrap();
    let (_stop, served) = serve(&file);
    let refusal = refusal(served).await;
    assert!(refusal.contains("is no socket"), "{refusal}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "somebody's");
}

#[tokio::test]
async fn a_stop_takes_the_socket_away_but_never_anothers() {
    let folder = Driver::start().await.stop().await;
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

    let driver = Driver::start().await;
    let socket = driver.socket();
    std::fs::remove_file(&socket).unwrap();
    let _another = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let _folder = driver.stop().await;
    assert!(socket.exists(), "the stop took another's socket");
}

#[tokio::test]
async fn the_binary_stops_on_sigterm_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("run").join("csi.sock");
    let mut driver = tokio::process::Command::new(env!("CARGO_BIN_EXE_goldleaf-csi"))
        .arg("controller")
        .env("CSI_ENDPOINT", format!("unix://{}", socket.display()))
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    appears(&socket).await;
    assert!(is_ready(&socket).await);
    let pid = rustix::process::Pid::from_raw(i32::try_from(driver.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(20), driver.wait()).await;
    assert!(ended.expect("it did not stop").unwrap().success());
    assert!(!socket.exists());
}
