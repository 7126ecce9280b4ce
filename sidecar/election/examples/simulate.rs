//! Runs the simulation of the tests for as long as one likes, on all cores: `simulate RUNS`, or one seed: `simulate --seed N`.
//! `simulate RUNS overlap` looks for overlaps alone.
//! The last line is `N passed, N failed`; it stops at the first failure, shrinks it and says how to see it again.

#![expect(clippy::unwrap_used, reason = "it is a test")]

#[path = "../tests/simulation/mod.rs"]
mod simulation;

use simulation::{Campaign, Kind, replay, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--seed", seed] => {
            println!("{}", replay(seed.parse().unwrap(), None));
            ExitCode::SUCCESS
        }
        [runs] => simulate(runs.parse().unwrap(), None),
        [runs, "overlap"] => simulate(runs.parse().unwrap(), Some(Kind::Overlap)),
        _ => {
            eprintln!("usage: simulate RUNS [overlap] | simulate --seed SEED");
            ExitCode::FAILURE
        }
    }
}

fn simulate(runs: u64, only: Option<Kind>) -> ExitCode {
    let campaign = run(runs, only);
    println!("{campaign}");
    if let Some(seed) = campaign.failed {
        println!("{}", replay(seed, only));
    }
    let Campaign { passed, failed, .. } = campaign;
    println!("{passed} passed, {} failed", u8::from(failed.is_some()));
    if failed.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
