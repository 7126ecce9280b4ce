//! `kubectl delete pod` of the leader.

use anyhow::Result;
use conch_e2e::{Environment, Namespace};

use super::{Rounds, judge};
use crate::contender::{MEASURING, REPLICAS, Timing};
use crate::election::deploy;
use crate::results::{Scenario, Side};
use crate::statistics::show;

pub(crate) fn run(environment: &Environment, side: &mut Side, rounds: Rounds) -> Result<()> {
    let namespace = Namespace::new(environment, &format!("graceful-{}", side.contender.slug()))?;
    let elections = deploy(side.contender, &namespace, Timing::Default, 1, MEASURING)?;
    let election = &elections[0];
    election.wait_complete(REPLICAS)?;
    for round in 1..=rounds.graceful {
        let leader = election.leader()?;
        namespace.kubectl(&["delete", "pod", &leader.name, "--wait=false"])?;
        let exit = election.wait_exit(&leader)?;
        let times = election.wait_next_leader(exit, &leader)?;
        println!("  graceful {round}/{}: {}", rounds.graceful, show(times[0]));
        for (column, time) in side.columns.iter_mut().zip(times) {
            column.graceful.add(time);
        }
        election.wait_complete(REPLICAS)?;
    }
    judge(side, Scenario::Graceful, &elections)
}
