//! A power cut under load, and the next start on the same disks with the control plane away.
//!
//! Runs on the host and starts test kernels itself; inside, `e2e/reboot-phase` does the work.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use goldleaf_tests::command::command;
use goldleaf_tests::support::{Plug, patience};

const NAME: &str = "reboot";

/// How long one start may take to its load.
const LIMIT: Duration = Duration::from_secs(300);

fn vm(repo: &Path, dir: &Path, phase: &str) -> Command {
    let mut run = command(repo.join("tests/vm/run"));
    let [pool, host] = ["pool.disk", "host.disk"].map(|disk| dir.join(disk));
    run.args(["--name", NAME, "--memory", "1G", "--limit"])
        .arg(
            patience(LIMIT + Duration::from_secs(100))
                .as_secs()
                .to_string(),
        )
        .arg("--disk")
        .arg(pool)
        .arg("--disk")
        .arg(host)
        .arg("--write")
        .arg(dir)
        .args(["-e", &format!("WINDOW={}", dir.display())])
        .args(["-e", "GOLDLEAF_BINARIES", "-e", "GRPCURL", "--"])
        .arg(repo.join("tests/e2e/reboot-phase"))
        .arg(phase);
    run
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let tick = rustix::thread::Timespec {
        tv_sec: 0,
        tv_nsec: 50_000_000,
    };
    let limit = patience(LIMIT);
    for _ in 0..limit.as_millis() / 50 {
        if done() {
            return;
        }
        let _ = rustix::thread::nanosleep(&tick);
    }
    panic!("not within {limit:?}: {what}");
}

#[test]
fn after_a_power_cut_the_agent_alone_brings_back_what_the_host_had() {
    let repo = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let dir: PathBuf = repo.join(".build/reboot");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    for disk in ["pool.disk", "host.disk"] {
        let file = std::fs::File::create(dir.join(disk)).unwrap();
        file.set_len(512 << 20).unwrap();
    }
    let log = std::fs::File::create(dir.join("first.log")).unwrap();
    let mut first = vm(repo, &dir, "first");
    first
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    let mut first = first.spawn().unwrap();
    let _plug = Plug::of(repo, NAME);
    let words = || std::fs::read_to_string(dir.join("first.log")).unwrap_or_default();
    until("the first start is under load", || {
        assert!(
            first.try_wait().unwrap().is_none(),
            "it ended:\n{}",
            words()
        );
        dir.join("ready").exists()
    });
    // A moment of work, so that the cut falls into it.
    let _ = rustix::thread::nanosleep(&rustix::thread::Timespec {
        tv_sec: 2,
        tv_nsec: 0,
    });
    let killed = command(repo.join("tests/vm/kill"))
        .arg(NAME)
        .status()
        .unwrap();
    assert!(killed.success(), "its power was not cut:\n{}", words());
    first.wait().unwrap();
    let second = vm(repo, &dir, "second")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&second.stdout);
    assert!(
        second.status.success() && said.contains("everything came back"),
        "{said}{}",
        String::from_utf8_lossy(&second.stderr)
    );
    std::fs::remove_dir_all(&dir).unwrap();
}
