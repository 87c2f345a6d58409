//! Death at every failpoint, with and without a reboot: real catalogue, real images, fake kernel.
//!
//! One life of a pool with volumes, snapshots and a clone is run once undisturbed. Then it is run
//! again for each point; the agent dies there, comes back, sweeps, and is asked the same once more.
//! Every answer must be the one of the undisturbed run, and nothing may be lost or left over.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use goldleaf_types::{
    BlockSize, Bytes, Digest, Incarnation, Labels, PoolId, SnapshotId, ThinOwner, VolumeId,
    VolumeSize,
};

use super::*;
use crate::catalogue::{Holder, NoSpace, Phase};
use crate::failpoint::Point;
use crate::failpoint::test::{Died, die_at};
use crate::images::{Format, ImportRequest, Source, SourceRules};
use crate::kernel::fake::FakeKernel;

const POOL: PoolId = PoolId::from_bytes([1; 16]);
const STORE: Incarnation = Incarnation::from_bytes([2; 16]);
const OTHER_STORE: Incarnation = Incarnation::from_bytes([3; 16]);

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
    fn work(&self) {
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
    fn check(&self, when: &str) {
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
        dir.join("pools"),
        dir.join("dev"),
    )
}

/// What a caller sees of a thin, and its number, which a repeated call must not change.
fn seen(view: ThinView) -> String {
    let r = &view.record;
    format!(
        "{} {} {:?} {} thin {} image {} parent {:?} active {}",
        r.owner,
        r.name,
        r.phase,
        r.size.bytes(),
        r.thin,
        r.image.is_some(),
        r.parent,
        view.live.is_some(),
    )
}

type Step = (&'static str, Box<dyn Fn(&Rig) -> Result<String, String>>);

fn thin_step(
    what: &'static str,
    call: impl Fn(&Rig) -> Result<ThinView, ThinError> + 'static,
) -> Step {
    (
        what,
        Box::new(move |rig| call(rig).map(seen).map_err(|e| e.to_string())),
    )
}

/// So many blocks of metadata are in use now, and the agent looks.
fn metadata_step(what: &'static str, used: u64) -> Step {
    let call = move |rig: &Rig| {
        if let Some(pool) = rig.kernel.world().pools.get_mut(&POOL) {
            pool.metadata_used = used;
        }
        let pool = rig.agent.pools.open(POOL).ok_or("not open")?;
        rig.agent.mind_space(&pool);
        let loaded = rig.kernel.world().pools[&POOL].read_only;
        Ok(format!("braked {} loaded {loaded}", pool.is_braked()))
    };
    (what, Box::new(call))
}

fn delete_step(what: &'static str, owner: ThinOwner) -> Step {
    let call = move |rig: &Rig| {
        let done = rig.agent.delete_thin(Some(STORE), owner, None, 1);
        done.map(|()| "gone".into()).map_err(|e| e.to_string())
    };
    (what, Box::new(call))
}

/// Deletes a volume that maps much: nobody waits, and the work is done on this thread.
fn delete_large_step(what: &'static str, owner: ThinOwner) -> Step {
    let call = move |rig: &Rig| {
        let pool = rig.agent.pools.open(POOL).ok_or("the pool is not open")?;
        let gone = rig.agent.wish_deleted(&pool, owner, 1);
        if !gone.map_err(|e| e.to_string())? {
            rig.work();
        }
        Ok(format!("there: {}", pool.catalogue.find(owner).is_some()))
    };
    (what, Box::new(call))
}

fn pool_step(
    what: &'static str,
    call: impl Fn(&Rig) -> Result<PoolView, PoolError> + 'static,
) -> Step {
    let seen = |view: PoolView| match view.state {
        PoolState::Closed => "closed".to_owned(),
        PoolState::Opening { at, .. } => format!("{at:?}"),
        PoolState::Unopenable(why) => why,
        PoolState::Open {
            thins,
            doubt,
            missing,
            quarantined,
            status,
            ..
        } => {
            let total = space_rules::working(&status.unwrap()).map(|s| s.total_data_blocks);
            let name = view.name;
            format!("{name} open {thins} {total:?} {doubt:?} {missing:?} {quarantined:?}")
        }
    };
    (
        what,
        Box::new(move |rig| call(rig).map(seen).map_err(|e| e.to_string())),
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

fn rename(rig: &Rig, name: &str) -> Result<PoolView, PoolError> {
    let name = name.parse().unwrap();
    rig.agent.rename_pool(POOL, Some(STORE), &name)
}

/// A thin without an owner turns up, is quarantined and deleted. Again, it is gone already.
fn mend_ownerless(rig: &Rig) -> Result<String, String> {
    let strange = goldleaf_types::ThinId::new(4711).unwrap();
    let pool = rig.agent.pools.open(POOL).ok_or("the pool is not open")?;
    if pool.record().quarantined.is_empty() {
        let mut world = rig.kernel.world();
        world.pools.get_mut(&POOL).unwrap().thins.insert(strange, 3);
    }
    for code in ["UnknownThin", "QuarantinedThin"] {
        let key = format!("{code}/{POOL}/{strange}");
        let mended = rig.agent.mend(Some(STORE), &[key], true).remove(0).outcome;
        if let super::doctor::Outcome::Failed(what, why) = mended {
            return Err(format!("{what}: {why}"));
        }
    }
    Ok(format!("left {:?}", pool.record().quarantined))
}

/// Writes a snapshot to a file, over one that a call before it made.
fn export(rig: &Rig) -> Result<String, String> {
    let target = crate::images::ExportTarget {
        file: "s.raw".into(),
        format: Format::Raw,
        replace: true,
    };
    let meter = crate::images::Meter::new(|_| {});
    let made = rig
        .agent
        .export_thin(Some(STORE), snapshot(32), &target, &meter);
    let made = made.map_err(|e| e.to_string())?;
    let entries = std::fs::read_dir(rig.dir.path().join("export/.goldleaf-parts"));
    assert_eq!(entries.unwrap().count(), 0, "a part is left");
    assert_eq!(std::fs::metadata(&made.path).unwrap().len(), made.size.0);
    Ok(format!("{} {}", made.digest, made.file_size))
}

/// The pool is full and the kernel has lost its patience once; then there is room again.
fn wait_on(rig: &Rig) -> Result<String, String> {
    let mode = |rig: &Rig, mode| {
        let mut world = rig.kernel.world();
        if let Some(pool) = world.pools.get_mut(&POOL) {
            pool.mode = Some(mode);
        }
        world.wait_limit = Some(std::time::Duration::ZERO);
    };
    mode(rig, goldleaf_dm::PoolMode::OutOfDataSpace);
    let pool = rig.agent.pools.open(POOL).ok_or("not open")?;
    rig.agent.mind_space(&pool);
    if let Some(waiting) = pool.waiting() {
        std::thread::park_timeout(
            waiting
                .due
                .saturating_duration_since(std::time::Instant::now()),
        );
    }
    rig.agent.mind_space(&pool);
    mode(rig, goldleaf_dm::PoolMode::ReadWrite);
    rig.agent.mind_space(&pool);
    let queues = rig.kernel.world().pools[&POOL].queues;
    Ok(format!("waits {queues}"))
}

/// A whole life, every operation in it.
fn life() -> Vec<Step> {
    let create = |what, n, image, active| {
        thin_step(what, move |rig| {
            rig.agent
                .create_thin(Some(STORE), rig.thin(volume(n), image, active))
        })
    };
    let snapshot_of = |what, owner, source, active| {
        thin_step(what, move |rig| {
            rig.agent
                .create_snapshot(Some(STORE), snap(owner, source, active))
        })
    };
    let deactivate = |what, n| thin_step(what, move |rig| rig.agent.deactivate(volume(n), 1));
    vec![
        pool_step("create the pool", |rig| {
            rig.agent.create_pool(Some(STORE), rig.pool_of_two())
        }),
        create("create a blank volume and activate it", 11, false, true),
        create("create a volume over the image", 12, true, false),
        thin_step("activate it", |rig| rig.agent.activate(volume(12), HOST, 1)),
        snapshot_of("snapshot it", snapshot(21), volume(12), false),
        snapshot_of("snapshot the snapshot", snapshot(22), snapshot(21), false),
        snapshot_of(
            "clone the snapshot, larger, active",
            volume(13),
            snapshot(21),
            true,
        ),
        thin_step("create a large volume that holds much", |rig| {
            let request = CreateThin {
                size: VolumeSize::new(1 << 30).unwrap(),
                ..rig.thin(volume(14), false, true)
            };
            let made = rig.agent.create_thin(Some(STORE), request)?;
            let mut world = rig.kernel.world();
            let thins = &mut world.pools.get_mut(&POOL).unwrap().thins;
            thins.insert(made.record.thin, 5000);
            Ok(made)
        }),
        deactivate("deactivate the large one", 14),
        delete_large_step("delete the large one", volume(14)),
        (
            "see what the snapshot holds",
            Box::new(|rig| {
                let found = rig.agent.blocks(WantedBlocks {
                    snapshot: SnapshotId::from_bytes([21; 16]),
                    base: None,
                    from: 0,
                });
                found.map(|f| format!("{f:?}")).map_err(|e| e.to_string())
            }),
        ),
        (
            "freeze two at one instant",
            Box::new(|rig| {
                let views = rig.agent.create_group(Some(STORE), group_of_two());
                let views = views.map_err(|e| e.to_string())?;
                // Numbers differ: a group that was cut short is taken back and begun anew.
                let numberless = |mut view: ThinView| {
                    view.record.thin = goldleaf_types::ThinId::new(0).unwrap();
                    seen(view)
                };
                let views: Vec<_> = views.into_iter().map(numberless).collect();
                Ok(views.join("; "))
            }),
        ),
        (
            "make an image of a snapshot",
            Box::new(|rig| {
                let meter = crate::images::Meter::new(|_| {});
                let made = rig
                    .agent
                    .import_thin(Some(STORE), snapshot(31), None, &meter);
                let made = made.map_err(|e| e.to_string())?;
                Ok(format!("{} {} of {}", made.digest, made.size, made.source))
            }),
        ),
        ("export a snapshot", Box::new(export)),
        delete_step("delete one of the group", snapshot(31)),
        delete_step("delete the other", snapshot(32)),
        thin_step("grow the volume", |rig| {
            rig.agent.resize(
                Some(STORE),
                volume(12),
                VolumeSize::new(8 << 20).unwrap(),
                1,
            )
        }),
        metadata_step("use up the metadata", 8192 - 200),
        pool_step("extend it by two devices and a longer one", |rig| {
            let file = |name: &str, mib: u64| DeviceRequest {
                path: rig.dir.path().join("pools").join(name),
                create: Some(Bytes(mib << 20)),
            };
            let request = ExtendPool {
                id: POOL,
                devices: vec![file("third.pool", 64)],
                metadata_devices: vec![file("metadata.pool", 16)],
                spares: vec![file("spare.pool", 32)],
                grow: vec![GrowDevice {
                    path: rig.dir.path().join("pools/second.pool"),
                    size: Some(Bytes(80 << 20)),
                }],
                metadata: Bytes(0),
            };
            rig.agent.extend_pool(Some(STORE), &request)
        }),
        metadata_step("have metadata again", 100),
        pool_step("let its writers wait", |rig| {
            let policy = SetPolicy {
                id: POOL,
                no_space: Some(NoSpace::Queue),
                wait_seconds: Some(1),
                overcommit_percent: Some(1000),
            };
            rig.agent.set_policy(Some(STORE), policy)
        }),
        ("be full, and have the kernel wait on", Box::new(wait_on)),
        thin_step("mark the volume", |rig| {
            let marks = "{\"v\":\"1\"}".to_owned();
            rig.agent.mark_thin(Some(STORE), volume(12), marks, 1)
        }),
        deactivate("deactivate the volume", 12),
        deactivate("deactivate the blank one", 11),
        deactivate("deactivate the clone", 13),
        thin_step("make the volume independent of its image", |rig| {
            rig.agent.decouple(Some(STORE), volume(12), 1, Bytes(0))?;
            rig.work();
            rig.agent.thin(volume(12))
        }),
        pool_step("adopt the pool for another store", |rig| {
            rig.agent.adopt_pool(OTHER_STORE, POOL, Some(STORE))
        }),
        pool_step("adopt it for the former one again", |rig| {
            rig.agent.adopt_pool(STORE, POOL, Some(OTHER_STORE))
        }),
        delete_step("delete the first snapshot", snapshot(21)),
        delete_step("delete the volume", volume(12)),
        delete_step("delete the second snapshot", snapshot(22)),
        delete_step("delete the clone", volume(13)),
        delete_step("delete the blank volume", volume(11)),
        ("delete a thin that nobody owns", Box::new(mend_ownerless)),
        pool_step("give the pool another name", |rig| rename(rig, "slow")),
        pool_step("give it its name back", |rig| rename(rig, "fast")),
        pool_step("close the pool", |rig| {
            rig.agent.close_pool(POOL, Some(STORE))
        }),
        pool_step("open the pool", |rig| {
            rig.agent.open_pool(POOL, Some(STORE))
        }),
        (
            "delete the pool",
            Box::new(|rig| {
                let done = rig.agent.delete_pool(POOL, Some(STORE), Which::Empty);
                done.map(|()| "gone".into()).map_err(|e| e.to_string())
            }),
        ),
    ]
}

/// Runs a life; dies once at `point`, if given, and comes back. The answers, and whether it died.
fn run(point: Option<Point>, reboot: bool) -> (Vec<Result<String, String>>, bool) {
    let mut rig = Rig::new();
    let mut answers = Vec::new();
    let mut died = false;
    die_at(point);
    for (what, step) in life() {
        let answer = match catch_unwind(AssertUnwindSafe(|| step(&rig))) {
            Ok(answer) => answer,
            Err(panic) => {
                assert!(panic.is::<Died>(), "{what} panicked by itself");
                died = true;
                if reboot {
                    rig.kernel.reboot();
                }
                rig.restart();
                rig.work();
                rig.check(&format!("{point:?} in {what:?}, back again"));
                step(&rig)
            }
        };
        answers.push(answer);
        rig.check(&format!("{point:?}, after {what:?}"));
    }
    die_at(None);
    let world = rig.kernel.world();
    assert!(
        world.live.is_empty() && world.images.is_empty(),
        "{point:?}: left {world:?}"
    );
    (answers, died)
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

fn every_point(reboot: bool) {
    quiet();
    let (undisturbed, _) = run(None, false);
    assert!(undisturbed.iter().all(Result::is_ok), "{undisturbed:#?}");
    for point in Point::ALL {
        let (answers, died) = run(Some(*point), reboot);
        assert!(died, "{} was never reached", point.name());
        assert_eq!(answers, undisturbed, "after dying at {}", point.name());
    }
}

#[test]
fn a_killed_agent_loses_and_leaks_nothing_wherever_it_died() {
    every_point(false);
}

#[test]
fn a_rebooted_host_loses_and_leaks_nothing_wherever_its_agent_died() {
    every_point(true);
}
