//! A pool that does not open is opened for rescue: what can be read is read, exported and compared, and
//! not one byte of its devices changes, whatever the agent is killed at.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use goldleaf_proto::v1 as api;
use goldleaf_tests::command::output;
use goldleaf_tests::host::{Host, blank, confirmed_repair, dry_repair, over, program};
use goldleaf_tests::model::{self, GOLDEN, IMAGE, golden_bytes};
use goldleaf_tests::support::{Disk, Metadata, Node, Pattern, metadata_region};
use tonic::Code;

const MIB: u64 = 1 << 20;
const BLOCK: usize = 65_536;
const SIZE: u64 = 256 * MIB;
/// Of the large volume: its mappings take more than one block of metadata.
const LARGE: u64 = 40 * MIB;
const PIECE: usize = 1 << 20;

/// What the agent says of a pool that does not open, of rescues and of repairs.
const LOGGED: &[&str] = &[
    "did not open",
    "open for rescue",
    "its catalogue cannot be read",
    "an unusable copy of the catalogue",
    "dying as asked",
    "not finished yet",
    "repaired metadata",
    "is being repaired",
    "its end is not known",
    "a copy of the catalogue",
    "copy of the catalogue; made anew",
    "a catalogue did not close cleanly",
    "tried again later",
];

/// A pool "p" in a file: "v" over an image, its snapshot "s" of before its last write, and "w", which is
/// large.
fn furnish(host: &Host) -> PathBuf {
    host.image("golden", &golden_bytes());
    host.pool("p", SIZE);
    host.create_thin(over("v", 2 * MIB, "golden")).unwrap();
    let v = active(host, "v");
    v.write(0, &Pattern(4).bytes(0, BLOCK));
    v.write(MIB, &Pattern(4).bytes(MIB, BLOCK));
    host.snapshot("s", "volume/v").unwrap();
    v.write(MIB, &Pattern(2).bytes(MIB, BLOCK));
    drop(v);
    host.deactivate("v").unwrap();
    host.create_thin(blank("w", LARGE)).unwrap();
    let w = active(host, "w");
    for at in (0..LARGE).step_by(PIECE) {
        w.write(at, &Pattern(3).bytes(at, PIECE));
    }
    drop(w);
    host.deactivate("w").unwrap();
    host.dir().join("agent/pools/p.pool")
}

fn active(host: &Host, volume: &str) -> Node {
    host.activate(volume).unwrap();
    model::device(host, &format!("volume/{volume}"))
}

/// What "v" or its snapshot holds.
fn content(second: Pattern) -> Vec<u8> {
    let mut all = vec![0; usize::try_from(2 * MIB).unwrap()];
    let image = usize::try_from(IMAGE).unwrap();
    all[..image].copy_from_slice(&GOLDEN.bytes(0, image));
    all[..BLOCK].copy_from_slice(&Pattern(4).bytes(0, BLOCK));
    let at = usize::try_from(MIB).unwrap();
    all[at..at + BLOCK].copy_from_slice(&second.bytes(MIB, BLOCK));
    all
}

fn open(rescue: bool) -> api::OpenPoolRequest {
    api::OpenPoolRequest {
        pool: "p".into(),
        rescue,
        ..Default::default()
    }
}

fn close(host: &Host) {
    host.close_pool(api::ClosePoolRequest {
        pool: "p".into(),
        ..Default::default()
    })
    .unwrap();
}

/// The pool goes with all that is in it; it does not open.
fn destroy(host: &Host) {
    host.destroy_pool(api::DestroyPoolRequest {
        pool: "p".into(),
        confirm: "p".into(),
        ..Default::default()
    })
    .unwrap();
}

fn exported(host: &Host, source: &str, format: api::ExportFormat) -> PathBuf {
    let request = api::ExportRequest {
        source: source.into(),
        file: "rescued".into(),
        format: format.into(),
        replace: true,
        ..Default::default()
    };
    let (_, file) = host.export(request).unwrap();
    file.path.into()
}

/// "v" and "s" come out whole, and "w" reads as far as its mappings are whole.
fn assert_read(host: &Host) {
    let raw = exported(host, "volume/v", api::ExportFormat::Raw);
    assert!(
        std::fs::read(&raw).unwrap() == content(Pattern(2)),
        "v differs"
    );
    let raw = exported(host, "snapshot/s", api::ExportFormat::Raw);
    assert!(
        std::fs::read(&raw).unwrap() == content(Pattern(4)),
        "s differs"
    );
    // It is longer than its image, and its pool is read-only: zeroes there, and no error.
    host.activate_read_only("v").unwrap();
    let v = model::device(host, "volume/v").read(0, content(Pattern(2)).len());
    assert!(v == content(Pattern(2)), "v reads differently");
    host.deactivate("v").unwrap();
    host.activate_read_only("w").unwrap();
    let w = model::device(host, "volume/w");
    let (mut whole, mut failed) = (0, 0);
    for at in (0..LARGE).step_by(BLOCK) {
        match w.try_read(at, BLOCK) {
            Ok(read) => {
                assert!(read == Pattern(3).bytes(at, BLOCK), "another's at {at}");
                whole += 1;
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(5), "{error}");
                failed += 1;
            }
        }
    }
    assert!(whole > 0 && failed > 0, "{whole} whole, {failed} failed");
    assert!(w.try_write(0, &[0; 4096]).is_err(), "it can be written");
    drop(w);
    host.deactivate("w").unwrap();
}

fn digest(device: &Path) -> String {
    let sum = output("sha256sum", &[device.display().to_string().as_str()]).unwrap();
    sum.split_whitespace().next().unwrap().to_owned()
}

fn thin_of(host: &Host, name: &str) -> u32 {
    let thins = host.thins().unwrap();
    thins.iter().find(|thin| thin.name == name).unwrap().thin_id
}

#[test]
fn what_can_be_read_of_damaged_metadata_is_and_nothing_of_the_pool_is_written() {
    let mut host = Host::start("rescue");
    let device = furnish(&host);
    let w = thin_of(&host, "w");
    let _ = host.damage_metadata(&device, |m: &Metadata| m.spoil_leaf_of(w), &[]);
    let why = host.complaint("PoolOpen").unwrap();
    let before = digest(&device);
    // A repair would lose a part of it, which nobody has accepted.
    let (_, would) = host.repair(dry_repair()).unwrap();
    assert!(
        would
            .thins
            .iter()
            .any(|t| t.fate() == api::ThinFate::Shortened),
        "{would:?}"
    );

    let pool = host.open_pool(open(true)).unwrap();
    assert_eq!(pool.phase(), api::Phase::Ready, "{pool:?}");
    let said = host.complaint("PoolWritable").unwrap();
    assert_eq!(said.reason, "OpenForRescue", "{said:?}");
    assert!(said.message.contains("thin_check finds errors"), "{said:?}");
    assert_read(&host);
    let qcow2 = exported(&host, "volume/v", api::ExportFormat::Qcow2);
    assert!(std::fs::read(qcow2).unwrap().starts_with(b"QFI\xfb"));
    let refused = host.create_thin(blank("new", MIB)).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    let refused = host.activate("v").unwrap_err();
    assert!(refused.message().contains("open for rescue"), "{refused:?}");
    let refused = host.repair(confirmed_repair(true)).unwrap_err();
    assert!(refused.message().contains("close it first"), "{refused:?}");
    close(&host);
    assert_eq!(host.complaint("PoolOpen").unwrap().message, why.message);
    assert_eq!(digest(&device), before, "a rescue wrote");

    // It is as it was, and can be repaired by who accepts what is lost.
    let (_, done) = host.repair(confirmed_repair(true)).unwrap();
    assert_eq!(done.outcome(), api::RepairOutcome::Done, "{done:?}");
    let v = active(&host, "v");
    assert!(v.read(0, 2 << 20) == content(Pattern(2)));
    drop(v);
    host.deactivate("v").unwrap();
    host.delete_everything();
    host.end_after(LOGGED);
}

/// kill -9 at each point of a rescue, and while a volume of it is active: the agent that comes back has
/// it open for rescue, or not at all, and never otherwise.
#[test]
fn the_agent_can_die_anywhere_in_a_rescue() {
    let mut host = Host::start("rescue-crash");
    let device = furnish(&host);
    let w = thin_of(&host, "w");
    let _ = host.damage_metadata(&device, |m: &Metadata| m.spoil_leaf_of(w), &[]);
    let agent = program("goldleaf-node-agent").display().to_string();
    let points = output(&agent, &["failpoints"]).unwrap();
    let mut points: Vec<&str> = points
        .lines()
        .filter(|p| p.contains("/rescue-pool/"))
        .collect();
    assert!(points.len() >= 2, "{points:?}");
    points.push("agent/close-pool/after-tables-gone");
    for point in points {
        host.agent.take().unwrap().kill();
        host.start_agent(&[("GOLDLEAF_FAILPOINT", point)]);
        host.await_node();
        let mut before = digest(&device);
        let died = host.open_pool(open(true)).and_then(|_| {
            host.close_pool(api::ClosePoolRequest {
                pool: "p".into(),
                ..Default::default()
            })
        });
        let code = died.unwrap_err().code();
        assert_eq!(code, Code::Unavailable, "{point}");
        assert!(
            host.agent.as_mut().unwrap().died(),
            "{point} was not reached"
        );
        host.agent = None;
        host.start_agent(&[]);
        host.await_node();
        if point.contains("/close-pool/") {
            // It was closed: the agent that came back has tried to open it otherwise.
            before = digest(&device);
        }
        assert_eq!(digest(&device), before, "{point}: written");
        host.open_pool(open(true)).unwrap();
        assert_read(&host);
        // And while something of it is active.
        host.activate_read_only("v").unwrap();
        host.agent.take().unwrap().kill();
        host.start_agent(&[]);
        host.await_node();
        let said = host.soon("it is open again", || host.complaint("PoolWritable"));
        assert_eq!(said.reason, "OpenForRescue", "{point}: {said:?}");
        let v = model::device(&host, "volume/v");
        assert!(v.read(0, PIECE) == content(Pattern(2))[..PIECE], "{point}");
        drop(v);
        host.deactivate("v").unwrap();
        close(&host);
        assert_eq!(digest(&device), before, "{point}: written");
        assert!(host.complaint("PoolOpen").is_some(), "{point}");
    }
    let (_, done) = host.repair(confirmed_repair(true)).unwrap();
    assert_eq!(done.outcome(), api::RepairOutcome::Done, "{done:?}");
    host.delete_everything();
    host.end_after(LOGGED);
}

/// Overwrites both copies of the catalogue of a pool of one device: one lies before its metadata, one
/// after it (docs/disk-format.md).
fn spoil_catalogue(device: &Path) {
    let [metadata, len] = metadata_region(device).unwrap().unwrap();
    let copy = usize::try_from(metadata - MIB).unwrap();
    let file = File::options().write(true).open(device).unwrap();
    for at in [MIB, metadata + len] {
        file.write_all_at(&vec![0x5a; copy], at).unwrap();
    }
    file.sync_all().unwrap();
}

/// Nobody knows whose the thins are: they are listed by their numbers, and read.
#[test]
fn without_a_catalogue_the_thins_of_the_metadata_are_there_by_their_numbers() {
    let mut host = Host::start("rescue-rows");
    let device = furnish(&host);
    let (w, v) = (thin_of(&host, "w"), thin_of(&host, "v"));
    host.agent.take().unwrap().kill();
    host.lose_devices();
    spoil_catalogue(&device);
    host.start_agent(&[]);
    host.await_node();
    assert!(host.complaint("PoolOpen").is_some());
    let before = digest(&device);
    host.open_pool(open(true)).unwrap();
    let said = host.complaint("PoolWritable").unwrap();
    assert!(
        said.message.contains("No copy of its catalogue"),
        "{said:?}"
    );
    let thins = host.thins().unwrap();
    assert_eq!(thins.len(), 3, "{thins:?}");
    let by_number = |id: u32| thins.iter().find(|thin| thin.thin_id == id).unwrap();
    let of_w = by_number(w);
    assert_eq!(
        (of_w.name.as_str(), of_w.size_bytes),
        (format!("thin-{w}").as_str(), LARGE)
    );
    assert_eq!(by_number(v).size_bytes, MIB + BLOCK as u64);
    // The doctor lists them, and says how they are had.
    let found = host.findings().unwrap();
    let rescued = found.iter().filter(|f| f.code == "RescuedThin");
    assert_eq!(rescued.count(), 3, "{found:?}");
    let export = |id: u32, image: &str| {
        let request = api::ExportRequest {
            source: by_number(id).owner.clone(),
            file: "rescued".into(),
            replace: true,
            image: image.into(),
            ..Default::default()
        };
        let (_, file) = host.export(request).unwrap();
        std::fs::read(file.path).unwrap()
    };
    let whole = export(w, "");
    for at in (0..LARGE).step_by(PIECE) {
        let begin = usize::try_from(at).unwrap();
        assert!(whole[begin..begin + PIECE] == Pattern(3).bytes(at, PIECE));
    }
    // Up to where it is written, over the image that somebody remembers; without one, zeroes.
    let written = usize::try_from(MIB).unwrap() + BLOCK;
    let over = content(Pattern(2));
    assert!(export(v, "golden") == over[..written]);
    let bare = export(v, "");
    assert!(bare[..BLOCK] == over[..BLOCK] && bare[BLOCK..2 * BLOCK].iter().all(|b| *b == 0));
    assert_eq!(bare.len(), written);
    close(&host);
    assert_eq!(digest(&device), before, "a rescue wrote");
    destroy(&host);
    host.end_after(LOGGED);
}

/// Where a copy of the catalogue lies on a disk of the size below, and what of it comes before its rows
/// (docs/disk-format.md).
const COPY: std::ops::Range<u64> = MIB..17 * MIB;
const HEADERS: u64 = 8192;

/// The copy that alone has the latest changes is damaged: nothing is read from the older one, but for a
/// rescue, which says so.
#[test]
fn an_older_copy_of_the_catalogue_is_shown_and_said_to_be_one() {
    let host = Host::start("rescue-older");
    let disks = [0, 1].map(|n| Disk::new("rescue-older", n, 128 * MIB));
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
    host.create_thin(blank("v", MIB)).unwrap();
    let v = active(&host, "v");
    v.write(0, &Pattern(4).bytes(0, PIECE));
    drop(v);
    host.deactivate("v").unwrap();
    disks[1].fail(COPY);
    host.create_thin(blank("later", MIB)).unwrap();
    close(&host);
    disks[1].heal();
    let first = File::options().write(true).open(disks[0].path()).unwrap();
    let rows = vec![0x5a; usize::try_from(COPY.end - COPY.start - HEADERS).unwrap()];
    first.write_all_at(&rows, COPY.start + HEADERS).unwrap();
    first.sync_all().unwrap();
    drop(first);

    let refused = host.open_pool(open(false)).unwrap_err();
    assert!(refused.message().contains("older"), "{refused:?}");
    host.open_pool(open(true)).unwrap();
    let said = host.complaint("PoolWritable").unwrap();
    assert!(said.message.contains("older copy"), "{said:?}");
    let names: Vec<_> = host.thins().unwrap().into_iter().map(|t| t.name).collect();
    assert_eq!(names, ["v"]);
    let raw = exported(&host, "volume/v", api::ExportFormat::Raw);
    assert!(std::fs::read(raw).unwrap() == Pattern(4).bytes(0, PIECE));
    close(&host);
    destroy(&host);
    host.end_after(LOGGED);
    disks.into_iter().for_each(Disk::remove);
}
