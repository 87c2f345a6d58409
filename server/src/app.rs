//! Builds everything once, serves until told to stop, and stops without touching what runs.
//!
//! Called by `main`. What is unfinished at a stop is found again at the next start.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use goldleaf_proto::v1::doctor_service_server::DoctorServiceServer;
use goldleaf_proto::v1::image_service_server::ImageServiceServer;
use goldleaf_proto::v1::node_service_server::NodeServiceServer;
use goldleaf_proto::v1::pool_service_server::PoolServiceServer;
use goldleaf_proto::v1::store_service_server::StoreServiceServer;
use goldleaf_proto::v1::volume_service_server::VolumeServiceServer;
use goldleaf_rpc::Calls;
use goldleaf_rpc::stop::{Signals, patience, until_told};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::agents::client::{GrpcAgents, Timeouts};
use crate::args::Args;
use crate::domain::Role;
use crate::grpc::{Api, Roles};
use crate::reconcile::{self, Waits};
use crate::service::Service;
use crate::store::Store;
use crate::store::embedded::EmbeddedStore;

/// Runs the control plane until SIGTERM or SIGINT.
///
/// # Errors
///
/// When it cannot begin to serve: an address in use, a store that another server has; when the
/// store failed, which only a start can put right.
pub async fn run(args: Args) -> Result<()> {
    let store = open_store(&args.state_dir)?;
    let tcp = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot serve on {}", args.listen))?;
    tracing::info!(listen = %tcp.local_addr()?, state = %args.state_dir.display(),
        incarnation = %store.incarnation(), "control plane");
    run_over(store, tcp, CancellationToken::new()).await
}

/// As [`run`], over a store that is open, until `stop` is cancelled too.
async fn run_over(store: EmbeddedStore, tcp: TcpListener, stop: CancellationToken) -> Result<()> {
    let broken = store.broken();
    let agents = GrpcAgents::new(store.incarnation(), Timeouts::default());
    let service = Arc::new(Service::new(Arc::new(store), Arc::new(agents)));
    let tasks = TaskTracker::new();
    tasks.spawn(reconcile::recovery(Arc::clone(&service), stop.clone()));
    tasks.spawn(reconcile::run(
        Arc::clone(&service),
        Waits::default(),
        stop.clone(),
    ));
    tasks.spawn(reconcile::listen(
        Arc::clone(&service),
        Waits::default(),
        stop.clone(),
    ));
    // Caught before anybody is told that we are ready: who then stops us at once is obeyed.
    tasks.spawn(until_told(
        Signals::catch().context("signals cannot be caught")?,
        stop.clone(),
    ));
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]); // not under systemd: nobody to tell
    // Nothing can be asked of a server without its store: whoever started it starts it again.
    let failed = tasks.spawn(stop_when(broken, stop.clone()));
    let served = serve(service, tcp, stop.clone()).await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    if failed.await? {
        bail!("the store failed (see the log): start the server again, which reads what it holds");
    }
    tracing::info!("stopped; volumes go on");
    served
}

/// Cancels `stop` when the store is broken; whether that, and not something else, came first.
async fn stop_when(broken: impl Future<Output = ()>, stop: CancellationToken) -> bool {
    tokio::select! {
        biased;
        () = broken => {}
        () = stop.cancelled() => return false,
    }
    stop.cancel();
    true
}

/// Makes a store from a backup in a state folder that has none, and says what is to be done next.
///
/// # Errors
///
/// When the backup or the folder cannot be used; the folder is as it was then.
pub fn restore(backup: &Path, folder: &Path) -> Result<()> {
    let path = store_in(folder)?;
    let header = EmbeddedStore::restore(backup, &path)
        .with_context(|| format!("cannot restore {}", backup.display()))?;
    println!(
        "{} is made from a backup of {} (revision {}, server {}).\nIt is another life of the store: \
         nodes refuse its changes until you adopt what they have. Start the server, then look and \
         adopt:\n  goldleaf node adopt NODE\n  goldleaf node adopt NODE --apply",
        path.display(),
        header.taken,
        header.revision,
        header.server_version
    );
    Ok(())
}

/// Reads a backup to its end and says what it is.
///
/// # Errors
///
/// When it could not be restored here.
pub fn check_backup(backup: &Path) -> Result<()> {
    let header = EmbeddedStore::check_backup(backup)
        .with_context(|| format!("{} could not be restored", backup.display()))?;
    println!(
        "{} is whole: taken {}, revision {}, store {}, server {}",
        backup.display(),
        header.taken,
        header.revision,
        header.incarnation,
        header.server_version
    );
    Ok(())
}

/// Where the store is in a state folder, which is made if need be.
fn store_in(folder: &Path) -> Result<PathBuf> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    Ok(folder.join("store.redb"))
}

fn open_store(folder: &Path) -> Result<EmbeddedStore> {
    let path = store_in(folder)?;
    EmbeddedStore::open(&path).with_context(|| format!("cannot use the store {}", path.display()))
}

/// Serves the API, health and reflection until stopped. Only loopback is served, so every caller is
/// an administrator.
///
/// # Errors
///
/// When the transport fails.
pub async fn serve(service: Arc<Service>, tcp: TcpListener, stop: CancellationToken) -> Result<()> {
    serve_as(service, tcp, stop, Role::Admin).await
}

/// As [`serve`], with every caller of this role.
///
/// # Errors
///
/// As [`serve`].
pub async fn serve_as(
    service: Arc<Service>,
    tcp: TcpListener,
    stop: CancellationToken,
    role: Role,
) -> Result<()> {
    let roles = Roles::everybody_is(role)?;
    let api = Api::new(service, stop.clone());
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<VolumeServiceServer<Api>>().await;
    health.set_serving::<PoolServiceServer<Api>>().await;
    health.set_serving::<ImageServiceServer<Api>>().await;
    health.set_serving::<NodeServiceServer<Api>>().await;
    health.set_serving::<DoctorServiceServer<Api>>().await;
    health.set_serving::<StoreServiceServer<Api>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(goldleaf_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // Of the details of errors, which a client without them shows as bytes.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let serving = Server::builder()
        .layer(Calls)
        .layer(roles)
        .add_service(VolumeServiceServer::new(api.clone()))
        .add_service(PoolServiceServer::new(api.clone()))
        .add_service(ImageServiceServer::new(api.clone()))
        .add_service(NodeServiceServer::new(api.clone()))
        .add_service(DoctorServiceServer::new(api.clone()))
        .add_service(StoreServiceServer::new(api))
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .serve_with_incoming_shutdown(
            TcpIncoming::from(tcp).with_nodelay(Some(true)),
            stop.clone().cancelled_owned(),
        );
    tokio::select! {
        served = serving => served.context("the gRPC server failed"),
        () = patience(stop) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;
    use crate::store::embedded::power_tests::Disk;
    use crate::store::{StoreError, Txn, Write};

    const PATIENT: Duration = Duration::from_secs(30);

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_server_whose_store_failed_ends_with_an_error() {
        let disk = Disk::formatted();
        let store = disk.store();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        disk.fuse(0);
        let lost = Txn {
            expect: Vec::new(),
            writes: vec![Write::Put("a".into(), Vec::new())],
        };
        let mut broken = std::pin::pin!(store.broken());
        assert!(futures::poll!(broken.as_mut()).is_pending());
        let refused = store.txn(lost).await.unwrap_err();
        assert!(matches!(refused, StoreError::Unavailable(_)), "{refused}");
        let told = tokio::time::timeout(PATIENT, broken).await;
        told.expect("nobody is told");
        let stop = CancellationToken::new();
        let ended = tokio::time::timeout(PATIENT, run_over(store, tcp, stop)).await;
        let error = ended.expect("it went on serving").unwrap_err();
        assert!(
            error.to_string().contains("start the server again"),
            "{error}"
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_server_that_is_told_to_stop_ends_well() {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(run_over(Disk::formatted().store(), tcp, stop.clone()));
        tokio::task::yield_now().await;
        assert!(!running.is_finished());
        stop.cancel();
        let ended = tokio::time::timeout(PATIENT, running).await;
        ended.expect("it went on serving").unwrap().unwrap();
    }

    #[test]
    fn only_the_servers_user_can_read_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("goldleaf").join("server");
        let rights = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        drop(open_store(&folder).unwrap());
        let store = folder.join("store.redb");
        assert_eq!(rights(&folder), 0o700);
        assert_eq!(rights(&folder.join("store.redb.lock")), 0o600);
        assert_eq!(rights(&store), 0o600);
        std::fs::set_permissions(&store, PermissionsExt::from_mode(0o644)).unwrap();
        drop(open_store(&folder).unwrap());
        assert_eq!(
            rights(&store),
            0o600,
            "a wider one is narrowed when it is opened"
        );
    }
}
