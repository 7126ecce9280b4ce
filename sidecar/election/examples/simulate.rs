//! Runs the simulation of the tests for as long as one likes, on all cores: `simulate RUNS`, or one seed: `simulate --seed N`.
//! The last line is `N passed, N failed`; it stops at the first failure, shrinks it and says how to see it again.

#![expect(clippy::unwrap_used, reason = "it is a test")]

#[path = "../tests/simulation/mod.rs"]
mod simulation;

use simulation::{Campaign, replay, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--seed", seed] => {
            println!("{}", replay(seed.parse().unwrap()));
            ExitCode::SUCCESS
        }
        [runs] => {
            let campaign = run(runs.parse().unwrap());
            println!("{campaign}");
            if let Some(seed) = campaign.failed {
                println!("{}", replay(seed));
            }
            let Campaign { passed, failed, .. } = campaign;
            println!("{passed} passed, {} failed", u8::from(failed.is_some()));
            if failed.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
        _ => {
            eprintln!("usage: simulate RUNS | simulate --seed SEED");
            ExitCode::FAILURE
        }
    }
}
