//! Requests, processor time and memory of candidates at rest.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use conch_e2e::{Environment, Namespace};
use serde_json::{Value, json};

use super::{ELECTIONS, Rounds};
use crate::contender::{REPLICAS, Shape, Timing};
use crate::election::{deploy, wait_complete};
use crate::results::{Cost, Side};
use crate::usage::{Usage, usages};

/// The first reads and writes of new candidates are over.
const SETTLE: Duration = Duration::from_secs(5);
/// Kinds of requests, each with its verbs. The API server counts requests by the flow schema that they match; one for
/// each kind gives exact counts of these pods' requests, and no others'.
const KINDS: [(&str, &[&str]); 3] =
    [("read", &["get", "list"]), ("watch", &["watch"]), ("write", &["create", "update", "patch", "delete"])];

pub(crate) fn run(environment: &Environment, side: &mut Side, rounds: Rounds) -> Result<()> {
    let namespace = Namespace::new(environment, &format!("costs-{}", side.contender.slug()))?;
    for (kind, verbs) in KINDS {
        environment.tools.apply(&flow_schema(&namespace.name, kind, verbs))?;
    }
    let alone = Shape { replicas: 1, interval_ms: 1_000 };
    let elections = deploy(side.contender, &namespace, Timing::Default, ELECTIONS, alone)?;
    elections.iter().try_for_each(|election| election.wait_complete(1))?;
    let leaders = count(environment, &namespace, rounds.counting)?;
    for election in &elections {
        namespace.kubectl(&["scale", election.first().reference(), &format!("--replicas={REPLICAS}")])?;
    }
    wait_complete(&elections)?;
    thread::sleep(SETTLE);
    let before = usages(&elections)?;
    let all = count(environment, &namespace, rounds.counting)?;
    let after = usages(&elections)?;
    let followers = REPLICAS - 1;
    for (of_leader, cost, share) in
        [(true, &mut side.costs.leader, 1), (false, &mut side.costs.follower, followers)]
    {
        let requests = |kind: &str| {
            let (alone, all) =
                (leaders.get(kind).copied().unwrap_or(0.0), all.get(kind).copied().unwrap_or(0.0));
            let total = if of_leader { alone } else { (all - alone).max(0.0) };
            total / as_number(ELECTIONS * share)
        };
        *cost =
            Cost { reads: requests("read"), watches: requests("watch"), writes: requests("write"), ..*cost };
    }
    (side.costs.leader, side.costs.follower) =
        (usage(side.costs.leader, &before, &after, true), usage(side.costs.follower, &before, &after, false));
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn as_number(count: usize) -> f64 {
    count as f64
}

fn flow_schema(namespace: &str, kind: &str, verbs: &[&str]) -> Value {
    let rule = json!({
        "subjects": [{"kind": "Group", "group": {"name": format!("system:serviceaccounts:{namespace}")}}],
        "resourceRules": [{"apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "verbs": verbs}],
    });
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
        "kind": "FlowSchema",
        "metadata": {"name": format!("{namespace}-{kind}")},
        "spec": {
            // Where such requests go without these schemas, too.
            "priorityLevelConfiguration": {"name": "workload-low"},
            "matchingPrecedence": 800,
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [rule],
        },
    })
}

/// Requests a second of all pods of a namespace together, by kind.
fn count(
    environment: &Environment,
    namespace: &Namespace<'_>,
    time: Duration,
) -> Result<BTreeMap<String, f64>> {
    thread::sleep(SETTLE);
    let read = || -> Result<(Instant, BTreeMap<String, f64>)> {
        let metrics = environment.tools.kubectl(&["get", "--raw", "/metrics"])?;
        Ok((Instant::now(), dispatched(&metrics, &namespace.name)))
    };
    let (began, before) = read()?;
    thread::sleep(time);
    let (ended, after) = read()?;
    let seconds = (ended - began).as_secs_f64();
    let rate = |(kind, count): (String, f64)| {
        let more = count - before.get(&kind).copied().unwrap_or(0.0);
        (kind, more / seconds)
    };
    let rates: BTreeMap<_, _> = after.into_iter().map(rate).collect();
    println!("  requests per second: {rates:?}");
    Ok(rates)
}

/// The API server's counters of the flow schemas of a namespace, by kind.
fn dispatched(metrics: &str, namespace: &str) -> BTreeMap<String, f64> {
    let prefix = "apiserver_flowcontrol_dispatched_requests_total{";
    let mut counts = BTreeMap::new();
    for line in metrics.lines().filter_map(|line| line.strip_prefix(prefix)) {
        let Some((labels, value)) = line.rsplit_once("} ") else { continue };
        for (kind, _) in KINDS {
            if labels.contains(&format!("flow_schema=\"{namespace}-{kind}\"")) {
                *counts.entry(kind.to_owned()).or_insert(0.0) += value.parse().unwrap_or(0.0);
            }
        }
    }
    counts
}

/// The mean over all candidates of one role that kept it.
fn usage(cost: Cost, before: &BTreeMap<String, Usage>, after: &BTreeMap<String, Usage>, leads: bool) -> Cost {
    let of_role = |(uid, after): (&String, &Usage)| {
        let before = before.get(uid).filter(|before| before.leads == leads && after.leads == leads)?;
        Some([after.share_since(before), after.memory_bytes, after.resident_bytes])
    };
    let all: Vec<_> = after.iter().filter_map(of_role).collect();
    let mean = |index: usize| all.iter().map(|one| one[index]).sum::<f64>() / as_number(all.len().max(1));
    Cost { processor: mean(0), memory_bytes: mean(1), resident_bytes: mean(2), ..cost }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_counters_of_the_namespace_count() {
        let line = |schema: &str, level: &str, value: u32| {
            format!(
                "apiserver_flowcontrol_dispatched_requests_total{{flow_schema=\"{schema}\",priority_level=\"{level}\"}} {value}\n"
            )
        };
        let metrics = line("costs-1-read", "workload-low", 7)
            + &line("costs-1-read", "global-default", 2)
            + &line("costs-1-write", "workload-low", 3)
            + &line("costs-11-read", "workload-low", 50)
            + "# HELP apiserver_flowcontrol_dispatched_requests_total x\n";
        let counts = dispatched(&metrics, "costs-1");
        assert_eq!(
            [counts.get("read"), counts.get("write"), counts.get("watch")],
            [Some(&9.0), Some(&3.0), None]
        );
    }
}
