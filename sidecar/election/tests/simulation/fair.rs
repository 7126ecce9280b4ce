//! A fair schedule: nothing goes wrong, and each leader resigns after a while.

use super::{
    scenario::{Fault, Network, Program, QUIET, SECOND, Scenario, Who},
    world::World,
};

/// How many terms each of four pods had.
fn take_turns(seed: u64) -> Vec<u64> {
    let network = Network { delay_max: 5_000, lost_per_mille: 0, repeated_per_mille: 0, stale_per_mille: 0 };
    let resignations =
        (1..QUIET / SECOND * 2 / 3).map(|turn| (turn * 3 / 2 * SECOND, Fault::Resign(Who::Leader, None)));
    let scenario = Scenario {
        network,
        fresh: true,
        pods: vec![Program::Polls; 4],
        faults: resignations.collect(),
        ..Scenario::from_seed(seed)
    };
    let outcome = World::new(&scenario, None, false).run();
    assert_eq!(outcome.violation, None, "seed {seed}");
    outcome.terms[..4].to_vec()
}

#[test]
fn nobody_starves_where_leaders_resign() {
    for seed in 0..50 {
        let terms = take_turns(seed);
        assert!(terms.iter().all(|of_pod| *of_pod > 0), "seed {seed}: {terms:?}");
    }
}
