//! What Conch wants to reach, and whether it did.

use std::fmt::Write as _;
use std::time::Duration;

use crate::results::{Scenario, Side};
use crate::statistics::{Times, show};

/// One number to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// What must be at most what.
    pub(crate) text: String,
    /// What was measured.
    pub(crate) measured: String,
    pub(crate) reached: bool,
}

/// Requests a second that one follower may send on average and still counts as sending none: its watch is opened anew
/// every few minutes, and it reads once after that.
const FOLLOWER_READS: f64 = 0.01;

const OVERLAPS: [Scenario; 9] = [
    Scenario::LeaseDeleted,
    Scenario::HolderCleared,
    Scenario::SlowAnswer,
    Scenario::ShortCut,
    Scenario::LongCut,
    Scenario::Graceful,
    Scenario::PowerCut,
    Scenario::ShortPowerCut,
    Scenario::Streams,
];

/// All of them. That client-go was measured to the end is one, too: without it there is no comparison.
pub(crate) fn targets(conch: &Side, client_go: &Side) -> Vec<Target> {
    let column = &conch.columns[0];
    let streams = &conch.streams;
    let milliseconds = Duration::from_millis;
    let mut targets = vec![
        at_most("graceful, p50 after the program's exit", column.graceful.percentile(50), milliseconds(60)),
        at_most("graceful, p99 after the program's exit", column.graceful.percentile(99), milliseconds(100)),
        at_most("graceful with a stream, p50", streams.deleted.percentile(50), milliseconds(60)),
        at_most("graceful with a stream, p99", streams.deleted.percentile(99), milliseconds(100)),
        at_most("the program resigns, p50", streams.resigned.percentile(50), milliseconds(20)),
        at_most("the program closes its stream, p50", streams.closed.percentile(50), milliseconds(20)),
        at_most("a program with a stream crashes, the slowest", streams.crashed.max(), milliseconds(100)),
        at_most("power cut, p50", column.power_cut.percentile(50), milliseconds(14_100)),
        at_most("power cut, the slowest", column.power_cut.max(), milliseconds(15_100)),
        at_most("power cut with 3 s leases, the slowest", column.short_power_cut.max(), milliseconds(3_100)),
    ];
    targets.extend(OVERLAPS.map(|scenario| no_overlap(scenario, &column.lengths(scenario))));
    targets.push(Target {
        text: "tokens rise, and no answer contradicts itself".to_owned(),
        measured: if conch.faults.is_empty() { "so it was".to_owned() } else { conch.faults.join("; ") },
        reached: conch.faults.is_empty(),
    });
    let reads = conch.costs.follower.reads;
    targets.push(Target {
        text: "a follower sends no GET".to_owned(),
        measured: format!("{reads:.3} a second"),
        // If no leader was seen writing, nothing was counted.
        reached: reads < FOLLOWER_READS && conch.costs.leader.writes > 0.0,
    });
    let interrupted: Vec<_> = conch.interrupted.iter().chain(&client_go.interrupted).cloned().collect();
    targets.push(Target {
        text: "everything was measured to its end".to_owned(),
        measured: if interrupted.is_empty() { "so it was".to_owned() } else { interrupted.join("; ") },
        reached: interrupted.is_empty(),
    });
    targets
}

/// A time that must not be exceeded.
pub(crate) fn at_most(what: &str, measured: Option<Duration>, limit: Duration) -> Target {
    Target {
        text: format!("{what}: at most {}", show(limit)),
        measured: measured.map_or_else(|| "not measured".to_owned(), show),
        reached: measured.is_some_and(|measured| measured <= limit),
    }
}

/// Prints every target, and the counts last. Returns whether all were reached.
pub(crate) fn print(targets: &[Target], took: Duration) -> bool {
    println!();
    for target in targets {
        let verdict = if target.reached { "passed" } else { "FAILED" };
        println!("{verdict}  {}: {}", target.text, target.measured);
    }
    let passed = targets.iter().filter(|target| target.reached).count();
    let failed = targets.len() - passed;
    println!("{passed} passed, {failed} failed in {} s", took.as_secs());
    failed == 0
}

/// The table of all targets, in Markdown.
pub(crate) fn table(targets: &[Target]) -> String {
    let mut text = "| Target | Measured | |\n|---|---|---|\n".to_owned();
    for target in targets {
        let verdict = if target.reached { "reached" } else { "**missed**" };
        let _ = writeln!(text, "| {} | {} | {verdict} |", target.text, target.measured);
    }
    text
}

fn no_overlap(scenario: Scenario, lengths: &Times) -> Target {
    Target {
        text: format!("two leaders, {}: never", scenario.name()),
        measured: match lengths.max() {
            None => "not measured".to_owned(),
            Some(Duration::ZERO) => format!("never in {}", lengths.all().len()),
            Some(longest) => format!("for up to {}", show(longest)),
        },
        reached: lengths.max() == Some(Duration::ZERO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contender::Contender;
    use crate::results::Overlap;

    #[test]
    fn what_was_not_measured_is_not_reached() {
        let targets = targets(&Side::new(Contender::Conch), &Side::new(Contender::ClientGo));
        let reached: Vec<_> = targets.iter().filter(|target| target.reached).collect();
        // No fault was seen and nothing interrupted, which is all that an empty run shows.
        assert_eq!(reached.len(), 2, "{reached:?}");
    }

    #[test]
    fn one_nanosecond_too_much_is_missed() {
        let mut side = Side::new(Contender::Conch);
        side.columns[0].graceful.add(Duration::from_millis(60));
        let scenario = Scenario::Graceful;
        side.columns[0].overlaps.push(Overlap { scenario, length: Duration::ZERO, beliefs: Vec::new() });
        let of = |side: &Side, text: &str| {
            let client_go = Side::new(Contender::ClientGo);
            targets(side, &client_go)
                .into_iter()
                .find(|target| target.text.starts_with(text))
                .unwrap()
                .reached
        };
        assert!(of(&side, "graceful, p50") && of(&side, "two leaders, graceful"));
        side.columns[0].graceful = std::iter::once(Duration::from_nanos(60_000_001)).collect();
        let length = Duration::from_nanos(1);
        side.columns[0].overlaps.push(Overlap { scenario, length, beliefs: Vec::new() });
        assert!(!of(&side, "graceful, p50") && !of(&side, "two leaders, graceful"));
    }
}
