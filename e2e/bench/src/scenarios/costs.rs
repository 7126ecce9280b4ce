//! Requests, processor time and memory of candidates at rest.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use conch_e2e::{Environment, Namespace, Tools};
use serde_json::{Value, json};

use super::{ELECTIONS, Rounds};
use crate::contender::{REPLICAS, Shape, Timing};
use crate::election::{Election, LIMIT, deploy, wait_complete};
use crate::results::{Cost, Side};

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
    let before = processor_times(side, &elections)?;
    let all = count(environment, &namespace, rounds.counting)?;
    let after = processor_times(side, &elections)?;
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

/// What one sidecar's container has used so far.
#[derive(Debug, Clone, Copy)]
struct Usage {
    leads: bool,
    at: Instant,
    processor: Duration,
    memory_bytes: f64,
    resident_bytes: f64,
}

fn processor_times(side: &Side, elections: &[Election<'_>]) -> Result<BTreeMap<String, Usage>> {
    let mut usages = BTreeMap::new();
    for election in elections {
        let leader = election.leader()?;
        let probes = election.first();
        let app = probes.reference().rsplit('/').next().unwrap_or_default();
        for pod in probes.namespace.list(&["pods", "--selector", &format!("app={app}")])? {
            let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
            let nodes = probes.cluster().node_names();
            let node = nodes.iter().position(|name| pod["spec"]["nodeName"] == name.as_str()).unwrap_or(0);
            let processes = Tools::wait_for("sidecar's process", LIMIT, || {
                let found = probes.cluster().container_processes(node + 1, uid, side.contender.sidecar());
                Ok(found.first().copied().ok_or_else(|| "none".to_owned()))
            })?;
            usages.insert(uid.to_owned(), Usage { leads: uid == leader.uid, ..read_usage(processes)? });
        }
    }
    Ok(usages)
}

/// From the process's control groups, of either version.
fn read_usage(process: u32) -> Result<Usage> {
    let at = Instant::now();
    let groups = read(Path::new(&format!("/proc/{process}/cgroup")))?;
    let v1 = v1_group(&groups, "cpuacct").zip(v1_group(&groups, "memory"));
    let (processor, memory_bytes) = if let Some((cpuacct, memory)) = v1 {
        let nanoseconds: u64 = read(&cpuacct.join("cpuacct.usage"))?.trim().parse()?;
        let used: f64 = read(&memory.join("memory.usage_in_bytes"))?.trim().parse()?;
        let cached = field(&read(&memory.join("memory.stat"))?, "total_inactive_file")?;
        (Duration::from_nanos(nanoseconds), used - cached)
    } else {
        let group = groups.lines().find_map(|line| line.strip_prefix("0::/"));
        let group = Path::new("/sys/fs/cgroup").join(group.context("no control group")?);
        let microseconds = field(&read(&group.join("cpu.stat"))?, "usage_usec")?;
        let used: f64 = read(&group.join("memory.current"))?.trim().parse()?;
        let cached = field(&read(&group.join("memory.stat"))?, "inactive_file")?;
        (Duration::from_secs_f64(microseconds / 1e6), used - cached)
    };
    let status = read(Path::new(&format!("/proc/{process}/status")))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    let resident_bytes = resident.context("no VmRSS")?.parse::<f64>()? * 1024.0;
    Ok(Usage { leads: false, at, processor, memory_bytes, resident_bytes })
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))
}

/// Where the group of a version 1 controller is mounted, from a line such as `2:cpu,cpuacct:/a/b`.
fn v1_group(groups: &str, controller: &str) -> Option<PathBuf> {
    let line = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let mounted = controllers.split(',').any(|one| one == controller);
        mounted.then(|| Path::new("/sys/fs/cgroup").join(controller).join(path.trim_start_matches('/')))
    };
    groups.lines().find_map(line)
}

fn field(text: &str, name: &str) -> Result<f64> {
    for line in text.lines() {
        if let Some((key, value)) = line.split_once(' ')
            && key == name
        {
            return Ok(value.trim().parse()?);
        }
    }
    bail!("there is no {name}")
}

/// The mean over all candidates of one role that kept it.
fn usage(cost: Cost, before: &BTreeMap<String, Usage>, after: &BTreeMap<String, Usage>, leads: bool) -> Cost {
    let of_role = |(uid, after): (&String, &Usage)| {
        let before = before.get(uid).filter(|before| before.leads == leads && after.leads == leads)?;
        let share = after.processor.saturating_sub(before.processor).as_secs_f64()
            / (after.at - before.at).as_secs_f64();
        Some([share, after.memory_bytes, after.resident_bytes])
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

    #[test]
    fn version_1_groups_are_found_by_their_controller() {
        let groups = "4:memory:/a/b\n2:cpu,cpuacct:/c\n0::/\n";
        assert_eq!(v1_group(groups, "cpuacct"), Some(PathBuf::from("/sys/fs/cgroup/cpuacct/c")));
        assert_eq!(v1_group(groups, "memory"), Some(PathBuf::from("/sys/fs/cgroup/memory/a/b")));
        assert_eq!(v1_group(groups, "pids"), None);
        let memory = field("cache 1\ntotal_inactive_file 42\n", "total_inactive_file").unwrap();
        assert!((41.9..42.1).contains(&memory), "{memory}");
    }
}
