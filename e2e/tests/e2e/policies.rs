//! Policies: what is refused at once, what is said where, and when a change reaches the pods.

use conch_e2e::{Namespace, Workload};
use serde_json::json;

use crate::support::{environment, pods, policy, wait_condition, wait_event, wait_leader};

#[test]
fn an_unsafe_timing_is_refused_with_the_number_to_change() {
    let namespace = Namespace::new(environment(), "unsafe-timing").unwrap();
    let timing = json!({"leaseDuration": "6s", "renewInterval": "2s", "stopGrace": "5s"});
    let error = namespace.apply(policy("hasty", &json!({"timing": timing}))).unwrap_err().to_string();
    assert!(error.contains("leaseDuration") && error.contains("at least 8s"), "{error}");
    let careless = json!({"timing": {"stopGrace": "0s"}});
    let error = namespace.apply(policy("careless", &careless)).unwrap_err().to_string();
    assert!(error.contains("stopGrace"), "{error}");
    let said = json!({"consequence": "DuplicateWork", "timing": {"stopGrace": "0s"}});
    namespace.apply(policy("said", &said)).unwrap();
    wait_condition(&namespace, "coordinationpolicy/said", "Ready", "True", "Accepted");
}

#[test]
fn a_workload_that_names_a_missing_policy_waits_for_it_and_says_so() {
    let namespace = Namespace::new(environment(), "missing-policy").unwrap();
    let workload = Workload { replicas: 1, policy: Some("later"), ..Workload::deployment("early") };
    namespace.apply(workload.manifest()).unwrap();
    let message = wait_event(&namespace, "PolicyNotFound");
    assert!(message.contains("later"), "{message}");
    wait_condition(&namespace, "election/early", "Ready", "False", "PolicyNotFound");
    assert!(pods(&namespace, "early").unwrap().is_empty(), "no pod without its sidecar");
    namespace.apply(policy("later", &json!({}))).unwrap();
    namespace.wait_rolled_out(&workload.reference()).unwrap();
    wait_leader(&namespace, "early");
    wait_condition(&namespace, "election/early", "Ready", "True", "Led");
}

#[test]
fn a_changed_policy_reaches_the_pods_at_their_next_roll_and_is_counted_until_then() {
    let namespace = Namespace::new(environment(), "changed-policy").unwrap();
    namespace.apply(policy("p", &json!({"timing": {"leaseDuration": "15s"}}))).unwrap();
    let workload = Workload { replicas: 2, policy: Some("p"), ..Workload::deployment("app") };
    namespace.apply(workload.manifest()).unwrap();
    namespace.wait_rolled_out(&workload.reference()).unwrap();
    wait_condition(&namespace, "coordinationpolicy/p", "UpToDate", "True", "AllCurrent");
    namespace.apply(policy("p", &json!({"timing": {"leaseDuration": "20s"}}))).unwrap();
    wait_condition(&namespace, "coordinationpolicy/p", "UpToDate", "False", "PodsOutdated");
    assert_eq!(namespace.get(&["coordinationpolicy", "p"]).unwrap()["status"]["outdated"], 2);
    namespace.kubectl(&["rollout", "restart", &workload.reference()]).unwrap();
    namespace.wait_rolled_out(&workload.reference()).unwrap();
    wait_condition(&namespace, "coordinationpolicy/p", "UpToDate", "True", "AllCurrent");
    wait_leader(&namespace, "app");
}

#[test]
fn kubectl_explain_reads_like_a_manual() {
    let tools = &environment().tools;
    let timing = tools.kubectl(&["explain", "coordinationpolicy.spec.timing"]).unwrap();
    for field in ["leaseDuration", "renewInterval", "stopGrace", "maxPromise"] {
        assert!(timing.contains(field), "{timing}");
    }
    let election = tools.kubectl(&["explain", "election.status"]).unwrap();
    assert!(election.contains("holder") && election.contains("token"), "{election}");
    for text in [timing, election] {
        assert!(!text.contains("<no description>"), "{text}");
    }
}
