//! Death at every failpoint, with and without a reboot: real catalogue, real images, fake kernel.
//!
//! One life of a pool with volumes, snapshots and a clone is run once undisturbed. Then it is run
//! again for each point; the agent dies there, comes back, sweeps, and is asked the same once more.
//! Every answer must be the one of the undisturbed run, and nothing may be lost or left over.

use std::panic::{AssertUnwindSafe, catch_unwind};

use goldleaf_types::{Bytes, Incarnation, SnapshotId, ThinOwner, VolumeSize};

use super::rig::{HOST, POOL, Rig, group_of_two, quiet, snap, snapshot, volume};
use super::*;
use crate::catalogue::NoSpace;
use crate::failpoint::Point;
use crate::failpoint::test::{Died, die_at};
use crate::images::Format;

const STORE: Incarnation = Incarnation::from_bytes([2; 16]);
const OTHER_STORE: Incarnation = Incarnation::from_bytes([3; 16]);

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

/// What can be read of a closed pool is, and it is as closed as before. Again, it may be open so.
fn rescue(rig: &Rig) -> Result<String, String> {
    let view = rig.agent.open_for_rescue(POOL, Some(STORE));
    let view = view.map_err(|e| e.to_string())?;
    let PoolState::Open { doubt, .. } = view.state else {
        return Err(format!("{:?}", view.state));
    };
    let closed = rig.agent.close_pool(POOL, Some(STORE));
    closed.map_err(|e| e.to_string())?;
    Ok(format!("rescued: {}, then closed", doubt.is_some()))
}

/// A closed pool's metadata is damaged, and repaired. Again, an opening has gone on with that.
fn repair(rig: &Rig) -> Result<String, String> {
    if rig.agent.pools.open(POOL).is_none() {
        let mut world = rig.kernel.world();
        world.pools.get_mut(&POOL).unwrap().damage.broken = true;
    }
    let wanted = RepairPool {
        id: POOL,
        apply: true,
        accept_loss: false,
    };
    let done = rig.agent.repair_pool(Some(STORE), wanted, &|_, _, _| ());
    done.map_err(|e| e.to_string())?;
    let open = rig.agent.pools.open(POOL).ok_or("the pool is not open")?;
    Ok(format!("repair {:?}", open.record().repair))
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
        .export_thin(Some(STORE), (snapshot(32), None), &target, &meter);
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
        ("open it for what can be read", Box::new(rescue)),
        ("have its metadata damaged and repaired", Box::new(repair)),
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
