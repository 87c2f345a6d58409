//! A run that fails, made as short and as plain as it may be while it still fails.
//!
//! Called by the model test. It knows neither steps nor hosts: a [`Trial`] says what of a run makes
//! sense, what is plainer than a step, and how a run went. Stretches are taken out, halves
//! first and single steps last; then steps are made plainer. The invariant: [`Shrunk::run`] is a run
//! that was seen to fail, whenever the trial has had enough.

use std::collections::BTreeSet;

/// How a run went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried {
    /// As it should.
    Well,
    /// It failed, and of its steps only the first so many were needed for that.
    Failed(usize),
    /// It was not tried, and no other is to be tried any more.
    Enough,
}

/// What a search for a shorter run asks.
pub trait Trial<T> {
    /// The run without the steps that make no sense any more, since one before them is gone or
    /// another one. What comes before such a step stays as it is.
    fn sensible(&self, run: Vec<T>) -> Vec<T>;

    /// Steps that may stand for this one and are plainer. None may lead back to it.
    fn plainer(&self, step: &T) -> Vec<T>;

    /// Tries a run.
    fn play(&mut self, run: &[T]) -> Tried;
}

/// What a search came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shrunk<T> {
    /// It fails.
    pub run: Vec<T>,
    /// How many runs were tried.
    pub tried: usize,
    /// Whether none of its steps can be taken out, or made plainer, without its going well.
    pub is_least: bool,
}

/// Shortens a run that fails.
pub fn shrink<T: Clone + Ord>(run: Vec<T>, trial: &mut impl Trial<T>) -> Shrunk<T> {
    let mut search = Search {
        run,
        trial,
        known: BTreeSet::new(),
        tried: 0,
    };
    let is_least = search.all().is_some();
    Shrunk {
        run: search.run,
        tried: search.tried,
        is_least,
    }
}

struct Search<'a, T, R> {
    /// The shortest that failed.
    run: Vec<T>,
    trial: &'a mut R,
    /// What was tried already: a run that went well is taken to go well again.
    known: BTreeSet<Vec<T>>,
    tried: usize,
}

impl<T: Clone + Ord, R: Trial<T>> Search<'_, T, R> {
    /// `None` when there was no time for all of it.
    fn all(&mut self) -> Option<()> {
        let mut size = self.run.len().div_ceil(2);
        while size > 1 {
            self.without_stretches(size)?;
            size = size.div_ceil(2);
        }
        loop {
            while self.without_stretches(1)? {}
            if !self.made_plainer()? {
                return Some(());
            }
        }
    }

    /// Takes out every stretch of so many steps that is not needed, the last first: what comes later
    /// needs what came before. Whether there was one.
    fn without_stretches(&mut self, size: usize) -> Option<bool> {
        let mut found = false;
        let mut end = self.run.len();
        while end > 0 {
            let start = end.saturating_sub(size);
            let mut shorter = self.run.clone();
            shorter.drain(start..end);
            found |= self.is_better(shorter)?;
            // What came before the stretch is as it was, if it was needed at all.
            end = start.min(self.run.len());
        }
        Some(found)
    }

    /// Puts plainer steps in the place of others. Whether that went anywhere.
    fn made_plainer(&mut self) -> Option<bool> {
        let mut found = false;
        let mut index = 0;
        while let Some(step) = self.run.get(index) {
            let plainer = self.trial.plainer(step).into_iter();
            let mut replaced = false;
            for step in plainer {
                let mut other = self.run.clone();
                other[index] = step;
                if self.is_better(other)? {
                    replaced = true;
                    break;
                }
            }
            found |= replaced;
            // A plainer one may have a plainer one still.
            index += usize::from(!replaced);
        }
        Some(found)
    }

    /// Tries a run, and goes on from it when it fails.
    fn is_better(&mut self, run: Vec<T>) -> Option<bool> {
        let run = self.trial.sensible(run);
        if run == self.run || !self.known.insert(run.clone()) {
            return Some(false);
        }
        let failed = match self.trial.play(&run) {
            Tried::Well => false,
            Tried::Failed(steps) => {
                self.run = run;
                self.run.truncate(steps);
                true
            }
            Tried::Enough => return None,
        };
        self.tried += 1;
        Some(failed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A step: what it is, and how much of it. From 10 on it needs the step that is 10 less.
    type Step = (u8, u8);

    /// Runs that have these steps, in this order and of at least this much, fail; of the others some
    /// more when `picky`: then only after 2, 5, 8 and so on steps.
    #[derive(Debug)]
    struct Fault {
        steps: Vec<Step>,
        picky: bool,
        left: usize,
    }

    impl Fault {
        fn is_in(&self, run: &[Step]) -> bool {
            (0..=run.len()).any(|steps| self.ends(&run[..steps]))
        }

        fn ends(&self, run: &[Step]) -> bool {
            let mut wanted = self.steps.iter().peekable();
            for (step, much) in run {
                wanted.next_if(|(s, least)| s == step && least <= much);
            }
            wanted.peek().is_none() && (!self.picky || run.len() % 3 == 2)
        }
    }

    impl Trial<Step> for Fault {
        fn sensible(&self, run: Vec<Step>) -> Vec<Step> {
            let mut there = BTreeSet::new();
            let mut sensible = run;
            sensible.retain(|(step, _)| {
                let makes_sense = *step < 10 || there.contains(&(step - 10));
                if makes_sense {
                    there.insert(*step);
                }
                makes_sense
            });
            sensible
        }

        fn plainer(&self, (step, much): &Step) -> Vec<Step> {
            let less = [0, much / 2, much.saturating_sub(1)];
            let less = less.into_iter().filter(|less| less < much);
            less.map(|less| (*step, less)).collect()
        }

        fn play(&mut self, run: &[Step]) -> Tried {
            match self.left.checked_sub(1) {
                Some(left) => self.left = left,
                None => return Tried::Enough,
            }
            let mut needed = 0..=run.len();
            let needed = needed.find(|steps| self.ends(&run[..*steps]));
            needed.map_or(Tried::Well, Tried::Failed)
        }
    }

    /// A sensible run, and a fault that is in it.
    fn failing() -> impl Strategy<Value = (Vec<Step>, Fault)> {
        let runs = prop::collection::vec((0..40_u8, 0..20_u8), 1..80);
        let runs = (
            runs,
            prop::collection::vec(any::<prop::sample::Index>(), 0..5),
            any::<bool>(),
        );
        runs.prop_map(|(run, picked, picky)| {
            let mut fault = Fault {
                steps: vec![],
                picky: false,
                left: usize::MAX,
            };
            let run = fault.sensible(run);
            if !run.is_empty() {
                let picked: BTreeSet<usize> = picked.iter().map(|i| i.index(run.len())).collect();
                fault.steps = picked
                    .into_iter()
                    .map(|i| (run[i].0, run[i].1 / 3))
                    .collect();
            }
            fault.picky = picky;
            fault.picky &= fault.is_in(&run);
            (run, fault)
        })
    }

    proptest! {
        #[test]
        fn what_is_left_fails_and_nothing_of_it_can_go((run, mut fault) in failing()) {
            prop_assert!(fault.is_in(&run));
            let shrunk = shrink(run, &mut fault);
            let left = &shrunk.run;
            prop_assert!(shrunk.is_least);
            prop_assert!(fault.is_in(left), "{left:?}");
            prop_assert_eq!(&fault.sensible(left.clone()), left);
            for index in 0..left.len() {
                let mut without = left.clone();
                without.remove(index);
                prop_assert!(!fault.is_in(&fault.sensible(without)), "{left:?} without {index}");
                for step in fault.plainer(&left[index]) {
                    let mut other = left.clone();
                    other[index] = step;
                    prop_assert!(!fault.is_in(&other), "{other:?} for {left:?}");
                }
            }
        }

        #[test]
        fn what_there_was_time_for_fails_and_is_no_longer_than_what_was_given(
            (run, mut fault) in failing(), left in 0..40_usize
        ) {
            fault.left = left;
            let shrunk = shrink(run.clone(), &mut fault);
            prop_assert!(fault.is_in(&shrunk.run));
            prop_assert!(shrunk.run.len() <= run.len() && shrunk.tried <= left);
            prop_assert!(shrunk.is_least || shrunk.tried == left);
        }
    }

    #[test]
    fn a_long_run_takes_few_tries() {
        let run: Vec<Step> = (0..80).map(|i| (i % 10, 0)).collect();
        let mut fault = Fault {
            steps: vec![(3, 0), (7, 0), (1, 0)],
            picky: false,
            left: usize::MAX,
        };
        let shrunk = shrink(run, &mut fault);
        assert_eq!(shrunk.run, [(3, 0), (7, 0), (1, 0)]);
        assert!(shrunk.tried < 40, "{}", shrunk.tried);
    }

    #[test]
    fn what_fails_whatever_is_done_fails_with_nothing_done() {
        let mut fault = Fault {
            steps: vec![],
            picky: false,
            left: usize::MAX,
        };
        let shrunk = shrink(vec![(1, 1), (2, 2)], &mut fault);
        assert_eq!(shrunk.run, []);
    }
}
