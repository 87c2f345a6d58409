//! One whole life of a pool with volumes, snapshots and a clone, to be cut short anywhere.
//!
//! Used by the crash tests. Each step is a call of the public API; its answer is put down without
//! what may differ between two runs (times, revisions, minted ids). A run that was cut short and
//! repeated must give the very answers of one that was not; `cut_short` says what each death came
//! to as a `Row` of the crash matrix, which is kept in `docs/crash-matrix.md`.

mod cut;
mod images;
mod matrix;
mod nodes;
mod pools;
mod volumes;

use goldleaf_proto::v1 as api;
use tonic::{Code, Status};

use super::Host;
use crate::support::{say, setting};

pub use cut::Victim;
use cut::cut_short;
use matrix::Row;

type Run = fn(&Host) -> Result<String, Status>;

/// One step: what it does, and how.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    what: &'static str,
    /// The call of `goldleaf.v1` that it stands for; "" for a look, or a write to a device.
    call: &'static str,
    run: Run,
}

const fn step(what: &'static str, call: &'static str, run: Run) -> Step {
    Step { what, call, run }
}

/// The steps, in order. The image `golden` is there before.
fn steps() -> impl Iterator<Item = &'static Step> {
    [
        images::FIRST,
        pools::FIRST,
        volumes::MADE,
        volumes::CHANGED,
        nodes::STEPS,
        volumes::GONE,
        pools::LAST,
        images::LAST,
    ]
    .into_iter()
    .flatten()
}

/// What a step says that was to be refused and was made after all: its refusal was never answered,
/// and what was wrong has been put right before the wish was looked at again.
const MADE_LATER: &str = "made later, and taken away again";

/// A refusal that is meant to come, put down as an answer.
fn refused(
    answer: Result<String, Status>,
    code: Code,
    take_away: impl FnOnce() -> Result<(), Status>,
) -> Result<String, Status> {
    match answer {
        Err(e) if e.code() == code => Ok(format!("refused with {code:?}")),
        Ok(_) => take_away().map(|()| MADE_LATER.to_owned()),
        Err(e) => Err(e),
    }
}

fn labelled(target: &str) -> api::UpdateRequest {
    api::UpdateRequest {
        target: target.into(),
        set_labels: [("team".to_owned(), "db".to_owned())].into(),
        ..Default::default()
    }
}

/// What both log of a life that is cut short: the death itself, and what the refused steps are
/// refused for.
const LOGGED: &[&str] = &[
    "dying as asked",
    "an image's content changed",
    // A look at the rows while it is so.
    "changed on this node",
    "takes no change",
    // The life changes the table of a live pool at the same time as its agent: one of two resumptions
    // that meet is refused by the kernel (EINVAL), where there is more than one processor.
    "its room is not minded; tried again later",
    "is a file outside the pool folder",
    "mending",
    "nobody owns",
    // A creation that was given up and died on: the agent does not make it anew.
    "was deleted and is not made again",
    // A death between the suspension of several volumes and their snapshots.
    "its device was found suspended; resumed",
    // A death while the mappings are read; the kernel would keep that root for good.
    "a metadata snapshot was left held; released",
];

/// Asks until the answer is no passing refusal: a process that is coming back, or work that the
/// control plane is finishing by itself.
fn ask(host: &Host, step: &Step) -> String {
    host.soon(step.what, || match (step.run)(host) {
        Ok(answer) => Some(answer),
        Err(e)
            if matches!(
                e.code(),
                Code::Unavailable | Code::Aborted | Code::Cancelled
            ) =>
        {
            None
        }
        Err(e) => panic!("{}: {e:?}\n{}", step.what, host.logs()),
    })
}

/// Has the victim die at every place it can, one life for each, and prints the matrix of it. With
/// `GOLDLEAF_EVERY_TIME` it dies each time that it comes to a place, in whatever step that is;
/// `GOLDLEAF_POINT` chooses the places that have this in their names, `GOLDLEAF_SHARE` one in so many.
///
/// # Panics
///
/// When something was lost, left over or stuck, or a place was not reached.
pub fn every_death(test: &str, victim: Victim) {
    let mut host = Host::start(test);
    host.image("golden", &[0x5a; 1 << 20]);
    let expected = undisturbed(&host);
    let points = victim.points();
    assert!(points.len() > 15, "{points:?}");
    let chosen = chosen(&points);
    matrix::HEAD.iter().for_each(|line| say(line));
    let times = setting("GOLDLEAF_EVERY_TIME").map_or(1, |_| u32::MAX);
    for point in chosen {
        let row = cut_short(&mut host, victim, point, &expected);
        let row = row.unwrap_or_else(|| panic!("{point} was never reached"));
        say(&row.to_string());
        // A control plane registers its nodes at its start, before the life.
        let times = match point.contains("register-node") {
            true => 1,
            false => times,
        };
        for again in (2..=times).map(|time| format!("{point}#{time}")) {
            let Some(row) = cut_short(&mut host, victim, &again, &expected) else {
                break;
            };
            say(&row.to_string());
        }
    }
    host.end_after(LOGGED);
}

/// The places to die at. One in so many begins with another one each day, so that all of them have
/// their turn; that it is not all is said.
fn chosen(points: &[String]) -> Vec<&String> {
    let wanted = std::env::var("GOLDLEAF_POINT").unwrap_or_default();
    let named = points.iter().filter(|point| point.contains(&wanted));
    let every = setting("GOLDLEAF_SHARE").unwrap_or(1).max(1);
    let seed = setting("GOLDLEAF_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed();
        now.expect("a clock").as_secs() / 86_400
    });
    let [step, first] = [every, seed % every].map(|n| usize::try_from(n).expect("a number"));
    let chosen: Vec<_> = named.skip(first).step_by(step).collect();
    if chosen.len() < points.len() {
        let (some, all) = (chosen.len(), points.len());
        say(&format!(
            "not every place: {some} of {all}, GOLDLEAF_SHARE={every} GOLDLEAF_SEED={seed}"
        ));
    }
    assert!(!chosen.is_empty(), "no place to die at");
    chosen
}

/// Runs the life undisturbed.
fn undisturbed(host: &Host) -> Vec<String> {
    let answers: Vec<_> = steps().map(|step| ask(host, step)).collect();
    assert!(
        !answers.iter().any(|a| a == MADE_LATER),
        "not refused: {answers:#?}"
    );
    answers
}
