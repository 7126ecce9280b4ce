//! Three candidates over two nodes with the default timing, and everything that can happen to their leader. Every 10 ms
//! each program asks whether it leads; the checker judges all answers of the whole scenario.

use std::thread;
use std::time::{Duration, Instant};

use conch_e2e::{Candidate, Environment, Namespace, Probes, median, milliseconds};

use crate::support::{FAIL_OVER_LIMIT, breakable, judge};

const REPLICAS: usize = 3;

/// A leader, a fault, a new term: the common course of a scenario.
fn scenario(test: &str, words: &str, fault: impl FnOnce(&Probes<'_>, &Candidate)) {
    let Some(environment) = breakable(test) else { return };
    let namespace = Namespace::new(environment, words).unwrap();
    let probes = Probes::start(&namespace, REPLICAS).unwrap();
    let leader = probes.leader().unwrap();
    let event = conch_probe::now();
    fault(&probes, &leader);
    let fail_over = probes.wait_next_term(event, 2 * FAIL_OVER_LIMIT).unwrap();
    probes.wait_complete(REPLICAS).unwrap();
    finish(&probes, test, &[fail_over]);
}

/// Judges the scenario; each fail-over must have come within the lease plus five seconds.
fn finish(probes: &Probes<'_>, test: &str, fail_overs: &[Duration]) {
    let times: Vec<_> = fail_overs.iter().map(|time| milliseconds(*time)).collect();
    let verdict = judge(probes, test, &format!("fail-over {}", times.join(" ")));
    assert!(fail_overs.iter().all(|time| *time <= FAIL_OVER_LIMIT), "{fail_overs:?}");
    assert!(Duration::from_nanos(verdict.longest_gap) <= FAIL_OVER_LIMIT, "{verdict}");
}

#[test]
fn a_deleted_leader_hands_over_twenty_times_as_soon_as_its_program_has_ended() {
    let test = "kubectl delete pod of the leader, 20 times";
    let Some(environment) = breakable(test) else { return };
    let namespace = Namespace::new(environment, "delete-pod").unwrap();
    let probes = Probes::start(&namespace, REPLICAS).unwrap();
    let mut hand_overs = Vec::new();
    for _ in 0..20 {
        let leader = probes.leader().unwrap();
        namespace.kubectl(&["delete", "pod", &leader.name, "--wait=false"]).unwrap();
        let exit = probes.wait_exit(&leader, FAIL_OVER_LIMIT).unwrap();
        hand_overs.push(probes.wait_next_term(exit, 2 * FAIL_OVER_LIMIT).unwrap());
        probes.wait_complete(REPLICAS).unwrap();
    }
    finish(&probes, test, &hand_overs);
    let median = median(hand_overs);
    let shown = milliseconds(median);
    println!("RESULT median from the old program's exit to the next leader's first answer: {shown}");
    // A busy machine makes it slower; a hand-over that had to wait for a promise to run out takes eight times as long.
    assert!(median <= Duration::from_secs(1));
}

#[test]
fn a_leader_whose_sidecar_is_killed_leads_again_with_a_new_token() {
    scenario("SIGKILL of the leader's sidecar", "kill-sidecar", |probes, leader| {
        probes.kill_sidecar(leader).unwrap();
    });
}

#[test]
fn a_leader_whose_program_and_sidecar_are_killed_is_replaced() {
    scenario("SIGKILL of the leader's sidecar and program", "kill-both", |probes, leader| {
        probes.kill_sidecar(leader).unwrap();
        probes.kill_program(leader).unwrap();
    });
}

#[test]
fn a_leader_whose_program_is_killed_is_asked_again_by_its_next_run() {
    let test = "SIGKILL of the leader's program";
    let Some(environment) = breakable(test) else { return };
    let namespace = Namespace::new(environment, "kill-program").unwrap();
    let probes = Probes::start(&namespace, REPLICAS).unwrap();
    let event = conch_probe::now();
    probes.kill_program(&probes.leader().unwrap()).unwrap();
    probes.wait_complete(REPLICAS).unwrap();
    let again = probes.history().unwrap().next_answer_after(event).unwrap();
    finish(&probes, test, &[Duration::from_nanos(again)]);
}

#[test]
fn a_leader_whose_node_loses_power_is_replaced_after_the_lease() {
    let test = "power cut of the leader's node, 3 times";
    let Some(environment) = breakable(test) else { return };
    let namespace = Namespace::new(environment, "power-cut").unwrap();
    let probes = Probes::start(&namespace, REPLICAS).unwrap();
    let mut fail_overs = Vec::new();
    for _ in 0..3 {
        let node = probes.leader().unwrap().node;
        let event = conch_probe::now();
        probes.cluster().kill_node(node).unwrap();
        fail_overs.push(probes.wait_next_term(event, 2 * FAIL_OVER_LIMIT).unwrap());
        probes.cluster().restart_node(node).unwrap();
        probes.wait_complete(REPLICAS).unwrap();
    }
    finish(&probes, test, &fail_overs);
    let median = median(fail_overs);
    println!(
        "RESULT median from a node's power cut to the next leader's first answer: {}",
        milliseconds(median)
    );
    // The lease, and what a busy machine takes for the rest; nobody had to wait for the node to be declared dead.
    assert!(median <= Duration::from_secs(17));
}

#[test]
fn a_leader_that_is_cut_off_stops_by_itself_before_it_is_replaced() {
    scenario("the leader's link cut for 40 s and healed", "cut-link", |probes, leader| {
        let began = Instant::now();
        let event = conch_probe::now();
        let link = CutLink::of(probes, leader);
        probes.wait_next_term(event, 2 * FAIL_OVER_LIMIT).unwrap();
        thread::sleep(Duration::from_secs(40).saturating_sub(began.elapsed()));
        drop(link);
    });
}

#[test]
fn a_deleted_lease_ends_the_term_and_is_made_again() {
    scenario("kubectl delete lease", "delete-lease", |probes, _| {
        probes.namespace.kubectl(&["delete", "lease", &probes.lease()]).unwrap();
    });
}

#[test]
fn a_cleared_holder_ends_the_term_and_nobody_leads_until_the_lease_is_over() {
    scenario("kubectl patch clears the holder", "clear-holder", |probes, _| {
        patch_holder(probes, "null");
    });
}

#[test]
fn an_overwritten_holder_ends_the_term_and_nobody_leads_until_the_lease_is_over() {
    scenario("kubectl patch overwrites the holder", "overwrite", |probes, _| {
        patch_holder(probes, "\"somebody\"");
    });
}

#[test]
fn a_holder_that_is_cleared_while_the_leader_is_cut_off_is_not_replaced_too_early() {
    patch_while_cut_off("kubectl patch clears the holder while the leader is cut off", "clear-cut", "null");
}

#[test]
fn a_holder_that_is_overwritten_while_the_leader_is_cut_off_is_not_replaced_too_early() {
    let test = "kubectl patch overwrites the holder while the leader is cut off";
    patch_while_cut_off(test, "overwrite-cut", "\"somebody\"");
}

fn patch_while_cut_off(test: &str, words: &str, holder: &str) {
    scenario(test, words, |probes, leader| {
        let event = conch_probe::now();
        let link = CutLink::of(probes, leader);
        patch_holder(probes, holder);
        probes.wait_next_term(event, 2 * FAIL_OVER_LIMIT).unwrap();
        drop(link);
    });
}

fn patch_holder(probes: &Probes<'_>, holder: &str) {
    let patch = format!(r#"{{"spec":{{"holderIdentity":{holder}}}}}"#);
    probes
        .namespace
        .kubectl(&["patch", "lease", &probes.lease(), "--type=merge", "--patch", &patch])
        .unwrap();
}

/// A node without its network cable; it is plugged in again when this is dropped, also when the test fails.
struct CutLink {
    environment: &'static Environment,
    node: usize,
}

impl CutLink {
    fn of(probes: &Probes<'_>, leader: &Candidate) -> Self {
        probes.cluster().cut_node(leader.node).unwrap();
        Self { environment: crate::support::environment(), node: leader.node }
    }
}

impl Drop for CutLink {
    fn drop(&mut self) {
        if let Some(cluster) = &self.environment.cluster {
            cluster.heal_node(self.node).unwrap();
        }
    }
}
