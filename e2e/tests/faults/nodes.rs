//! A. Nodes that stand still, and pods whose nodes nobody can reach.

use serde_json::json;

use crate::shared::FAIL_OVER_LIMIT;
use crate::stage::{Fault, Scenario, Stage, sleep};

impl Stage<'_> {
    fn freeze(&self, node: usize) -> Fault<'_> {
        self.cluster().freeze_node(node).unwrap();
        Fault::healed_by(move || Ok(self.cluster().thaw_node(node)?))
    }
}

#[test]
fn a_node_that_stood_still_for_less_than_the_validity_keeps_its_leader() {
    Scenario::new("4 the leader's node frozen for 5 s", "freeze-node").alone().run(|stage| {
        let event = conch_probe::now();
        let frozen = stage.freeze(stage.leader.node);
        sleep(5);
        stage.same_term(event, frozen.heal())
    });
}

#[test]
fn a_node_that_stood_still_for_longer_than_the_lease_comes_back_without_a_leader() {
    Scenario::new("4 the leader's node frozen for 30 s", "freeze-node-long").alone().run(|stage| {
        let event = conch_probe::now();
        let frozen = stage.freeze(stage.leader.node);
        sleep(30);
        stage.new_term(event, frozen.heal())
    });
}

#[test]
fn a_replacement_of_the_same_name_does_not_inherit_the_lead() {
    let title = "13, 14 a StatefulSet's leader deleted by force while its node is cut off";
    let stateful = Scenario::new(title, "same-name").alone().shape(|manifest| {
        manifest["kind"] = json!("StatefulSet");
        manifest["spec"]["podManagementPolicy"] = json!("Parallel");
    });
    stateful.run(|stage| {
        let cordon = stage.cordon(stage.leader.node);
        let event = conch_probe::now();
        let link = stage.cut(stage.leader.node);
        stage.kubectl(&["delete", "pod", &stage.leader.name, "--force", "--grace-period=0"]);
        stage.probes.wait_next_term(event, 2 * FAIL_OVER_LIMIT).unwrap();
        let replacement =
            &stage.probes.namespace.get(&["pod", &stage.leader.name]).unwrap()["metadata"]["uid"];
        assert!(*replacement != json!(stage.leader.uid), "the name came back");
        let healed = link.heal();
        drop(cordon);
        stage.new_term_within(event, healed, stage.timing.newcomer_limit())
    });
}
