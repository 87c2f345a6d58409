//! Who asks for a repair and goes away: a look at what it would do ends and leaves nothing, what is
//! carried out goes on to its end, and who has to wait for another one is told so.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::task::{JoinError, JoinHandle};

use super::repair_tests::{STORE, ask, broken, damage, files, rig};
use super::rig::{POOL, Rig};
use super::*;
use crate::kernel::KernelError;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

type Answer = Result<RepairReport, PoolError>;

/// A repair, or a look at one, whose caller waits for it.
struct Asked {
    runtime: Runtime,
    call: JoinHandle<Result<(), JoinError>>,
    go: Sender<()>,
    ended: Receiver<Answer>,
}

impl Asked {
    /// One that has come to this step, and stays there.
    fn at(rig: &Rig, apply: bool, at: RepairStep) -> Self {
        let (tell, told) = channel();
        let (go, may_go) = channel();
        let (end, ended) = channel();
        let agent = Arc::clone(&rig.agent);
        let runtime = Runtime::new().unwrap();
        let call = runtime.spawn(caller::blocking(move || {
            let at_step = |step, _, _| {
                if step == at && tell.send(()).is_ok() {
                    let _ = may_go.recv_timeout(2 * LONG); // later ones go on at once
                }
            };
            let wanted = RepairPool {
                id: POOL,
                apply,
                accept_loss: false,
            };
            let _ = end.send(agent.repair_pool(Some(STORE), wanted, &at_step));
        }));
        told.recv_timeout(LONG).expect("it does not come so far");
        Self {
            runtime,
            call,
            go,
            ended,
        }
    }

    /// Its caller goes away, and it goes on from where it is.
    fn abandoned(self) -> Answer {
        self.call.abort();
        assert!(self.runtime.block_on(self.call).is_err());
        drop(self.go);
        self.ended.recv_timeout(LONG).expect("it does not end")
    }
}

fn nothing_is_left(rig: &Rig) {
    let left = [files(rig, "copy"), files(rig, "repaired")].concat();
    assert!(left.is_empty(), "{left:?}");
    assert!(rig.agent.pools.reserved.all().is_empty(), "it has a pool");
}

fn closed() -> Rig {
    let rig = rig();
    rig.agent.close_pool(POOL, Some(STORE)).unwrap();
    damage(&rig, broken());
    rig
}

#[test]
fn a_look_ends_with_its_caller_wherever_it_is_and_leaves_nothing() {
    let rig = closed();
    for at in [
        RepairStep::Copying,
        RepairStep::Checking,
        RepairStep::Repairing,
        RepairStep::CheckingResult,
    ] {
        let ended = Asked::at(&rig, false, at).abandoned();
        let told = matches!(ended, Err(PoolError::Kernel(KernelError::Abandoned(POOL))));
        assert!(told, "{at:?}: {ended:?}");
        nothing_is_left(&rig);
    }
    assert_eq!(
        ask(&rig, false, false).unwrap().outcome,
        RepairOutcome::WouldDo
    );
    assert_eq!(ask(&rig, true, false).unwrap().outcome, RepairOutcome::Done);
}

#[test]
fn a_repair_goes_on_to_its_end_without_its_caller() {
    for at in [
        RepairStep::Copying,
        RepairStep::Repairing,
        RepairStep::Putting,
    ] {
        let rig = closed();
        let report = Asked::at(&rig, true, at).abandoned().unwrap();
        assert_eq!(report.outcome, RepairOutcome::Done, "{at:?}");
        assert!(rig.agent.pools.open(POOL).is_some());
        nothing_is_left(&rig);
        rig.check("repaired");
    }
}

#[test]
fn who_waits_for_another_one_is_told_so_and_begins_when_that_ends() {
    let rig = closed();
    let look = Asked::at(&rig, false, RepairStep::Repairing);
    let (tell, told) = channel();
    let steps = Mutex::new(Vec::new());
    let repaired = std::thread::scope(|scope| {
        let repair = scope.spawn(|| {
            let wanted = RepairPool {
                id: POOL,
                apply: true,
                accept_loss: false,
            };
            let at_step = |step, _, _| {
                steps.lock().unwrap().push(step);
                let _ = tell.send(step);
            };
            rig.agent.repair_pool(Some(STORE), wanted, &at_step)
        });
        assert_eq!(told.recv_timeout(LONG), Ok(RepairStep::Waiting));
        assert!(look.abandoned().is_err());
        repair.join().unwrap()
    });
    assert_eq!(repaired.unwrap().outcome, RepairOutcome::Done);
    let mut steps = steps.into_inner().unwrap();
    steps.dedup();
    let all = [
        RepairStep::Waiting,
        RepairStep::Copying,
        RepairStep::Checking,
        RepairStep::Repairing,
        RepairStep::CheckingResult,
        RepairStep::Putting,
    ];
    assert_eq!(steps, all);
}

#[test]
fn a_look_whose_caller_goes_while_it_waits_does_not_begin() {
    let rig = closed();
    let repair = Asked::at(&rig, true, RepairStep::Repairing);
    let look = Asked::at(&rig, false, RepairStep::Waiting);
    // It goes on only when it has its turn.
    look.call.abort();
    assert!(look.runtime.block_on(look.call).is_err());
    drop(look.go);
    drop(repair.go);
    let done = repair.ended.recv_timeout(LONG).unwrap().unwrap();
    assert_eq!(done.outcome, RepairOutcome::Done);
    let late = look.ended.recv_timeout(LONG).unwrap();
    assert!(matches!(late, Err(PoolError::Abandoned(POOL))), "{late:?}");
    nothing_is_left(&rig);
}
