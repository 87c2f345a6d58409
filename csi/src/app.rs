//! Serves until told to stop, lets running calls finish, and takes its socket away.
//!
//! Called by `main`, and by the tests with a stop of their own.

use std::future::Future;

use anyhow::{Context, Result};
use csi_proto::v1::controller_server::ControllerServer;
use csi_proto::v1::identity_server::IdentityServer;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::args::{Args, Role};
use crate::controller::ControllerApi;
use crate::controller::control_plane::ControlPlane;
use crate::identity::{DRIVER_NAME, IdentityApi};
use crate::socket::Socket;

/// Runs the driver until SIGTERM or SIGINT.
///
/// # Errors
///
/// When it cannot begin to serve, most often because another driver has the socket.
pub async fn run(args: Args) -> Result<()> {
    let mut term = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
    let told = async move {
        tokio::select! { _ = term.recv() => {} _ = int.recv() => {} }
    };
    serve(&args, told).await
}

/// Serves as the arguments say until `stop` is done and the calls that ran then are answered.
///
/// # Errors
///
/// As [`run`].
pub async fn serve(args: &Args, stop: impl Future<Output = ()> + Send + 'static) -> Result<()> {
    let endpoint = args.endpoint.path();
    let (_socket, listener) = Socket::take(endpoint).await?;
    tracing::info!(driver = DRIVER_NAME, version = env!("CARGO_PKG_VERSION"),
        csi = csi_proto::SPEC_VERSION, socket = %endpoint.display(), "CSI driver");
    let server = Server::builder()
        .trace_fn(|request| tracing::info_span!("call", path = request.uri().path()));
    let identity = IdentityServer::new(IdentityApi);
    let incoming = UnixListenerStream::new(listener);
    match &args.role {
        Role::Controller(controller) => {
            let control_plane = ControlPlane::at(controller.server.clone());
            let api = ControllerApi::new(control_plane);
            let router = { server }.add_service(identity);
            let router = router.add_service(ControllerServer::new(api));
            router.serve_with_incoming_shutdown(incoming, stop).await
        }
    }
    .context("the gRPC server failed")?;
    tracing::info!("stopped");
    Ok(())
}
