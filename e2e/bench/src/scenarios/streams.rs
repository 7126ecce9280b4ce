//! Programs that hold Conch's stream give the lead away, die, or are asked to end. client-go's sidecar offers neither: nobody can resign, and
//! nobody notices that the program died.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use conch_crds::names;
use conch_e2e::checker::History;
use conch_e2e::{CONTAINER, Candidate, Environment, Namespace, Probes, Tools, Workload};
use conch_probe::Line;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Rounds, judge_history};
use crate::election::{LIMIT, pod};
use crate::results::{Scenario, Side};
use crate::statistics::show;

/// More than elsewhere: a crashed program is restarted later and later.
const CANDIDATES: usize = 6;
/// So many must be there besides the leader before the next event.
const FOLLOWERS: usize = 2;
/// Who stepped down stays down for an interval of renewals.
const SETTLE: Duration = Duration::from_millis(2_500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Resign,
    Close,
    Crash,
    Delete,
}

pub(crate) fn run(environment: &Environment, side: &mut Side, rounds: Rounds) -> Result<()> {
    let namespace = Namespace::new(environment, "streams")?;
    let probes = Probes::prepare(&namespace, "probe")?;
    let workload = probes.workload(CANDIDATES);
    let mut manifest = Workload { policy: Some(names::DEFAULT_POLICY), ..workload }.manifest();
    let arguments = &mut manifest["spec"]["template"]["spec"]["containers"][0]["args"];
    arguments.as_array_mut().into_iter().for_each(|list| list.push(json!("--stream")));
    namespace.apply(manifest)?;
    namespace.wait_rolled_out(probes.reference())?;
    let mut deaths = Vec::new();
    for event in [Event::Resign, Event::Close, Event::Crash, Event::Delete] {
        for round in 1..=rounds.streams {
            wait_settled(&probes)?;
            let leader = probes.leader()?;
            let at = cause(event, &probes, &leader, &mut deaths)?;
            let time = wait_next_leader(&probes, at, &leader)?;
            println!("  {event:?} {round}/{}: {}", rounds.streams, show(time));
            match event {
                Event::Resign => side.streams.resigned.add(time),
                Event::Close => side.streams.closed.add(time),
                Event::Crash => side.streams.crashed.add(time),
                Event::Delete => side.streams.deleted.add(time),
            }
        }
    }
    let mut history = probes.history()?;
    for (pod, at) in &deaths {
        history.note_death(pod, *at);
    }
    judge_history(side, Scenario::Streams, 0, &history);
    Ok(())
}

/// Makes it happen, and returns when it did.
fn cause(
    event: Event,
    probes: &Probes<'_>,
    leader: &Candidate,
    deaths: &mut Vec<(String, u64)>,
) -> Result<u64> {
    let before = conch_probe::now();
    match event {
        Event::Resign => probes.signal(leader, CONTAINER, Signal::USR2)?,
        Event::Close => probes.signal(leader, CONTAINER, Signal::USR1)?,
        Event::Crash => {
            let processes = probes.processes(leader, CONTAINER)?;
            let before = conch_probe::now();
            probes.signal(leader, CONTAINER, Signal::KILL)?;
            deaths.push((pod(leader), wait_dead(&processes)?));
            return Ok(before);
        }
        Event::Delete => {
            probes.namespace.kubectl(&["delete", "pod", &leader.name, "--wait=false"])?;
            return Ok(probes.wait_exit(leader, LIMIT)?);
        }
    }
    Ok(Tools::wait_for("resignation", LIMIT, || {
        let resigned = resigned_since(&probes.history()?, &pod(leader), before);
        Ok(resigned.ok_or_else(|| "none".to_owned()))
    })?)
}

fn resigned_since(history: &History, pod: &str, since: u64) -> Option<u64> {
    let lines = history.runs.iter().filter(|run| run.pod == pod).flat_map(|run| &run.lines);
    let times = lines.filter_map(|line| match line {
        Line::Resigned { at } if *at >= since => Some(*at),
        _ => None,
    });
    times.min()
}

/// Returns when all processes were seen dead: at that time they had been so for less than a millisecond.
fn wait_dead(processes: &[u32]) -> Result<u64> {
    let deadline = Instant::now() + LIMIT;
    loop {
        // The state follows the name, which is in brackets.
        let state = |process: &u32| {
            let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
            stat.rsplit_once(") ")?.1.chars().next()
        };
        if processes.iter().filter_map(state).all(|state| matches!(state, 'Z' | 'X')) {
            return Ok(conch_probe::now());
        }
        ensure!(Instant::now() < deadline, "a killed program does not die");
        thread::sleep(Duration::from_micros(200));
    }
}

fn wait_next_leader(probes: &Probes<'_>, event: u64, old: &Candidate) -> Result<Duration> {
    Ok(Tools::wait_for("next leader", LIMIT, || {
        let next = probes.history()?.next_leader_after(event, &pod(old));
        Ok(next.map(Duration::from_nanos).ok_or_else(|| "the old one, or none".to_owned()))
    })?)
}

/// Waits until somebody leads and enough others are ready to. On a stream nobody is told anything while nothing changes, so
/// the containers are looked at, not the answers.
fn wait_settled(probes: &Probes<'_>) -> Result<()> {
    thread::sleep(SETTLE);
    Ok(Tools::wait_for("leader and followers", LIMIT, || {
        let now = conch_probe::now();
        let history = probes.history()?;
        let leads = history.beliefs_between(now, now + 1).values().any(|beliefs| !beliefs.is_empty());
        let pods = probes.namespace.list(&["pods"])?;
        let ready = |pod: &&Value| {
            pod["status"]["containerStatuses"][0]["ready"] == true
                && pod["metadata"]["deletionTimestamp"].is_null()
        };
        let ready = pods.iter().filter(ready).count();
        Ok(if leads && ready > FOLLOWERS { Ok(()) } else { Err(format!("leader: {leads}, {ready} ready")) })
    })?)
}
