//! Serves until told to stop, lets running calls finish, and takes its sockets away.
//!
//! Called by `main`, and by the tests with a stop of their own.

use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result};
use csi_proto::pluginregistration::registration_server::RegistrationServer;
use csi_proto::v1::controller_server::ControllerServer;
use csi_proto::v1::group_controller_server::GroupControllerServer;
use csi_proto::v1::identity_server::IdentityServer;
use csi_proto::v1::node_server::NodeServer;
use csi_proto::v1::snapshot_metadata_server::SnapshotMetadataServer;
use goldleaf_rpc::Calls;
use goldleaf_rpc::socket::Socket;
use goldleaf_rpc::stop::{Signals, patience, until_told};
use tokio::net::TcpListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Router;
use tonic::transport::{Endpoint, Server};
use tower::layer::util::{Identity, Stack};

use crate::args::{Args, Command, Role};
use crate::controller::ControllerApi;
use crate::controller::control_plane::ControlPlane;
use crate::health::{self, Below};
use crate::identity::{DRIVER_NAME, IdentityApi};
use crate::node::NodeApi;
use crate::node::agent::LocalAgent;
use crate::registration::{self, RegistrationApi};

/// How long after one look whether the agent answers there is another.
const AGAIN: Duration = Duration::from_millis(500);

/// Runs the driver until SIGTERM or SIGINT.
///
/// # Errors
///
/// When it cannot begin to serve, most often because another driver has the socket.
pub async fn run(args: Args) -> Result<()> {
    let signals = Signals::catch().context("signals cannot be caught")?;
    serve(&args, until_told(signals, CancellationToken::new())).await
}

/// Serves as the arguments say until `stop` is done and the calls that ran then are answered.
///
/// # Errors
///
/// As [`run`].
pub async fn serve(args: &Args, stop: impl Future<Output = ()> + Send + 'static) -> Result<()> {
    let Command::Serve(role) = &args.command else {
        anyhow::bail!("nothing to serve: say `controller` or `node`");
    };
    let ended = CancellationToken::new();
    let end = ended.clone();
    tokio::spawn(async move {
        stop.await;
        end.cancel();
    });
    let (_socket, listener) = Socket::take(args.endpoint.path()).await?;
    let (router, below) = services(role)?;
    let refused = CancellationToken::new();
    let (stop, api) = (
        either(ended.clone(), refused.clone()),
        registration_of(role, args, &refused),
    );
    let registration = tokio::spawn(registered(api, below.clone(), stop, ended.clone()));
    if let Some(listen) = args.health_listen {
        let tcp = TcpListener::bind(listen)
            .await
            .with_context(|| format!("cannot serve health on {listen}"))?;
        let pages = axum::serve(tcp, health::pages(below));
        tokio::spawn(
            pages
                .with_graceful_shutdown(ended.clone().cancelled_owned())
                .into_future(),
        );
    }
    tracing::info!(driver = DRIVER_NAME, version = env!("CARGO_PKG_VERSION"),
        csi = csi_proto::SPEC_VERSION, socket = %args.endpoint.path().display(), "CSI driver");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]); // not under systemd: nobody to tell
    let stopping = CancellationToken::new();
    let either = either(ended.clone(), refused.clone());
    let begun = stopping.clone();
    let served =
        router.serve_with_incoming_shutdown(UnixListenerStream::new(listener), async move {
            either.await;
            begun.cancel();
        });
    tokio::select! {
        served = served => served.context("the gRPC server failed")?,
        () = patience(stopping) => {}
    }
    ended.cancel();
    registration.await.context("registration panicked")??;
    anyhow::ensure!(
        !refused.is_cancelled(),
        "kubelet refused this driver; see above"
    );
    tracing::info!("stopped");
    Ok(())
}

async fn either(one: CancellationToken, other: CancellationToken) {
    tokio::select! { () = one.cancelled() => {} () = other.cancelled() => {} }
}

/// The services of this process's role, and what they work over.
fn services(role: &Role) -> Result<(Router<Stack<Calls, Identity>>, Below)> {
    let mut server = Server::builder().layer(Calls);
    let router = server.add_service(IdentityServer::new(IdentityApi));
    match role {
        Role::Controller(controller) => {
            let endpoint = Endpoint::from_shared(controller.server.clone());
            let control_plane = ControlPlane::at(endpoint.context("--server is no address")?);
            let api = ControllerApi::new(control_plane.clone());
            let router = router
                .add_service(GroupControllerServer::new(api.clone()))
                .add_service(SnapshotMetadataServer::new(api.clone()))
                .add_service(ControllerServer::new(api));
            Ok((router, Below::ControlPlane(control_plane)))
        }
        Role::Node(node) => {
            let agent = LocalAgent::at(&node.agent_socket)?;
            let api = NodeApi::new(agent.clone(), i64::from(node.max_volumes));
            Ok((
                router.add_service(NodeServer::new(api)),
                Below::Agent(agent),
            ))
        }
    }
}

/// What kubelet asks of a plugin that it does not know yet, and where it looks for one, if there is a
/// kubelet.
fn registration_of(
    role: &Role,
    args: &Args,
    refused: &CancellationToken,
) -> Option<(PathBuf, RegistrationApi)> {
    let Role::Node(node) = role else {
        return None;
    };
    let folder = node.kubelet_registration.as_ref()?;
    let endpoint = node.kubelet_endpoint.clone();
    let endpoint = endpoint.unwrap_or_else(|| args.endpoint.path().into());
    let api = RegistrationApi::new(endpoint, refused.clone());
    Some((registration::socket(folder), api))
}

/// Has kubelet find the plugin as soon as that can say which node this is, and no sooner: kubelet asks
/// it right away, and what it cannot answer then counts as refused. The agent answers when its pools
/// are open, which may take as long as it takes to check them. Ends the process when that cannot be
/// served.
async fn registered(
    api: Option<(PathBuf, RegistrationApi)>,
    below: Below,
    stop: impl Future<Output = ()>,
    ended: CancellationToken,
) -> Result<()> {
    let Some((path, api)) = api else {
        return Ok(());
    };
    let mut stop = pin!(stop);
    tokio::select! {
        () = until_ready(&below) => {}
        () = &mut stop => return Ok(()),
    }
    let served = async {
        let (_socket, listener) = Socket::take(&path).await?;
        let router = Server::builder().add_service(RegistrationServer::new(api));
        let connections = UnixListenerStream::new(listener);
        let served = router.serve_with_incoming_shutdown(connections, stop).await;
        served.context("registration is not served any more")
    };
    let served = served.await;
    if served.is_err() {
        ended.cancel();
    }
    served
}

/// Waits for what the driver works over to answer.
async fn until_ready(below: &Below) {
    let mut told = false;
    while let Err(why) = below.ready().await {
        if !told {
            tracing::info!(%why, "kubelet learns of this driver once the agent answers");
            told = true;
        }
        tokio::time::sleep(AGAIN).await;
    }
}
