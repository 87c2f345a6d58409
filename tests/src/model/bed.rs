//! A host on which runs are played one after the other, and the shortest run that fails on it.
//!
//! Used by the model test. A run that goes well leaves its host to the next with the image and an
//! empty pool; a run that fails takes its host with it, and so does every tenth, which is ended and
//! looked through: what it logged, what it left. A failure is searched for its shortest run on hosts
//! of its own. Nothing survives a crash of the test: all of it goes with the test kernel.

use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::time::{Duration, Instant};

use goldleaf_proto::v1 as api;

use super::shrink::{Shrunk, Trial, Tried, shrink};
use super::{Dice, POOL, Step, World, ask, assert_same, golden_bytes, holds};
use crate::host::Host;

/// Steps of one run.
pub const RUN: usize = 80;

/// Runs on one host.
const RUNS: usize = 10;

/// How long a shorter run is searched for: what was found by then is printed before the kernel's
/// own time is up.
const SEARCH: Duration = Duration::from_secs(600);

/// Where runs are played.
#[derive(Debug, Default)]
pub struct Bed {
    host: Option<Host>,
    /// How many runs the host has had.
    runs: usize,
    /// What was done to it.
    past: Vec<Step>,
    steps: u64,
}

/// What follows a run that went well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// The pool is emptied, for the next run.
    Empty,
    /// The host is ended and looked through.
    End,
}

/// What went wrong.
#[derive(Debug)]
struct Failure {
    said: String,
    /// How many steps were begun.
    steps: usize,
    logs: String,
}

/// A run that failed, and the shortest that does so.
#[derive(Debug)]
pub struct Found {
    /// What the shortest said.
    said: String,
    logs: String,
    shrunk: Shrunk<Step>,
    note: &'static str,
}

impl fmt::Display for Found {
    /// The end is what counts: the driver shows that of a long log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shrunk {
            run,
            tried,
            is_least,
        } = &self.shrunk;
        let least = if *is_least { "least" } else { "shortest found" };
        writeln!(f, "{}\n{}", self.logs, self.said)?;
        writeln!(f, "the {least} run, after {tried} tries, {}:", self.note)?;
        run.iter().try_for_each(|step| writeln!(f, "  {step:?}"))
    }
}

impl Bed {
    /// How many steps were done.
    #[must_use]
    pub const fn steps(&self) -> u64 {
        self.steps
    }

    /// Plays the run of a seed.
    ///
    /// # Errors
    ///
    /// When it fails: what it comes to when it is made as short as it may be.
    pub fn play(&mut self, seed: u64) -> Result<(), Box<Found>> {
        let run = World::run(RUN, &mut Dice::new(seed));
        self.runs += 1;
        let after = if self.runs < RUNS {
            After::Empty
        } else {
            After::End
        };
        match self.attempt(&run, after) {
            Ok(()) => {
                self.past.extend(run);
                self.past.push(Step::Empty);
                if after == After::End {
                    (self.runs, self.past) = (0, Vec::new());
                }
                Ok(())
            }
            Err(failure) => Err(Box::new(self.search(run, failure, after))),
        }
    }

    /// Ends the host that the last run left.
    ///
    /// # Panics
    ///
    /// When it logged errors, or something is left.
    pub fn end(self) {
        if let Some(host) = self.host {
            host.end();
        }
    }

    /// Plays a run on the host that there is, or on a new one.
    fn attempt(&mut self, run: &[Step], after: After) -> Result<(), Failure> {
        let mut host = self.host.take().unwrap_or_else(fresh);
        let mut steps = 0;
        let played = caught(|| {
            let mut world = World::default();
            for step in run {
                steps += 1;
                world.take(step);
                perform(&mut host, &world, step);
            }
            assert_same(&host, &world);
            if after == After::Empty {
                empty(&host);
            }
        });
        self.steps += u64::try_from(steps).expect("a number of steps");
        let logs = host.logs();
        let ended = match (played, after) {
            (Ok(()), After::Empty) => {
                self.host = Some(host);
                Ok(())
            }
            (Ok(()), After::End) => caught(|| host.end()),
            // The host goes here, out of the panic: what it logged is said at the end and once.
            (Err(said), _) => Err(said),
        };
        ended.map_err(|said| Failure { said, steps, logs })
    }

    /// Looks for the shortest run that fails: alone on a new host, or else after what that host had
    /// before.
    fn search(&mut self, mut run: Vec<Step>, first: Failure, after: After) -> Found {
        crate::support::say(&format!("searching for the shortest run: {}", first.said));
        run.truncate(first.steps);
        let mut trial = OnBed {
            bed: self,
            until: Instant::now() + SEARCH,
            after,
            last: None,
        };
        let mut whole = std::mem::take(&mut trial.bed.past);
        whole.extend(run.iter().cloned());
        let mut note = "alone on a new host";
        let mut again = trial.play(&run);
        if again == Tried::Well {
            note = "after other runs on its host: alone the last of them did not fail again";
            trial.bed.host = None;
            again = trial.play(&whole);
            run = whole;
        }
        let shrunk = match again {
            Tried::Failed(steps) => {
                run.truncate(steps);
                shrink(run, &mut trial)
            }
            Tried::Well | Tried::Enough => {
                note = "with all before it on its host, and it did not fail again";
                Shrunk {
                    run,
                    tried: 2,
                    is_least: false,
                }
            }
        };
        let Failure { said, logs, .. } = trial.last.unwrap_or(first);
        // It would say its logs after all that is said of the run that failed.
        self.host = None;
        Found {
            said,
            logs,
            shrunk,
            note,
        }
    }
}

/// A search for a shorter run: each is tried on an empty pool, after one that failed on a new host.
struct OnBed<'a> {
    bed: &'a mut Bed,
    until: Instant,
    after: After,
    /// What the last that failed said: it is the shortest.
    last: Option<Failure>,
}

impl Trial<Step> for OnBed<'_> {
    fn sensible(&self, run: Vec<Step>) -> Vec<Step> {
        Step::sensible(run)
    }

    fn plainer(&self, step: &Step) -> Vec<Step> {
        step.plainer()
    }

    fn play(&mut self, run: &[Step]) -> Tried {
        if Instant::now() > self.until {
            return Tried::Enough;
        }
        match self.bed.attempt(run, self.after) {
            Ok(()) => Tried::Well,
            Err(failure) => {
                let steps = failure.steps;
                self.last = Some(failure);
                Tried::Failed(steps)
            }
        }
    }
}

/// What a panic in `work` said. Nothing is printed of it: a search has many.
fn caught(work: impl FnOnce()) -> Result<(), String> {
    thread_local! {
        static SAID: RefCell<String> = const { RefCell::new(String::new()) };
    }
    let hook = take_hook();
    set_hook(Box::new(|panic| {
        SAID.replace(without_logs(&panic.to_string()));
    }));
    let ended = catch_unwind(AssertUnwindSafe(work));
    set_hook(hook);
    ended.map_err(|_| SAID.take())
}

/// What a failed assertion says before and after the logs of its host, which are kept apart.
fn without_logs(said: &str) -> String {
    let Some((before, logs)) = said.split_once("--- goldleaf-server") else {
        return said.to_owned();
    };
    let compared = logs.rfind("\n  left: ").map_or("", |at| &logs[at..]);
    format!("{}{compared}", before.trim_end())
}

fn fresh() -> Host {
    let host = Host::start("model");
    host.image("golden", &golden_bytes());
    host.pool(POOL, 512 << 20);
    host
}

/// Does a step, and looks whether the host is as the model is by then.
fn perform(host: &mut Host, world: &World, step: &Step) {
    match step {
        Step::Do(op) => {
            ask(host, op);
            if let Some(thing) = world.things.get(op.name()) {
                holds(host, op.name(), thing);
            }
            return;
        }
        Step::RestartAgent => {
            let mut agent = host.agent.take().expect("a running agent");
            let status = agent.stop();
            assert!(status.success(), "it stopped with {status}");
            host.start_agent(&[]);
        }
        Step::KillAgent => {
            host.agent = None;
            host.start_agent(&[]);
        }
        Step::KillServer => {
            host.server = None;
            host.start_server(&[]);
        }
        Step::KillBoth => {
            (host.agent, host.server) = (None, None);
            host.start_server(&[]);
            host.start_agent(&[]);
        }
        Step::ReopenPool => reopen(host),
        Step::Empty => empty(host),
    }
    host.await_node();
    assert_same(host, world);
}

fn reopen(host: &Host) {
    let name = || POOL.to_owned();
    for volume in host.volume_names().expect("a list of volumes") {
        host.deactivate(&volume).expect("no device");
    }
    let (pool, wait) = (name(), true);
    host.close_pool(api::ClosePoolRequest { pool, wait })
        .expect("a closed pool");
    let (pool, wait) = (name(), true);
    host.open_pool(api::OpenPoolRequest {
        pool,
        wait,
        ..Default::default()
    })
    .expect("an open pool");
}

/// Deletes what a run made; the pool holds nothing then.
fn empty(host: &Host) {
    host.delete_volumes();
    host.soon("the pool is empty", || {
        let usage = host.get_pool(POOL).expect("the pool").usage;
        let usage = usage.expect("its usage");
        (usage.thin_count == 0 && usage.data_used_bytes == 0).then_some(())
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_said_without_the_logs_of_its_host() {
        let logs = "--- goldleaf-server\nx\n--- goldleaf-node-agent\ny";
        let said = format!("sizes\n{logs}\n  left: 1\n right: 2");
        assert_eq!(without_logs(&said), "sizes\n  left: 1\n right: 2");
        assert_eq!(without_logs(&format!("refused\n{logs}")), "refused");
        assert_eq!(without_logs("refused"), "refused");
    }

    #[test]
    fn a_panic_is_caught_with_its_words_and_the_next_is_another() {
        assert!(caught(|| panic!("one")).is_err_and(|said| said.contains("one")));
        assert!(caught(|| panic!("two")).is_err_and(|said| said.ends_with("two")));
        assert_eq!(caught(|| ()), Ok(()));
    }
}
