//! Deletion of volumes that map a million blocks: what it costs their neighbours' writes, in one
//! message and in Goldleaf's steps; and a kill -9 in the middle. Through the public API, on a real
//! kernel.
//!
//! A million blocks are not written here: the pool is closed, the mappings are put into its metadata
//! with the field's own tools, and it is opened again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use goldleaf_proto::v1 as api;
use goldleaf_tests::command::output;
use goldleaf_tests::host::{Host, blank};
use goldleaf_tests::support::say;

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 65_536;
const BLOCKS: u64 = 1 << 20;
const LARGE: &[&str] = &["naive", "steps", "killed"];

fn run(program: &str, arguments: &[&str]) -> String {
    output(program, arguments).unwrap_or_else(|e| panic!("{program} {arguments:?}: {e}"))
}

fn device(host: &Host, name: &str, size: u64) -> api::PoolDevice {
    let path = host.dir().join("agent/pools").join(name);
    api::PoolDevice {
        path: path.display().to_string(),
        create_file_bytes: size,
    }
}

/// A pool of half a terabyte that nobody has, with its metadata on a device of its own.
fn rig(test: &str) -> Host {
    let host = Host::start(test);
    host.create_pool(api::CreatePoolRequest {
        name: "p".into(),
        devices: vec![device(&host, "data.pool", 512 * 1024 * MIB)],
        metadata_device: Some(device(&host, "meta.pool", 1024 * MIB)),
        ..Default::default()
    })
    .unwrap_or_else(|e| panic!("{e:?}\n{}", host.logs()));
    host
}

fn thin_ids(host: &Host) -> Vec<(String, u32)> {
    let thins = host.thins().unwrap().into_iter();
    thins.map(|thin| (thin.name, thin.thin_id)).collect()
}

/// Lets each of these thins map a million blocks of its own.
fn fill(host: &Host, names: &[&str]) {
    let id = host.get_pool("p").unwrap().id;
    let ids = thin_ids(host);
    let table = run("dmsetup", &["table", &format!("goldleaf-{id}-tmeta")]);
    host.close_pool(api::ClosePoolRequest {
        pool: "p".into(),
        ..Default::default()
    })
    .unwrap();
    let words: Vec<&str> = table.split_whitespace().collect();
    let file = host.dir().join("agent/pools/meta.pool");
    let disk = run("losetup", &["-f", "--show", file.to_str().unwrap()]);
    let disk = disk.trim();
    let line = format!("0 {} linear {disk} {}", words[1], words[4]);
    run("dmsetup", &["create", "inject", "--table", &line]);
    let xml = host.dir().join("metadata.xml");
    let dump = run("thin_dump", &["/dev/mapper/inject"]);
    std::fs::write(&xml, with_mappings(&dump, names, &ids)).unwrap();
    let (input, output) = (xml.to_str().unwrap(), "/dev/mapper/inject");
    run("thin_restore", &["-i", input, "-o", output]);
    run("dmsetup", &["remove", "inject"]);
    run("losetup", &["-d", disk]);
    std::fs::remove_file(xml).unwrap();
    host.open_pool(api::OpenPoolRequest {
        pool: "p".into(),
        ..Default::default()
    })
    .unwrap();
}

fn with_mappings(dump: &str, names: &[&str], ids: &[(String, u32)]) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in dump.lines() {
        let of = ids.iter().find(|(name, id)| {
            names.contains(&name.as_str()) && line.contains(&format!("dev_id=\"{id}\""))
        });
        match of {
            Some((name, _)) => {
                // Far from what the pool gives out first.
                let at = names.iter().position(|n| n == name).unwrap() + 1;
                let from = u64::try_from(at).unwrap() * 2 * BLOCKS;
                let head = line.replace(
                    "mapped_blocks=\"0\"",
                    &format!("mapped_blocks=\"{BLOCKS}\""),
                );
                lines.push(head.replace("/>", ">"));
                lines.push(format!(
                    "<range_mapping origin_begin=\"0\" data_begin=\"{from}\" length=\"{BLOCKS}\" time=\"0\"/>"
                ));
                if line.ends_with("/>") {
                    lines.push("</device>".into());
                }
            }
            None => lines.push(line.to_owned()),
        }
    }
    lines.join("\n")
}

/// Between two writes of the neighbour's.
const REST: Duration = Duration::from_millis(8);

/// A neighbour that writes 4 KiB to a new block each time and waits until that is safe.
struct Neighbour {
    file: File,
    next: u64,
}

impl Neighbour {
    fn new(path: &str) -> Self {
        let flag = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).unwrap();
        let mut options = OpenOptions::new();
        let file = options.write(true).custom_flags(flag).open(path).unwrap();
        Self { file, next: 0 }
    }

    /// Writes until told to stop, and says when it has begun; how long each took. It rests between two,
    /// so that its blocks last for all that it is beside.
    fn write_until(&mut self, begun: &Barrier, stop: &AtomicBool) -> Vec<Duration> {
        let room = vec![7_u8; 8192];
        let from = room.as_ptr().align_offset(4096);
        let mut took = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            assert!(self.next < 8000, "it has no new block left");
            let began = Instant::now();
            self.file
                .write_all_at(&room[from..from + 4096], self.next * BLOCK)
                .unwrap();
            self.file.sync_data().unwrap();
            took.push(began.elapsed());
            self.next += 1;
            if took.len() == 1 {
                begun.wait();
            }
            std::thread::park_timeout(REST);
        }
        took
    }

    /// Its writes while something is done.
    fn beside<T>(&mut self, work: impl FnOnce() -> T) -> (T, Vec<Duration>) {
        let (begun, stop) = (Barrier::new(2), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let writes = scope.spawn(|| self.write_until(&begun, &stop));
            begun.wait();
            let done = work();
            stop.store(true, Ordering::Relaxed);
            (done, writes.join().unwrap())
        })
    }
}

/// Asks again while it goes on by itself for longer than a call.
fn delete_to_the_end(host: &Host, volume: &str) {
    while let Err(error) = host.delete_volume(volume) {
        assert_eq!(error.code(), tonic::Code::Aborted, "{error:?}");
    }
}

/// p50, p99 and the longest, in ms.
fn summary(what: &str, mut took: Vec<Duration>, whole: Duration) -> [f64; 3] {
    took.sort_unstable();
    let ms = |d: &Duration| d.as_secs_f64() * 1000.0;
    let at = |part: usize| ms(&took[(took.len() * part / 100).min(took.len() - 1)]);
    let found = [at(50), at(99), ms(took.last().unwrap())];
    say(&format!(
        "a neighbour's write, {what}: {} writes in {:.2} s, p50 {:.2} ms, p99 {:.2} ms, longest {:.2} ms",
        took.len(),
        whole.as_secs_f64(),
        found[0],
        found[1],
        found[2]
    ));
    found
}

#[test]
fn deleting_a_million_blocks_in_steps_stalls_no_neighbour_and_outlives_a_kill() {
    let mut host = rig("delete");
    for name in LARGE {
        host.create_thin(blank(name, BLOCKS * BLOCK)).unwrap();
    }
    host.create_thin(blank("neighbour", BLOCKS * BLOCK))
        .unwrap();
    fill(&host, LARGE);
    let used = || host.get_pool("p").unwrap().usage.unwrap().data_used_bytes;
    assert_eq!(used(), 3 * BLOCKS * BLOCK);
    let path = host
        .activate("neighbour")
        .unwrap()
        .activation
        .unwrap()
        .device_path;
    let mut neighbour = Neighbour::new(&path);
    let timed = |work: &mut dyn FnMut()| {
        let began = Instant::now();
        work();
        began.elapsed()
    };
    let (whole, took) = neighbour.beside(|| timed(&mut || host.pause(Duration::from_secs(2))));
    summary("at rest", took, whole);

    let id = host.get_pool("p").unwrap().id;
    let ids = thin_ids(&host);
    let (_, naive) = ids.iter().find(|(name, _)| name == "naive").unwrap();
    let (pool, message) = (format!("goldleaf-{id}-pool"), format!("delete {naive}"));
    let mut delete = || {
        run("dmsetup", &["message", &pool, "0", &message]);
    };
    let (whole, took) = neighbour.beside(|| timed(&mut delete));
    let one_message = summary("one message", took, whole);

    let mut delete = || delete_to_the_end(&host, "steps");
    let (whole, took) = neighbour.beside(|| timed(&mut delete));
    let in_steps = summary("in steps", took, whole);
    // Of a hundred writes one may meet a pause of the machine's own.
    assert!(
        in_steps[1] * 2.0 < one_message[2],
        "in steps a write waited {in_steps:?}, beside one message {one_message:?}"
    );

    // Killed in the middle, it goes on at the next start by itself.
    let mut agent = host.agent.take().unwrap();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| host.delete_volume("killed"));
        host.soon("some of it is given up", || {
            let progress = host.volume("killed").ok()?.progress?;
            (progress.done_bytes > 0).then(|| assert_eq!(progress.total_bytes, BLOCKS * BLOCK))
        });
        agent.kill();
        let cut = call.join().unwrap().unwrap_err();
        assert_eq!(cut.code(), tonic::Code::Unavailable, "{cut:?}");
    });
    let written = neighbour.next * BLOCK;
    drop(neighbour);
    host.agent = Some(agent);
    host.start_agent(&[]);
    host.await_node();
    host.soon("the deletion ends by itself", || {
        host.volume("killed").is_err().then_some(())
    });
    // What the kernel deleted behind our back is as good as deleted.
    host.delete_volume("naive").unwrap();
    assert_eq!(thin_ids(&host).len(), 1);
    host.deactivate("neighbour").unwrap();
    let left = host.volume_usage("neighbour").unwrap().owned_bytes;
    assert_eq!(left, written);
    host.soon("nothing else takes room", || {
        let used = host.get_pool("p").unwrap().usage.unwrap().data_used_bytes;
        (used == written).then_some(())
    });
    host.delete_volume("neighbour").unwrap();
    host.delete_pool("p").unwrap();
    // What was deleted behind our back looked lost to the agent that came back.
    host.end_after(&["its data is gone from the pool's metadata"]);
}
