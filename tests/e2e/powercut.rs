//! Power cuts at random moments: the whole kernel killed in mid-load, with what its disks had not
//! flushed lost, kept or torn. Then the same disks again, and nothing that was acknowledged is gone.
//!
//! Runs on the host and starts test kernels itself; inside, `goldleaf-powercut` does the work.
//! `GOLDLEAF_CUTS` says how many (20), `GOLDLEAF_SEED` what chance follows from.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use goldleaf_tests::command::command;
use goldleaf_tests::model::Dice;
use goldleaf_tests::support::{Plug, patience, say};

const NAME: &str = "powercut";
const DISK: u64 = 384 << 20;

/// How long one start may take to its cut.
const LIMIT: Duration = Duration::from_secs(300);

struct Bench {
    repo: PathBuf,
    dir: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let repo = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let dir = repo.join(".build/powercut");
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        for disk in ["pool.disk", "own.disk"] {
            let file = std::fs::File::create(dir.join(disk)).unwrap();
            file.set_len(DISK).unwrap();
        }
        Self {
            repo: repo.to_owned(),
            dir,
        }
    }

    fn kernel(&self, seed: u64, more: Option<&str>) -> Command {
        let programs = PathBuf::from(std::env::var_os("GOLDLEAF_BINARIES").unwrap());
        let kernel = std::env::var("KERNEL").unwrap_or_else(|_| "uml".to_owned());
        let mut run = command(self.repo.join("tests/vm/run"));
        let limit = patience(LIMIT * 2).as_secs().to_string();
        run.args(["--name", NAME, "--limit", &limit, "--memory", "1G"]);
        run.args(["--module", "nbd", "-e", "GOLDLEAF_BINARIES"]);
        run.args(["-e", &format!("GOLDLEAF_TEST_KERNEL={kernel}")]);
        for disk in ["pool.disk", "own.disk"] {
            run.arg("--disk").arg(self.dir.join(disk));
        }
        run.arg("--write").arg(&self.dir).arg("--");
        run.arg(programs.join("goldleaf-powercut"));
        run.args(["--seed", &seed.to_string(), "--window"]);
        run.arg(&self.dir).args(more).stdin(Stdio::null());
        run
    }

    /// Starts the kernel, waits for the cut and kills it: how many sectors the cut decided about.
    fn until_cut(&self, seed: u64, more: Option<&str>) -> u64 {
        let notice = self.dir.join("cut");
        let _ = std::fs::remove_file(&notice);
        let log = std::fs::File::create(self.dir.join("log")).unwrap();
        let mut kernel = self.kernel(seed, more);
        kernel.stdout(log.try_clone().unwrap()).stderr(log);
        let mut kernel = kernel.spawn().unwrap();
        let _plug = Plug::of(&self.repo, NAME);
        self.await_notice(&notice, &mut kernel);
        let killed = command(self.repo.join("tests/vm/kill")).arg(NAME).status();
        assert!(killed.unwrap().success(), "not killed:\n{}", self.log());
        kernel.wait().unwrap();
        let words = std::fs::read_to_string(&notice).unwrap();
        words
            .split_whitespace()
            .map(|n| n.parse::<u64>().unwrap())
            .sum()
    }

    fn await_notice(&self, notice: &Path, kernel: &mut Child) {
        let tick = rustix::thread::Timespec {
            tv_sec: 0,
            tv_nsec: 10_000_000,
        };
        let began = Instant::now();
        // The notice is written whole, but in two steps: it exists before it has content.
        while std::fs::metadata(notice).map_or(0, |m| m.len()) == 0 {
            let ended = kernel.try_wait().unwrap();
            assert!(ended.is_none(), "before the cut:\n{}", self.log());
            assert!(began.elapsed() < patience(LIMIT), "no cut:\n{}", self.log());
            let _ = rustix::thread::nanosleep(&tick);
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok().filter(|t| !t.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text}")))
}

#[test]
fn whatever_was_acknowledged_survives_power_cuts_that_lose_and_tear_what_was_not_flushed() {
    let cuts = number("GOLDLEAF_CUTS").unwrap_or(20);
    let seed = number("GOLDLEAF_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
        now.as_secs()
    });
    println!("power cuts: {cuts}, GOLDLEAF_SEED={seed}");
    let bench = Bench::new();
    let mut dice = Dice::new(seed);
    let (mut sectors, mut idle, mut roots) = (0, 0, 0);
    for cut in 0..cuts {
        let first = (cut == 0).then_some("--first");
        let unflushed = bench.until_cut(dice.number(), first);
        let log = bench.log();
        let said = log.lines().find(|line| line.contains("all right"));
        let said = said.unwrap_or("in the middle of the start");
        println!("cut {cut}: {unflushed} unflushed sectors; {said}");
        roots += u64::from(log.contains("the cut met a metadata snapshot"));
        sectors += unflushed;
        idle += u64::from(unflushed == 0);
    }
    let last = bench
        .kernel(dice.number(), Some("--last"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&last.stdout);
    assert!(
        last.status.success() && said.contains("all right"),
        "after the last cut:\n{said}{}",
        String::from_utf8_lossy(&last.stderr)
    );
    let said = said.lines().find(|line| line.contains("all right"));
    say(&format!(
        "power cuts: {cuts}, GOLDLEAF_SEED={seed}: {} ({sectors} sectors were not flushed, {roots} metadata \
         snapshots half made or half released)",
        said.unwrap_or_default()
    ));
    assert!(
        idle * 2 < cuts,
        "most cuts met disks that had nothing to lose"
    );
    std::fs::remove_dir_all(&bench.dir).unwrap();
}
