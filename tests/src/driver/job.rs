//! One test binary, run here or in a test kernel, its output kept in a log.

use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::less::Less;
use super::outcome::Outcome;
use super::{Place, plan};
use crate::FIGURE;
use crate::command::command;

/// Lines of a log that are shown of a failure.
const SHOWN: usize = 200;
/// Lines of a panic, and of all panics of a binary, that are shown where its result is.
const CAUSE: usize = 10;
const CAUSES: usize = 40;

/// tests/vm/run's exit code for a kernel that the emulator let crash: the run says nothing of what is
/// tested, and is begun again so many times.
const EMULATOR: i32 = 124;
const AGAIN: u32 = 2;

/// What is to be run.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) name: String,
    pub(super) in_kernel: bool,
    pub(super) work: Work,
    /// Why it cannot run with the chosen kernel, if so: it is counted as skipped then.
    pub(super) not_here: Option<&'static str>,
    /// What it does less of with the chosen kernel, if so.
    pub(super) less: Option<Less>,
}

#[derive(Debug)]
pub(super) enum Work {
    /// A test binary, run in its package's folder.
    Binary {
        executable: PathBuf,
        folder: PathBuf,
    },
    /// The examples in the documentation of all crates.
    DocTests,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) name: String,
    pub(super) outcome: Outcome,
    pub(super) log: PathBuf,
    pub(super) less: Option<Less>,
    /// How often it was begun again.
    again: u32,
    took: Duration,
    ended: String,
    output: String,
}

impl Job {
    /// Runs it to its end. `worker` chooses the processor of a test kernel.
    pub(super) fn run(self, place: &Place, worker: usize) -> Finished {
        let log = place
            .logs
            .join(format!("{}.log", self.name.replace(' ', "-")));
        let began = Instant::now();
        if let Some(reason) = self.not_here {
            return Finished {
                name: self.name,
                outcome: Outcome::not_run(reason),
                log,
                less: None,
                again: 0,
                took: began.elapsed(),
                ended: String::new(),
                output: String::new(),
            };
        }
        let mut process = self.process(place, worker);
        let mut started = start(&mut process, &log);
        let mut again = 0;
        while again < AGAIN && matches!(&started, Ok(status) if status.code() == Some(EMULATOR)) {
            again += 1;
            // The log of what died is of use to whoever looks for the emulator's fault.
            let _ = std::fs::rename(&log, log.with_extension(format!("died-{again}.log")));
            started = start(&mut process, &log);
        }
        let (ended_well, ended) = match started {
            Ok(status) => (status.success(), status.to_string()),
            Err(error) => (false, format!("it did not start: {error}")),
        };
        let output = std::fs::read(&log).unwrap_or_default();
        let output = String::from_utf8_lossy(&output).into_owned();
        let outcome = Outcome::read(&output, ended_well);
        Finished {
            name: self.name,
            outcome,
            log,
            less: self.less,
            again,
            took: began.elapsed(),
            ended,
            output,
        }
    }

    fn process(&self, place: &Place, worker: usize) -> Command {
        let mut process = match &self.work {
            Work::DocTests => plan::doc_tests(&place.repo),
            Work::Binary { executable, folder } => {
                let mut process = if self.in_kernel {
                    self.kernel_process(place, worker)
                } else {
                    command(executable)
                };
                if self.in_kernel {
                    process.arg(executable).arg("--test-threads=1");
                }
                process
                    .current_dir(folder)
                    .env("CARGO_MANIFEST_DIR", folder);
                process
            }
        };
        process
            .env("GOLDLEAF_BINARIES", &place.programs)
            .env("GRPCURL", place.repo.join(".build/bin/grpcurl"))
            .env_remove("RUST_LOG")
            .stdin(Stdio::null());
        if let Some(less) = self.less {
            process.env(less.setting, less.emulated);
        }
        process
    }

    fn kernel_process(&self, place: &Place, worker: usize) -> Command {
        // An emulated processor is many times slower than User-Mode Linux.
        let limit = if place.kernel == "qemu" { 2400 } else { 1200 };
        let limit = crate::support::setting("GOLDLEAF_LIMIT").unwrap_or(limit);
        let mut process = command(place.repo.join("tests/vm/run"));
        process
            .args(["--name", &format!("test-{}", self.name), "--limit"])
            .arg(limit.to_string())
            .args(["--memory", "2G"])
            .env("KERNEL", &place.kernel)
            .env("VM_CPU", worker.to_string())
            .env("GOLDLEAF_TEST_KERNEL", &place.kernel);
        let passed = [
            "GOLDLEAF_TEST_KERNEL",
            "GOLDLEAF_BINARIES",
            "GRPCURL",
            "KEEP",
            "GOLDLEAF_OPERATIONS",
            "GOLDLEAF_SEED",
            "GOLDLEAF_EVERY_TIME",
            "GOLDLEAF_POINT",
            "GOLDLEAF_SHARE",
        ];
        for name in passed
            .into_iter()
            .chain(["CARGO_MANIFEST_DIR", "RUST_BACKTRACE"])
        {
            process.args(["-e", name]);
        }
        process.arg("--");
        process
    }
}

fn start(process: &mut Command, log: &PathBuf) -> std::io::Result<std::process::ExitStatus> {
    let file = File::create(log)?;
    process.stdout(file.try_clone()?).stderr(file).status()
}

impl Finished {
    /// The end of its output.
    pub(super) fn tail(&self) -> String {
        let lines: Vec<&str> = self.output.lines().collect();
        lines[lines.len().saturating_sub(SHOWN)..].join("\n")
    }

    /// The kernel that it says it ran on.
    fn kernel(&self) -> &str {
        self.output
            .lines()
            .find_map(|line| line.strip_prefix("kernel: "))
            .unwrap_or_default()
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            outcome,
            took,
            ended,
            ..
        } = self;
        let word = if outcome.failed == 0 { "ok" } else { "FAILED" };
        write!(f, "{word:6} {name}: {} passed", outcome.passed)?;
        if outcome.failed > 0 {
            write!(f, ", {} failed ({ended})", outcome.failed)?;
        }
        if !outcome.skipped.is_empty() {
            write!(f, ", {} skipped", outcome.skipped.len())?;
        }
        write!(f, ", {:.1} s", took.as_secs_f64())?;
        let kernel = self.kernel();
        if !kernel.is_empty() {
            write!(f, ", on {kernel}")?;
        }
        self.less
            .map_or(Ok(()), |less| write!(f, "; not whole: {less}"))?;
        if self.again > 0 {
            let times = self.again;
            write!(
                f,
                "; begun again {times}: the emulator let the kernel crash"
            )?;
        }
        if outcome.failed > 0 {
            causes(&self.output).try_for_each(|line| write!(f, "\n     ! {line}"))?;
        }
        figures(&self.output).try_for_each(|figure| write!(f, "\n       {figure}"))
    }
}

/// What the tests of a binary panicked with, shortened. It goes with the line that says `FAILED`,
/// because the end of the log is printed far below, where a shortened report may lack it.
fn causes(output: &str) -> impl Iterator<Item = &str> {
    let mut shown = 0;
    let lines = output.lines().filter(|line| !line.trim().is_empty());
    let lines = lines.filter(move |line| {
        if line.contains(" panicked at ") {
            shown = CAUSE;
        } else if line.trim() == "stack backtrace:" {
            shown = 0;
        }
        let show = shown > 0;
        shown = shown.saturating_sub(1);
        show
    });
    lines.take(CAUSES)
}

/// What a test has measured or counted, as it said it.
fn figures(output: &str) -> impl Iterator<Item = &str> {
    output.lines().filter_map(|line| line.strip_prefix(FIGURE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_test_says_is_shown_and_nothing_else_of_its_output() {
        let output = format!("running 1 test\ntest a ... \n{FIGURE}p99 3 ms\nok\n");
        assert_eq!(figures(&output).collect::<Vec<_>>(), ["p99 3 ms"]);
    }

    #[test]
    fn a_panic_is_shown_with_what_it_says_and_no_more() {
        let after = "x\n".repeat(CAUSE);
        let output = format!("test a ...\nthread 'a' panicked at b.rs:1:\n\nno pool\n{after}end\n");
        let shown: Vec<_> = causes(&output).collect();
        assert_eq!(shown[..2], ["thread 'a' panicked at b.rs:1:", "no pool"]);
        assert_eq!(shown.len(), CAUSE);
        let output = "thread 'a' panicked at b.rs:1:\nno pool\nstack backtrace:\n 0: x\n";
        assert_eq!(causes(output).count(), 2);
    }
}
