//! The elector against time, the network and everybody who meddles: see `mod.rs`. `make simulate` runs many more.

#![expect(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

#[path = "mod.rs"]
mod simulation;

use simulation::{Campaign, replay, run};

const RUNS: u64 = 20_000;

#[test]
fn no_two_programs_rightly_believe_that_they_lead() {
    let campaign = run(RUNS, None);
    println!("{campaign}");
    if let Some(seed) = campaign.failed {
        panic!("{}", replay(seed, None));
    }
    let Campaign { passed, terms, .. } = campaign;
    assert_eq!(passed, RUNS);
    assert!(terms > RUNS * 2, "the simulation does not change leaders: {terms} terms in {RUNS} runs");
}
