//! E. What people and other programs do to the Lease.

use std::time::Duration;

use conch_crds::names;
use serde_json::{Value, json};

use crate::shared::{FAIL_OVER_LIMIT, Scaled};
use crate::stage::{Fault, Scenario, Stage, later, sleep};

/// The longest time from a change of the Lease until its leader answers no, on a busy machine.
const REACTION: Duration = Duration::from_secs(1);

impl Stage<'_> {
    /// Puts an object in the place of the Lease, whatever version that has.
    fn replace_lease(&self, mut lease: Value) {
        let metadata = lease["metadata"].as_object_mut().unwrap();
        for field in ["uid", "resourceVersion", "creationTimestamp", "managedFields"] {
            metadata.remove(field);
        }
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("lease.json");
        std::fs::write(&file, lease.to_string()).unwrap();
        let file = file.to_str().unwrap();
        // The sidecars make a missing one anew at any moment.
        let namespace = self.probes.namespace;
        let replaced = namespace.kubectl(&["replace", "--filename", file]);
        replaced.or_else(|_| namespace.kubectl(&["create", "--filename", file])).unwrap();
    }

    fn lease(&self) -> Value {
        self.probes.namespace.get(&["lease", &self.probes.lease()]).unwrap()
    }

    /// What client-go's elector writes with each renewal.
    fn renew_as_client_go(&self, second: u64) {
        let time = format!("2026-01-01T00:00:{second:02}.000000Z");
        self.patch_lease(
            "merge",
            &json!({"spec": {"holderIdentity": "worker-1_6b1b", "leaseDurationSeconds": 15,
                "acquireTime": "2026-01-01T00:00:00.000000Z", "renewTime": time, "leaseTransitions": 7}}),
        );
    }
}

#[test]
fn times_in_the_record_are_for_people() {
    Scenario::new("20 renewTime far in the past and future, acquireTime gone", "times").fast().run(|stage| {
        let event = conch_probe::now();
        for time in ["1970-01-01T00:00:00.000000Z", "9999-12-31T23:59:59.999999Z"] {
            stage.patch_lease("merge", &json!({"spec": {"renewTime": time, "acquireTime": null}}));
            sleep(3);
        }
        stage.same_term(event, conch_probe::now())
    });
}

#[test]
fn a_lease_that_another_tool_made_anew_ends_the_term() {
    Scenario::new("54 Lease deleted and made anew by another tool", "recreated").fast().run(|stage| {
        let lease = stage.probes.lease();
        let other = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": lease, "namespace": stage.probes.namespace.name},
            "spec": {"holderIdentity": "somebody", "leaseDurationSeconds": 3, "leaseTransitions": 0}});
        let event = conch_probe::now();
        stage.kubectl(&["delete", "lease", &lease]);
        stage.replace_lease(other);
        stage.new_term(event, conch_probe::now())
    });
}

#[test]
fn an_older_record_that_is_put_back_ends_the_term_and_gives_it_to_nobody() {
    Scenario::new("54 Lease put back as it was a term ago", "put-back").fast().run(|stage| {
        let old = stage.lease();
        stage.kubectl(&["delete", "pod", &stage.leader.name, "--wait=false"]);
        let exit = stage.probes.wait_exit(&stage.leader, FAIL_OVER_LIMIT).unwrap();
        stage.probes.wait_next_term(exit, FAIL_OVER_LIMIT).unwrap();
        stage.probes.wait_complete(3).unwrap();
        let event = conch_probe::now();
        stage.replace_lease(old);
        stage.new_term(event, conch_probe::now())
    });
}

#[test]
fn an_emptied_lease_ends_the_term() {
    Scenario::new("57 spec removed from the Lease", "emptied").fast().run(|stage| {
        let event = conch_probe::now();
        stage.patch_lease("json", &json!([{"op": "remove", "path": "/spec"}]));
        stage.new_term(event, event)
    });
}

#[test]
fn a_lease_without_spec_and_annotations_is_not_taken_for_a_new_one() {
    Scenario::new("57 spec and annotations removed from the Lease", "stripped").fast().run(|stage| {
        let event = conch_probe::now();
        let strip =
            json!([{"op": "remove", "path": "/spec"}, {"op": "remove", "path": "/metadata/annotations"}]);
        stage.patch_lease("json", &strip);
        stage.new_term(event, event)
    });
}

#[test]
fn the_lowest_duration_and_the_highest_count_shorten_no_wait() {
    let title = "57, 60 leaseDurationSeconds 1, leaseTransitions the highest";
    Scenario::new(title, "absurd").fast().run(|stage| {
        let event = conch_probe::now();
        let absurd = json!({"leaseDurationSeconds": 1, "leaseTransitions": i32::MAX, "holderIdentity": ""});
        stage.patch_lease("merge", &json!({"spec": absurd}));
        let patched = conch_probe::now();
        let course = stage.new_term(event, event);
        // The old leader's promises were still running.
        stage.assert_nobody_leads(later(patched, REACTION), later(event, stage.timing.validity));
        course
    });
}

#[test]
fn a_huge_duration_is_waited_for_until_lease_and_pods_are_new() {
    Scenario::new("57 leaseDurationSeconds 2147483647, then Lease and pods made anew", "huge").fast().run(
        |stage| {
            let event = conch_probe::now();
            stage.patch_lease("merge", &json!({"spec": {"leaseDurationSeconds": i32::MAX}}));
            let patched = conch_probe::now();
            sleep(stage.timing.limit().as_secs() + 2);
            // Somebody may count with it: the wait is an hour, the longest lease that any policy can have.
            stage.assert_nobody_leads(later(patched, REACTION), conch_probe::now());
            stage.kubectl(&["delete", "lease", &stage.probes.lease()]);
            stage.kubectl(&["rollout", "restart", stage.probes.reference()]);
            stage.kubectl(&["rollout", "status", stage.probes.reference(), "--timeout=2m"]);
            let healed = conch_probe::now();
            stage.new_term_within(event, healed, Duration::from_nanos(healed - event) + stage.timing.limit())
        },
    );
}

#[test]
fn a_lease_that_is_being_deleted_ends_the_term() {
    Scenario::new("56 kubectl delete lease, held up by a finalizer for 8 s", "finalizer").fast().run(
        |stage| {
            let finalizers =
                |list: Value| stage.patch_lease("merge", &json!({"metadata": {"finalizers": list}}));
            finalizers(json!(["example.com/hold"]));
            let event = conch_probe::now();
            stage.kubectl(&["delete", "lease", &stage.probes.lease(), "--wait=false"]);
            sleep(8);
            finalizers(Value::Null);
            let healed = conch_probe::now();
            stage.assert_nobody_leads(later(event, Duration::from_secs(1)), healed);
            stage.new_term_within(event, healed, Duration::from_nanos(healed - event) + stage.timing.limit())
        },
    );
}

#[test]
fn a_foreign_candidate_is_waited_for_as_long_as_it_renews() {
    let title = "58 writes as of client-go's elector for 12 s, then as of its release";
    // A slow machine may take long for one renewal: with the default lease nobody has a right to lead meanwhile.
    Scenario::new(title, "foreign").run(|stage| {
        let event = conch_probe::now();
        stage.renew_as_client_go(0);
        let taken = conch_probe::now();
        for second in 1..12 {
            stage.renew_as_client_go(second);
            sleep(1);
        }
        let free = json!({"holderIdentity": "", "leaseDurationSeconds": 1});
        stage.patch_lease("merge", &json!({"spec": free}));
        let healed = conch_probe::now();
        stage.assert_nobody_leads(later(taken, REACTION), healed);
        stage.new_term_within(event, healed, Duration::from_nanos(healed - event) + stage.timing.limit())
    });
}

#[test]
fn an_operator_starts_beside_a_lease_whose_time_no_library_can_hold() {
    let title =
        "20, 84 the operator restarted beside a Lease with the last renewTime that the API server takes";
    Scenario::new(title, "last-time").fast().alone().run(|stage| {
        let last = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": "conch-last", "labels": {names::MANAGED: names::MANAGED_VALUE}},
            "spec": {"holderIdentity": "somebody", "renewTime": "9999-12-31T23:59:59.999999Z"}});
        let event = conch_probe::now();
        stage.probes.namespace.apply(last).unwrap();
        let lease =
            Fault::healed_by(|| stage.probes.namespace.kubectl(&["delete", "lease", "conch-last"]).map(drop));
        // Comes back when the operator is ready, or fails.
        drop(Scaled::to(stage.environment, 0));
        stage.same_term(event, lease.heal())
    });
}
