//! Random operations, restarts and kills among them, on a model and on a real kernel side by side.
//!
//! What fails is shrunk to the shortest run that still fails, and printed with its seed. Seeds that
//! found something stand in `e2e/model-seeds.txt` and run before any other. `GOLDLEAF_OPERATIONS`
//! says how many operations in all (2,000), `GOLDLEAF_SEED` what chance follows from.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use goldleaf_tests::model::{Bed, Dice};
use goldleaf_tests::support::{say, setting};

const SEEDS: &str = include_str!("model-seeds.txt");

/// One run of a seed.
fn run(bed: &mut Bed, seed: u64) {
    say(&format!("model test: seed {seed}")); // said first: a run that hangs is killed
    if let Err(found) = bed.play(seed) {
        panic!("{found}of seed {seed}, which is to be kept in e2e/model-seeds.txt");
    }
}

#[test]
fn whatever_is_done_and_whoever_dies_volumes_are_what_the_model_says() {
    let kept = SEEDS.lines().filter_map(|line| {
        let seed = line.split('#').next()?.trim();
        (!seed.is_empty()).then(|| seed.parse::<u64>().unwrap())
    });
    let mut bed = Bed::default();
    let mut runs = 0;
    for seed in kept {
        run(&mut bed, seed);
        runs += 1;
    }
    let wanted = setting("GOLDLEAF_OPERATIONS").unwrap_or(2000);
    let base = setting("GOLDLEAF_SEED").unwrap_or_else(|| {
        std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .unwrap()
            .as_secs()
    });
    let mut seeds = Dice::new(base);
    while bed.steps() < wanted {
        run(&mut bed, seeds.number());
        runs += 1;
    }
    let steps = bed.steps();
    bed.end();
    say(&format!(
        "model test: {steps} operations in {runs} runs as the model says, GOLDLEAF_SEED={base}",
    ));
}
