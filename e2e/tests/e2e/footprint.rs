//! What Conch costs: requests and memory.

use std::thread;
use std::time::Duration;

use conch_crds::names;
use conch_e2e::{Namespace, Probes, resident_kib};

use serde_json::Value;

use crate::support::{breakable, judge};

const QUIET: Duration = Duration::from_secs(30);

#[test]
fn followers_do_not_poll_and_the_leader_writes_once_in_two_seconds() {
    let test = "requests of three candidates in 30 s";
    let Some(environment) = breakable(test) else { return };
    let gets = || environment.requests(&|resource, verb| resource == "leases" && verb == "GET").unwrap();
    let namespace = Namespace::new(environment, "requests").unwrap();
    let before = gets();
    thread::sleep(QUIET);
    let gets_without = gets() - before;

    let probes = Probes::start(&namespace, 3).unwrap();
    // The first reads of the new candidates are over.
    thread::sleep(Duration::from_secs(5));
    let (gets_before, (leader_before, writes_before)) = (gets(), writes(&namespace));
    thread::sleep(QUIET);
    let (gets_with, (leader, writes_after)) = (gets() - gets_before, writes(&namespace));
    let writes = writes_after - writes_before;
    println!(
        "RESULT {test}: {gets_with} GETs of leases ({gets_without} without them), {writes} writes by the leader"
    );
    judge(&probes, test, "");
    assert_eq!(leader, leader_before);
    // Polling followers would send dozens; the rest of the cluster sends one now and then.
    assert!(gets_with <= gets_without + 3, "followers poll");
    // One in two seconds; a busy machine may delay some.
    assert!((12..=17).contains(&writes), "{writes} renewals");
}

/// Who wrote the record, and how many writes that process has made: its write id.
fn writes(namespace: &Namespace<'_>) -> (String, u64) {
    let leases = namespace.list(&["leases"]).unwrap();
    let record = leases[0]["metadata"]["annotations"][names::RECORD].as_str().unwrap();
    let record: Value = serde_json::from_str(record).unwrap();
    let (nonce, sequence) = record["write"].as_str().unwrap().split_once('.').unwrap();
    (nonce.to_owned(), sequence.parse().unwrap())
}

#[test]
fn sidecar_and_operator_stay_small() {
    let test = "resident memory";
    let Some(environment) = breakable(test) else { return };
    let Some(cluster) = &environment.cluster else { return };
    let namespace = Namespace::new(environment, "memory").unwrap();
    let probes = Probes::start(&namespace, 3).unwrap();
    thread::sleep(Duration::from_secs(10));
    let candidates = namespace.list(&["pods"]).unwrap();
    let sidecars = resident_kib(cluster, &candidates, names::SIDECAR_CONTAINER).unwrap();
    let operators = environment.operator_pods().unwrap();
    let operator = resident_kib(cluster, &operators, "operator").unwrap();
    println!("RESULT {test}: sidecars {sidecars:?} KiB, operator {operator:?} KiB");
    judge(&probes, test, "");
    assert_eq!(sidecars.len(), 3);
    assert!(sidecars.iter().all(|kib| *kib <= 10 * 1_000_000 / 1_024), "a sidecar needs more than 10 MB");
    assert!(!operator.is_empty());
}
