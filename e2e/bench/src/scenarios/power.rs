//! The power of the leader's node is cut.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use conch_e2e::{Candidate, Environment, Namespace};
use jiff::Timestamp;

use super::{ELECTIONS, Rounds, judge};
use crate::contender::{MEASURING, Timing};
use crate::election::{Election, deploy, wait_complete};
use crate::results::{Scenario, Side};
use crate::statistics::show;

pub(crate) fn run(environment: &Environment, side: &mut Side, rounds: Rounds, timing: Timing) -> Result<()> {
    let (words, scenario) = match timing {
        Timing::Default => ("power", Scenario::PowerCut),
        Timing::Short => ("power-short", Scenario::ShortPowerCut),
    };
    let namespace = Namespace::new(environment, &format!("{words}-{}", side.contender.slug()))?;
    let elections = deploy(side.contender, &namespace, timing, ELECTIONS, MEASURING)?;
    wait_complete(&elections)?;
    for round in 1..=rounds.power_cuts {
        let (node, led) = busiest_node(&elections)?;
        let cluster = elections[0].first().cluster();
        if let Some((election, _)) = led.first() {
            let halves = u32::try_from(2 * round - 1)?;
            let phase = timing.renew_interval() * halves / (2 * u32::try_from(rounds.power_cuts)?);
            wait_phase(election, timing.renew_interval(), phase)?;
        }
        let event = conch_probe::now();
        cluster.kill_node(node)?;
        for (election, leader) in led {
            let times = election.wait_next_leader(event, &leader)?;
            println!("  {} {round}/{}: {}", scenario.name(), rounds.power_cuts, show(times[0]));
            for (column, time) in side.columns.iter_mut().zip(times) {
                match timing {
                    Timing::Default => column.power_cut.add(time),
                    Timing::Short => column.short_power_cut.add(time),
                }
            }
        }
        cluster.restart_node(node)?;
        wait_complete(&elections)?;
    }
    judge(side, scenario, &elections)
}

/// Waits until the leader's last renewal is this long ago. How long its lease still counts depends on
/// that: cuts that are spread evenly over it make a fair median, however few they are.
fn wait_phase(election: &Election<'_>, interval: Duration, phase: Duration) -> Result<()> {
    let probes = election.first();
    let lease = probes.namespace.get(&["lease", &probes.lease()])?;
    let renewed = lease["spec"]["renewTime"].as_str().context("a held Lease has no renewTime")?;
    let renewed: Timestamp = renewed.parse().context("a renewTime that cannot be read")?;
    let since = Duration::try_from(Timestamp::now().duration_since(renewed)).unwrap_or_default();
    let wait = (phase.as_secs_f64() - since.as_secs_f64()).rem_euclid(interval.as_secs_f64());
    thread::sleep(Duration::from_secs_f64(wait));
    Ok(())
}

/// The node with the most leaders, and these.
pub(crate) fn busiest_node<'e, 'a>(
    elections: &'e [Election<'a>],
) -> Result<(usize, Vec<(&'e Election<'a>, Candidate)>)> {
    let mut led = Vec::new();
    for election in elections {
        led.push((election, election.leader()?));
    }
    let leaders = |node: usize| led.iter().filter(|(_, leader)| leader.node == node).count();
    let node = led.iter().map(|(_, leader)| leader.node).max_by_key(|node| leaders(*node)).unwrap_or(1);
    led.retain(|(_, leader)| leader.node == node);
    Ok((node, led))
}
