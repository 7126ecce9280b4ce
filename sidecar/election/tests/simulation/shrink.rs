//! Makes a scenario that fails as small as it goes.

use super::{
    checker::Kind,
    scenario::{Network, Program, Scenario},
    world::{Outcome, World},
};

fn fails(scenario: &Scenario, only: Option<Kind>) -> bool {
    World::new(scenario, only, false).run().violation.is_some()
}

/// The smallest scenario found that still fails, and what happens in it.
pub(crate) fn shrink(mut scenario: Scenario, only: Option<Kind>) -> (Scenario, Outcome) {
    loop {
        let smaller = candidates(&scenario).into_iter().find(|smaller| fails(smaller, only));
        match smaller {
            Some(smaller) => scenario = smaller,
            None => break,
        }
    }
    let outcome = World::new(&scenario, only, true).run();
    (scenario, outcome)
}

/// All scenarios that lack one thing, the biggest steps first.
fn candidates(scenario: &Scenario) -> Vec<Scenario> {
    let mut smaller = Vec::new();
    let mut with = |change: &dyn Fn(&mut Scenario)| {
        let mut changed = scenario.clone();
        change(&mut changed);
        smaller.push(changed);
    };
    let faults = scenario.faults.len();
    let mut length = faults.div_ceil(2);
    while length > 0 {
        for from in (0..faults).step_by(length) {
            with(&|changed| drop(changed.faults.drain(from..(from + length).min(faults))));
        }
        length = if length == 1 { 0 } else { length.div_ceil(2) };
    }
    if scenario.pods.len() > 1 {
        with(&|changed| changed.pods.truncate(changed.pods.len() - 1));
    }
    for (number, program) in scenario.pods.iter().enumerate() {
        if *program != Program::Polls {
            with(&|changed| changed.pods[number] = Program::Polls);
        }
    }
    let Network { delay_max, lost_per_mille, repeated_per_mille, stale_per_mille } = scenario.network;
    if lost_per_mille > 0 {
        with(&|changed| changed.network.lost_per_mille = 0);
    }
    if repeated_per_mille > 0 {
        with(&|changed| changed.network.repeated_per_mille = 0);
    }
    if stale_per_mille > 0 {
        with(&|changed| changed.network.stale_per_mille = 0);
    }
    if delay_max > 0 {
        with(&|changed| changed.network.delay_max = 0);
    }
    smaller
}
