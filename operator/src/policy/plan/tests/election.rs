//! Objects of an election.

use super::{
    super::{Object, RETRY, Write},
    world::{World, deployment, pod, policy, stateful_set},
};
use crate::policy::observe::{ObjectKind, Touches, longest::Leases};
use conch_crds::names;
use kube::ResourceExt;
use serde_json::json;
use std::{collections::BTreeSet, time::Duration};

fn subjects(world: &World) -> Vec<String> {
    let binding = world.binding.as_ref().unwrap();
    binding.subjects.iter().flatten().map(|subject| subject.name.clone()).collect()
}

fn longest(world: &World) -> String {
    world.lease.as_ref().unwrap().annotations()[names::LONGEST_LEASE].clone()
}

fn owners(world: &World) -> Vec<String> {
    let lease = world.lease.as_ref().unwrap();
    lease.owner_references().iter().map(|owner| owner.name.clone()).collect()
}

#[test]
fn a_workload_gets_its_objects_the_lease_first_and_then_nothing_is_planned() {
    let mut world = World::new(vec![deployment("payments", &json!({}))]);
    let first = world.plan();
    let made: Vec<&str> = first
        .writes
        .iter()
        .map(|write| match write {
            Write::CreatePolicy { .. } => "policy",
            Write::Create(Object::Lease(_)) => "lease",
            Write::Create(Object::Role(_)) => "role",
            Write::Create(Object::RoleBinding(_)) => "binding",
            Write::Create(Object::Election(_)) => "election",
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(made, ["policy", "lease", "role", "binding", "election"]);
    world.settle();
    let plan = world.plan();
    assert!(plan.writes.is_empty() && plan.notices.is_empty() && plan.next.is_none(), "{plan:?}");
    assert_eq!(owners(&world), ["payments"]);
    assert_eq!((subjects(&world), longest(&world)), (vec!["default".to_owned()], "15000".to_owned()));
    assert!(world.election.as_ref().unwrap().owner_references().is_empty());
}

#[test]
fn wherever_a_pass_stops_the_next_ones_lead_to_the_same_end() {
    let mut whole = World::settled();
    whole.never_led = true;
    whole.settle();
    for stop in 0..8 {
        let mut world = World::new(vec![deployment("payments", &json!({}))]);
        world.never_led = true;
        for write in world.plan().writes.iter().take(stop) {
            world.perform(write);
        }
        world.settle();
        assert_eq!(world.lease.as_ref().unwrap().annotations(), whole.lease.as_ref().unwrap().annotations());
        assert_eq!(world.role.as_ref().unwrap().rules, whole.role.as_ref().unwrap().rules);
        assert_eq!(subjects(&world), subjects(&whole));
        assert_eq!(world.condition("Ready"), whole.condition("Ready"));
    }
}

#[test]
fn a_lease_is_called_fresh_only_when_that_is_certain_and_at_the_version_that_was_seen() {
    let mut world = World::settled();
    assert!(!world.lease.as_ref().unwrap().annotations().contains_key(names::FRESH));
    world.never_led = true;
    let plan = world.plan();
    let [Write::PatchLease { patch, .. }] = plan.writes.as_slice() else { panic!("{plan:?}") };
    assert_eq!(patch["metadata"]["resourceVersion"], "7");
    assert!(patch["metadata"]["uid"].is_string());
    world.settle();
    let lease = world.lease.as_ref().unwrap();
    assert_eq!(lease.annotations()[names::FRESH], lease.uid().unwrap(), "no backup brings the mark back");
}

#[test]
fn the_longest_lease_of_policy_and_living_pods_stands_on_the_lease() {
    let lease = |milliseconds: &str| {
        json!({"spec": {"initContainers": [{"name": "conch", "image": "i",
            "env": [{"name": "CONCH_LEASE_DURATION_MS", "value": milliseconds}]}]}})
    };
    let mut world = World::settled();
    world.pods = vec![pod("a", &lease("60000")), pod("b", &lease("15000"))];
    world.settle();
    assert_eq!(longest(&world), "60000");
    let remembered =
        |world: &World| world.election.as_ref().unwrap().annotations()[names::LONGEST_LEASE].clone();
    // The pod is gone; its program may be cut off, and lead on.
    world.pods.remove(0);
    world.settle();
    assert_eq!((longest(&world), remembered(&world)), ("60000".to_owned(), "60000".to_owned()));
    let left = world.plan().next.unwrap();
    assert!(left >= Duration::from_mins(1), "{left:?}");
    world.instant += left;
    world.settle();
    assert_eq!((longest(&world), remembered(&world)), ("15000".to_owned(), "15000".to_owned()));
    world.pods = vec![pod("c", &lease("99999999"))];
    world.settle();
    assert_eq!(longest(&world), "3600000");
}

#[test]
fn a_workload_that_is_made_again_with_a_shorter_lease_still_waits_the_longer_one() {
    let timing = |lease: &str| {
        policy(&json!({"metadata": {"name": "default"}, "spec": {"timing": {"leaseDuration": lease}}}))
    };
    let mut world = World::new(vec![deployment("payments", &json!({}))]);
    world.policies.insert("default".to_owned(), timing("60s"));
    world.settle();
    assert_eq!(longest(&world), "60000");
    // With the workload, the garbage collector removes everything but the Election. The operator saw none of it.
    world.policies.insert("default".to_owned(), timing("15s"));
    world.claims = vec![deployment("payments", &json!({"metadata": {"uid": "another"}}))];
    (world.lease, world.role, world.binding) = (None, None, None);
    for starts_anew in [false, true] {
        if starts_anew {
            (world.leases, world.lease) = (Leases::default(), None);
        }
        world.settle();
        assert_eq!(longest(&world), "60000", "starts anew: {starts_anew}");
    }
    world.instant += Duration::from_mins(1);
    world.settle();
    assert_eq!(longest(&world), "60000");
    world.instant += Duration::from_secs(8);
    world.settle();
    assert_eq!(longest(&world), "15000");
}

#[test]
fn the_lease_of_a_leader_whose_pod_is_gone_counts_while_its_record_stands() {
    let mut world = World::settled();
    world.hold_for("a_uid-of-a_n", 60);
    world.settle();
    // What somebody else writes to the field is nobody's lease.
    world.patch_lease(&json!({"spec": {"leaseDurationSeconds": i32::MAX}}));
    world.instant += Duration::from_hours(1);
    world.settle();
    assert_eq!(longest(&world), "60000");
    world.release();
    world.settle();
    world.instant += Duration::from_secs(68);
    world.settle();
    assert_eq!(longest(&world), "15000");
    // Rounded up to seconds, a record says no more than the policy.
    world.hold_for("b_uid-of-b_n", 15);
    world.settle();
    assert_eq!(longest(&world), "15000");
}

#[test]
fn service_accounts_of_template_and_living_pods_are_bound() {
    let mut world = World::settled();
    world.pods = vec![pod("old", &json!({"spec": {"serviceAccountName": "before"}}))];
    world.claims = vec![deployment(
        "payments",
        &json!({"spec": {"template": {"spec": {"serviceAccountName": "teller"}}}}),
    )];
    world.settle();
    assert_eq!(subjects(&world), ["before", "teller"]);
    world.pods.clear();
    world.settle();
    assert_eq!(subjects(&world), ["teller"]);
}

#[test]
fn what_somebody_changed_in_role_and_binding_is_put_right() {
    let mut world = World::settled();
    world.role.as_mut().unwrap().rules = None;
    world.binding.as_mut().unwrap().subjects = None;
    let plan = world.plan();
    assert!(plan.writes.iter().all(|write| matches!(write, Write::Apply { .. })), "{plan:?}");
    world.settle();
    assert_eq!(subjects(&world), ["default"]);
    assert_eq!(
        world.role.as_ref().unwrap().rules.as_ref().unwrap()[0].verbs,
        ["get", "update", "watch", "create"]
    );

    // Which Role is bound cannot be changed: the binding is made anew.
    world.binding.as_mut().unwrap().role_ref.name = "admin".to_owned();
    let plans = world.settle();
    assert!(
        matches!(plans[0].writes[..], [Write::Delete { kind: ObjectKind::RoleBinding, .. }]),
        "{plans:?}"
    );
    assert_eq!(world.binding.as_ref().unwrap().role_ref.name, "conch-payments");
}

#[test]
fn the_oldest_workload_keeps_the_election() {
    let younger = json!({"metadata": {"creationTimestamp": "2026-02-01T00:00:00Z"}});
    let annotated = |patch: &serde_json::Value| {
        let mut patch = patch.clone();
        json_patch::merge(&mut patch, &json!({"metadata": {"annotations": {names::ELECTION: "payments"}}}));
        patch
    };
    let cases = [
        (
            "by age",
            vec![deployment("aaa", &annotated(&younger)), deployment("payments", &json!({}))],
            "payments",
        ),
        (
            "then by kind",
            vec![
                stateful_set("payments", &json!({})),
                deployment("payments", &json!({"metadata": {"uid": "d"}})),
            ],
            "payments",
        ),
        (
            "then by name",
            vec![deployment("b", &annotated(&json!({}))), deployment("a", &annotated(&json!({})))],
            "a",
        ),
        (
            "one that is being deleted keeps nothing",
            vec![
                deployment("payments", &json!({"metadata": {"deletionTimestamp": "2026-03-01T00:00:00Z"}})),
                deployment("late", &annotated(&younger)),
            ],
            "late",
        ),
    ];
    for (name, claims, keeper) in cases {
        let mut world = World::new(claims);
        world.settle();
        assert_eq!(owners(&world), [keeper], "{name}");
    }
}

#[test]
fn pods_of_a_workload_that_came_too_late_get_no_right_and_count_as_nobody() {
    let late = json!({"metadata": {"creationTimestamp": "2026-02-01T00:00:00Z",
        "annotations": {names::ELECTION: "payments"}}, "spec": {"template": {"spec": {"serviceAccountName": "late"}}}});
    let of_late = json!({"spec": {"serviceAccountName": "late"}, "metadata": {"labels": {"pod-template-hash": "5d"},
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "late-5d", "uid": "r",
            "controller": true}]}});
    let mut world = World::new(vec![deployment("payments", &json!({})), deployment("late", &late)]);
    world.pods = vec![pod("payments-1", &json!({})), pod("late-1", &of_late)];
    world.settle();
    assert_eq!(subjects(&world), ["default"]);
    assert_eq!(world.election.as_ref().unwrap().status.as_ref().unwrap().candidates, 1);
    assert_eq!(world.condition("Ready").0, "NotShared");

    world.policies.insert(
        "default".to_owned(),
        policy(&json!({"metadata": {"name": "default"},
        "spec": {"sharedElections": ["payments"]}})),
    );
    world.settle();
    assert_eq!(subjects(&world), ["default", "late"]);
    assert_eq!(owners(&world), ["payments", "late"]);
}

#[test]
fn a_name_that_is_taken_is_not_tried_again_until_later() {
    let mut world = World::new(vec![deployment("payments", &json!({}))]);
    world.foreign = BTreeSet::from([ObjectKind::Lease]);
    let plans = world.settle();
    assert!(world.lease.is_none() && world.role.is_some());
    assert_eq!(plans[0].next, Some(RETRY));
    assert_eq!(world.condition("Ready").0, "NotOurs");
}

#[test]
fn a_workload_without_stamp_is_touched_now_and_then_and_never_fought_over() {
    let unstamped = || deployment("payments", &json!({"spec": {"template": {"metadata": {"labels": null}}}}));
    let mut world = World::settled();
    world.claims = vec![unstamped()];
    let plan = world.plan();
    assert!(plan.writes.iter().any(|write| matches!(write, Write::Touch { .. })), "{plan:?}");
    assert_eq!(plan.next, Some(Duration::from_secs(1)));
    // It changed nothing: the webhook is away. Each wait is longer than the one before.
    for (times, wait) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 30), (99, 30)] {
        let wait = Duration::from_secs(wait);
        let mut touched = |ago| {
            world.touched.insert("uid-of-payments".to_owned(), Touches { times, ago, refused: None });
            world.plan()
        };
        let plan = touched(Duration::from_millis(500));
        assert!(!plan.writes.iter().any(|write| matches!(write, Write::Touch { .. })), "{plan:?}");
        assert_eq!(plan.next, wait.checked_sub(Duration::from_millis(500)));
        assert!(touched(wait).writes.iter().any(|write| matches!(write, Write::Touch { .. })));
    }
    // Where nothing is injected there is nothing to stamp.
    world.touched.clear();
    world.injection_disabled = true;
    assert!(!world.plan().writes.iter().any(|write| matches!(write, Write::Touch { .. })));
    // The word about whether the sidecar is required is admission's own.
    let optional = json!({"spec": {"template": {"metadata": {"labels": {names::INJECTION: "Optional"}}}}});
    world.injection_disabled = false;
    world.claims = vec![deployment("payments", &optional)];
    assert!(!world.plan().writes.iter().any(|write| matches!(write, Write::Touch { .. })));
}

#[test]
fn a_touch_that_is_refused_comes_after_the_status_and_is_said_in_it() {
    let mut world = World::settled();
    let unstamped = json!({"spec": {"template": {"metadata": {"labels": null}}}});
    world.claims = vec![deployment("payments", &unstamped)];
    let plan = world.plan();
    let [.., Write::ElectionStatus { .. }, Write::Touch { .. }] = plan.writes.as_slice() else {
        panic!("{plan:?}")
    };
    let refused = Some("policy conch-operator denied the request".to_owned());
    let touches = Touches { times: 1, ago: Duration::ZERO, refused };
    world.touched.insert("uid-of-payments".to_owned(), touches);
    world.settle();
    let (reason, message) = world.condition("Injected");
    assert_eq!(reason, "NotStamped");
    assert!(
        message.contains("policy conch-operator denied") && message.contains("Write the workload yourself")
    );
}

#[test]
fn a_stamp_that_is_left_over_is_touched_and_asks_for_nothing() {
    let mut left_over = deployment("payments", &json!({}));
    left_over.left_over = true;
    let mut world = World::new(Vec::new());
    world.left_over = vec![left_over];
    let plan = world.plan();
    let [Write::Touch { notice, .. }] = plan.writes.as_slice() else { panic!("{plan:?}") };
    assert_eq!(notice.reason.to_string(), "StampRemoved");
    assert_eq!(plan.next, Some(Duration::from_secs(1)));
    world.injection_disabled = true;
    assert!(world.plan().writes.is_empty());
}

#[test]
fn nothing_is_made_for_pods_alone_and_nothing_taken_from_them() {
    let mut world = World::new(Vec::new());
    world.pods = vec![pod("orphan", &json!({}))];
    assert!(world.plan().writes.is_empty());

    let mut world = World::settled();
    world.claims.clear();
    world.pods = vec![pod("payments-1", &json!({}))];
    world.settle();
    assert!(world.lease.is_some() && world.election.is_some());
    assert_eq!(subjects(&world), ["default"]);
    assert_eq!(world.condition("Ready").0, "NoCandidates");
}

#[test]
fn an_abandoned_election_is_removed_when_the_longest_lease_is_over_and_the_memory_of_it_last() {
    let mut world = World::settled();
    world.claims.clear();
    world.abandoned_for = Some(Duration::from_secs(14));
    let plans = world.settle();
    assert!(plans.iter().flat_map(|plan| &plan.writes).all(|write| !matches!(write, Write::Delete { .. })));
    assert_eq!(world.plan().next, Some(Duration::from_secs(1)));

    world.abandoned_for = Some(Duration::from_secs(15));
    let plan = world.plan();
    let deleted: Vec<ObjectKind> = plan
        .writes
        .iter()
        .map(|write| match write {
            Write::Delete { kind, .. } => *kind,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(deleted, [ObjectKind::RoleBinding, ObjectKind::Role, ObjectKind::Lease, ObjectKind::Election]);
}

#[test]
fn nothing_is_known_of_leases_then_the_longest_possible_one_is_waited_for() {
    let mut world = World::settled();
    world.claims.clear();
    world.lease = None;
    world.election.as_mut().unwrap().metadata.annotations = None;
    world.leases = Leases::default();
    world.abandoned_for = Some(Duration::from_mins(59));
    world.settle();
    assert_eq!(world.plan().next, Some(Duration::from_mins(1)));
}

#[test]
fn a_mark_that_was_missed_is_planned() {
    let dying =
        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30}});
    let mut world = World::settled();
    world.pods = vec![pod("a", &dying), pod("b", &json!({}))];
    world.hold("b_uid-of-b_n", None);
    world.settle();
    assert!(!world.lease.as_ref().unwrap().annotations().contains_key(names::POD_DELETION));
    world.hold("a_uid-of-a_n", None);
    world.settle();
    let mark = &world.lease.as_ref().unwrap().annotations()[names::POD_DELETION];
    assert!(mark.contains("uid-of-a") && mark.contains("30"), "{mark}");
    // Another pod of the same name is another pod.
    world.patch_lease(&json!({"metadata": {"annotations": {names::POD_DELETION: null}}}));
    world.hold("a_uid-of-another_n", None);
    world.settle();
    assert!(!world.lease.as_ref().unwrap().annotations().contains_key(names::POD_DELETION));
}
