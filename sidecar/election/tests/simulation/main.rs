//! Seeded simulation: several candidates, one register, clocks that disagree, messages that are late, lost or come twice,
//! pauses, crashes, meddling hands. Every right belief of every program is held against all others on the true time line.
//!
//! `CONCH_SEED=n cargo test -p conch-election --test simulation` replays one seed and prints what happened in it;
//! `CONCH_RUNS=n` sets how many are run.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper of a test may fail the test")]

mod checker;
mod node;
mod random;
mod store;
mod world;

use world::World;

const RUNS: u64 = 2_000;

fn environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn no_two_programs_rightly_believe_that_they_lead() {
    if let Some(seed) = environment("CONCH_SEED") {
        let outcome = World::new(seed, true).run();
        println!("{outcome:?}");
        assert_eq!(outcome.violation, None);
        return;
    }
    let runs = environment("CONCH_RUNS").unwrap_or(RUNS);
    let (mut terms, mut promises) = (0, 0);
    for seed in 0..runs {
        let outcome = World::new(seed, false).run();
        terms += outcome.terms;
        promises += outcome.promises;
        if let Some(violation) = outcome.violation {
            panic!(
                "seed {seed}: {violation}\nreplay: CONCH_SEED={seed} cargo test -p conch-election --test simulation -- --nocapture"
            );
        }
    }
    println!("{runs} runs of two simulated minutes: {terms} terms, {promises} promises, no overlap");
    assert!(terms > runs * 2, "the simulation does not change leaders: {terms} terms in {runs} runs");
}
