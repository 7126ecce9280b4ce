//! C. The API server and etcd stand still, die and come back.

use std::time::Duration;

use conch_cluster::Component;

use crate::stage::{Course, Fault, Scenario, Stage, later, sleep};

impl Stage<'_> {
    pub(crate) fn stop_component(&self, component: Component) -> Fault<'_> {
        self.cluster().stop_component(component).unwrap();
        Fault::healed_by(move || Ok(self.cluster().continue_component(component)?))
    }

    fn kill_component(&self, component: Component) -> Fault<'_> {
        self.cluster().kill_component(component).unwrap();
        Fault::healed_by(move || Ok(self.cluster().restart_component(component)?))
    }
}

/// The fault lasts too long for the leader: it stops when its validity is over, and nobody leads until the end.
fn outlast(stage: &Stage<'_>, fault: impl FnOnce() -> u64) -> Course {
    let event = conch_probe::now();
    let healed = fault();
    stage.assert_nobody_leads(later(event, stage.timing.validity + Duration::from_secs(1)), healed);
    stage.new_term_within(event, healed, Duration::from_nanos(healed - event) + stage.timing.limit())
}

#[test]
fn a_leader_outlives_an_api_server_that_stands_still_for_less_than_its_validity() {
    Scenario::new("24 API server stopped for 5 s", "api-stop").alone().run(|stage| {
        let event = conch_probe::now();
        let stopped = stage.stop_component(Component::ApiServer);
        sleep(5);
        stage.same_term(event, stopped.heal())
    });
}

#[test]
fn a_leader_outlives_a_restart_of_the_api_server() {
    Scenario::new("24 API server killed and restarted at once", "api-restart").alone().run(|stage| {
        let event = conch_probe::now();
        stage.same_term(event, stage.kill_component(Component::ApiServer).heal())
    });
}

#[test]
fn while_the_api_server_is_dead_for_long_nobody_leads_and_then_one_does() {
    Scenario::new("24, 26 API server killed, and restarted after 25 s", "api-dead").alone().run(|stage| {
        outlast(stage, || {
            let dead = stage.kill_component(Component::ApiServer);
            sleep(25);
            // It answers candidates before the call returns.
            let healed = conch_probe::now();
            drop(dead);
            healed
        })
    });
}

#[test]
fn a_leader_outlives_an_etcd_that_stands_still_for_less_than_its_validity() {
    Scenario::new("35 etcd stopped for 5 s", "etcd-stop").alone().run(|stage| {
        let event = conch_probe::now();
        let stopped = stage.stop_component(Component::Etcd);
        sleep(5);
        stage.same_term(event, stopped.heal())
    });
}

#[test]
fn a_leader_outlives_a_restart_of_etcd() {
    Scenario::new("35 etcd killed and restarted at once", "etcd-restart").alone().run(|stage| {
        let event = conch_probe::now();
        stage.same_term(event, stage.kill_component(Component::Etcd).heal())
    });
}

#[test]
fn while_etcd_stands_still_for_long_nobody_leads_and_then_one_does() {
    Scenario::new("36 etcd stopped for 40 s", "etcd-stop-long").alone().run(|stage| {
        outlast(stage, || {
            let stopped = stage.stop_component(Component::Etcd);
            sleep(40);
            stopped.heal()
        })
    });
}
