//! A run of the model test: operations with restarts and kills among them, thrown by a seed.
//!
//! Called by the model test alone; the power cuts throw operations only. What a step does to a host
//! is [`super::bed`]'s.

use super::{Dice, Op, SMALLEST, STEP, World};

/// One step of a run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// An operation, answered before the next step.
    Do(Op),
    /// The agent is told to stop, and started.
    RestartAgent,
    /// kill -9 of the agent, and its start.
    KillAgent,
    /// kill -9 of the control plane, and its start.
    KillServer,
    /// kill -9 of both, and their start.
    KillBoth,
    /// The pool is closed and opened. Nothing is active any more after it.
    ReopenPool,
    /// Everything is deleted, as between two runs on one host.
    Empty,
}

impl World {
    /// A run of so many steps that make sense on nothing.
    #[must_use]
    pub fn run(steps: usize, dice: &mut Dice) -> Vec<Step> {
        let mut world = Self::default();
        let thrown = (0..steps).map(|_| {
            let step = match dice.below(60) {
                0 => Step::RestartAgent,
                1 => Step::KillAgent,
                2 => Step::KillServer,
                3 => Step::KillBoth,
                4 => Step::ReopenPool,
                _ => Step::Do(world.pick(dice)),
            };
            world.take(&step);
            step
        });
        thrown.collect()
    }

    /// Changes the model as the step changes a host.
    ///
    /// # Panics
    ///
    /// When it makes no sense here.
    pub fn take(&mut self, step: &Step) {
        match step {
            Step::Do(op) => self.apply(op),
            Step::ReopenPool => self.things.values_mut().for_each(|t| t.active = false),
            Step::Empty => self.things.clear(),
            Step::RestartAgent | Step::KillAgent | Step::KillServer | Step::KillBoth => {}
        }
    }
}

impl Step {
    /// The steps of a run that make sense where they stand, on nothing at first.
    #[must_use]
    pub fn sensible(run: Vec<Self>) -> Vec<Self> {
        let mut world = World::default();
        let mut sensible = run;
        sensible.retain(|step| {
            let makes_sense = match step {
                Self::Do(op) => world.allows(op),
                Self::RestartAgent
                | Self::KillAgent
                | Self::KillServer
                | Self::KillBoth
                | Self::ReopenPool
                | Self::Empty => true,
            };
            if makes_sense {
                world.take(step);
            }
            makes_sense
        });
        sensible
    }

    /// Steps that say less and might do as well.
    #[must_use]
    pub fn plainer(&self) -> Vec<Self> {
        match self {
            Self::Do(op) => plainer(op).into_iter().map(Self::Do).collect(),
            Self::KillBoth => vec![Self::KillAgent, Self::KillServer],
            Self::KillAgent | Self::ReopenPool => vec![Self::RestartAgent],
            Self::RestartAgent | Self::KillServer | Self::Empty => vec![],
        }
    }
}

/// Each has one thing less that may matter: an image, a device, a size, a stretch.
fn plainer(op: &Op) -> Vec<Op> {
    let mut all = Vec::new();
    let mut less = |change: &dyn Fn(&mut Op)| {
        let mut other = op.clone();
        change(&mut other);
        if other != *op {
            all.push(other);
        }
    };
    match op {
        Op::Create { .. } => {
            less(&|op| {
                if let Op::Create { image, .. } = op {
                    *image = false
                }
            });
            less(&|op| {
                if let Op::Create { active, .. } = op {
                    *active = false
                }
            });
            less(&|op| {
                if let Op::Create { size, .. } = op {
                    *size = SMALLEST
                }
            });
        }
        Op::Clone { .. } => {
            less(&|op| {
                if let Op::Clone { active, .. } = op {
                    *active = false
                }
            });
            less(&|op| {
                if let Op::Clone { size, .. } = op {
                    *size = SMALLEST
                }
            });
        }
        Op::Resize { .. } => {
            less(&|op| {
                if let Op::Resize { size, .. } = op {
                    *size = SMALLEST + STEP
                }
            });
        }
        Op::Write { .. } => {
            less(&|op| {
                if let Op::Write { count, .. } = op {
                    *count = 1
                }
            });
            less(&|op| {
                if let Op::Write { block, .. } = op {
                    *block = 0
                }
            });
            less(&|op| {
                if let Op::Write { pattern, .. } = op {
                    *pattern = 2
                }
            });
        }
        Op::Snapshot { .. } | Op::Activate { .. } | Op::Deactivate { .. } | Op::Delete { .. } => {}
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_sensible(run: &[Step]) -> bool {
        Step::sensible(run.to_vec()) == run
    }

    #[test]
    fn a_seed_throws_one_run_and_all_of_it_makes_sense() {
        let run = |seed| World::run(300, &mut Dice::new(seed));
        assert_eq!(run(3), run(3));
        assert_ne!(run(3), run(4));
        assert!(is_sensible(&run(3)));
        let kills = run(3).iter().filter(|s| !matches!(s, Step::Do(_))).count();
        assert!((10..60).contains(&kills), "{kills}");
    }

    #[test]
    fn what_needs_a_step_that_is_gone_goes_too_and_no_more() {
        let name = || "volume/v".to_owned();
        let create = Step::Do(Op::Create {
            name: name(),
            size: SMALLEST,
            image: true,
            active: false,
        });
        let resize = Step::Do(Op::Resize {
            name: name(),
            size: SMALLEST + STEP,
        });
        let delete = Step::Do(Op::Delete { name: name() });
        let run = [&resize, &create, &Step::KillBoth, &resize, &delete, &delete];
        let run = run.map(Clone::clone).to_vec();
        let left = [create.clone(), Step::KillBoth, resize.clone(), delete];
        assert_eq!(Step::sensible(run), left);
        assert_eq!(
            Step::sensible(vec![create.clone(), Step::Empty, resize]),
            [create, Step::Empty]
        );
    }

    /// The search for a shorter run ends only if it is so.
    #[test]
    fn plainer_steps_never_lead_back() {
        let mut all: Vec<Step> = World::run(400, &mut Dice::new(7));
        while let Some(step) = all.pop() {
            let mut met = vec![step];
            let mut next = 0;
            while let Some(step) = met.get(next) {
                let plainer = step.plainer();
                assert!(!plainer.contains(&met[0]), "{plainer:?}");
                let new = plainer.into_iter().filter(|p| !met.contains(p));
                let new: Vec<_> = new.collect();
                met.extend(new);
                next += 1;
            }
        }
    }
}
