//! A. Processes that stand still, starve, and cannot stay up.

use std::process::Command;

use conch_e2e::{Candidate, Tools, run};
use conch_probe::Line;

use crate::shared::FAIL_OVER_LIMIT;
use crate::stage::{BOTH, Course, Fault, PROGRAM, SIDECAR, Scenario, Stage, sleep};

impl Stage<'_> {
    /// What the sidecar of a pod first answered after a time: does it lead? Waits for the answer.
    pub(crate) fn first_answer(&self, candidate: &Candidate, after: u64) -> bool {
        let pod = format!("{}_{}", candidate.name, candidate.uid);
        let first = || {
            let history = self.probes.history()?;
            let lines = history.runs.iter().filter(|run| run.pod == pod).flat_map(|run| &run.lines);
            let answers = lines.filter_map(|line| match line {
                Line::Yes { answered, .. } => Some((*answered, true)),
                Line::No { answered, .. } => Some((*answered, false)),
                _ => None,
            });
            let first = answers.filter(|(answered, _)| *answered >= after).min();
            Ok(first.map(|(_, leads)| leads).ok_or_else(|| "none".to_owned()))
        };
        Tools::wait_for("answer of a sidecar that stood still", FAIL_OVER_LIMIT, first).unwrap()
    }
}

#[test]
fn a_sidecar_that_stood_still_for_less_than_its_validity_leads_on() {
    Scenario::new("1 SIGSTOP of the leader's sidecar for 5 s", "stop-sidecar").run(|stage| {
        let event = conch_probe::now();
        let stopped = stage.stop(&stage.leader, SIDECAR);
        sleep(5);
        stage.same_term(event, stopped.heal())
    });
}

#[test]
fn a_program_that_stands_still_does_not_lose_the_lead() {
    Scenario::new("3 SIGSTOP of the leader's program for 25 s", "stop-program").run(|stage| {
        let event = conch_probe::now();
        let stopped = stage.stop(&stage.leader, PROGRAM);
        sleep(25);
        stage.same_term(event, stopped.heal())
    });
}

#[test]
fn a_pod_that_stood_still_for_less_than_its_validity_leads_on() {
    Scenario::new("4 SIGSTOP of the leader's whole pod for 5 s", "stop-pod").run(|stage| {
        let event = conch_probe::now();
        let stopped = stage.stop(&stage.leader, BOTH);
        sleep(5);
        stage.same_term(event, stopped.heal())
    });
}

#[test]
fn a_pod_that_stood_still_for_longer_than_its_lease_wakes_up_as_no_leader() {
    Scenario::new("4 SIGSTOP of the leader's whole pod for 25 s", "stop-pod-long").run(|stage| {
        let event = conch_probe::now();
        let stopped = stage.stop(&stage.leader, BOTH);
        sleep(25);
        let awake = conch_probe::now();
        let healed = stopped.heal();
        let course = stage.new_term(event, healed);
        assert!(!stage.first_answer(&stage.leader, awake));
        course
    });
}

#[test]
fn a_sidecar_that_cannot_stay_up_is_replaced() {
    Scenario::new("8 the leader's sidecar killed whenever it is up, for 20 s", "crash-loop").fast().run(
        |stage| {
            let event = conch_probe::now();
            for _ in 0..200 {
                // Between two of its lives there is nothing to kill.
                let _ = stage.probes.kill_sidecar(&stage.leader);
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            stage.new_term(event, conch_probe::now())
        },
    );
}

#[test]
fn sidecars_with_one_hundredth_of_a_processor_never_lead_two_at_a_time() {
    Scenario::new("15 sidecars throttled to 1 % of a processor", "starved").starved().run(|stage| {
        let begin = conch_probe::now();
        sleep(20);
        let leader = stage.probes.leader().unwrap();
        stage.kubectl(&["delete", "pod", &leader.name, "--wait=false"]);
        let exit = stage.probes.wait_exit(&leader, stage.timing.limit()).unwrap();
        let fail_over = stage.probes.wait_next_term(exit, 2 * stage.timing.limit()).unwrap();
        Course::new_terms(begin, exit, vec![fail_over], stage.timing.limit())
    });
}

#[test]
fn a_sidecar_without_a_free_file_descriptor_answers_on_and_stops_in_time() {
    Scenario::new("16 no file descriptor for a new connection", "descriptors").fast().run(|stage| {
        let sidecar = stage.sidecar(&stage.leader);
        // Its own user may do it; root may not in every container.
        let limit = move |files: &str| {
            let (process, limit) = (format!("--pid={sidecar}"), format!("--nofile={files}:"));
            let user = ["--reuid=65532", "--regid=65532", "--clear-groups"];
            run(Command::new("setpriv").args(user).args(["prlimit", &process, &limit])).map(drop)
        };
        limit("3").unwrap();
        let starved = Fault::healed_by(move || limit("1024"));
        // Its connection to the API server is reset: the next one needs a descriptor.
        let event = conch_probe::now();
        let relay = stage.relay_without_waiting(&stage.leader);
        sleep(stage.timing.limit().as_secs());
        drop(relay);
        stage.new_term(event, starved.heal())
    });
}
