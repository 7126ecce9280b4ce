//! A pod that is asked to lead instead of another one, beside real processes and a real API server; see [`crate::process`].

use crate::real::{Election, LEASE, MAX_PROMISE, STOP_GRACE};
use std::time::{Duration, Instant};

/// What a hand-over may take besides, on a machine that is busy with other tests.
const SOON: Duration = MAX_PROMISE;

#[test]
fn a_program_that_holds_the_stream_is_told_first_and_the_wanted_pod_leads_at_once() {
    let Some(election) = Election::new() else { return };
    let [leader, other, wanted] = ["leader", "other", "wanted"].map(|pod| election.start(pod));
    let mut program = leader.hold();
    let old = program.until(true)["token"].clone();
    let _others = [other.hold(), wanted.hold()].map(|mut program| {
        program.until(false);
        program
    });
    let asked = Instant::now();
    election.transfer_to("wanted");
    let told = program.until(false);
    assert_eq!(told["reason"], "CoolingDown", "{told}");
    drop(program); // it has stopped, and says so
    let answer = wanted.lead();
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
    assert!(answer["token"].as_str() > old.as_str(), "{answer}");
    assert_eq!(election.wanted(), None, "the new term takes the wish down");
    assert_eq!(other.get("/v1/leader").1["holder"], "wanted");
}

#[test]
fn a_program_that_says_nothing_is_waited_for() {
    let Some(election) = Election::new() else { return };
    let [leader, wanted] = ["leader", "wanted"].map(|pod| election.start(pod));
    leader.lead();
    assert_eq!(wanted.get("/v1/leader").0, 503);
    let promised = Instant::now();
    let promise = leader.get("/v1/leader").1["validForMs"].as_u64().unwrap();
    election.transfer_to("wanted");
    wanted.lead();
    let standing = Duration::from_millis(promise) + STOP_GRACE;
    assert!(promised.elapsed() >= standing, "{:?} < {standing:?}", promised.elapsed());
    assert!(promised.elapsed() < standing.mul_f64(1.2) + SOON, "{:?}", promised.elapsed());
}

#[test]
fn a_wanted_pod_that_does_not_exist_costs_a_lease_and_no_more() {
    let Some(election) = Election::new() else { return };
    let [leader, other] = ["leader", "other"].map(|pod| election.start(pod));
    leader.lead();
    assert_eq!(other.get("/v1/leader").0, 503);
    election.transfer_to("nobody");
    let asked = Instant::now();
    while leader.get("/v1/leader").0 == 200 {
        assert!(asked.elapsed() < SOON);
    }
    while leader.get("/v1/leader").0 != 200 && other.get("/v1/leader").0 != 200 {
        assert!(asked.elapsed() < LEASE + SOON * 2, "nobody leads");
    }
    assert!(asked.elapsed() + SOON > LEASE, "{:?}", asked.elapsed());
    assert_eq!(election.wanted(), None);
}
