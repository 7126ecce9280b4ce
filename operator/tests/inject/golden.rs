//! What becomes of each pod of `pods/`, as a snapshot in `snapshots/`.

use crate::support::{LONGEST_LEASE, NAMESPACE, directory, image, pods, policies, policy_of};
use conch_operator::inject::{Decision, decide, inject, patch};
use serde_json::{Value, json};

#[test]
fn each_golden_pod_becomes_what_its_snapshot_says() {
    let policies = policies();
    let pods = pods();
    assert!(pods.len() >= 30, "{} pods", pods.len());
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(directory().join("snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let _bound = settings.bind_to_scope();
    for (name, pod) in &pods {
        insta::assert_yaml_snapshot!(
            name.as_str(),
            outcome(pod, &decide(pod, NAMESPACE, policy_of(pod, &policies), &image()))
        );
    }
}

fn outcome(pod: &Value, decision: &Decision<'_>) -> Value {
    match decision {
        Decision::Skip(reason) => json!({"skip": format!("{reason:?}")}),
        Decision::Refuse(refusal) => {
            json!({"refuse": refusal.reason.condition().as_str(), "sentence": refusal.sentence})
        }
        Decision::Inject(injection) => {
            let injected = inject(pod, injection, &image(), LONGEST_LEASE).unwrap();
            json!({"inject": patch::diff(pod, &injected)})
        }
    }
}
