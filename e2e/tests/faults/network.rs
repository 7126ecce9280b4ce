//! C. What a sidecar and its API server send each other comes late, or not at all.

use std::time::Duration;

use conch_cluster::{Relay, Treatment, Ways};
use conch_e2e::{Candidate, Tools};

use crate::shared::FAIL_OVER_LIMIT;
use crate::stage::{Course, Scenario, Stage, sleep};

impl Stage<'_> {
    /// Leads a candidate's way to the API server through a relay, and waits until it has found it.
    pub(crate) fn relay(&self, candidate: &Candidate) -> Relay {
        let relay = self.relay_without_waiting(candidate);
        let connected = || {
            let count = relay.connections();
            Ok(if count > 0 { Ok(()) } else { Err("none".to_owned()) })
        };
        Tools::wait_for("connection through the relay", FAIL_OVER_LIMIT, connected).unwrap();
        // Past the first requests, so that what follows befalls a candidate in steady state.
        sleep(5);
        relay
    }

    pub(crate) fn relay_without_waiting(&self, candidate: &Candidate) -> Relay {
        let relay = self.cluster().relay().unwrap();
        relay.capture(self.sidecar(candidate)).unwrap();
        relay
    }
}

#[test]
fn a_leader_whose_answers_come_late_but_in_time_leads_on() {
    Scenario::new("29 the leader's answers delayed by 2 s for 30 s", "slow-answers").run(|stage| {
        let relay = stage.relay(&stage.leader);
        let event = conch_probe::now();
        relay.treat(Ways { answers: Treatment::Delay(Duration::from_secs(2)), ..Ways::OPEN });
        sleep(30);
        relay.treat(Ways::OPEN);
        stage.same_term(event, conch_probe::now())
    });
}

#[test]
fn a_leader_whose_answers_are_lost_stops_although_its_writes_land() {
    Scenario::new("41, 43 the leader's answers held back for 40 s", "lost-answers").run(|stage| {
        let relay = stage.relay(&stage.leader);
        let event = conch_probe::now();
        relay.treat(Ways { answers: Treatment::Hold, ..Ways::OPEN });
        sleep(40);
        relay.treat(Ways::OPEN);
        stage.new_term_within(event, conch_probe::now(), stage.timing.unanswered_limit())
    });
}

#[test]
fn writes_that_arrive_after_the_successor_began_change_nothing() {
    Scenario::new("44 the leader's requests held back until a successor leads", "zombie-writes").run(
        |stage| {
            let relay = stage.relay(&stage.leader);
            let event = conch_probe::now();
            relay.treat(Ways { requests: Treatment::Hold, ..Ways::OPEN });
            stage.probes.wait_next_term(event, 2 * FAIL_OVER_LIMIT).unwrap();
            let (successor, token) = leader(stage);
            relay.treat(Ways::OPEN);
            sleep(5);
            assert_eq!(leader(stage), (successor, token), "a late write took the lead");
            stage.new_term(event, conch_probe::now())
        },
    );
}

fn leader(stage: &Stage<'_>) -> (String, u128) {
    let history = stage.probes.history().unwrap();
    let (pod, token) = history.leader().unwrap();
    (pod.to_owned(), token)
}

#[test]
fn a_leader_whose_connection_went_dead_goes_on_over_a_new_one() {
    Scenario::new("30 the leader's connections go silent, new ones are whole", "half-open").run(|stage| {
        let relay = stage.relay(&stage.leader);
        let event = conch_probe::now();
        relay.silence();
        sleep(30);
        let course = stage.same_term(event, conch_probe::now());
        drop(relay);
        course
    });
}

#[test]
fn followers_whose_watches_went_dead_still_take_over() {
    Scenario::new("31 the followers' connections go silent, then the leader is deleted", "dead-watches").run(
        |stage| {
            let relays: Vec<_> = stage.followers().iter().map(|follower| stage.relay(follower)).collect();
            relays.iter().for_each(Relay::silence);
            let event = conch_probe::now();
            stage.kubectl(&["delete", "pod", &stage.leader.name, "--wait=false"]);
            let exit = stage.probes.wait_exit(&stage.leader, FAIL_OVER_LIMIT).unwrap();
            let fail_over = stage.probes.wait_next_term(exit, 2 * FAIL_OVER_LIMIT).unwrap();
            Course::new_terms(event, exit, vec![fail_over], stage.timing.limit())
        },
    );
}

#[test]
fn a_leader_whose_followers_are_cut_off_leads_on_and_nobody_takes_over_when_they_are_back() {
    Scenario::new("40 the node of followers cut off for 30 s", "cut-followers").alone().run(|stage| {
        let followers = stage.followers();
        let other = followers.iter().find(|follower| follower.node != stage.leader.node).unwrap();
        let event = conch_probe::now();
        let link = stage.cut(other.node);
        sleep(30);
        stage.same_term(event, link.heal())
    });
}
