//! Numbers for people: times and memory.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use conch_cluster::Cluster;
use serde_json::Value;

use crate::error::{Error, Result, at};

/// The middle one of some times; the later of two. Zero of none.
pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// A time in milliseconds with one decimal; never rounded to a zero that it is not.
pub fn milliseconds(time: Duration) -> String {
    let tenths = time.as_nanos().div_ceil(100_000);
    format!("{}.{} ms", tenths / 10, tenths % 10)
}

/// What the processes of a container keep in memory (`VmRSS`), in KiB, one number for each pod in which it runs.
///
/// # Errors
/// A process ended meanwhile.
pub fn resident_kib(cluster: &Cluster, pods: &[Value], container: &str) -> Result<Vec<u64>> {
    let mut resident = Vec::new();
    for pod in pods {
        let node = cluster.node_names().iter().position(|name| pod["spec"]["nodeName"] == name.as_str());
        let (Some(node), Some(uid)) = (node, pod["metadata"]["uid"].as_str()) else { continue };
        for process in cluster.container_processes(node + 1, uid, container) {
            let path = PathBuf::from(format!("/proc/{process}/status"));
            let status = fs::read_to_string(&path).map_err(at("read", &path))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
            resident.push(kib.ok_or_else(|| Error::Unusable(format!("{} shows no VmRSS", path.display())))?);
        }
    }
    Ok(resident)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_and_of_an_even_number_the_later() {
        let times =
            |list: &[u64]| median(list.iter().map(|time| Duration::from_millis(*time)).collect()).as_millis();
        assert_eq!([times(&[3, 1, 2]), times(&[4, 1, 2, 3]), times(&[])], [2, 3, 0]);
    }

    #[test]
    fn times_are_rounded_up() {
        assert_eq!(milliseconds(Duration::from_nanos(1)), "0.1 ms");
        assert_eq!(milliseconds(Duration::from_micros(15_001_250)), "15001.3 ms");
        assert_eq!(milliseconds(Duration::ZERO), "0.0 ms");
    }
}
