//! Laws of dm-thin that Goldleaf has to live with, broken behind its back on a real kernel.
//!
//! Volumes are made through the public API alone; device-mapper is used only to disturb and to look.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt;

use goldleaf_dm::{
    Commit, Control, DmName, Flush, LinearSegment, LockFs, PoolMessage, PoolStatus, Table, Target,
    WorkingPool, block,
};
use goldleaf_proto::v1 as api;
use goldleaf_tests::command::output;
use goldleaf_tests::host::{Host, blank, over};
use goldleaf_tests::support::{Node, Pattern};
use goldleaf_types::SECTOR;
use tonic::{Code, Status};

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 64 << 10;
const GOLDEN: Pattern = Pattern(1);

fn rig(test: &str) -> Host {
    let host = Host::start(test);
    host.pool("p", 256 * MIB);
    host.image("golden", &GOLDEN.bytes(0, 1 << 20));
    host
}

fn node(volume: &api::Volume) -> Node {
    let activation = volume.activation.as_ref().expect("an activation");
    let file = std::fs::File::open(&activation.device_path).expect("the device");
    Node::of(block::number(&file).expect("its number"))
}

/// The name of one of Goldleaf's devices: after the id of a volume, or of a pool with its part.
fn name(core: &str) -> DmName {
    DmName::new(&format!("goldleaf-{core}")).unwrap()
}

fn status(control: &Control, pool: &DmName) -> WorkingPool {
    let status = control.status(pool, Commit::No).unwrap();
    match status.targets[0].text.parse().unwrap() {
        PoolStatus::Working(working) => working,
        PoolStatus::Fail => panic!("{pool} has failed"),
    }
}

fn assert_reads(device: &Node, at: u64, expected: &[u8]) {
    let same = device.read(at, expected.len()) == expected;
    assert!(same, "at {at}, {device:?} reads something else");
}

/// A pool's metadata device, of which every write fails until it is healed.
struct BrokenMetadata {
    control: Control,
    name: DmName,
    before: LinearSegment,
}

impl BrokenMetadata {
    fn under(pool: &str) -> Self {
        let control = Control::open().unwrap();
        let name = name(&format!("{pool}-tmeta"));
        let targets = control.table(&name).unwrap().parsed().unwrap();
        let [Target::Linear(before)] = targets.as_slice() else {
            panic!("{targets:?}")
        };
        let before = *before;
        let (len, dev, from) = (before.len.0, before.dev, before.offset.0);
        let table = format!("0 {len} flakey {dev} {from} 0 3600 1 error_writes");
        output("dmsetup", &["load", name.as_str(), "--table", &table]).unwrap();
        let broken = Self {
            control,
            name,
            before,
        };
        broken.switch();
        broken
    }

    fn switch(&self) {
        let suspended = self.control.suspend(&self.name, Flush::No, LockFs::No);
        suspended
            .and_then(|()| self.control.resume(&self.name))
            .unwrap();
    }

    fn heal(&self) {
        let table = Table::linear([self.before]);
        self.control.load(&self.name, &table).unwrap();
        self.switch();
    }

    /// Checks the metadata of the closed pool where it lies in the pool's file, and lets the kernel
    /// write it again.
    fn check(&self, file: &str) {
        let (offset, len) = (self.before.offset.0 * SECTOR, self.before.len.0 * SECTOR);
        let (offset, len) = (offset.to_string(), len.to_string());
        let stretch = ["-f", "--show", "-o", &offset, "--sizelimit", &len, file];
        let metadata = output("losetup", &stretch).unwrap();
        let metadata = metadata.trim();
        let checked = output("thin_check", &["--clear-needs-check-flag", metadata]);
        output("losetup", &["-d", metadata]).unwrap();
        checked.unwrap();
    }
}

/// The kernel answers a message with success although it could not write its metadata down. Nobody
/// may be told that the thin is there, or gone: after a power cut it would not be.
#[test]
fn what_the_kernel_could_not_write_down_is_not_acknowledged() {
    type Change = fn(&Host) -> Result<String, Status>;
    let changes: [(&str, Change); 3] = [
        ("create", |h| {
            h.create_thin(blank("new", MIB)).map(|v| v.name)
        }),
        ("snapshot", |h| {
            h.snapshot("new", "volume/idle").map(|s| s.name)
        }),
        ("delete", |h| {
            h.delete_volume("idle").map(|()| "gone".into())
        }),
    ];
    for (what, change) in changes {
        let host = rig(&format!("unwritten-{what}"));
        let kept = host.create_thin(over("kept", 2 * MIB, "golden")).unwrap();
        host.create_thin(blank("idle", MIB)).unwrap();
        node(&kept).write(0, &Pattern(2).bytes(0, 65_536));
        let pool = host.get_pool("p").unwrap().id;
        let broken = BrokenMetadata::under(&pool);

        let refused = change(&host).expect_err(what);
        assert_eq!(
            refused.code(),
            Code::FailedPrecondition,
            "{what}: {refused:?}"
        );
        let working = status(&broken.control, &name(&format!("{pool}-pool")));
        assert!(working.needs_check, "{what}: {working:?}");
        assert_reads(&node(&kept), 0, &Pattern(2).bytes(0, 65_536));

        // Healed and checked as the remedy says, the same call does what it was asked for.
        broken.heal();
        host.deactivate("kept").unwrap();
        host.close_pool(api::ClosePoolRequest {
            pool: "p".into(),
            ..Default::default()
        })
        .unwrap();
        broken.check(host.dir().join("agent/pools/p.pool").to_str().unwrap());
        host.open_pool(api::OpenPoolRequest {
            pool: "p".into(),
            ..Default::default()
        })
        .unwrap();
        let done = host.soon(what, || change(&host).ok());
        assert!(["new", "gone"].contains(&done.as_str()), "{what}: {done}");
        let kept = host.activate("kept").unwrap();
        assert_reads(&node(&kept), 0, &Pattern(2).bytes(0, 65_536));
        assert_reads(&node(&kept), MIB - 512, &GOLDEN.bytes(MIB - 512, 512));
        host.end_after(&["needs a check", "is not open"]);
    }
}

#[test]
fn a_volume_that_was_left_suspended_runs_again_when_the_agent_is_back() {
    let mut host = rig("suspended");
    let volume = host.create_thin(over("v", 2 * MIB, "golden")).unwrap();
    let device = node(&volume);
    device.write(0, &Pattern(2).bytes(0, 65_536));
    let control = Control::open().unwrap();
    let name = name(&volume.id);
    control.suspend(&name, Flush::Yes, LockFs::Yes).unwrap();
    assert!(control.find(&name).unwrap().unwrap().suspended);

    host.agent.as_mut().unwrap().kill();
    host.start_agent(&[]);
    host.await_node();
    assert!(!control.find(&name).unwrap().unwrap().suspended);
    assert_reads(&device, 0, &Pattern(2).bytes(0, 65_536));
    assert_reads(&device, BLOCK, &GOLDEN.bytes(BLOCK, 4096));
    device.write(BLOCK, &Pattern(3).bytes(0, 4096));
    assert_reads(&device, BLOCK, &Pattern(3).bytes(0, 4096));
    host.end_after(&["was found suspended; resumed"]);
}

/// Neither the pool nor anything of its records is needed for that: whoever uses the volume hangs.
#[test]
fn what_was_left_suspended_runs_again_although_its_pool_does_not_open() {
    let mut host = rig("stuck");
    let volume = host.create_thin(over("v", 2 * MIB, "golden")).unwrap();
    let device = node(&volume);
    device.write(0, &Pattern(2).bytes(0, 65_536));
    let control = Control::open().unwrap();
    let pool = host.get_pool("p").unwrap();
    let (thin, of_pool) = (name(&volume.id), name(&format!("{}-pool", pool.id)));
    // As a crash in the middle of a change of the pool's table leaves it: the new one is loaded.
    let table = output("dmsetup", &["table", of_pool.as_str()]).unwrap();
    output(
        "dmsetup",
        &["load", of_pool.as_str(), "--table", table.trim()],
    )
    .unwrap();
    control.suspend(&thin, Flush::Yes, LockFs::Yes).unwrap();
    control.suspend(&of_pool, Flush::No, LockFs::No).unwrap();
    host.agent.as_mut().unwrap().kill();
    // A second device that says that it is the first one of the pool.
    let mut label = vec![0; 1 << 20];
    let file = std::fs::File::open(&pool.devices[0]).unwrap();
    file.read_exact_at(&mut label, 0).unwrap();
    let copy = host.dir().join("agent/pools/copy.pool");
    std::fs::write(&copy, label).unwrap();
    let sparse = std::fs::File::options().write(true).open(&copy).unwrap();
    sparse.set_len(256 * MIB).unwrap();
    host.start_agent(&[]);
    host.await_node();
    assert!(host.complaint("PoolOpen").is_some());
    for name in [&of_pool, &thin] {
        let found = control.find(name).unwrap().unwrap();
        assert!(!found.suspended && !found.has_inactive_table, "{found:?}");
    }
    assert_reads(&device, 0, &Pattern(2).bytes(0, 65_536));
    device.write(BLOCK, &Pattern(3).bytes(0, 4096));
    host.agent.as_mut().unwrap().kill();
    std::fs::remove_file(&copy).unwrap();
    host.start_agent(&[]);
    host.await_node();
    assert_reads(&device, BLOCK, &Pattern(3).bytes(0, 4096));
    assert!(host.complaint("PoolOpen").is_none());
    host.end_after(&["was found suspended; resumed", "did not open"]);
}

/// While one is held no tool can take another, and all that changes meanwhile takes metadata twice.
#[test]
fn a_metadata_snapshot_that_was_left_held_is_released_when_the_agent_is_back() {
    let mut host = rig("held");
    host.create_thin(over("v", 2 * MIB, "golden")).unwrap();
    let pool = name(&format!("{}-pool", host.get_pool("p").unwrap().id));
    let control = Control::open().unwrap();
    control
        .pool_message(&pool, &PoolMessage::ReserveMetadataSnap)
        .unwrap();
    assert!(status(&control, &pool).held_root.is_some());

    host.agent.as_mut().unwrap().kill();
    host.start_agent(&[]);
    host.await_node();
    assert_eq!(status(&control, &pool).held_root, None);
    host.create_thin(blank("w", MIB)).unwrap();
    host.end_after(&["a metadata snapshot was left held; released"]);
}

/// Each thin's number and, by the pool's device and that number, the devices over it.
fn live_thins(control: &Control) -> BTreeMap<(String, u32), Vec<String>> {
    let mut live: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for device in control.list().unwrap() {
        let Some(name) = DmName::new(&device.name) else {
            continue;
        };
        let targets = control.table(&name).unwrap().parsed().unwrap_or_default();
        for target in targets {
            if let Target::Thin(thin) = target {
                let at = (thin.pool.to_string(), thin.id.get());
                live.entry(at).or_default().push(device.name.clone());
            }
        }
    }
    live
}

fn assert_one_owner_and_one_device_each(host: &Host, control: &Control) {
    let thins = host.thins().unwrap();
    let ids: BTreeSet<u32> = thins.iter().map(|t| t.thin_id).collect();
    assert_eq!(ids.len(), thins.len(), "two of them share one: {thins:?}");
    let live = live_thins(control);
    let active: BTreeMap<u32, String> = thins
        .iter()
        .filter(|t| t.activation.as_ref().is_some_and(|a| a.active))
        .map(|t| (t.thin_id, format!("goldleaf-{}", t.owner)))
        .collect();
    assert_eq!(live.len(), active.len(), "{live:?}");
    for ((_, id), devices) in live {
        assert_eq!(devices, [active[&id].as_str()], "thin {id}");
    }
}

#[test]
fn no_two_owners_share_a_thin_and_no_thin_has_two_devices() {
    let mut host = rig("owners");
    let control = Control::open().unwrap();
    let fill = |host: &Host, round: u64| {
        for n in 0..6 {
            let (volume, copy) = (format!("v{round}-{n}"), format!("c{round}-{n}"));
            host.create_thin(over(&volume, 2 * MIB, "golden")).unwrap();
            let snapshot = format!("s{round}-{n}");
            host.snapshot(&snapshot, &format!("volume/{volume}"))
                .unwrap();
            host.active_clone(&copy, &format!("snapshot/{snapshot}"), 0)
                .unwrap();
        }
    };
    fill(&host, 0);
    assert_one_owner_and_one_device_each(&host, &control);
    // Numbers become free, the one who hands them out forgets all it had in memory.
    for n in (0..6).step_by(2) {
        let volume = format!("v0-{n}");
        host.deactivate(&volume).unwrap();
        host.delete_volume(&volume).unwrap();
        host.delete_snapshot(&format!("s0-{}", n + 1)).unwrap();
    }
    host.agent.as_mut().unwrap().kill();
    host.start_agent(&[]);
    host.await_node();
    fill(&host, 1);
    assert_one_owner_and_one_device_each(&host, &control);
    assert_eq!(host.thins().unwrap().len(), 6 * 3 * 2 - 6);
    host.end();
}

#[test]
fn a_discarded_block_shows_the_image_again_and_takes_no_room() {
    let host = rig("discard");
    let volume = host.create_thin(over("v", 2 * MIB, "golden")).unwrap();
    let device = node(&volume);
    let path = device.path().to_str().unwrap();
    device.write(0, &Pattern(2).bytes(0, 3 * 65_536));
    assert_eq!(host.volume("v").unwrap().owned_bytes, Some(3 * BLOCK));
    output("blkdiscard", &["-o", "65536", "-l", "65536", path]).unwrap();
    assert_reads(&device, BLOCK, &GOLDEN.bytes(BLOCK, 65_536));
    // The neighbours stay.
    let own = |at: u64| Pattern(2).bytes(at, 65_536);
    assert_reads(&device, 0, &own(0));
    assert_reads(&device, 2 * BLOCK, &own(2 * BLOCK));
    assert_eq!(host.volume("v").unwrap().owned_bytes, Some(2 * BLOCK));
    host.end();
}

/// On a machine that runs Goldleaf besides, a test that fails takes away what is its own, all of it,
/// and nothing else.
#[test]
fn a_test_that_fails_clears_away_its_own_devices_and_no_others() {
    let control = Control::open().unwrap();
    let live = |name: &DmName| control.find(name).unwrap().is_some();
    let host = rig("cleared");
    let volume = host.create_thin(over("v", 2 * MIB, "golden")).unwrap();
    let pool = host.get_pool("p").unwrap().id;
    let mut devices = vec![name(&volume.id)];
    devices.extend(["pool", "tmeta", "tdata"].map(|part| name(&format!("{pool}-{part}"))));
    let image = volume.image_digest.trim_start_matches("sha256:");
    devices.push(name(&format!("image-{image}")));
    drop(Host::idle("another"));
    assert!(devices.iter().all(live), "{devices:?}");
    drop(host);
    assert!(!devices.iter().any(live), "{devices:?}");
}
