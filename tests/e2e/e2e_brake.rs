//! The metadata brake: a pool whose metadata runs out goes read-only before that, every read goes on,
//! and room releases it. Through the public API alone.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use goldleaf_proto::v1 as api;
use goldleaf_tests::command::output;
use goldleaf_tests::host::{Host, blank, over};
use goldleaf_tests::model::{GOLDEN, IMAGE, device, golden_bytes};
use goldleaf_tests::support::Node;
use tonic::Code;

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 64 << 10;

fn create(host: &Host, request: api::CreateThinRequest) -> Node {
    let request = api::CreateThinRequest {
        activate: Some(api::ActivateOptions::default()),
        ..request
    };
    let volume = host.create_thin(request).unwrap();
    device(host, &format!("volume/{}", volume.name))
}

/// The image, and zeroes past its end.
fn unwritten(offset: u64, len: usize) -> Vec<u8> {
    let inside = usize::try_from(IMAGE.saturating_sub(offset)).unwrap();
    let mut bytes = GOLDEN.bytes(offset, inside.min(len));
    bytes.resize(len, 0);
    bytes
}

/// A disk whose first part keeps what is written and whose rest forgets it: as much data as one
/// likes, at no cost of memory.
struct Forgetful {
    name: String,
    disk: String,
}

impl Forgetful {
    fn new(host: &Host, size: u64) -> Self {
        // Labels, both copies of the catalogue, the metadata and the first of the data.
        let kept = 112 * MIB;
        let file = host.dir().join("kept.disk");
        let backing = std::fs::File::create(&file).unwrap();
        backing.set_len(kept + MIB).unwrap();
        let disk = output("losetup", &["-f", "--show", &file.display().to_string()]).unwrap();
        let (disk, name) = (disk.trim().to_owned(), "forgetful".to_owned());
        let kept = kept / 512;
        let rest = size / 512 - kept;
        // Not at its beginning: there the disk below would show the label too.
        let table = format!("0 {kept} linear {disk} 2048\n{kept} {rest} zero\n");
        output("dmsetup", &["create", &name, "--table", &table]).unwrap();
        Self { name, disk }
    }

    fn path(&self) -> String {
        let info = ["info", "-c", "--noheadings", "-o", "blkdevname", &self.name];
        format!("/dev/{}", output("dmsetup", &info).unwrap().trim())
    }
}

impl Drop for Forgetful {
    fn drop(&mut self) {
        let _ = output("dmsetup", &["remove", "--retry", &self.name]);
        let _ = output("losetup", &["-d", &self.disk]);
    }
}

/// Reads a device over and over until it is dropped; a read that fails fails the test.
struct Reader {
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Reader {
    fn of(node: &Node, size: u64) -> Self {
        let (stop, reads) = (
            Arc::new(AtomicBool::default()),
            Arc::new(AtomicU64::default()),
        );
        let (node, told, count) = (node.clone(), Arc::clone(&stop), Arc::clone(&reads));
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                let at = count.fetch_add(1, Ordering::Relaxed) * 7 % (size / BLOCK) * BLOCK;
                assert_eq!(node.read(at, 4096).len(), 4096);
                std::thread::park_timeout(Duration::from_millis(1));
            }
        });
        Self {
            stop,
            reads,
            thread: Some(thread),
        }
    }

    fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        assert!(self.reads.load(Ordering::Relaxed) > 0);
    }
}

fn whole() -> Vec<u8> {
    vec![0; usize::try_from(BLOCK).unwrap()]
}

/// Writes to clones, each of which shares every leaf of the map with the first, until the pool
/// refuses: a write to one block of a leaf costs the clone a leaf of its own.
fn use_up_metadata(clones: &[Node], blocks: u64) -> std::io::Error {
    for clone in clones {
        let leaves = (0..blocks).step_by(100).map(|n| n * BLOCK);
        if let (_, Some(refused)) = clone.write_until_refused(leaves, &whole()) {
            return refused;
        }
    }
    panic!("the metadata is not used up: make more clones");
}

/// Looks through the metadata of a closed pool, whose metadata device had this table. The loop
/// device of its file is gone with the pool, so the file gets another.
fn check_metadata(table: &str, file: &str) {
    let disk = output("losetup", &["-r", "-f", "--show", file]).unwrap();
    let disk = disk.trim();
    let word = |word: &str| {
        if word.starts_with("7:") {
            disk.into()
        } else {
            word.to_owned()
        }
    };
    let line = |line: &str| line.split(' ').map(word).collect::<Vec<_>>().join(" ");
    let table = table.lines().map(line).collect::<Vec<_>>().join("\n");
    output("dmsetup", &["create", "-r", "looked-at", "--table", &table]).unwrap();
    let checked = output("thin_check", &["/dev/mapper/looked-at"]);
    output("dmsetup", &["remove", "--retry", "looked-at"]).unwrap();
    output("losetup", &["-d", disk]).unwrap();
    checked.unwrap();
}

/// `mapped` has blocks of its own, `long` has none and is longer than its image.
fn see_the_brake(host: &Host, mapped: &Node, long: &Node) {
    let pool = host.soon("the brake's condition", || {
        let pool = host.get_pool("p").unwrap();
        let braked = |c: &api::Condition| c.r#type == "PoolWritable" && c.reason == "MetadataBrake";
        let found = pool.conditions.iter().any(|c| braked(c) && !c.status);
        found.then_some(pool)
    });
    let usage = pool.usage.unwrap();
    assert_eq!(usage.mode(), api::PoolMode::ReadOnly);
    assert!(!usage.needs_check, "{usage:?}");
    assert!(
        usage.metadata_used_bytes < usage.metadata_total_bytes,
        "the kernel was faster: {usage:?}"
    );
    let refused = host.create_thin(blank("more", MIB)).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("extend"), "{refused:?}");
    assert_eq!(mapped.read(0, 4096), [0; 4096]);
    // What is mapped for this volume alone is rewritten.
    mapped.write(0, &whole());
    long.assert_reads(unwritten);
}

/// Law: metadata that is used up takes reads with it, so the pool goes read-only before that.
#[test]
fn law_metadata_brake() {
    let mut host = Host::start("brake");
    let disk = Forgetful::new(&host, 8 << 30);
    let made = host.create_pool(api::CreatePoolRequest {
        name: "p".into(),
        devices: vec![api::PoolDevice {
            path: disk.path(),
            create_file_bytes: 0,
        }],
        ..Default::default()
    });
    let id = made.unwrap().id;
    let blocks = 24_576;
    host.image("golden", &golden_bytes());
    let long = create(&host, over("long", 4 * MIB, "golden"));
    let first = create(&host, blank("first", blocks * BLOCK));
    let all = (0..blocks).map(|n| n * BLOCK);
    let (_, refused) = first.write_until_refused(all, &whole());
    assert!(refused.is_none(), "{refused:?}");
    let reader = Reader::of(&first, blocks * BLOCK);
    let names: Vec<_> = (0..80).map(|n| format!("c{n}")).collect();
    let clones: Vec<_> = names
        .iter()
        .map(|name| clone(&host, name, "volume/first"))
        .collect();

    // The agent dies when the brake is on and nobody was told.
    host.agent = None;
    host.start_agent(&[("GOLDLEAF_FAILPOINT", "agent/brake-pool/after-effect")]);
    host.await_node();
    let stopped = use_up_metadata(&clones, blocks);
    assert_eq!(stopped.raw_os_error(), Some(5), "{stopped:?}");
    let relaid = ("GOLDLEAF_FAILPOINT", "agent/extend-pool/after-last-label");
    host.begin_again(&[relaid]);
    see_the_brake(&host, &clones[0], &long);

    // And when it has more room for data, of which only its labels know: it is made writable to grow,
    // and was live all the while.
    let transaction = || {
        let status = output("dmsetup", &["status", &format!("goldleaf-{id}-pool")]).unwrap();
        status.split(' ').nth(3).unwrap().to_owned()
    };
    let before = transaction();
    let data = api::ExtendPoolRequest {
        pool: "p".into(),
        devices: vec![host.pool_file("data.pool", 64)],
        ..Default::default()
    };
    host.extend_pool(data).unwrap_err();
    let release = ("GOLDLEAF_FAILPOINT", "agent/release-pool/after-effect");
    host.begin_again(&[release]);
    see_the_brake(&host, &clones[0], &long);
    assert_eq!(
        transaction(),
        before,
        "it was taken for one that was just opened"
    );

    // And again when it is off and nobody was told.
    let extension = api::ExtendPoolRequest {
        pool: "p".into(),
        devices: vec![host.pool_file("more.pool", 128)],
        metadata_bytes: 32 * MIB,
        ..Default::default()
    };
    host.extend_pool(extension.clone()).unwrap_err();
    host.begin_again(&[]);
    let pool = host.extend_pool(extension).unwrap();
    assert!(pool.conditions.is_empty(), "{:?}", pool.conditions);
    assert_eq!(pool.devices.len(), 3, "{:?}", pool.devices);
    let usage = pool.usage.unwrap();
    assert_eq!(usage.mode(), api::PoolMode::ReadWrite);
    assert_eq!(usage.metadata_total_bytes, 64 * MIB);
    let last = clones.last().unwrap();
    last.write(50 * BLOCK, &whole());
    let more = create(&host, blank("more", MIB));
    first.write(0, &whole());
    long.assert_reads(unwritten);
    reader.end();
    drop((first, long, more, clones));

    for name in names
        .iter()
        .map(String::as_str)
        .chain(["first", "long", "more"])
    {
        host.deactivate(name).unwrap();
    }
    let table = output("dmsetup", &["table", &format!("goldleaf-{id}-tmeta")]).unwrap();
    host.close_pool(api::ClosePoolRequest {
        pool: "p".into(),
        ..Default::default()
    })
    .unwrap();
    check_metadata(&table, &host.pool_file("more.pool", 0).path);
    host.open_pool(api::OpenPoolRequest {
        pool: "p".into(),
        ..Default::default()
    })
    .unwrap();
    host.delete_everything();
    drop(disk);
    host.end_after(&["nearly used up", "dying as asked"]);
}

fn clone(host: &Host, name: &str, source: &str) -> Node {
    let request = api::CloneRequest {
        name: name.into(),
        source: source.into(),
        activate: Some(api::ActivateOptions::default()),
        ..Default::default()
    };
    host.clone_volume(request).unwrap();
    device(host, &format!("volume/{name}"))
}
