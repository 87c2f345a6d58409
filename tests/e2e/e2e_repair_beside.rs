//! What a repair needs and what it leaves alone: the node's other pools while it runs, everything when
//! there is no room for its files, a caller that goes away, and metadata that lies in several places.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use goldleaf_proto::v1 as api;
use goldleaf_tests::command::output;
use goldleaf_tests::host::{Host, blank, confirmed_repair, dry_repair};
use goldleaf_tests::model;
use goldleaf_tests::support::{Metadata, Pattern};
use tonic::Code;

const MIB: u64 = 1 << 20;

/// What the agent says of a damaged pool, and of repairs.
const LOGGED: &[&str] = &["did not open", "repaired metadata", "is being repaired"];

/// A pool "p" with a volume "v" of a MiB that was written; its file.
fn furnish(host: &Host) -> PathBuf {
    host.pool("p", 256 * MIB);
    host.create_thin(blank("v", MIB)).unwrap();
    let v = active(host, "v");
    v.write(0, &Pattern(1).bytes(0, 65_536));
    drop(v);
    host.deactivate("v").unwrap();
    host.dir().join("agent/pools/p.pool")
}

fn active(host: &Host, volume: &str) -> goldleaf_tests::support::Node {
    host.activate(volume).unwrap();
    model::device(host, &format!("volume/{volume}"))
}

fn assert_v(host: &Host) {
    let v = active(host, "v");
    assert_eq!(v.read(0, 65_536), Pattern(1).bytes(0, 65_536));
    drop(v);
    host.deactivate("v").unwrap();
}

fn open(pool: &str) -> api::OpenPoolRequest {
    api::OpenPoolRequest {
        pool: pool.into(),
        ..Default::default()
    }
}

fn close(pool: &str) -> api::ClosePoolRequest {
    api::ClosePoolRequest {
        pool: pool.into(),
        ..Default::default()
    }
}

/// A folder with a thin_repair that waits until it may go on; the first file says which process waits,
/// the second lets it.
fn slow_repair(host: &Host) -> (String, PathBuf, PathBuf) {
    let folder = host.dir().join("slow");
    std::fs::create_dir(&folder).unwrap();
    let (waits, goes) = (folder.join("waits"), folder.join("goes"));
    let script = format!(
        "#!/bin/sh\necho $$ >{waits}.new\nmv {waits}.new {waits}\n\
         while [ ! -e {goes} ]; do sleep 0.05; done\nPATH=${{PATH#*:}} exec thin_repair \"$@\"\n",
        waits = waits.display(),
        goes = goes.display()
    );
    let tool = folder.join("thin_repair");
    std::fs::write(&tool, script).unwrap();
    std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    (format!("{}:{path}", folder.display()), waits, goes)
}

#[test]
fn other_pools_of_the_node_go_on_while_thin_repair_runs() {
    let mut host = Host::start("repair-beside");
    let device = furnish(&host);
    host.pool("q", 128 * MIB);
    let (path, waits, goes) = slow_repair(&host);
    let environment = [("PATH", path.as_str())];
    let _ = host.damage_metadata(&device, Metadata::spoil_space_map, &environment);
    assert!(host.complaint("PoolOpen").is_some());
    let repaired = std::thread::scope(|scope| {
        let repair = scope.spawn(|| host.repair(confirmed_repair(false)));
        // However it ends, the tool is let go.
        let go = Go(&goes);
        host.soon("thin_repair runs", || waits.exists().then_some(()));
        host.close_pool(close("q")).unwrap();
        assert_eq!(host.get_pool("q").unwrap().phase(), api::Phase::Closed);
        host.open_pool(open("q")).unwrap();
        let volume = host.create_thin(blank("w", MIB)).unwrap();
        assert_eq!(volume.pool, host.get_pool("q").unwrap().id);
        host.activate("w").unwrap();
        let device = host.dir().join("dev/q/w");
        std::fs::write(&device, Pattern(2).bytes(0, 65_536)).unwrap();
        host.deactivate("w").unwrap();
        // What its node tells is heard, of the pool that is repaired too.
        let said = host.soon("it says what is done to it", || host.complaint("PoolOpen"));
        assert_eq!(said.reason, "RepairingMetadata", "{said:?}");
        for refused in [
            host.open_pool(open("p")).unwrap_err(),
            host.close_pool(close("p")).unwrap_err(),
        ] {
            assert_eq!(refused.code(), Code::Aborted, "{refused:?}");
            assert!(refused.message().contains("being repaired"), "{refused:?}");
        }
        assert!(!repair.is_finished());
        drop(go);
        repair.join().unwrap()
    });
    let (_, done) = repaired.unwrap();
    assert_eq!(done.outcome(), api::RepairOutcome::Done, "{done:?}");
    assert_v(&host);
    host.delete_everything();
    host.end_after(LOGGED);
}

/// The process of the tool that waits now, which no call sees twice.
fn tool(host: &Host, waits: &Path) -> PathBuf {
    let pid = host.soon("thin_repair runs", || std::fs::read_to_string(waits).ok());
    std::fs::remove_file(waits).unwrap();
    let process = Path::new("/proc").join(pid.trim());
    assert!(process.exists(), "it ended by itself");
    process
}

fn ended_with_its_caller(host: &Host, tool: &Path) {
    host.soon("the tool ends", || (!tool.exists()).then_some(()));
    host.soon("its files go", || {
        let left = [host.repair_files("copy"), host.repair_files("repaired")].concat();
        left.is_empty().then_some(())
    });
}

#[test]
fn a_dry_run_ends_with_its_caller_and_the_repair_that_waits_for_it_goes_on_without() {
    let mut host = Host::start("repair-caller");
    let device = furnish(&host);
    let (path, waits, goes) = slow_repair(&host);
    let environment = [("PATH", path.as_str())];
    let _ = host.damage_metadata(&device, Metadata::spoil_space_map, &environment);
    // The control plane goes, and whoever asked it.
    let look = host.begin_repair(dry_repair()).unwrap();
    let process = tool(&host, &waits);
    host.server.take().unwrap().kill();
    ended_with_its_caller(&host, &process);
    drop(look);
    host.start_server(&[]);
    host.await_node();
    // The caller goes, and another one waits.
    let look = host.begin_repair(dry_repair()).unwrap();
    let process = tool(&host, &waits);
    let mut repair = host.begin_repair(confirmed_repair(false)).unwrap();
    let first = host.next_of_repair(&mut repair).unwrap();
    assert_eq!(first.step(), api::RepairStep::Waiting, "{first:?}");
    assert!(process.exists());
    drop(look);
    host.soon("the tool ends", || (!process.exists()).then_some(()));
    let process = tool(&host, &waits);
    // What was confirmed is done though nobody waits for it.
    drop(repair);
    let mut look = host.begin_repair(dry_repair()).unwrap();
    let first = host.next_of_repair(&mut look).unwrap();
    assert_eq!(first.step(), api::RepairStep::Waiting, "{first:?}");
    drop(look);
    host.pause(std::time::Duration::from_secs(1));
    assert!(process.exists(), "it ended with its caller");
    assert_eq!(
        host.complaint("PoolOpen").unwrap().reason,
        "RepairingMetadata"
    );
    std::fs::write(&goes, "").unwrap();
    host.soon("it is open", || {
        host.complaint("PoolOpen").is_none().then_some(())
    });
    ended_with_its_caller(&host, &process);
    assert_eq!(host.repair_files("before").len(), 1);
    assert_v(&host);
    host.delete_everything();
    host.end_after(LOGGED);
}

struct Go<'a>(&'a Path);

impl Drop for Go<'_> {
    fn drop(&mut self) {
        std::fs::write(self.0, "").unwrap();
    }
}

/// A small file system in a place, as long as it is here.
struct Mounted(String);

impl Mounted {
    fn over(folder: &Path) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let folder = folder.display().to_string();
        output("mount", &["-t", "tmpfs", "-o", "size=1m", "none", &folder]).unwrap();
        Self(folder)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        output("umount", &[self.0.as_str()]).unwrap();
    }
}

#[test]
fn a_repair_without_room_for_its_files_names_the_remedy_and_changes_nothing() {
    let mut host = Host::start("repair-room");
    let device = furnish(&host);
    let folder = host.dir().join("agent/repair");
    let small = Mounted::over(&folder);
    let metadata = host.damage_metadata(&device, Metadata::spoil_space_map, &[]);
    let said = host.complaint("PoolOpen").unwrap();
    let before = metadata.with_all_before();
    for request in [
        dry_repair(),
        confirmed_repair(false),
        confirmed_repair(true),
    ] {
        let refused = host.repair(request).unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        let says = refused.message();
        let folder = folder.display().to_string();
        assert!(
            says.contains(&folder) && says.contains("make room there"),
            "{says}"
        );
        assert!(says.contains("nothing was changed"), "{says}");
    }
    assert!(
        metadata.with_all_before() == before,
        "a refused repair wrote"
    );
    assert_eq!(
        std::fs::read_dir(&folder).unwrap().count(),
        0,
        "it left a file"
    );
    assert_eq!(host.complaint("PoolOpen").unwrap().message, said.message);
    // With room it goes on as if nothing had been asked.
    drop(small);
    let (_, done) = host.repair(confirmed_repair(false)).unwrap();
    assert_eq!(done.outcome(), api::RepairOutcome::Done, "{done:?}");
    assert_v(&host);
    host.delete_everything();
    host.end_after(LOGGED);
}

#[test]
fn metadata_that_was_extended_onto_another_device_is_repaired_as_a_whole() {
    let mut host = Host::start("repair-two");
    let device = furnish(&host);
    let more = host.dir().join("agent/pools/more.pool");
    host.extend_pool(api::ExtendPoolRequest {
        pool: "p".into(),
        devices: vec![api::PoolDevice {
            path: more.display().to_string(),
            create_file_bytes: 128 * MIB,
        }],
        metadata_bytes: 16 * MIB,
        ..Default::default()
    })
    .unwrap();
    let total = host
        .get_pool("p")
        .unwrap()
        .usage
        .unwrap()
        .metadata_total_bytes;
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let spoil = |metadata: &Metadata| {
        metadata.spoil_space_map();
        first = metadata.bytes();
        // Nothing refers to what is there: it is copied, kept, and gone afterwards all the same.
        let other = Metadata::of(&more);
        second = other.bytes();
        second[65_536..][..65_536].fill(0x5a);
        other.put_all(&second);
    };
    let _ = host.damage_metadata(&device, spoil, &[]);
    let (_, would) = host.repair(dry_repair()).unwrap();
    assert_eq!(would.outcome(), api::RepairOutcome::WouldDo, "{would:?}");
    let (_, done) = host.repair(confirmed_repair(false)).unwrap();
    assert_eq!(done.outcome(), api::RepairOutcome::Done, "{done:?}");
    let kept = std::fs::read(&done.kept).unwrap();
    assert_eq!(kept.len() as u64, total);
    assert!(
        kept == [first, second].concat(),
        "the old metadata is not kept whole"
    );
    let left = Metadata::of(&more).bytes();
    assert!(!left.contains(&0x5a), "the second stretch was not written");
    let usage = host.get_pool("p").unwrap().usage.unwrap();
    assert_eq!(usage.metadata_total_bytes, total);
    assert_v(&host);
    host.create_thin(blank("w", MIB)).unwrap();
    host.delete_everything();
    host.end_after(LOGGED);
}
