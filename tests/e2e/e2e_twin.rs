//! Faults under either copy of a pool's catalogue: the pool goes on, and nothing answered is lost.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use goldleaf_proto::v1 as api;
use goldleaf_tests::host::{Host, blank};
use goldleaf_tests::support::Disk;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 128 * MIB;
/// Where both copies lie on their devices of this size (docs/disk-format.md).
const AT: u64 = MIB;
const LEN: u64 = 16 * MIB;
/// What agents say in these tests.
const EXPECTED: &[&str] = &[
    "a copy of the catalogue",
    "copy of the catalogue; made anew",
    "a catalogue did not close cleanly",
    "did not open",
    "tried again later",
];

/// Where a disk's copy of the catalogue is.
const COPY: Range<u64> = AT..AT + LEN;

fn copy(disk: &Disk) -> Vec<u8> {
    let mut copy = vec![0; usize::try_from(LEN).unwrap()];
    let device = File::open(disk.path()).unwrap();
    device.read_exact_at(&mut copy, AT).unwrap();
    copy
}

fn put_copy(disk: &Disk, content: &[u8]) {
    let device = File::options().write(true).open(disk.path()).unwrap();
    device.write_all_at(content, AT).unwrap();
    device.sync_all().unwrap();
}

fn rot(disk: &Disk) {
    put_copy(disk, &vec![0xa5; usize::try_from(LEN).unwrap()]);
}

fn rig(test: &str) -> (Host, [Disk; 2]) {
    let host = Host::start(test);
    let disks = [Disk::new(test, 0, SIZE), Disk::new(test, 1, SIZE)];
    let device = |disk: &Disk| api::PoolDevice {
        path: disk.path(),
        create_file_bytes: 0,
    };
    host.create_pool(api::CreatePoolRequest {
        name: "p".into(),
        devices: disks.iter().map(device).collect(),
        ..Default::default()
    })
    .unwrap();
    (host, disks)
}

/// What the pool says of its copies.
fn degraded(host: &Host) -> Option<String> {
    let pool = host.get_pool("p").unwrap();
    let conditions = pool.conditions.into_iter();
    let mut degraded = conditions.filter(|c| !c.status && c.reason == "CatalogueDegraded");
    degraded.next().map(|c| c.message)
}

fn again(host: &mut Host) {
    host.start_agent(&[]);
    host.await_node();
}

fn names(host: &Host) -> Vec<String> {
    let mut names: Vec<_> = host.thins().unwrap().into_iter().map(|t| t.name).collect();
    names.sort();
    names
}

/// The law of the twin: every change that was answered is there, whichever copy fails, and a copy
/// that failed is whole again after the next opening.
#[test]
fn law_catalogue_twin_under_writes_that_fail() {
    for victim in [0, 1] {
        let (mut host, disks) = rig(&format!("writes{victim}"));
        host.create_thin(blank("a", MIB)).unwrap();
        assert_eq!(degraded(&host), None);
        disks[victim].fail(COPY);
        host.create_thin(blank("b", MIB)).unwrap();
        host.create_thin(blank("c", MIB)).unwrap();
        host.delete_volume("a").unwrap();
        let said = degraded(&host).expect("the failed copy is shown");
        assert!(said.contains(&disks[victim].path()), "{said}");
        let found = host.findings().unwrap();
        let codes: Vec<_> = found.iter().map(|f| f.code.as_str()).collect();
        assert!(codes.contains(&"CatalogueDegraded"), "{found:?}");
        host.agent.as_mut().unwrap().kill();
        disks[victim].heal();
        again(&mut host);
        assert_eq!(degraded(&host), None, "it was made anew");
        assert_eq!(names(&host), ["b", "c"]);
        // It really was: now it is the only one.
        host.agent.as_mut().unwrap().kill();
        rot(&disks[1 - victim]);
        again(&mut host);
        assert_eq!(names(&host), ["b", "c"]);
        host.create_thin(blank("d", MIB)).unwrap();
        host.end_after(EXPECTED);
        disks.into_iter().for_each(Disk::remove);
    }
}

#[test]
fn law_catalogue_twin_under_a_copy_that_cannot_be_read() {
    for victim in [0, 1] {
        let (mut host, disks) = rig(&format!("reads{victim}"));
        host.create_thin(blank("a", MIB)).unwrap();
        host.agent.as_mut().unwrap().kill();
        disks[victim].fail(COPY);
        again(&mut host);
        assert!(degraded(&host).is_some(), "{}", host.logs());
        assert_eq!(names(&host), ["a"]);
        host.create_thin(blank("b", MIB)).unwrap();
        // As long as it fails each opening finds everything in the other.
        host.agent.as_mut().unwrap().kill();
        again(&mut host);
        assert_eq!(names(&host), ["a", "b"]);
        host.agent.as_mut().unwrap().kill();
        disks[victim].heal();
        again(&mut host);
        assert_eq!((degraded(&host), names(&host).len()), (None, 2));
        host.end_after(EXPECTED);
        disks.into_iter().for_each(Disk::remove);
    }
}

#[test]
fn a_pool_of_two_damaged_copies_does_not_open_says_why_and_is_left_as_it_is() {
    let (mut host, disks) = rig("both");
    let volume = host
        .create_thin(api::CreateThinRequest {
            activate: Some(api::ActivateOptions::default()),
            ..blank("a", MIB)
        })
        .unwrap();
    let path = volume.activation.unwrap().device_path;
    let device = File::options().read(true).write(true).open(path).unwrap();
    device.write_all_at(&[7; 4096], 0).unwrap();
    device.sync_all().unwrap();
    host.agent.as_mut().unwrap().kill();
    let kept = [copy(&disks[0]), copy(&disks[1])];
    disks.iter().for_each(rot);
    again(&mut host);
    let said = host.soon("the pool says why", || {
        let pool = host.get_pool("p").ok()?;
        let failed = pool.phase() == api::Phase::Failed;
        failed.then(|| format!("{:?}", pool.conditions))
    });
    assert!(said.contains("no copy of the catalogue"), "{said}");
    let refused = host.create_thin(blank("b", MIB)).unwrap_err();
    assert_eq!(
        refused.code(),
        tonic::Code::FailedPrecondition,
        "{refused:?}"
    );
    // What was active goes on, and nothing was written over what may yet be saved.
    let mut content = [0; 4096];
    device.read_exact_at(&mut content, 0).unwrap();
    assert_eq!(content, [7; 4096]);
    drop(device);
    assert!(
        disks
            .iter()
            .all(|disk| copy(disk).iter().all(|b| *b == 0xa5))
    );
    host.agent.as_mut().unwrap().kill();
    disks
        .iter()
        .zip(&kept)
        .for_each(|(disk, kept)| put_copy(disk, kept));
    again(&mut host);
    assert_eq!(names(&host), ["a"]);
    host.end_after(EXPECTED);
    disks.into_iter().for_each(Disk::remove);
}
