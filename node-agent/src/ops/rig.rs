//! What the tests of `ops` stand on: a host with real catalogue and real images over a fake kernel.

use std::collections::BTreeSet;
use std::sync::Arc;

use goldleaf_types::{
    BlockSize, Bytes, Digest, Labels, PoolId, SnapshotId, ThinOwner, VolumeId, VolumeSize,
};

use super::*;
use crate::catalogue::{Holder, NoSpace, Phase};
use crate::failpoint::test::Died;
use crate::images::{Format, ImportRequest, Source, SourceRules};
use crate::kernel::fake::FakeKernel;

pub(super) const POOL: PoolId = PoolId::from_bytes([1; 16]);

pub(super) fn volume(n: u8) -> ThinOwner {
    VolumeId::from_bytes([n; 16]).into()
}

pub(super) fn snapshot(n: u8) -> ThinOwner {
    SnapshotId::from_bytes([n; 16]).into()
}

/// A host: what is on its disks, what its kernel has, and the agent that runs on it.
pub(super) struct Rig {
    pub(super) dir: tempfile::TempDir,
    pub(super) kernel: Arc<FakeKernel>,
    pub(super) agent: Arc<Agent>,
    pub(super) digest: Digest,
    pub(super) host: Host,
}

impl Rig {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let kernel = Arc::new(FakeKernel::default());
        let host = host();
        let agent = agent(dir.path(), &kernel, host.clone());
        let content = dir.path().join("import/golden.raw");
        std::fs::write(&content, vec![0x5a; 1 << 20]).unwrap();
        let request = ImportRequest {
            source: Source::File(content),
            format: Format::Raw,
            source_sha256: None,
            expect: None,
        };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let digest = runtime
            .block_on(agent.images.import(request, |_| {}))
            .unwrap()
            .digest;
        Self {
            dir,
            kernel,
            agent: Arc::new(agent),
            digest,
            host,
        }
    }

    /// The agent is gone and another begins, as at the end of a crash.
    pub(super) fn restart(&mut self) {
        // The old one holds locks on the devices until it is dropped.
        let placeholder = Rig::idle(&self.kernel);
        drop(std::mem::replace(&mut self.agent, placeholder));
        self.agent = Arc::new(agent(self.dir.path(), &self.kernel, self.host.clone()));
        self.agent.start();
        self.agent.sweep();
    }

    /// What the agent's threads for long work do.
    pub(super) fn work(&self) {
        Lane::ALL
            .iter()
            .for_each(|lane| self.agent.work_once(*lane));
    }

    fn idle(kernel: &Arc<FakeKernel>) -> Arc<Agent> {
        let nowhere = tempfile::tempdir().unwrap();
        std::fs::create_dir(nowhere.path().join("import")).unwrap();
        Arc::new(agent(nowhere.path(), kernel, host()))
    }

    pub(super) fn pool(&self) -> CreatePool {
        CreatePool {
            id: POOL,
            name: "fast".parse().unwrap(),
            devices: vec![DeviceRequest {
                path: self.dir.path().join("pools/fast.pool"),
                create: Some(Bytes(256 << 20)),
            }],
            metadata: None,
            block: BlockSize::DEFAULT,
            no_space: NoSpace::Error,
        }
    }

    /// The same on two devices.
    pub(super) fn pool_of_two(&self) -> CreatePool {
        let mut pool = self.pool();
        pool.devices.push(DeviceRequest {
            path: self.dir.path().join("pools/second.pool"),
            create: Some(Bytes(64 << 20)),
        });
        pool
    }

    pub(super) fn thin(&self, owner: ThinOwner, image: bool, active: bool) -> CreateThin {
        CreateThin {
            owner,
            name: format!("v-{}", &owner.to_string()[4..8]).parse().unwrap(),
            pool: POOL,
            size: VolumeSize::new(2 << 20).unwrap(),
            image: image.then_some(self.digest),
            labels: Labels::default(),
            parameters: "{}".into(),
            epoch: 1,
            activate: active.then_some(HOST),
        }
    }

    /// What must hold whenever the agent is at rest.
    pub(super) fn check(&self, when: &str) {
        let Some(pool) = self.agent.pools.open(POOL) else {
            return;
        };
        let rows = pool.catalogue.all();
        let world = self.kernel.world();
        let known: BTreeSet<_> = world.pools[&POOL].thins.keys().copied().collect();
        let owned: BTreeSet<_> = rows.iter().map(|r| r.thin).collect();
        assert_eq!(known, owned, "{when}: thins leaked or lost");
        assert!(
            rows.iter().all(|r| r.phase == Phase::Ready),
            "{when}: unfinished rows"
        );
        let live: BTreeSet<_> = world.live.keys().copied().collect();
        let wanted: BTreeSet<_> = rows
            .iter()
            .filter(|r| r.holder.is_some())
            .map(|r| r.owner)
            .collect();
        assert_eq!(live, wanted, "{when}: devices too many or too few");
        for row in rows.iter().filter(|r| r.holder.is_some()) {
            let link = pool_link(&self.agent, row);
            assert!(link.is_symlink(), "{when}: no link {}", link.display());
            let origin = world.live[&row.owner].origin;
            assert_eq!(
                origin.is_some(),
                row.image.is_some(),
                "{when}: wrong origin"
            );
        }
    }
}

fn pool_link(agent: &Agent, row: &crate::catalogue::ThinRecord) -> std::path::PathBuf {
    agent.links.path(&"fast".parse().unwrap(), &row.name)
}

pub(super) const HOST: Activation = Activation {
    holder: Holder::Host,
    read_only: false,
};

fn host() -> Host {
    Host {
        owner: [9; 16],
        node: goldleaf_types::NodeId::from_bytes([9; 16]),
        name: "n1".parse().unwrap(),
        kernel_release: "test".into(),
    }
}

fn agent(dir: &std::path::Path, kernel: &Arc<FakeKernel>, host: Host) -> Agent {
    std::fs::create_dir_all(dir.join("import")).unwrap();
    let rules = SourceRules {
        roots: vec![dir.join("import")],
    };
    let images = ImageFolder::open(dir.join("images"), Bytes::GIB, rules).unwrap();
    let exports = crate::images::ExportFolder::open(dir.join("export")).unwrap();
    let kernel: Arc<dyn Kernel> = Arc::clone(kernel) as Arc<dyn Kernel>;
    Agent::new(
        kernel,
        (Arc::new(images), exports),
        host,
        (
            dir.join("pools"),
            RepairFolder::new(dir.join("repair")),
            RecordsFile::new(dir.join("kept-records.json")),
        ),
        dir.join("dev"),
    )
}

/// Snapshots of the blank volume and of the one over the image.
pub(super) fn group_of_two() -> CreateGroup {
    CreateGroup {
        group: goldleaf_types::GroupId::from_bytes([3; 16]),
        pool: POOL,
        members: vec![
            snap(snapshot(31), volume(11), false),
            snap(snapshot(32), volume(12), false),
        ],
        limit: std::time::Duration::from_secs(5),
    }
}

pub(super) fn snap(owner: ThinOwner, source: ThinOwner, active: bool) -> CreateSnapshot {
    CreateSnapshot {
        owner,
        name: format!("s-{}", &owner.to_string()[5..9]).parse().unwrap(),
        source,
        size: active.then(|| VolumeSize::new(4 << 20).unwrap()),
        labels: Labels::default(),
        parameters: "{}".into(),
        epoch: 1,
        activate: active.then_some(HOST),
    }
}

/// Dying is a panic here; its message would only hide the others.
pub(super) fn quiet() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !info.payload().is::<Died>() {
                loud(info);
            }
        }));
    });
}
