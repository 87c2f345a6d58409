//! A control plane for tests: a real store in a folder, agents in memory.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod images;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use goldleaf_server::agents::fake::{FakeAgents, FakeNode};
use goldleaf_server::domain::{
    ActivateOptions, GivenUp, ImageAsked, ImageFormat, ImageSource, NodeAsked, Phase, PoolAsked,
    PoolDevice, Ref, Snapshot, Volume, VolumeAsked, WhenFull,
};
use goldleaf_server::reconcile;
use goldleaf_server::service::{
    Clone as CloneThin, CreateGroup, CreateImage, CreatePool, CreateSnapshot, CreateThin, Listing,
    Placement, Service, ServiceError, Target,
};
use goldleaf_server::store::Store;
use goldleaf_server::store::embedded::EmbeddedStore;
use goldleaf_types::{BlockSize, Bytes, Digest, Labels, NodeId, ThinOwner, VolumeSize};
use tonic::Status;

pub const NODE: NodeId = NodeId::from_bytes([1; 16]);
pub const OTHER_NODE: NodeId = NodeId::from_bytes([2; 16]);
pub const GOLDEN: &str = "/import/golden.raw";
pub const GIB: u64 = 1 << 30;

pub fn digest(n: u8) -> Digest {
    Digest::from_bytes([n; 32])
}

pub struct Rig {
    dir: tempfile::TempDir,
    path: PathBuf,
    pub agents: FakeAgents,
    service: Option<Arc<Service>>,
}

impl Rig {
    /// A control plane that nobody has registered with.
    pub fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let agents = FakeAgents::new();
        let mut rig = Self {
            path: dir.path().join("store.redb"),
            dir,
            agents,
            service: None,
        };
        rig.start();
        rig
    }

    /// A control plane with one node, whose import folder holds an image.
    pub async fn new() -> Self {
        let rig = Self::empty();
        rig.register(NODE, "n1").await;
        rig
    }

    /// One node with a pool "fast" and an image "golden".
    pub async fn furnished() -> Self {
        let rig = Self::new().await;
        rig.service()
            .create_pool(pool("fast", "/dev/sda"))
            .await
            .unwrap();
        rig.service().create_image(image("golden")).await.unwrap();
        rig.settle().await;
        rig
    }

    pub async fn register(&self, id: NodeId, name: &str) {
        self.agents.node(id).offer(GOLDEN, digest(7), Bytes(GIB));
        self.service()
            .register(registration(id, name))
            .await
            .unwrap();
    }

    pub fn service(&self) -> &Arc<Service> {
        self.service.as_ref().unwrap()
    }

    pub fn node(&self) -> FakeNode {
        self.agents.node(NODE)
    }

    pub fn store_path(&self) -> PathBuf {
        self.path.clone()
    }

    fn start(&mut self) {
        let store = EmbeddedStore::open(&self.store_path()).unwrap();
        let agents = Arc::new(self.agents.called_by(store.incarnation()));
        self.service = Some(Arc::new(Service::new(Arc::new(store), agents)));
    }

    /// The server is gone and another begins over the same store.
    pub fn restart(&mut self) {
        let service = self.service.take().unwrap();
        assert_eq!(
            Arc::strong_count(&service),
            1,
            "somebody still has the old server"
        );
        drop(service);
        self.start();
    }

    /// As [`Self::restart`], over another store that is copied from there, with a new incarnation as
    /// a restore gives it.
    pub fn restart_from(&mut self, copy: &std::path::Path) {
        drop(self.service.take().unwrap());
        self.path = self.dir.path().join("restored.redb");
        EmbeddedStore::restore(copy, &self.path).unwrap();
        self.start();
    }

    /// Finishes all that is unfinished, as the loop would; answers what would not be finished.
    pub async fn settle(&self) -> Vec<String> {
        let mut left = Vec::new();
        for _ in 0..8 {
            left.clear();
            let _ = self.service().pending.take();
            let all = reconcile::unfinished(self.service()).await.unwrap();
            for id in all {
                if let Err(error) = self.service().finish(id).await {
                    left.push(format!("{id}: {error}"));
                }
            }
            if left.is_empty()
                && reconcile::unfinished(self.service())
                    .await
                    .unwrap()
                    .is_empty()
            {
                break;
            }
        }
        left
    }

    /// What must hold whenever nothing is going on: the node has what the records say, no more.
    pub async fn check(&self, when: &str) {
        let records = &self.service().records;
        assert!(
            reconcile::unfinished(self.service())
                .await
                .unwrap()
                .is_empty(),
            "{when}: unfinished"
        );
        let volumes = records.all::<Volume>().await.unwrap();
        let snapshots = records.all::<Snapshot>().await.unwrap();
        let given_up = records.all::<GivenUp>().await.unwrap();
        let mut owners: Vec<ThinOwner> = volumes
            .iter()
            .map(|v| v.id.into())
            .chain(snapshots.iter().map(|s| s.id.into()))
            .collect();
        owners.sort_unstable();
        let mut thins = self.node().thins();
        // To be deleted when its node is taken back.
        thins.retain(|owner| !given_up.iter().any(|g| g.owner == *owner));
        thins.sort_unstable();
        assert_eq!(thins, owners, "{when}: thins leaked or lost");
        assert!(
            volumes.iter().all(|v| v.phase == Phase::Ready),
            "{when}: {volumes:?}"
        );
        let pools = records
            .all::<goldleaf_server::domain::Pool>()
            .await
            .unwrap();
        let pools: Vec<_> = pools.iter().map(|p| p.id).collect();
        assert_eq!(self.node().pools(), pools, "{when}: pools leaked or lost");
    }
}

/// Waits for something that happens by itself.
pub async fn eventually<F, W>(what: &str, mut holds: F)
where
    F: FnMut() -> W,
    W: Future<Output = bool>,
{
    for _ in 0..3000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within half a minute: {what}");
}

pub fn registration(id: NodeId, name: &str) -> NodeAsked {
    NodeAsked {
        id,
        name: name.parse().unwrap(),
        labels: Labels::default(),
        address: "http://127.0.0.1:4701".into(),
        agent_version: "0.1.0".into(),
        kernel_release: "6.1".into(),
    }
}

pub fn labels<const N: usize>(all: [(&str, &str); N]) -> Labels {
    let map: BTreeMap<_, _> = all
        .iter()
        .map(|(k, v)| ((*k).into(), (*v).into()))
        .collect();
    Labels::try_from(map).unwrap()
}

pub fn pool(name: &str, path: &str) -> CreatePool {
    CreatePool {
        name: name.parse().unwrap(),
        node: Some(Ref::Id(NODE)),
        asked: PoolAsked {
            devices: vec![PoolDevice {
                path: path.into(),
                create_file_bytes: 0,
            }],
            metadata_device: None,
            block_size: BlockSize::DEFAULT,
            when_full: WhenFull::Error,
        },
        labels: Labels::default(),
        deletion_protection: false,
    }
}

pub fn image(name: &str) -> CreateImage {
    CreateImage {
        name: name.parse().unwrap(),
        asked: ImageAsked {
            source: ImageSource::File(GOLDEN.into()),
            format: ImageFormat::Raw,
            source_sha256: String::new(),
            digest: None,
        },
        source: None,
        node: Some(Ref::Id(NODE)),
        labels: Labels::default(),
        deletion_protection: false,
        wait: false,
    }
}

/// A volume of one GiB over an image; an empty name is no image.
pub fn thin(name: &str, image: &str) -> CreateThin {
    CreateThin {
        whole_image: false,
        name: name.parse().unwrap(),
        size: VolumeSize::new(GIB).unwrap(),
        image: (!image.is_empty()).then(|| image.parse().unwrap()),
        asked: VolumeAsked {
            size_bytes: GIB,
            image: image.into(),
            source: String::new(),
        },
        placement: Placement::default(),
        labels: Labels::default(),
        deletion_protection: false,
        activate: None,
    }
}

pub fn active(mut wanted: CreateThin) -> CreateThin {
    wanted.activate = Some(ActivateOptions::default());
    wanted
}

pub fn clone_of(name: &str, source: &str, size: u64) -> CloneThin {
    CloneThin {
        name: name.parse().unwrap(),
        source: source.parse().unwrap(),
        size: (size != 0).then(|| VolumeSize::new(size).unwrap()),
        asked: VolumeAsked {
            size_bytes: size,
            image: String::new(),
            source: source.into(),
        },
        placement: Placement::default(),
        labels: Labels::default(),
        deletion_protection: false,
        activate: None,
    }
}

pub fn snapshot_of(name: &str, source: &str) -> CreateSnapshot {
    CreateSnapshot {
        name: name.parse().unwrap(),
        source: source.parse().unwrap(),
        asked: source.into(),
        labels: Labels::default(),
        deletion_protection: false,
    }
}

pub fn group_of<const N: usize>(name: &str, volumes: [&str; N]) -> CreateGroup {
    CreateGroup {
        name: name.parse().unwrap(),
        volumes: volumes.iter().map(|name| named(name)).collect(),
        asked: volumes.map(str::to_owned).into(),
        labels: Labels::default(),
        deadline_ms: 5000,
    }
}

pub fn named<Id>(name: &str) -> Ref<Id> {
    Ref::Name(name.parse().unwrap())
}

pub fn target<Id>(name: &str) -> Target<Ref<Id>> {
    Target {
        what: named(name),
        revision: 0,
    }
}

pub fn size(bytes: u64) -> VolumeSize {
    VolumeSize::new(bytes).unwrap()
}

pub fn everything() -> Listing {
    Listing {
        size: 1000,
        token: String::new(),
        labels: Labels::default(),
    }
}

/// Code and reason of an error, as a caller sees them, and the field it is about.
pub fn verdict(error: ServiceError) -> (tonic::Code, String, Option<String>) {
    use tonic_types::StatusExt;
    let status = Status::from(error);
    let details = status.get_error_details();
    let reason = details
        .error_info()
        .map(|info| info.reason.clone())
        .unwrap_or_default();
    let field = details
        .bad_request()
        .map(|bad| bad.field_violations[0].field.clone());
    (status.code(), reason, field)
}
