//! Pods, programs, sidecars and nodes that end.

use std::time::Duration;

use conch_e2e::{median, milliseconds};

use crate::shared::FAIL_OVER_LIMIT;
use crate::stage::{Course, Scenario};

#[test]
fn a_deleted_leader_hands_over_twenty_times_as_soon_as_its_program_has_ended() {
    Scenario::new("62 kubectl delete pod of the leader, 20 times", "delete-pod").run(|stage| {
        let probes = stage.probes;
        let event = conch_probe::now();
        let mut hand_overs = Vec::new();
        for _ in 0..20 {
            let leader = probes.leader().unwrap();
            stage.kubectl(&["delete", "pod", &leader.name, "--wait=false"]);
            let exit = probes.wait_exit(&leader, FAIL_OVER_LIMIT).unwrap();
            hand_overs.push(probes.wait_next_term(exit, 2 * FAIL_OVER_LIMIT).unwrap());
            probes.wait_complete(3).unwrap();
        }
        let median = median(hand_overs.clone());
        let shown = milliseconds(median);
        println!("RESULT median from the old program's exit to the next leader's first answer: {shown}");
        // A busy machine makes it slower; a hand-over that had to wait for a promise to run out takes eight times as long.
        assert!(median <= Duration::from_secs(1));
        Course::new_terms(event, event, hand_overs, FAIL_OVER_LIMIT)
    });
}

#[test]
fn a_leader_whose_sidecar_is_killed_leads_again_with_a_new_token() {
    Scenario::new("7 SIGKILL of the leader's sidecar", "kill-sidecar").run(|stage| {
        let event = conch_probe::now();
        stage.probes.kill_sidecar(&stage.leader).unwrap();
        stage.new_term(event, event)
    });
}

#[test]
fn a_leader_whose_program_and_sidecar_are_killed_is_replaced() {
    Scenario::new("7, 9 SIGKILL of the leader's sidecar and program", "kill-both").run(|stage| {
        let event = conch_probe::now();
        stage.probes.kill_sidecar(&stage.leader).unwrap();
        stage.probes.kill_program(&stage.leader).unwrap();
        stage.new_term(event, event)
    });
}

#[test]
fn a_leader_whose_program_is_killed_is_asked_again_by_its_next_run() {
    Scenario::new("9 SIGKILL of the leader's program", "kill-program").run(|stage| {
        let event = conch_probe::now();
        stage.probes.kill_program(&stage.leader).unwrap();
        stage.probes.wait_complete(3).unwrap();
        stage.same_term(event, event)
    });
}

#[test]
fn a_leader_whose_node_loses_power_is_replaced_after_the_lease() {
    Scenario::new("11 power cut of the leader's node, 3 times", "power-cut").alone().run(|stage| {
        let probes = stage.probes;
        let mut fail_overs = Vec::new();
        let begin = conch_probe::now();
        for _ in 0..3 {
            let node = probes.leader().unwrap().node;
            let event = conch_probe::now();
            stage.cluster().kill_node(node).unwrap();
            fail_overs.push(probes.wait_next_term(event, 2 * FAIL_OVER_LIMIT).unwrap());
            stage.cluster().restart_node(node).unwrap();
            probes.wait_complete(3).unwrap();
        }
        let median = median(fail_overs.clone());
        let shown = milliseconds(median);
        println!("RESULT median from a node's power cut to the next leader's first answer: {shown}");
        // The lease, and what a busy machine takes for the rest; nobody had to wait for the node to be declared dead.
        assert!(median <= Duration::from_secs(17));
        Course::new_terms(begin, begin, fail_overs, FAIL_OVER_LIMIT)
    });
}
