//! Status and Events.

use super::{
    super::{Plan, Write, plan_policy},
    world::{World, deployment, pod, policy},
};
use crate::policy::observe::{ObservedPolicy, workload::Pod};
use conch_crds::{
    ElectionStatus,
    election::{TRANSITIONS_MAX, TransitionCause},
    names,
};
use serde_json::{Value, json};

fn status(world: &World) -> ElectionStatus {
    world.election.clone().unwrap().status.unwrap()
}

fn reasons(plans: &[Plan]) -> Vec<String> {
    plans.iter().flat_map(|plan| &plan.notices).map(|notice| notice.reason.to_string()).collect()
}

#[test]
fn each_change_of_the_leader_is_told_once() {
    let mut world = World::settled();
    world.pods = vec![pod("a", &json!({})), pod("b", &json!({}))];
    world.settle();
    assert_eq!(world.condition("Ready").0, "NoLeader");

    world.hold("a_uid-of-a_n", None);
    let plans = world.settle();
    assert_eq!(reasons(&plans), ["LeaderElected"]);
    assert_eq!(world.condition("Ready").0, "Led");
    assert_eq!(plans[0].notices[0].pod.as_ref().unwrap().uid, "uid-of-a");

    // The token comes with the first renewal and is no change.
    world.hold("a_uid-of-a_n", Some("00000000000000000007"));
    assert!(reasons(&world.settle()).is_empty());
    let transitions = status(&world).transitions;
    assert_eq!(transitions.len(), 1);
    assert_eq!(transitions[0].token.as_deref(), Some("00000000000000000007"));
    assert_eq!(transitions[0].cause, Some(TransitionCause::FirstLeader));

    world.now += 5;
    world.release();
    assert_eq!(reasons(&world.settle()), ["LeadershipLost"]);
    world.now += 5;
    world.hold("b_uid-of-b_n", Some("00000000000000000009"));
    assert_eq!(reasons(&world.settle()), ["LeaderElected"]);
    let last = status(&world).transitions.last().unwrap().clone();
    assert_eq!(
        (last.from, last.to.as_deref(), last.cause),
        (None, Some("b"), Some(TransitionCause::Released))
    );
}

#[test]
fn a_new_term_of_the_same_pod_is_a_change() {
    let mut world = World::settled();
    world.pods = vec![pod("a", &json!({}))];
    world.hold("a_uid-of-a_n", Some("00000000000000000007"));
    world.settle();
    world.hold("a_uid-of-a_m", Some("00000000000000000008"));
    world.settle();
    let last = status(&world).transitions.last().unwrap().clone();
    assert_eq!(last.cause, Some(TransitionCause::SidecarRestarted));
    assert_eq!(last.token.as_deref(), Some("00000000000000000008"));
}

#[test]
fn the_last_ten_changes_are_kept() {
    let mut world = World::settled();
    for round in 0..15 {
        world.now += 60;
        world.hold(&format!("pod-{round}_u-{round}_n"), None);
        world.settle();
    }
    let transitions = status(&world).transitions;
    assert_eq!(transitions.len(), TRANSITIONS_MAX);
    assert_eq!(transitions[0].to.as_deref(), Some("pod-5"));
    assert_eq!(transitions[9].to.as_deref(), Some("pod-14"));
}

#[test]
fn what_stands_in_the_way_is_said_in_a_condition_and_once_in_an_event() {
    let template = |spec: Value| json!({"spec": {"template": {"spec": spec}}});
    let policy_named = |name: &str| {
        json!({"metadata": {"annotations": {names::POLICY: name}},
            "spec": {"template": {"metadata": {"labels": {names::POLICY: name}}}}})
    };
    let cases: Vec<(Value, &str, &str, Option<&str>)> = vec![
        (policy_named("absent"), "Ready", "PolicyNotFound", Some("PolicyNotFound")),
        (policy_named("unsafe"), "Ready", "PolicyInvalid", Some("PolicyInvalid")),
        (policy_named("unreadable"), "Ready", "PolicyInvalid", Some("PolicyInvalid")),
        (
            json!({"metadata": {"annotations": {names::ELECTION: "Not A Name"}}}),
            "Ready",
            "ElectionNameInvalid",
            Some("ElectionNameInvalid"),
        ),
        (template(json!({"hostNetwork": true})), "Injected", "HostNetwork", Some("InjectionRefused")),
        (
            template(json!({"containers": [{"name": "app", "ports": [{"containerPort": 4040}]}]})),
            "Injected",
            "PortTaken",
            Some("InjectionRefused"),
        ),
        (
            template(json!({"containers": [{"name": "conch"}]})),
            "Injected",
            "ContainerNameTaken",
            Some("InjectionRefused"),
        ),
        (template(json!({"os": {"name": "windows"}})), "Injected", "NotLinux", Some("InjectionRefused")),
        (json!({}), "Injected", "NoPods", None),
    ];
    for (patch, condition, reason, event) in cases {
        let mut world = World::new(vec![deployment("payments", &patch)]);
        world.policies.insert(
            "unsafe".to_owned(),
            policy(&json!({"metadata": {"name": "unsafe"},
            "spec": {"timing": {"leaseDuration": "2s", "renewInterval": "2s"}}})),
        );
        world.policies.insert(
            "unreadable".to_owned(),
            policy(&json!({"metadata": {"name": "unreadable"},
            "spec": {"timing": {"leaseDuration": "soon"}}})),
        );
        let plans = world.settle();
        let (found, message) = world.condition(condition);
        assert_eq!(found, reason, "{message}");
        assert!(!message.is_empty());
        assert_eq!(reasons(&plans), event.into_iter().collect::<Vec<_>>(), "{reason}");
        assert!(world.plan().notices.is_empty(), "{reason} is told again");
    }
}

#[test]
fn a_disabled_namespace_is_named() {
    let mut world = World::settled();
    world.injection_disabled = true;
    let plans = world.settle();
    assert_eq!(world.condition("Injected").0, "InjectionDisabled");
    assert_eq!(reasons(&plans), ["InjectionSkipped"]);
}

#[test]
fn pods_are_counted_as_candidates_missing_and_outdated() {
    let mut world = World::settled();
    world.pods = vec![
        pod("current", &json!({})),
        pod("starting", &json!({"status": {"initContainerStatuses": null}})),
        pod("older policy", &json!({"metadata": {"annotations": {names::INJECTED: "default@0/x"}}})),
        pod("bare", &json!({"spec": {"initContainers": null}})),
    ];
    world.settle();
    let status = status(&world);
    assert_eq!((status.candidates, status.missing, status.outdated), (2, 1, 1));
    assert_eq!(world.condition("Injected").0, "SidecarMissing");
    assert_eq!(world.condition("UpToDate").0, "PodsOutdated");
    world.pods.truncate(2);
    world.settle();
    assert_eq!(world.condition("Injected").0, "AllInjected");
    assert_eq!(world.condition("UpToDate").0, "AllCurrent");
}

fn observed(spec: &Value, pods: Vec<Pod>) -> ObservedPolicy {
    let mut world = World::new(Vec::new());
    let everything = world.observe();
    ObservedPolicy {
        policy: policy(&json!({"metadata": {"name": "default"}, "spec": spec})),
        now: everything.now,
        sidecar_image: everything.sidecar_image,
        elections: 3,
        pods,
    }
}

#[test]
fn a_policy_says_whether_it_is_used_safe_and_current_and_then_nothing_is_planned() {
    let cases = [
        (json!({}), ["Accepted", "TimingSafe", "PodsOutdated"]),
        (json!({"timing": {"leaseDuration": "1s"}}), ["PolicyInvalid", "TimingUnsafe", "PodsOutdated"]),
        (json!({"timing": {"stopGrace": "0s"}}), ["PolicyInvalid", "StopGraceNeeded", "PodsOutdated"]),
        (
            json!({"program": {"compatibility": "LeaderElector"}}),
            ["PolicyInvalid", "StopGraceNeeded", "PodsOutdated"],
        ),
        (json!({"timing": "soon"}), ["PolicyInvalid", "PolicyInvalid", "PodsOutdated"]),
    ];
    for (spec, reasons) in cases {
        let pods = vec![
            pod("a", &json!({})),
            pod("b", &json!({"metadata": {"annotations": {names::INJECTED: null}}})),
            pod("c", &json!({"spec": {"initContainers": null}})),
        ];
        let mut observed = observed(&spec, pods);
        let plan = plan_policy(&observed);
        let [Write::PolicyStatus { status, .. }] = plan.writes.as_slice() else { panic!("{plan:?}") };
        let found: Vec<_> = status.conditions.iter().map(|condition| condition.reason.as_str()).collect();
        assert_eq!(found, reasons);
        assert_eq!((status.elections, status.injected, status.outdated), (3, 2, 1));
        observed.policy.status = (**status).clone();
        assert!(plan_policy(&observed).writes.is_empty());
    }
}
