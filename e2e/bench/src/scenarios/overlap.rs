//! Faults after which two programs may believe that they lead.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use conch_cluster::{Treatment, Ways};
use conch_e2e::{Candidate, Environment, Namespace};

use super::{ELECTIONS, power::busiest_node};
use crate::contender::{MEASURING, Timing};
use crate::election::{Election, deploy, pod, wait_complete};
use crate::results::{Overlap, Scenario, Side};
use crate::statistics::show;

/// After the last change of each fault, elections are watched for so long: client-go's callbacks lag by up to a lease.
const AFTERMATH: Duration = Duration::from_secs(15);
/// A candidate that was led through the relay has connected again, and has renewed.
const RELAYED: Duration = Duration::from_secs(6);
/// Later than this, client-go gives up on an answer.
const LATE: Duration = Duration::from_secs(8);
/// In this time what was held arrives.
const ARRIVAL: Duration = Duration::from_millis(300);
/// A timeline begins so long before the fault.
const PRELUDE_NANOSECONDS: u64 = 5_000_000_000;

pub(crate) fn run(environment: &Environment, side: &mut Side) -> Result<()> {
    let namespace = Namespace::new(environment, &format!("overlap-{}", side.contender.slug()))?;
    let elections = deploy(side.contender, &namespace, Timing::Default, ELECTIONS, MEASURING)?;
    for scenario in [
        Scenario::LeaseDeleted,
        Scenario::HolderCleared,
        Scenario::SlowAnswer,
        Scenario::ShortCut,
        Scenario::LongCut,
    ] {
        wait_complete(&elections)?;
        let (node, led) = busiest_node(&elections)?;
        let cut_off = matches!(scenario, Scenario::ShortCut | Scenario::LongCut);
        let hit = if cut_off { led } else { leaders(&elections)? };
        let events = match scenario {
            Scenario::SlowAnswer => vec![answer_slowly(&hit)?; hit.len()],
            Scenario::ShortCut => vec![cut(&elections[0], node, Duration::from_secs(18))?; hit.len()],
            Scenario::LongCut => vec![cut(&elections[0], node, Duration::from_secs(40))?; hit.len()],
            _ => hit.iter().map(|(election, _)| meddle(election, scenario)).collect::<Result<_>>()?,
        };
        thread::sleep(AFTERMATH);
        wait_complete(&elections)?;
        for ((election, leader), event) in hit.into_iter().zip(events) {
            record(side, scenario, election, &leader, event)?;
        }
    }
    Ok(())
}

type Led<'e, 'a> = (&'e Election<'a>, Candidate);

fn leaders<'e, 'a>(elections: &'e [Election<'a>]) -> Result<Vec<Led<'e, 'a>>> {
    elections.iter().map(|election| Ok((election, election.leader()?))).collect()
}

/// A person changes the Lease.
fn meddle(election: &Election<'_>, scenario: Scenario) -> Result<u64> {
    let probes = election.first();
    let lease = probes.lease();
    let clear = r#"{"spec":{"holderIdentity":null}}"#;
    let verb: &[&str] = match scenario {
        Scenario::HolderCleared => &["patch", "lease", &lease, "--type=merge", "--patch", clear],
        _ => &["delete", "lease", &lease],
    };
    let event = conch_probe::now();
    probes.namespace.kubectl(verb)?;
    Ok(event)
}

/// The leaders' requests reach the API server, its answers come late; then nothing comes through for a while.
fn answer_slowly(hit: &[Led<'_, '_>]) -> Result<u64> {
    let Some((first, _)) = hit.first() else { return Ok(conch_probe::now()) };
    let relay = first.first().cluster().relay()?;
    for (election, leader) in hit {
        let sidecar = election.first().processes(leader, election.contender.sidecar())?;
        sidecar.first().map(|process| relay.capture(*process)).transpose()?;
    }
    thread::sleep(RELAYED);
    let event = conch_probe::now();
    relay.treat(Ways { answers: Treatment::Hold, ..Ways::OPEN });
    thread::sleep(LATE);
    relay.treat(Ways::OPEN);
    thread::sleep(ARRIVAL);
    relay.treat(Ways { requests: Treatment::Hold, answers: Treatment::Hold });
    thread::sleep(Duration::from_secs(30));
    relay.treat(Ways::OPEN);
    thread::sleep(ARRIVAL);
    Ok(event)
}

/// The node's cable is out for a while.
fn cut(election: &Election<'_>, node: usize, length: Duration) -> Result<u64> {
    let cluster = election.first().cluster();
    let event = conch_probe::now();
    cluster.cut_node(node)?;
    thread::sleep(length);
    cluster.heal_node(node)?;
    Ok(event)
}

fn record(
    side: &mut Side,
    scenario: Scenario,
    election: &Election<'_>,
    leader: &Candidate,
    event: u64,
) -> Result<()> {
    let until = conch_probe::now();
    let leader = pod(leader);
    for (column, history) in side.columns.iter_mut().zip(election.histories()?) {
        let from = event.saturating_sub(PRELUDE_NANOSECONDS);
        let length = Duration::from_nanos(history.overlap_between(from, until));
        println!("  {}: {} {} of two leaders", column.way.name, scenario.name(), show(length));
        let mut beliefs = history.beliefs_between(from, until);
        let first = beliefs.remove(leader.as_str()).unwrap_or_default();
        let others = beliefs.into_values();
        let seconds = |at: u64| {
            Duration::from_nanos(at.abs_diff(event)).as_secs_f64() * if at < event { -1.0 } else { 1.0 }
        };
        let lane = |beliefs: Vec<(u64, u64)>| {
            join(beliefs.into_iter().map(|(from, until)| (seconds(from), seconds(until))))
        };
        let beliefs = std::iter::once(first).chain(others).map(lane).collect();
        column.overlaps.push(Overlap { scenario, length, beliefs });
    }
    Ok(())
}

/// Between two questions of one program there is a moment for which no answer counts; nobody could see it.
const SEAM_SECONDS: f64 = 0.1;

fn join(beliefs: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    let mut joined: Vec<(f64, f64)> = Vec::new();
    for (from, until) in beliefs {
        match joined.last_mut() {
            Some(last) if from - last.1 <= SEAM_SECONDS => last.1 = last.1.max(until),
            _ => joined.push((from, until)),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seams_are_not_drawn_and_pauses_are() {
        let beliefs = [(0.0, 0.01), (0.011, 0.02), (0.5, 0.51)];
        assert_eq!(join(beliefs.into_iter()), [(0.0, 0.02), (0.5, 0.51)]);
    }
}
