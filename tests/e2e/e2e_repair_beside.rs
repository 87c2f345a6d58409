//! What a repair leaves alone: the node's other pools while it runs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use goldleaf_proto::v1 as api;
use goldleaf_tests::host::{Host, blank, confirmed_repair};
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

/// A folder with a thin_repair that waits until it may go on; the first file says that it waits, the
/// second lets it.
fn slow_repair(host: &Host) -> (String, PathBuf, PathBuf) {
    let folder = host.dir().join("slow");
    std::fs::create_dir(&folder).unwrap();
    let (waits, goes) = (folder.join("waits"), folder.join("goes"));
    let script = format!(
        "#!/bin/sh\n: >{}\nwhile [ ! -e {} ]; do sleep 0.05; done\nPATH=${{PATH#*:}} exec thin_repair \"$@\"\n",
        waits.display(),
        goes.display()
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

struct Go<'a>(&'a Path);

impl Drop for Go<'_> {
    fn drop(&mut self) {
        std::fs::write(self.0, "").unwrap();
    }
}
