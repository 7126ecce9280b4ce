//! The real process against a real API server. `CONCH_TEST_KUBECONFIG` names an administrator's kubeconfig of a cluster that
//! may be used for tests; without it each test says that it was skipped.

use crate::real::{Election, LEASE, MAX_PROMISE, STOP_GRACE, two_free_ports};
use conch_sidecar::shutdown::MARK_DELAY_MAX;
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// What a hand-over may take on a machine that is busy with other tests; one that waits for a promise and the stop grace takes
/// longer, and one that waits for the lease four times as long.
const SOON: Duration = MAX_PROMISE;
/// What the end of a process may take that has nothing left to do: it would not end at all.
const END: Duration = Duration::from_secs(10);

#[test]
fn a_program_that_dies_while_it_holds_the_lead_is_followed_at_once() {
    let Some(election) = Election::new() else { return };
    let (first, second) = (election.start("first"), election.start("second"));
    let mut program = first.hold();
    let term = program.until(true);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| (second.lead(), Instant::now()));
        std::thread::sleep(Duration::from_millis(300));
        let died = Instant::now();
        drop(program);
        let (answer, at) = waiting.join().unwrap();
        assert!(at - died < SOON, "{:?}", at - died);
        assert!(answer["token"].as_str() > term["token"].as_str());
    });
}

#[test]
fn a_pod_that_is_deleted_hands_over_when_its_program_has_exited() {
    let Some(election) = Election::new() else { return };
    let (mut first, second) = (election.start("first"), election.start("second"));
    first.lead();
    assert!(first.run("prestop").status.success());
    election.mark_deletion("first", 30);
    let answer = first.lead();
    assert_eq!((&answer["leader"], &answer["terminating"]), (&true.into(), &true.into()));
    std::thread::sleep(Duration::from_millis(200));
    let exited = Instant::now();
    first.signal(Signal::TERM);
    assert_eq!(second.lead()["leader"], true);
    assert!(exited.elapsed() < SOON, "{:?}", exited.elapsed());
    assert!(first.ends_within(END).success());
}

/// The kubelet sends SIGTERM because the grace is over. The sidecar stood still when the end was announced.
#[test]
fn a_sidecar_that_stood_still_at_the_beginning_of_the_end_knows_how_long_ago_that_was() {
    let Some(election) = Election::new() else { return };
    let (mut first, second) = (election.start("first"), election.start("second"));
    first.lead();
    first.signal(Signal::STOP);
    std::thread::scope(|scope| {
        // It gets no answer in time; its request is read later.
        scope.spawn(|| first.run("prestop"));
        std::thread::sleep(Duration::from_millis(200));
        election.mark_deletion("first", 5);
        std::thread::sleep(Duration::from_millis(2_200));
        first.signal(Signal::CONT);
    });
    while first.get("/v1/status").1["terminating"] == false {}
    let promised = Instant::now();
    assert_eq!(first.get("/v1/leader").0, 200);
    first.signal(Signal::TERM);
    assert_eq!(second.lead()["leader"], true);
    assert!(promised.elapsed() >= MAX_PROMISE + STOP_GRACE, "{:?}", promised.elapsed());
    assert!(first.ends_within(END).success());
}

/// What the kubelet does for another image, or after a failed probe: the program runs on, and nobody else may lead.
#[test]
fn a_sidecar_that_is_restarted_alone_leads_on_in_its_next_process() {
    let Some(election) = Election::new() else { return };
    let (mut first, second) = (election.start("first"), election.start("second"));
    let term = first.lead();
    second.get("/v1/leader");
    assert!(first.run("prestop").status.success());
    first.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(100));
    let (status, answer) = first.get("/v1/leader");
    assert_eq!((status, &answer["terminating"], &answer["token"]), (200, &true.into(), &term["token"]));
    assert!(first.ends_within(END).success());
    let ended = Instant::now();
    let again = election.start("first");
    let next = again.lead();
    assert!(ended.elapsed() < LEASE / 2, "{:?}", ended.elapsed());
    assert!(next["token"].as_str() > term["token"].as_str() && next["terminating"] == false, "{next}");
    assert_eq!(second.get("/v1/leader").0, 503);
}

#[test]
fn without_proof_a_pod_that_is_deleted_leaves_its_program_its_promise() {
    let Some(election) = Election::new() else { return };
    let (mut first, second) = (election.start("first"), election.start("second"));
    first.lead();
    // Another deletion's mark: this one came long after preStop.
    assert!(first.run("prestop").status.success());
    std::thread::sleep(MARK_DELAY_MAX);
    election.mark_deletion("first", 30);
    std::thread::sleep(Duration::from_millis(200));
    let promised = Instant::now();
    assert_eq!(first.get("/v1/leader").0, 200);
    first.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(100));
    let (status, answer) = first.get("/v1/leader");
    assert_eq!((status, &answer["reason"]), (503, &"Terminating".into()));
    assert_eq!(second.lead()["leader"], true);
    assert!(promised.elapsed() >= MAX_PROMISE + STOP_GRACE, "{:?}", promised.elapsed());
    assert!(promised.elapsed() < LEASE, "it is released, not run out: {:?}", promised.elapsed());
    assert!(first.ends_within(END).success());
}

#[test]
fn a_pod_has_one_sidecar_for_an_election_whatever_its_port() {
    let Some(election) = Election::new() else { return };
    let first = election.start("first");
    let output = election.command("first", two_free_ports()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("another sidecar of pod first"), "{said}");
    assert_eq!(first.get("/v1/status").0, 200);
}

#[test]
fn a_sidecar_that_is_killed_and_restarted_leads_again_at_once_with_a_higher_token() {
    let Some(election) = Election::new() else { return };
    let (first, second) = (election.start("first"), election.start("second"));
    let term = first.lead();
    second.get("/v1/leader");
    drop(first);
    let restarted = Instant::now();
    let again = election.start("first");
    let next = again.lead();
    assert!(restarted.elapsed() < LEASE / 2, "{:?}", restarted.elapsed());
    assert!(next["token"].as_str() > term["token"].as_str());
    assert_eq!(second.get("/v1/leader").0, 503);
}

#[test]
fn a_sidecar_that_was_frozen_for_longer_than_a_lease_says_no_first() {
    let Some(election) = Election::new() else { return };
    let (first, second) = (election.start("first"), election.start("second"));
    let term = first.lead();
    first.signal(Signal::STOP);
    let next = second.lead();
    assert!(next["token"].as_str() > term["token"].as_str());
    // The question waits in the socket while nothing runs: it is the first thing that is seen.
    let asked = std::thread::scope(|scope| {
        let asking = scope.spawn(|| first.get("/v1/leader"));
        std::thread::sleep(Duration::from_millis(100));
        first.signal(Signal::CONT);
        asking.join().unwrap()
    });
    assert_eq!(asked.0, 503, "{}", asked.1);
}

#[test]
fn a_second_signal_ends_the_process_at_once_and_a_follower_ends_at_the_first() {
    let Some(election) = Election::new() else { return };
    let (mut first, mut second) = (election.start("first"), election.start("second"));
    first.lead();
    second.signal(Signal::INT);
    assert!(second.ends_within(END).success());
    first.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(100));
    first.signal(Signal::TERM);
    assert!(!first.ends_within(END).success(), "it waited for the promise and released");
}

#[test]
fn a_port_that_is_taken_is_said_and_never_shared() {
    let Some(election) = Election::new() else { return };
    let first = election.start("first");
    let output = election.command("second", first.port()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(&first.port().to_string()), "{said}");
    assert_eq!(first.get("/v1/status").1["pod"], "first");
}

#[test]
fn the_commands_beside_it_ask_the_process() {
    let Some(election) = Election::new() else { return };
    let mut first = election.start("first");
    first.lead();
    let status = String::from_utf8(first.run("status").stdout).unwrap();
    assert!(status.contains("Leads        true") && status.contains("Pod          first"), "{status}");
    assert!(first.get("/metrics").0 == 404, "metrics are on another port");
    first.signal(Signal::KILL);
    first.ends_within(END);
    for command in ["ready", "prestop", "status"] {
        let output = first.run(command);
        assert_eq!(output.status.code(), Some(1), "{command}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("failed to ask the sidecar"));
    }
}

#[test]
fn what_cannot_be_held_safely_does_not_start() {
    let Some(election) = Election::new() else { return };
    for (variable, value, why) in [
        ("CONCH_STOP_GRACE_MS", "3900", "must be at least"),
        ("CONCH_ELECTION", "Jobs of the night", "lower-case"),
    ] {
        let output = election.command("first", 4_040).env(variable, value).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(why), "{said}");
    }
}

#[test]
fn clients_that_hold_all_they_can_delay_neither_renewals_nor_other_answers() {
    let Some(election) = Election::new() else { return };
    let sidecar = election.start("first");
    let mut program = sidecar.hold();
    let term = program.until(true);
    let streams: Vec<_> = (0..70).map(|_| sidecar.hold()).collect();
    // None of them reads; most of these find no place and are closed.
    let idle: Vec<_> = (0..600).map(|_| sidecar.connect()).collect();
    let began = Instant::now();
    while began.elapsed() < LEASE {
        let event = program.until(true);
        assert_eq!(event["token"], term["token"]);
        assert_eq!(event["validForMs"], 1_000);
    }
    drop((streams, idle));
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(sidecar.lead()["token"], term["token"]);
}

#[test]
fn what_the_operator_saw_counts_even_if_it_says_so_after_sigterm() {
    let Some(election) = Election::new() else { return };
    let (mut first, second) = (election.start("first"), election.start("second"));
    first.lead();
    let mut onlooker = second.hold();
    onlooker.until(false);
    assert!(first.run("prestop").status.success());
    first.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(100));
    let said = Instant::now();
    election.mark_deletion("first", 30);
    onlooker.until(true);
    assert!(said.elapsed() < SOON, "{:?}", said.elapsed());
    assert!(first.ends_within(END).success());
}
