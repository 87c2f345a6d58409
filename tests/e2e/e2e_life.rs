//! Volumes through their life, through the public API alone, on a real kernel's dm-thin: clones,
//! what each keeps for itself, and snapshots of several at one instant.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use goldleaf_dm::{Control, block};
use goldleaf_proto::v1 as api;
use goldleaf_tests::command::output;
use goldleaf_tests::host::{Host, over};
use goldleaf_tests::support::{Node, Pattern};
use tonic::{Code, Status};
use tonic_types::StatusExt;

const MIB: u64 = 1 << 20;
const GOLDEN: Pattern = Pattern(1);
const IMAGE: u64 = 5 * MIB + 3 * 512;

fn rig(test: &str) -> Host {
    let host = Host::start(test);
    host.pool("p", 1024 * MIB);
    let content = GOLDEN.bytes(0, usize::try_from(IMAGE).unwrap());
    host.image("golden", &content);
    host
}

fn device(volume: &api::Volume) -> Node {
    let activation = volume.activation.as_ref().expect("an activation");
    assert!(activation.active, "{volume:?}");
    let file = std::fs::File::open(&activation.device_path).expect("the device");
    Node::of(block::number(&file).expect("its number"))
}

/// What a volume over the golden image reads where nobody wrote: the image, then zeroes.
fn untouched(offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = GOLDEN.bytes(offset, len);
    let image = IMAGE.saturating_sub(offset);
    let image = usize::try_from(image).unwrap().min(len);
    bytes[image..].fill(0);
    bytes
}

fn field(status: &Status) -> String {
    let bad = status.get_details_bad_request();
    let violations = bad.map(|b| b.field_violations).unwrap_or_default();
    violations
        .into_iter()
        .next()
        .map(|v| v.field)
        .unwrap_or_default()
}

fn clone(name: &str, source: &str, size_bytes: u64) -> api::CloneRequest {
    api::CloneRequest {
        name: name.into(),
        source: source.into(),
        size_bytes,
        activate: Some(api::ActivateOptions::default()),
        ..Default::default()
    }
}

/// No device of a volume's is stopped.
fn nothing_is_suspended() {
    let control = Control::open().unwrap();
    for listed in control.list().unwrap() {
        let name = goldleaf_dm::DmName::new(&listed.name).unwrap();
        if let Some(device) = control.find(&name).unwrap() {
            assert!(!device.suspended, "{device:?}");
        }
    }
}

#[test]
fn a_clone_of_a_volume_a_snapshot_or_an_image_is_one_call_also_larger_and_again_the_same() {
    let host = rig("clones");
    let source = device(&host.create_thin(over("v", 8 * MIB, "golden")).unwrap());
    source.write(MIB, &Pattern(2).bytes(0, 65_536));
    host.snapshot("s", "volume/v").unwrap();
    let digest = host.get_image("golden").unwrap().digest;
    let sources = [
        ("volume/v", 8 * MIB, true),
        ("snapshot/s", 8 * MIB, true),
        ("image/golden", IMAGE, false),
        (digest.as_str(), IMAGE, false),
    ];
    for (n, (from, whole, written)) in sources.into_iter().enumerate() {
        let (same, larger) = (format!("same{n}"), format!("larger{n}"));
        let made = host.clone_volume(clone(&same, from, 0)).unwrap();
        assert_eq!(made.size_bytes, whole, "{from}");
        let grown = host
            .clone_volume(clone(&larger, from, 12 * MIB + 512))
            .unwrap();
        for volume in [&made, &grown] {
            let node = device(volume);
            assert_eq!(node.size().0, volume.size_bytes);
            node.assert_reads(|at, len| {
                let mut bytes = untouched(at, len);
                for (byte, place) in bytes.iter_mut().zip(at..) {
                    if written && (MIB..MIB + 65_536).contains(&place) {
                        *byte = Pattern(2).bytes(place - MIB, 1)[0];
                    }
                }
                bytes
            });
        }
        let again = host
            .clone_volume(clone(&larger, from, 12 * MIB + 512))
            .unwrap();
        assert_eq!(again.id, grown.id);
        let other = host.clone_volume(clone(&larger, from, 14 * MIB));
        let other = other.unwrap_err();
        assert_eq!(
            (other.code(), field(&other)),
            (Code::AlreadyExists, "size_bytes".into())
        );
        let other = host.clone_volume(clone(&larger, "volume/same0", 12 * MIB + 512));
        let other = other.unwrap_err();
        assert_eq!(
            (other.code(), field(&other)),
            (Code::AlreadyExists, "source".into())
        );
        let small = host.clone_volume(clone("small", from, whole - 512));
        let small = small.unwrap_err();
        assert_eq!(
            (small.code(), field(&small)),
            (Code::OutOfRange, "size_bytes".into())
        );
    }
    nothing_is_suspended();
    host.end();
}

#[test]
fn a_clone_of_an_image_goes_where_it_is_told_and_one_of_a_volume_only_to_its_pool() {
    let host = rig("places");
    let other = host.pool("q", 256 * MIB);
    let wanted = api::CloneRequest {
        pool: "q".into(),
        ..clone("c", "image/golden", 0)
    };
    assert_eq!(host.clone_volume(wanted.clone()).unwrap().pool, other.id);
    let elsewhere = api::CloneRequest {
        pool: "p".into(),
        ..wanted
    };
    let refused = host.clone_volume(elsewhere).unwrap_err();
    assert_eq!(
        (refused.code(), field(&refused)),
        (Code::AlreadyExists, "pool".into())
    );
    let refused = host.clone_volume(api::CloneRequest {
        pool: "p".into(),
        ..clone("d", "volume/c", 0)
    });
    let refused = refused.unwrap_err();
    assert_eq!(
        (refused.code(), field(&refused)),
        (Code::InvalidArgument, "pool".into())
    );
    let refused = host.snapshot("s", "image/golden").unwrap_err();
    assert_eq!(
        (refused.code(), field(&refused)),
        (Code::InvalidArgument, "source".into())
    );
    host.end();
}

/// Owned, exclusive, shared, in blocks of 64 KiB.
fn blocks(usage: api::ThinUsage) -> [u64; 3] {
    let all = [usage.owned_bytes, usage.exclusive_bytes, usage.shared_bytes];
    assert!(all.iter().all(|bytes| bytes % 65_536 == 0), "{usage:?}");
    all.map(|bytes| bytes / 65_536)
}

#[test]
fn what_a_volume_owns_and_shares_is_counted_to_the_block_also_while_inactive() {
    let host = rig("usage");
    let node = device(&host.create_thin(over("v", 8 * MIB, "golden")).unwrap());
    node.write(0, &Pattern(2).bytes(0, 4 * 65_536));
    let usage = host.volume_usage("v").unwrap();
    assert_eq!(usage.provisioned_bytes, 8 * MIB);
    assert_eq!(blocks(usage), [4, 4, 0]);
    host.snapshot("s", "volume/v").unwrap();
    assert_eq!(blocks(host.volume_usage("v").unwrap()), [4, 0, 4]);
    // One block apart again, and one that only the volume has.
    node.write(65_536, &Pattern(3).bytes(0, 512));
    node.write(6 * MIB, &Pattern(3).bytes(0, 512));
    assert_eq!(blocks(host.volume_usage("v").unwrap()), [5, 2, 3]);
    assert_eq!(blocks(host.snapshot_usage("s").unwrap()), [4, 1, 3]);
    host.deactivate("v").unwrap();
    assert_eq!(blocks(host.volume_usage("v").unwrap()), [5, 2, 3]);
    host.delete_snapshot("s").unwrap();
    assert_eq!(blocks(host.volume_usage("v").unwrap()), [5, 5, 0]);
    // The metadata snapshot was released each time: the pool's status names none.
    let id = host.get_pool("p").unwrap().id;
    let status = output("dmsetup", &["status", &format!("goldleaf-{id}-pool")]).unwrap();
    let words: Vec<_> = status.split_whitespace().collect();
    assert_eq!(words[6], "-", "a held root in {status}");
    assert_eq!(
        host.volume_usage("none").unwrap_err().code(),
        Code::NotFound
    );
    host.end();
}

/// Writers go on: in each group's snapshots no later volume is ahead of an earlier one, and the
/// last is at most one write behind the first.
#[test]
fn a_groups_snapshots_are_of_one_instant_while_writers_write() {
    let host = rig("group");
    let names = ["a", "b", "c", "d"];
    let nodes = names.map(|name| {
        let wanted = over(name, 8 * MIB, "golden");
        device(&host.create_thin(wanted).unwrap())
    });
    let stop = std::sync::atomic::AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut counter = 0_u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                counter += 1;
                let mut sector = vec![0; 512];
                sector[..8].copy_from_slice(&counter.to_le_bytes());
                for node in &nodes {
                    node.write(MIB, &sector);
                }
            }
            counter
        });
        for n in 0..20 {
            let group = host.group(&format!("g{n}"), &names).unwrap();
            assert_eq!(group.members.len(), 4);
        }
        nothing_is_suspended();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        writer.join().unwrap()
    });
    let mut seen = Vec::new();
    for n in 0..20 {
        let counters = names.map(|name| {
            let source = format!("snapshot/g{n}.{name}");
            let clone = format!("x{n}{name}");
            let node = device(&host.active_clone(&clone, &source, 0).unwrap());
            let sector = node.read(MIB, 512);
            host.deactivate(&clone).unwrap();
            host.delete_volume(&clone).unwrap();
            u64::from_le_bytes(sector[..8].try_into().unwrap())
        });
        let counters = match n {
            // Before its first write the image shows.
            _ if counters.contains(&untouched_counter()) => continue,
            _ => counters,
        };
        assert!(counters.is_sorted_by(|a, b| a >= b), "g{n}: {counters:?}");
        assert!(counters[0] - counters[3] <= 1, "g{n}: {counters:?}");
        seen.push(counters[0]);
    }
    assert!(seen.is_sorted() && seen.last() > seen.first(), "{seen:?}");
    println!("{written} rounds of writes, groups at {seen:?}");
    host.end();
}

fn untouched_counter() -> u64 {
    u64::from_le_bytes(untouched(MIB, 8).try_into().unwrap())
}

#[test]
fn a_group_is_got_listed_and_deleted_and_refused_whole() {
    let host = rig("groups");
    for name in ["a", "b"] {
        host.create_thin(over(name, 8 * MIB, "golden")).unwrap();
    }
    let group = host.group("g", &["a", "b"]).unwrap();
    assert_eq!(host.group("g", &["a", "b"]).unwrap(), group);
    let conflict = host.group("g", &["a"]).unwrap_err();
    assert_eq!(
        (conflict.code(), field(&conflict)),
        (Code::AlreadyExists, "volumes".into())
    );
    let missing = host.group("h", &["a", "none"]).unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    let listed = host.list_groups(api::ListRequest::default()).unwrap();
    assert_eq!(listed.groups, std::slice::from_ref(&group));
    let snapshots = || {
        let all = host.list_snapshots(api::ListRequest::default()).unwrap();
        all.snapshots
    };
    assert_eq!(snapshots().len(), 2);
    let late = host.create_group(api::CreateGroupSnapshotRequest {
        name: "late".into(),
        volumes: vec!["a".into(), "b".into()],
        deadline_ms: 60_001,
        ..Default::default()
    });
    assert_eq!(field(&late.unwrap_err()), "deadline_ms");
    host.delete_group("g").unwrap();
    host.delete_group("g").unwrap();
    assert_eq!(snapshots(), []);
    let thins: Vec<_> = host.thins().unwrap();
    assert_eq!(thins.len(), 2, "{thins:?}");
    host.end();
}

/// A volume whose write hangs below cannot be suspended in time: the other one runs again at the
/// deadline all the same, and nothing of the group is left.
#[test]
fn a_group_that_takes_too_long_lets_everything_run_and_leaves_nothing() {
    let host = rig("deadline");
    let [slow, other] = ["slow", "other"]
        .map(|name| device(&host.create_thin(over(name, 8 * MIB, "golden")).unwrap()));
    slow.write(0, &[1; 512]);
    let id = host.get_pool("p").unwrap().id;
    let below = format!("goldleaf-{id}-tdata");
    let dmsetup = |arguments: &[&str]| output("dmsetup", arguments).unwrap();
    dmsetup(&["suspend", "--noflush", "--nolockfs", &below]);
    std::thread::scope(|scope| {
        scope.spawn(|| slow.write(0, &[2; 512]));
        let call = scope.spawn(|| {
            host.create_group(api::CreateGroupSnapshotRequest {
                name: "g".into(),
                volumes: vec!["slow".into(), "other".into()],
                deadline_ms: 500,
                ..Default::default()
            })
        });
        host.pause(std::time::Duration::from_secs(3));
        assert!(!call.is_finished(), "what hangs below was suspended");
        let control = Control::open().unwrap();
        let volume = host.volume("other").unwrap();
        let name = format!("goldleaf-{}", volume.id);
        let name = goldleaf_dm::DmName::new(&name).unwrap();
        let suspended = control.find(&name).unwrap().unwrap().suspended;
        dmsetup(&["resume", &below]);
        assert!(!suspended, "it waits for the other one past the deadline");
        let refused = call.join().unwrap().unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    });
    nothing_is_suspended();
    assert_eq!(host.thins().unwrap().len(), 2);
    let all = host.list_groups(api::ListRequest::default()).unwrap();
    assert_eq!(all.groups, []);
    assert_eq!(slow.read(0, 512), [2; 512]);
    other.write(0, &[3; 512]);
    host.group("g", &["slow", "other"]).unwrap();
    host.end();
}
