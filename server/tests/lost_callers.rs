//! A caller that hangs up while its wish is being committed leaves nothing unfinished behind.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use goldleaf_proto::v1 as api;
use goldleaf_proto::v1::image_service_server::ImageService;
use goldleaf_proto::v1::pool_service_server::PoolService;
use goldleaf_proto::v1::volume_service_server::VolumeService;
use goldleaf_server::agents::fake::FakeAgents;
use goldleaf_server::grpc::Api;
use goldleaf_server::reconcile::{self, Waits};
use goldleaf_server::service::Service;
use goldleaf_server::store::embedded::EmbeddedStore;
use goldleaf_server::store::{
    Backup, Changes, Entries, Entry, Range, Revision, Store, StoreError, Txn,
};
use goldleaf_types::{Bytes, Incarnation};
use support::{GIB, GOLDEN, NODE, digest, eventually, registration};
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Request;

/// A store whose commits wait at a gate. As with the real one, what is queued is committed though
/// nobody waits for it any more.
struct Gated {
    inner: Arc<EmbeddedStore>,
    open: watch::Sender<bool>,
    arrived: Notify,
    commits: watch::Sender<u64>,
}

#[async_trait]
impl Store for Gated {
    fn incarnation(&self) -> Incarnation {
        self.inner.incarnation()
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.inner.get(key).await
    }

    async fn range(&self, range: Range) -> Result<Entries, StoreError> {
        self.inner.range(range).await
    }

    async fn txn(&self, txn: Txn) -> Result<Revision, StoreError> {
        let (inner, mut open) = (Arc::clone(&self.inner), self.open.subscribe());
        let commits = self.commits.clone();
        self.arrived.notify_one();
        let commit = tokio::spawn(async move {
            open.wait_for(|open| *open).await.unwrap();
            let done = inner.txn(txn).await;
            commits.send_modify(|count| *count += 1);
            done
        });
        commit.await.unwrap()
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Changes, StoreError> {
        self.inner.watch(prefix, after).await
    }

    async fn backup(&self) -> Result<Backup, StoreError> {
        self.inner.backup().await
    }
}

struct Rig {
    store: Arc<Gated>,
    service: Arc<Service>,
    api: Api,
    _stop: DropGuard,
    _dir: tempfile::TempDir,
}

async fn rig() -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Gated {
        inner: Arc::new(EmbeddedStore::open(&dir.path().join("store.redb")).unwrap()),
        open: watch::Sender::new(true),
        arrived: Notify::new(),
        commits: watch::Sender::new(0),
    });
    let agents = FakeAgents::new();
    agents.node(NODE).offer(GOLDEN, digest(7), Bytes(GIB));
    let service = Arc::new(Service::new(
        Arc::clone(&store) as Arc<dyn Store>,
        Arc::new(agents),
    ));
    service.register(registration(NODE, "n1")).await.unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(reconcile::run(
        Arc::clone(&service),
        Waits::default(),
        stop.clone(),
    ));
    Rig {
        api: Api::new(Arc::clone(&service), stop.clone()),
        store,
        service,
        _stop: stop.drop_guard(),
        _dir: dir,
    }
}

impl Rig {
    /// Calls, hangs up while the call's first commit is under way, and lets that come through only
    /// when the loop has had its look.
    async fn hang_up<T>(&self, call: impl FnOnce(Api) -> T)
    where
        T: Future<Output: Send> + Send + 'static,
    {
        self.store.open.send_replace(false);
        let _ = tokio::time::timeout(Duration::ZERO, self.store.arrived.notified()).await; // an older one's
        let call = tokio::spawn(call(<Api as Clone>::clone(&self.api)));
        let arrived = tokio::time::timeout(Duration::from_secs(30), self.store.arrived.notified());
        arrived.await.expect("the call was refused before its wish");
        call.abort();
        assert!(call.await.err().unwrap().is_cancelled());
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut commits = self.store.commits.subscribe();
        self.store.open.send_replace(true);
        commits.changed().await.unwrap();
        eventually("nothing is unfinished", || async {
            reconcile::unfinished(&self.service)
                .await
                .unwrap()
                .is_empty()
        })
        .await;
    }

    async fn volume(&self, name: &str) -> Option<api::Volume> {
        let wanted = Request::new(api::GetRequest {
            target: name.into(),
            ..Default::default()
        });
        let volume = VolumeService::get(&self.api, wanted).await.ok()?;
        Some(volume.into_inner())
    }
}

fn pool() -> api::CreatePoolRequest {
    api::CreatePoolRequest {
        name: "fast".into(),
        devices: vec![api::PoolDevice {
            path: "/dev/sda".into(),
            create_file_bytes: 0,
        }],
        ..Default::default()
    }
}

fn image() -> api::CreateImageRequest {
    api::CreateImageRequest {
        name: "golden".into(),
        source: Some(api::create_image_request::Source::File(GOLDEN.into())),
        wait: true,
        ..Default::default()
    }
}

fn vm1() -> api::CreateThinRequest {
    api::CreateThinRequest {
        name: "vm1".into(),
        size_bytes: GIB,
        image: "golden".into(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lost_caller_wished_for_is_finished_without_a_restart() {
    let rig = rig().await;
    rig.hang_up(|api| async move {
        PoolService::create(&api, Request::new(pool()))
            .await
            .map(drop)
    })
    .await;
    rig.hang_up(|api| async move {
        ImageService::create(&api, Request::new(image()))
            .await
            .map(drop)
    })
    .await;
    rig.hang_up(|api| async move { api.create_thin(Request::new(vm1())).await.map(drop) })
        .await;
    let made = rig.volume("vm1").await.unwrap();
    assert_eq!((made.phase(), made.size_bytes), (api::Phase::Ready, GIB));
    let larger = api::ResizeRequest {
        volume: "vm1".into(),
        size_bytes: 2 * GIB,
        ..Default::default()
    };
    rig.hang_up(|api| async move { api.resize(Request::new(larger)).await.map(drop) })
        .await;
    assert_eq!(rig.volume("vm1").await.unwrap().size_bytes, 2 * GIB);
    let snapshot = api::CreateSnapshotRequest {
        name: "s1".into(),
        source: "volume/vm1".into(),
        ..Default::default()
    };
    rig.hang_up(|api| async move { api.create_snapshot(Request::new(snapshot)).await.map(drop) })
        .await;
    let gone = || {
        Request::new(api::DeleteRequest {
            target: "vm1".into(),
            ..Default::default()
        })
    };
    rig.hang_up(|api| async move { VolumeService::delete(&api, gone()).await.map(drop) })
        .await;
    assert!(rig.volume("vm1").await.is_none());
}
