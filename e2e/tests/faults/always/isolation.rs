//! The leader's node without its network cable.

use serde_json::{Value, json};

use crate::shared::FAIL_OVER_LIMIT;
use crate::stage::{Fault, Scenario, Stage, sleep};

#[test]
fn a_leader_that_is_cut_off_stops_by_itself_before_it_is_replaced() {
    Scenario::new("12, 39 the leader's link cut for 40 s and healed", "cut-link").alone().run(|stage| {
        let event = conch_probe::now();
        let link = stage.cut(stage.leader.node);
        sleep(40);
        stage.new_term(event, link.heal())
    });
}

#[test]
fn a_cut_off_leader_whose_pod_is_deleted_by_force_is_not_replaced_too_early() {
    let title = "13 the leader's pod deleted by force while its node is cut off";
    Scenario::new(title, "force-delete").alone().run(|stage| {
        // The replacement has to come up where somebody can see it.
        let cordon = stage.cordon(stage.leader.node);
        let event = conch_probe::now();
        let link = stage.cut(stage.leader.node);
        stage.kubectl(&["delete", "pod", &stage.leader.name, "--force", "--grace-period=0"]);
        stage.probes.wait_next_term(event, 2 * FAIL_OVER_LIMIT).unwrap();
        // The old pod is told only now that it was deleted long ago.
        let healed = link.heal();
        drop(cordon);
        stage.new_term_within(event, healed, stage.timing.newcomer_limit())
    });
}

#[test]
fn a_holder_that_is_cleared_while_the_leader_is_cut_off_is_not_replaced_too_early() {
    let title = "55 kubectl patch clears the holder while the leader is cut off";
    patch_while_cut_off(title, "clear-cut", &Value::Null);
}

#[test]
fn a_holder_that_is_overwritten_while_the_leader_is_cut_off_is_not_replaced_too_early() {
    let title = "55 kubectl patch overwrites the holder while the leader is cut off";
    patch_while_cut_off(title, "overwrite-cut", &"somebody".into());
}

fn patch_while_cut_off(title: &'static str, words: &'static str, holder: &Value) {
    Scenario::new(title, words).alone().run(|stage| {
        let event = conch_probe::now();
        let link = stage.cut(stage.leader.node);
        stage.patch_holder(holder);
        stage.probes.wait_next_term(event, 2 * FAIL_OVER_LIMIT).unwrap();
        stage.new_term(event, link.heal())
    });
}

impl Stage<'_> {
    /// Unplugs a node's network cable.
    pub(crate) fn cut(&self, node: usize) -> Fault<'_> {
        self.cluster().cut_node(node).unwrap();
        Fault::healed_by(move || Ok(self.cluster().heal_node(node)?))
    }

    /// Keeps new pods away from a node.
    pub(crate) fn cordon(&self, node: usize) -> Fault<'_> {
        let name = self.cluster().node_names()[node - 1].clone();
        self.kubectl(&["cordon", &name]);
        Fault::healed_by(move || self.probes.namespace.kubectl(&["uncordon", &name]).map(drop))
    }

    pub(crate) fn patch_holder(&self, holder: &Value) {
        self.patch_lease("merge", &json!({"spec": {"holderIdentity": holder}}));
    }
}
