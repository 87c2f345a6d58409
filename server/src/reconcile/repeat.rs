//! The loop: each unfinished thing is tried until it is finished, ever more rarely.
//!
//! One task. Things do not wait for each other; one thing is tried by one task at a time. The wait
//! doubles with each failure, up to a bound, and a node that comes back cuts all waits short. What
//! is tried lives in memory: a crash loses nothing, for the next start finds it in the store.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use goldleaf_rpc::{CallId, call};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::service::{Service, ServiceError, Unfinished};
use crate::telemetry::Chain;

/// How long to wait between tries of one thing.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    /// After the first failure.
    pub first: Duration,
    /// At most.
    pub most: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(200),
            most: Duration::from_secs(30),
        }
    }
}

/// Most things that are tried at once.
const AT_ONCE: usize = 64;

/// Most images beside them: imports stream for minutes or hours, and nothing else is to wait for them.
const IMAGES_AT_ONCE: usize = 64;

/// What is being tried.
#[derive(Default)]
struct Tries {
    images: JoinSet<Ended>,
    others: JoinSet<Ended>,
}

impl Tries {
    /// Whether another one of this kind may be tried.
    fn admit(&self, id: Unfinished) -> bool {
        match id {
            Unfinished::Image(_) => self.images.len() < IMAGES_AT_ONCE,
            Unfinished::Volume(_)
            | Unfinished::Snapshot(_)
            | Unfinished::Group(_)
            | Unfinished::Pool(_)
            | Unfinished::Untold(_)
            | Unfinished::GivenUp(_) => self.others.len() < AT_ONCE,
        }
    }

    fn of(&mut self, id: Unfinished) -> &mut JoinSet<Ended> {
        match id {
            Unfinished::Image(_) => &mut self.images,
            Unfinished::Volume(_)
            | Unfinished::Snapshot(_)
            | Unfinished::Group(_)
            | Unfinished::Pool(_)
            | Unfinished::Untold(_)
            | Unfinished::GivenUp(_) => &mut self.others,
        }
    }

    /// The end of one; waits for ever while there is none.
    async fn ended(&mut self) -> Result<Ended, JoinError> {
        tokio::select! {
            Some(ended) = self.images.join_next() => ended,
            Some(ended) = self.others.join_next() => ended,
            else => std::future::pending().await,
        }
    }
}

#[derive(Debug)]
struct Thing {
    due: Instant,
    wait: Duration,
    state: State,
    /// The request that asked for it, if one did: for the log.
    asked: Option<CallId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    /// Running, and it was handed in again meanwhile.
    RunningAndAgain,
}

type Ended = (Unfinished, Result<(), ServiceError>);

/// Finishes what is unfinished until stopped.
pub async fn run(service: Arc<Service>, waits: Waits, stop: CancellationToken) {
    let mut things = Things {
        known: HashMap::new(),
        waits,
    };
    let mut tries = Tries::default();
    let mut nodes = service.live.node_changes();
    loop {
        things.take_in(service.pending.take(), Instant::now());
        while let Some(id) = things.next_due(Instant::now(), |id| tries.admit(id)) {
            let service = Arc::clone(&service);
            let asked = things.asked(id);
            let work = async move { (id, service.finish(id).await) };
            tries.of(id).spawn(call::resume(asked, work));
        }
        let next = things.earliest(|id| tries.admit(id));
        tokio::select! {
            () = stop.cancelled() => return,
            () = service.pending.rung() => {}
            () = sleep_until(next) => {}
            changed = nodes.recv() => {
                let back = match changed {
                    Ok(node) => service.live.reach(node).is_some_and(|reach| reach.up),
                    Err(_) => true, // it missed some: one of them may be back
                };
                if back {
                    things.hurry(Instant::now());
                }
            }
            ended = tries.ended() => match ended {
                Ok((id, result)) => things.ended(id, result, Instant::now()),
                Err(error) => {
                    tracing::error!(%error, "a try panicked; it is tried again");
                    things.died(Instant::now());
                }
            },
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

struct Things {
    known: HashMap<Unfinished, Thing>,
    waits: Waits,
}

impl Things {
    fn take_in(
        &mut self,
        ids: impl IntoIterator<Item = (Unfinished, Option<CallId>)>,
        now: Instant,
    ) {
        let wait = self.waits.first;
        let fresh = || Thing {
            due: now,
            wait,
            state: State::Waiting,
            asked: None,
        };
        for (id, asked) in ids {
            let thing = self.known.entry(id).or_insert_with(fresh);
            thing.asked = asked.or(thing.asked.take());
            if thing.state == State::Running {
                thing.state = State::RunningAndAgain;
            }
        }
    }

    /// The next thing that is due and admitted, which runs from now on.
    fn next_due(&mut self, now: Instant, admit: impl Fn(Unfinished) -> bool) -> Option<Unfinished> {
        let due = |thing: &Thing| thing.state == State::Waiting && thing.due <= now;
        let mut known = self.known.iter_mut();
        let (id, thing) = known.find(|(id, thing)| due(thing) && admit(**id))?;
        thing.state = State::Running;
        Some(*id)
    }

    fn asked(&self, id: Unfinished) -> Option<CallId> {
        self.known.get(&id).and_then(|thing| thing.asked.clone())
    }

    /// When the next thing is due that would be admitted.
    fn earliest(&self, admit: impl Fn(Unfinished) -> bool) -> Option<Instant> {
        let waiting = self
            .known
            .iter()
            .filter(|(id, thing)| thing.state == State::Waiting && admit(**id));
        waiting.map(|(_, thing)| thing.due).min()
    }

    fn hurry(&mut self, now: Instant) {
        self.known.values_mut().for_each(|thing| {
            thing.due = now;
            thing.wait = self.waits.first;
        });
    }

    fn ended(&mut self, id: Unfinished, result: Result<(), ServiceError>, now: Instant) {
        let Some(thing) = self.known.get_mut(&id) else {
            return;
        };
        let again = thing.state == State::RunningAndAgain;
        match result {
            Ok(()) if again => {
                // Somebody failed with it meanwhile: look once more.
                thing.due = now;
                thing.state = State::Waiting;
            }
            Ok(()) => {
                tracing::info!(%id, "finished");
                self.known.remove(&id);
            }
            Err(error) => {
                let error_text = Chain(&error);
                if error.is_conflict() {
                    // A call changed it in between, which is no trouble: the next try sees that.
                    tracing::info!(%id, wait = ?thing.wait, error = %error_text, "changed meanwhile");
                } else if error.is_under_way() {
                    tracing::info!(%id, wait = ?thing.wait, error = %error_text, "under way");
                } else {
                    tracing::warn!(%id, wait = ?thing.wait, error = %error_text, "not finished yet");
                }
                thing.due = now + thing.wait;
                thing.wait = (thing.wait * 2).min(self.waits.most);
                thing.state = State::Waiting;
            }
        }
    }

    /// A try died without saying which: everything that runs is tried again, and trying twice is
    /// harmless.
    fn died(&mut self, now: Instant) {
        for thing in self
            .known
            .values_mut()
            .filter(|thing| thing.state != State::Waiting)
        {
            thing.due = now + thing.wait;
            thing.wait = (thing.wait * 2).min(self.waits.most);
            thing.state = State::Waiting;
        }
    }
}

#[cfg(test)]
mod tests {
    use goldleaf_types::VolumeId;

    use super::*;

    fn away() -> Result<(), ServiceError> {
        Err(ServiceError::TokenTooOld)
    }

    const fn all(_: Unfinished) -> bool {
        true
    }

    fn things(first: u64, most: u64) -> Things {
        let seconds = Duration::from_secs;
        Things {
            known: HashMap::new(),
            waits: Waits {
                first: seconds(first),
                most: seconds(most),
            },
        }
    }

    #[test]
    fn waits_double_up_to_a_bound_and_a_finished_thing_is_forgotten() {
        let mut things = things(1, 4);
        let id = Unfinished::Volume(VolumeId::mint());
        let mut now = Instant::now();
        things.take_in([(id, None)], now);
        for seconds in [1, 2, 4, 4] {
            assert_eq!(things.next_due(now, all), Some(id));
            assert_eq!(things.next_due(now, all), None, "one try at a time");
            things.take_in([(id, None)], now); // its own failure hands it in again
            things.ended(id, away(), now);
            now += Duration::from_secs(seconds);
            assert_eq!(things.earliest(all), Some(now));
            assert_eq!(
                things.next_due(now - Duration::from_millis(1), all),
                None,
                "not before"
            );
        }
        assert_eq!(things.next_due(now, all), Some(id));
        things.ended(id, Ok(()), now);
        assert!(things.known.is_empty());
    }

    #[test]
    fn a_thing_handed_in_while_it_is_finished_is_looked_at_again() {
        let mut things = things(1, 4);
        let (id, now) = (Unfinished::Volume(VolumeId::mint()), Instant::now());
        things.take_in([(id, None)], now);
        assert_eq!(things.next_due(now, all), Some(id));
        things.take_in([(id, None)], now);
        things.ended(id, Ok(()), now);
        assert_eq!(things.next_due(now, all), Some(id));
    }

    #[test]
    fn a_node_that_comes_back_cuts_the_wait_short() {
        let mut things = things(1, 4);
        let (id, now) = (Unfinished::Volume(VolumeId::mint()), Instant::now());
        things.take_in([(id, None)], now);
        assert_eq!(things.next_due(now, all), Some(id));
        things.ended(id, away(), now);
        assert_eq!(things.next_due(now, all), None);
        things.hurry(now);
        assert_eq!(things.next_due(now, all), Some(id));
    }
}
