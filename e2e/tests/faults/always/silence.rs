//! Processes that stand still and answers that do not come: nobody is told that anything is wrong.

use conch_cluster::{Component, Treatment, Ways};
use std::time::Duration;

use crate::stage::{SIDECAR, Scenario, later, sleep};

#[test]
fn a_sidecar_that_stood_still_for_longer_than_its_lease_wakes_up_as_no_leader() {
    Scenario::new("2 SIGSTOP of the leader's sidecar for 25 s", "stop-sidecar-long").run(|stage| {
        let event = conch_probe::now();
        let stopped = stage.stop(&stage.leader, SIDECAR);
        sleep(25);
        let awake = conch_probe::now();
        let healed = stopped.heal();
        let course = stage.new_term(event, healed);
        // What was asked for while it stood still, and all that came after: its very first answer is a no.
        assert!(!stage.first_answer(&stage.leader, awake));
        course
    });
}

#[test]
fn while_the_api_server_stands_still_for_long_nobody_leads_and_then_one_does() {
    Scenario::new("24, 26 API server stopped for 40 s", "api-stop-long").alone().run(|stage| {
        let event = conch_probe::now();
        let stopped = stage.stop_component(Component::ApiServer);
        sleep(40);
        let healed = stopped.heal();
        stage.assert_nobody_leads(later(event, stage.timing.validity + Duration::from_secs(1)), healed);
        stage.new_term_within(event, healed, Duration::from_nanos(healed - event) + stage.timing.limit())
    });
}

#[test]
fn a_leader_whose_answers_come_too_late_to_count_stops_although_its_writes_land() {
    Scenario::new("29, 41 the leader's answers delayed by 5 s", "late-answers").run(|stage| {
        let relay = stage.relay(&stage.leader);
        let event = conch_probe::now();
        relay.treat(Ways { answers: Treatment::Delay(Duration::from_secs(5)), ..Ways::OPEN });
        stage.probes.wait_next_term(event, 3 * stage.timing.limit()).unwrap();
        relay.treat(Ways::OPEN);
        stage.new_term_within(event, conch_probe::now(), stage.timing.unanswered_limit())
    });
}
