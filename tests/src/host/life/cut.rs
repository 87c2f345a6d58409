//! A life that is cut short: its victim dies at a failpoint, comes back, and is asked again.
//!
//! Used by the crash tests. Nothing is put down before it was looked at: answers, what is left over,
//! and what the doctor finds.

use std::time::{Duration, Instant};

use goldleaf_dm::Owned;
use goldleaf_proto::v1 as api;

use super::{MADE_LATER, Row, Step, ask, steps};
use crate::host::{Host, Process, program, wreck};
use crate::support::patience;

/// Which of the two dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The control plane.
    Server,
    /// The node agent.
    Agent,
}

impl Victim {
    const fn program(self) -> &'static str {
        match self {
            Self::Server => "goldleaf-server",
            Self::Agent => "goldleaf-node-agent",
        }
    }

    /// Every place at which it can be made to die.
    ///
    /// # Panics
    ///
    /// When it does not say.
    #[must_use]
    pub fn points(self) -> Vec<String> {
        let program = program(self.program()).display().to_string();
        let said = crate::command::output(&program, &["failpoints"]).expect("its failpoints");
        // No pool of so short a life runs out of room: `e2e_brake` and `e2e_space` die there.
        let elsewhere = [
            "agent/brake-pool/",
            "agent/release-pool/",
            "agent/renew-wait/",
            // `e2e_repair` dies there.
            "agent/repair-pool/",
            // `e2e_rescue` dies there.
            "agent/rescue-pool/",
        ];
        let here = |point: &&str| !elsewhere.iter().any(|e| point.starts_with(e));
        said.lines().filter(here).map(str::to_owned).collect()
    }
}

/// What happened to the victim.
struct Death {
    step: &'static str,
    call: &'static str,
    /// Whether the caller had its answer before.
    answered: bool,
    /// From its new start to the same call's answer.
    back: Duration,
}

/// Runs the life with a victim that dies at `point`, or as `point#2` says when it comes there again,
/// brings it back, repeats the call that it died in and goes on to the end: what that came to. `None`
/// when the point was not reached so often.
///
/// # Panics
///
/// When an answer is another one than `expected`, or something is left over or stuck.
pub(super) fn cut_short(
    host: &mut Host,
    victim: Victim,
    point: &str,
    expected: &[String],
) -> Option<Row> {
    let mut death = begin(host, victim, point);
    let mut answers = Vec::new();
    for step in steps() {
        let first = (step.run)(host);
        let process = running(host, victim);
        let dead = death.is_none() && (first.is_err() || !process.runs()) && process.died();
        let began = Instant::now();
        if dead {
            start(host, victim, &[]);
            host.await_node();
        }
        let answered = first.is_ok();
        let answer = match first {
            Ok(answer) if !dead => answer,
            Ok(_) | Err(_) => ask(host, step),
        };
        if dead {
            death = Some(Death {
                step: step.what,
                call: step.call,
                answered,
                back: began.elapsed(),
            });
        }
        answers.push(answer);
    }
    if death.is_none() && !running(host, victim).runs() {
        start(host, victim, &[]);
        host.await_node();
        death = Some(Death {
            step: "after the last",
            call: "",
            answered: true,
            back: Duration::ZERO,
        });
    }
    let lost = others(expected, &answers);
    assert!(lost.is_empty(), "after dying at {point}: {lost:#?}");
    let leaked = leaked(host);
    assert!(leaked.is_empty(), "after dying at {point}: {leaked:#?}");
    let stuck = stuck(host);
    assert!(stuck.is_empty(), "after dying at {point}: {stuck:#?}");
    let Death {
        step,
        call,
        answered,
        back,
    } = death?;
    Some(Row {
        point: point.to_owned(),
        step: step.to_owned(),
        call: call.to_owned(),
        answered,
        back,
        lost: lost.len(),
        leaked: leaked.len(),
        stuck: stuck.len(),
    })
}

/// The steps that were answered otherwise than in a life that was not cut short.
fn others(expected: &[String], answers: &[String]) -> Vec<String> {
    assert_eq!(expected.len(), answers.len(), "as many answers as steps");
    let steps = steps().zip(expected).zip(answers);
    let others = steps.filter(|((_, expected), answer)| {
        let unanswered = expected.starts_with("refused") && *answer == MADE_LATER;
        expected != answer && !unanswered
    });
    others
        .map(|((Step { what, .. }, expected), answer)| {
            format!("{what:?} answered {answer:?} and not {expected:?}")
        })
        .collect()
}

/// Starts the victim so that it will die, and waits for the node. It may die at once: a
/// registration is the first thing that a control plane meets.
fn begin(host: &mut Host, victim: Victim, point: &str) -> Option<Death> {
    start(host, victim, &[("GOLDLEAF_FAILPOINT", point)]);
    if point.contains("register-node") {
        start(host, Victim::Agent, &[]); // it registers as it starts
        assert!(
            running(host, victim).died(),
            "{point} was not reached by a registration"
        );
        let began = Instant::now();
        start(host, victim, &[]);
        host.await_node();
        return Some(Death {
            step: "the node registers",
            call: "NodeService.Register",
            answered: false,
            back: began.elapsed(),
        });
    }
    host.await_node();
    None
}

fn running(host: &mut Host, victim: Victim) -> &mut Process {
    let process = match victim {
        Victim::Server => host.server.as_mut(),
        Victim::Agent => host.agent.as_mut(),
    };
    process.expect("a running victim")
}

fn start(host: &mut Host, victim: Victim, environment: &[(&str, &str)]) {
    match victim {
        Victim::Server => {
            host.server = None;
            host.start_server(environment);
        }
        Victim::Agent => {
            host.agent = None;
            host.start_agent(environment);
        }
    }
}

/// What a whole life leaves but for the golden image: devices, files, and what is listed.
fn leaked(host: &Host) -> Vec<String> {
    let devices = wreck::devices(host.dir()).into_iter();
    let devices = devices.filter(|(_, owned)| !matches!(owned, Owned::Image(_)));
    let mut left: Vec<_> = devices.map(|(name, _)| format!("device {name}")).collect();
    let pools = std::fs::read_dir(host.dir().join("agent/pools"));
    let files = pools.into_iter().flatten().flatten();
    left.extend(files.map(|file| format!("file {}", file.path().display())));
    let all = api::ListRequest::default;
    let volumes = host.list_volumes(all()).expect("volumes").volumes;
    left.extend(volumes.into_iter().map(|v| format!("volume {}", v.name)));
    let snapshots = host.list_snapshots(all()).expect("snapshots").snapshots;
    left.extend(
        snapshots
            .into_iter()
            .map(|s| format!("snapshot {}", s.name)),
    );
    let groups = host.list_groups(all()).expect("groups").groups;
    left.extend(groups.into_iter().map(|g| format!("group {}", g.name)));
    let pools = host.list_pools(all()).expect("pools").pools;
    left.extend(pools.into_iter().map(|p| format!("pool {}", p.name)));
    let images = host.list_images(all()).expect("images").images;
    let images = images.into_iter().filter(|image| image.name != "golden");
    left.extend(images.map(|i| format!("image {}", i.name)));
    left
}

/// How long something unfinished may take to be finished by whoever sees to it.
const SEEN_TO: Duration = Duration::from_secs(60);

/// What the doctor still finds after a while.
fn stuck(host: &Host) -> Vec<String> {
    let began = Instant::now();
    loop {
        let found = host.findings().expect("what the doctor finds");
        if found.is_empty() || began.elapsed() > patience(SEEN_TO) {
            return found.into_iter().map(|f| format!("{f:?}")).collect();
        }
        host.pause(Duration::from_millis(200));
    }
}
