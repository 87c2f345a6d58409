//! Builds every test, runs each where it belongs, and adds up.
//!
//! Called by `tests/run`. Nothing counts as passed that was not run: a binary that does not start,
//! dies or says nothing is a failure, and so is a run of no test at all. A crash of the driver
//! leaves logs under `.build/tests`, and test kernels that end by their own time limit.

mod job;
mod less;
mod outcome;
mod plan;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;

use anyhow::{Context, Result};

use crate::command::command;
use job::{Finished, Job};
use outcome::Outcome;

/// What a run is made of.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The repository.
    repo: PathBuf,
    /// Where cargo puts the programs that are tested: optimised ones for an emulated processor, which
    /// `tests/run` builds then.
    programs: PathBuf,
    /// Where logs go.
    logs: PathBuf,
    /// `uml`, `qemu` or `host`.
    kernel: String,
}

/// Runs the tests whose name has one of `words` in it, or all; the last line says how it went.
///
/// # Errors
///
/// When the tests cannot be built or the test kernel does not start.
pub fn run(words: &[String]) -> Result<ExitCode> {
    let place = Place::find()?;
    let mut jobs = plan::jobs(&place)?;
    jobs.retain(|job| words.is_empty() || words.iter().any(|w| job.name.contains(w.as_str())));
    if jobs.iter().any(|job| job.in_kernel) {
        println!("kernel of the kernel tests: {}", kernel(&place)?);
    }
    for job in &jobs {
        if let Some(less) = job.less {
            println!("emulated, so less of {}: {less}", job.name);
        }
    }
    let finished = run_all(&place, jobs)?;
    Ok(report(&finished))
}

impl Place {
    fn find() -> Result<Self> {
        let repo = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("no repository")?;
        let own = std::env::current_exe()?;
        let own = own.parent().context("no folder of programs")?;
        let logs = repo.join(".build/tests");
        std::fs::create_dir_all(&logs)?;
        let kernel = std::env::var("KERNEL").ok().filter(|k| !k.is_empty());
        let kernel = kernel.unwrap_or_else(|| "uml".to_owned());
        // `tests/run` has built them.
        let programs = match std::env::var("GOLDLEAF_PROFILE").as_deref() {
            Ok("release") => own.with_file_name("release"),
            _ => own.to_owned(),
        };
        Ok(Self {
            repo: repo.to_owned(),
            programs,
            logs,
            kernel,
        })
    }
}

/// Boots the test kernel once: what it is, or why there is none.
fn kernel(place: &Place) -> Result<String> {
    let script = "echo $(uname -r), $(dmsetup targets | grep -w thin-pool)";
    let output = command(place.repo.join("tests/vm/run"))
        .args(["--limit", "120", "--", "bash", "-c", script])
        .env("KERNEL", &place.kernel)
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let named = said.trim();
    anyhow::ensure!(
        output.status.success() && named.contains("thin-pool"),
        "no test kernel: {named}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(format!("{named}, by {}", place.kernel))
}

/// As many at once as there are processors: each test kernel keeps one busy.
fn run_all(place: &Place, jobs: Vec<Job>) -> Result<Vec<Finished>> {
    let queue = Mutex::new(VecDeque::from(jobs));
    let finished = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism()?.get();
    std::thread::scope(|scope| {
        for worker in 0..workers {
            let (queue, finished) = (&queue, &finished);
            scope.spawn(move || {
                loop {
                    let next = queue.lock().expect("no worker panics").pop_front();
                    let Some(job) = next else { break };
                    let done = job.run(place, worker);
                    println!("{done}");
                    finished.lock().expect("no worker panics").push(done);
                }
            });
        }
    });
    Ok(finished.into_inner().expect("no worker panics"))
}

/// Failures with their logs, the skipped with their reasons, and the sum.
fn report(finished: &[Finished]) -> ExitCode {
    for job in finished.iter().filter(|job| job.outcome.failed > 0) {
        println!("\n---- {} failed: {}", job.name, job.log.display());
        println!("{}", job.tail());
    }
    for job in finished {
        if let Some(less) = job.less {
            println!("not whole: {}: {less}", job.name);
        }
        for (test, reason) in &job.outcome.skipped {
            println!("skipped: {} {test}: {reason}", job.name);
        }
    }
    for job in finished {
        for test in &job.outcome.failures {
            println!("failed: {} {test}", job.name);
        }
    }
    let sum = finished
        .iter()
        .map(|job| &job.outcome)
        .fold(Outcome::default(), Outcome::plus);
    println!("{sum}");
    if sum.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
