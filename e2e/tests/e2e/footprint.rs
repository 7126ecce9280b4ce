//! What Conch costs: requests and memory.

use std::thread;
use std::time::Duration;

use conch_crds::names;
use conch_e2e::{Namespace, Probes, resident_kib};

use crate::support::{breakable, judge};

const QUIET: Duration = Duration::from_secs(30);

#[test]
fn followers_do_not_poll_and_the_leader_writes_once_in_two_seconds() {
    let test = "requests of three candidates in 30 s";
    let Some(environment) = breakable(test) else { return };
    let count =
        |verb: &str| environment.requests(&|resource, asked| resource == "leases" && asked == verb).unwrap();
    let namespace = Namespace::new(environment, "requests").unwrap();
    let [gets_before, puts_before] = ["GET", "PUT"].map(count);
    thread::sleep(QUIET);
    let [gets_without, puts_without] = [count("GET") - gets_before, count("PUT") - puts_before];

    let probes = Probes::start(&namespace, 3).unwrap();
    // The first reads of the new candidates are over.
    thread::sleep(Duration::from_secs(5));
    let [gets_before, puts_before] = ["GET", "PUT"].map(count);
    thread::sleep(QUIET);
    let [gets_with, puts_with] = [count("GET") - gets_before, count("PUT") - puts_before];
    let puts = puts_with.saturating_sub(puts_without);
    println!(
        "RESULT {test}: {gets_with} GETs of leases ({gets_without} without them), {puts} PUTs more than without"
    );
    judge(&probes, test, "");
    // Polling followers would send dozens; the rest of the cluster sends one now and then.
    assert!(gets_with <= gets_without + 3, "followers poll");
    assert!((10..=20).contains(&puts), "one renewal in two seconds");
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
