//! What is done to the contenders, in the same way to each.

pub(crate) mod costs;
pub(crate) mod graceful;
pub(crate) mod overlap;
pub(crate) mod power;
pub(crate) mod streams;

use std::time::Duration;

use anyhow::Result;
use conch_e2e::checker::History;

use crate::contender::Contender;
use crate::election::Election;
use crate::results::{Overlap, Scenario, Side};

/// How often each thing is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rounds {
    /// Graceful deletions.
    pub(crate) graceful: usize,
    /// Resignations, closed streams, crashes: so many of each.
    pub(crate) streams: usize,
    /// Power cuts, each of which hits about half of [`ELECTIONS`].
    pub(crate) power_cuts: usize,
    /// How long requests are counted.
    pub(crate) counting: Duration,
}

/// So many elections live through one power cut or partition side by side, so that one fault gives several samples.
pub(crate) const ELECTIONS: usize = 4;

impl Rounds {
    /// From the number of graceful deletions.
    pub(crate) fn new(graceful: usize) -> Self {
        Self {
            graceful,
            streams: graceful.div_ceil(2),
            power_cuts: graceful.div_ceil(6),
            counting: Duration::from_secs(if graceful < 10 { 10 } else { 20 }),
        }
    }
}

/// Judges whole histories: two leaders at any time, and what else was promised.
pub(crate) fn judge(side: &mut Side, scenario: Scenario, elections: &[Election<'_>]) -> Result<()> {
    for election in elections {
        for (way, history) in election.histories()?.iter().enumerate() {
            judge_history(side, scenario, way, history);
        }
    }
    Ok(())
}

/// Judges one history of one way.
pub(crate) fn judge_history(side: &mut Side, scenario: Scenario, way: usize, history: &History) {
    let verdict = history.judge();
    let length = Duration::from_nanos(verdict.overlap);
    side.columns[way].overlaps.push(Overlap { scenario, length, beliefs: Vec::new() });
    // The other promises are Conch's alone: client-go has no tokens.
    if side.contender == Contender::Conch && verdict.overlap == 0 {
        side.faults.extend(verdict.faults().into_iter().map(|fault| format!("{}: {fault}", scenario.name())));
    }
}
