//! Many runs, on all cores.

use super::{checker::Kind, scenario::Scenario, shrink::shrink, world::World};
use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

/// How many seeds a thread takes at once.
const CHUNK: u64 = 100;
/// So many lines of what happened before a violation are printed.
const LINES: usize = 150;

/// What came of many runs. They end with the first that fails.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Campaign {
    pub(crate) passed: u64,
    /// The lowest seed that failed.
    pub(crate) failed: Option<u64>,
    pub(crate) terms: u64,
    pub(crate) promises: u64,
}

/// Runs the seeds from 0 to `runs`, on all cores. `only`: no other kind of violation counts.
pub(crate) fn run(runs: u64, only: Option<Kind>) -> Campaign {
    let next = AtomicU64::new(0);
    let stop = AtomicU64::new(u64::MAX);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(|| work(runs, only, &next, &stop))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).fold(Campaign::default(), Campaign::and)
    })
}

fn work(runs: u64, only: Option<Kind>, next: &AtomicU64, stop: &AtomicU64) -> Campaign {
    let mut campaign = Campaign::default();
    loop {
        let first = next.fetch_add(CHUNK, Ordering::Relaxed);
        for seed in first..runs.min(first + CHUNK) {
            if seed > stop.load(Ordering::Relaxed) {
                return campaign;
            }
            let outcome = World::new(&Scenario::from_seed(seed), only, false).run();
            campaign.terms += outcome.terms.iter().sum::<u64>();
            campaign.promises += outcome.promises;
            if outcome.violation.is_some() {
                stop.fetch_min(seed, Ordering::Relaxed);
                campaign.failed = Some(seed);
                return campaign;
            }
            campaign.passed += 1;
        }
        if first >= runs {
            return campaign;
        }
    }
}

impl Campaign {
    fn and(self, other: Self) -> Self {
        let failed = [self.failed, other.failed].into_iter().flatten().min();
        Self {
            passed: self.passed + other.passed,
            failed,
            terms: self.terms + other.terms,
            promises: self.promises + other.promises,
        }
    }
}

impl fmt::Display for Campaign {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, terms, promises, .. } = self;
        write!(formatter, "{passed} runs of two simulated minutes: {terms} terms, {promises} promises")
    }
}

/// Runs one seed. If it fails: why, the smallest scenario that still does, what happens in it, and how to see that again.
pub(crate) fn replay(seed: u64, only: Option<Kind>) -> String {
    let scenario = Scenario::from_seed(seed);
    let Some(violation) = World::new(&scenario, only, false).run().violation else {
        return format!("seed {seed}: {scenario:#?}\npassed");
    };
    let (small, outcome) = shrink(scenario, only);
    let skipped = outcome.trace.len().saturating_sub(LINES);
    let trace = outcome.trace[skipped..].join("\n");
    format!(
        "seed {seed}: {violation}\nshrunk to {small:#?}\n{skipped} lines, then\n{trace}\n{}\nreplay: \
         cargo run -p conch-election --example simulate -- --seed {seed}",
        outcome.violation.unwrap_or_default(),
    )
}
