//! Faults under either copy of a pool's catalogue: the pool goes on, and nothing answered is lost.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use std::fs::File;
use std::os::unix::fs::FileExt;

use goldleaf_proto::v1 as api;
use goldleaf_tests::command::output;
use goldleaf_tests::host::{Host, blank};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 128 * MIB;
/// Where both copies lie on their devices of this size (docs/disk-format.md).
const AT: u64 = MIB;
const LEN: u64 = 16 * MIB;
/// Where the disk begins on what is below: the labels are to be seen through the disk alone.
const SHIFT: u64 = 8 * MIB;
/// What agents say in these tests.
const EXPECTED: &[&str] = &[
    "a copy of the catalogue",
    "copy of the catalogue; made anew",
    "a catalogue did not close cleanly",
    "did not open",
    "tried again later",
];

/// A disk of its own under a linear device, whose middle can be made to fail.
struct Disk {
    name: String,
    below: String,
}

impl Disk {
    fn new(test: &str, index: usize) -> Self {
        let name = format!("gltest-{test}-{}-{index}", std::process::id());
        let path = format!("/dev/shm/{name}.disk");
        let file = File::create(&path).unwrap();
        file.set_len(SHIFT + SIZE).unwrap();
        let below = output("losetup", &["-f", "--show", &path]).unwrap();
        // The loop device keeps it.
        std::fs::remove_file(&path).unwrap();
        let below = below.trim().to_owned();
        let table = format!("0 {} linear {below} {}", SIZE / 512, SHIFT / 512);
        output("dmsetup", &["create", &name, "--table", &table]).unwrap();
        Self { name, below }
    }

    fn path(&self) -> String {
        let minor = ["info", "-c", "--noheadings", "-o", "minor", &self.name];
        format!("/dev/dm-{}", output("dmsetup", &minor).unwrap().trim())
    }

    /// Puts `error` under the copy, or `linear` as it was. Flushes of the rest still pass, as they
    /// would not with dm-flakey.
    fn under_the_copy(&self, target: &str) {
        let (at, len, end) = (AT / 512, LEN / 512, (AT + LEN) / 512);
        let (below, shift) = (&self.below, SHIFT / 512);
        let middle = match target {
            "error" => "error".to_owned(),
            _ => format!("linear {below} {}", at + shift),
        };
        let rest = SIZE / 512 - end;
        let table = format!(
            "0 {at} linear {below} {shift}\n{at} {len} {middle}\n\
             {end} {rest} linear {below} {}",
            end + shift
        );
        output("dmsetup", &["load", &self.name, "--table", &table]).unwrap();
        output("dmsetup", &["suspend", &self.name]).unwrap();
        output("dmsetup", &["resume", &self.name]).unwrap();
        // What was read before must not hide what is there now.
        let _ = output("blockdev", &["--flushbufs", &self.path()]);
    }

    fn copy(&self) -> Vec<u8> {
        let mut copy = vec![0; usize::try_from(LEN).unwrap()];
        let device = File::open(self.path()).unwrap();
        device.read_exact_at(&mut copy, AT).unwrap();
        copy
    }

    fn put_copy(&self, content: &[u8]) {
        let device = File::options().write(true).open(self.path()).unwrap();
        device.write_all_at(content, AT).unwrap();
        device.sync_all().unwrap();
    }

    fn rot(&self) {
        self.put_copy(&vec![0xa5; usize::try_from(LEN).unwrap()]);
    }
}

fn remove(disks: [Disk; 2]) {
    for disk in disks {
        output("dmsetup", &["remove", "--retry", &disk.name]).unwrap();
        output("losetup", &["-d", &disk.below]).unwrap();
    }
}

fn rig(test: &str) -> (Host, [Disk; 2]) {
    let host = Host::start(test);
    let disks = [Disk::new(test, 0), Disk::new(test, 1)];
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
        disks[victim].under_the_copy("error");
        host.create_thin(blank("b", MIB)).unwrap();
        host.create_thin(blank("c", MIB)).unwrap();
        host.delete_volume("a").unwrap();
        let said = degraded(&host).expect("the failed copy is shown");
        assert!(said.contains(&disks[victim].path()), "{said}");
        let found = host.findings().unwrap();
        let codes: Vec<_> = found.iter().map(|f| f.code.as_str()).collect();
        assert!(codes.contains(&"CatalogueDegraded"), "{found:?}");
        host.agent.as_mut().unwrap().kill();
        disks[victim].under_the_copy("linear");
        again(&mut host);
        assert_eq!(degraded(&host), None, "it was made anew");
        assert_eq!(names(&host), ["b", "c"]);
        // It really was: now it is the only one.
        host.agent.as_mut().unwrap().kill();
        disks[1 - victim].rot();
        again(&mut host);
        assert_eq!(names(&host), ["b", "c"]);
        host.create_thin(blank("d", MIB)).unwrap();
        host.end_after(EXPECTED);
        remove(disks);
    }
}

#[test]
fn law_catalogue_twin_under_a_copy_that_cannot_be_read() {
    for victim in [0, 1] {
        let (mut host, disks) = rig(&format!("reads{victim}"));
        host.create_thin(blank("a", MIB)).unwrap();
        host.agent.as_mut().unwrap().kill();
        disks[victim].under_the_copy("error");
        again(&mut host);
        assert!(degraded(&host).is_some(), "{}", host.logs());
        assert_eq!(names(&host), ["a"]);
        host.create_thin(blank("b", MIB)).unwrap();
        // As long as it fails each opening finds everything in the other.
        host.agent.as_mut().unwrap().kill();
        again(&mut host);
        assert_eq!(names(&host), ["a", "b"]);
        host.agent.as_mut().unwrap().kill();
        disks[victim].under_the_copy("linear");
        again(&mut host);
        assert_eq!((degraded(&host), names(&host).len()), (None, 2));
        host.end_after(EXPECTED);
        remove(disks);
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
    let kept = [disks[0].copy(), disks[1].copy()];
    disks.iter().for_each(Disk::rot);
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
            .all(|disk| disk.copy().iter().all(|b| *b == 0xa5))
    );
    host.agent.as_mut().unwrap().kill();
    disks
        .iter()
        .zip(&kept)
        .for_each(|(disk, kept)| disk.put_copy(kept));
    again(&mut host);
    assert_eq!(names(&host), ["a"]);
    host.end_after(EXPECTED);
    remove(disks);
}
