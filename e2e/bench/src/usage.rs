//! What the sidecars' processes and control groups have used.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use conch_e2e::Tools;

use crate::election::{Election, LIMIT};

/// What one sidecar's container has used so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) leads: bool,
    /// The machine's number of the process.
    pub(crate) process: u32,
    at: Instant,
    processor: Duration,
    pub(crate) memory_bytes: f64,
    pub(crate) resident_bytes: f64,
}

impl Usage {
    /// Processor time since an earlier look, as a share of one core.
    pub(crate) fn share_since(&self, before: &Self) -> f64 {
        let used = self.processor.saturating_sub(before.processor);
        used.as_secs_f64() / (self.at - before.at).as_secs_f64()
    }
}

/// The usage of every sidecar, by the UID of its pod.
pub(crate) fn usages(elections: &[Election<'_>]) -> Result<BTreeMap<String, Usage>> {
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
                let found = probes.cluster().container_processes(node + 1, uid, election.contender.sidecar());
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
    Ok(Usage { leads: false, process, at, processor, memory_bytes, resident_bytes })
}

/// A file's text.
pub(crate) fn read(path: &Path) -> Result<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
