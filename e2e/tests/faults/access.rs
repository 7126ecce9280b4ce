//! D. What the sidecars may do at the API server is taken from them.

use std::time::Duration;

use serde_json::{Value, json};

use crate::shared::{FAIL_OVER_LIMIT, Scaled};
use crate::stage::{Course, Fault, Scenario, Stage, later, sleep};

/// A success of a token is remembered by the API server for so long.
const TOKEN_CACHE: Duration = Duration::from_secs(10);

impl Stage<'_> {
    /// The Role and `RoleBinding` of the election have the Lease's name.
    fn allow(&self, verbs: &[&str]) {
        let role = self.probes.lease();
        let patch = json!([{"op": "replace", "path": "/rules/0/verbs", "value": verbs}]).to_string();
        self.kubectl(&["patch", "role", &role, "--type=json", "--patch", &patch]);
    }
}

#[test]
fn a_lost_role_binding_is_put_back_before_the_leader_notices() {
    Scenario::new("49 RoleBinding deleted while the operator is there", "binding").fast().run(|stage| {
        let event = conch_probe::now();
        let binding = format!("rolebinding/{}", stage.probes.lease());
        stage.kubectl(&["delete", &binding]);
        sleep(10);
        stage.kubectl(&["get", &binding]);
        stage.same_term(event, conch_probe::now())
    });
}

/// The operator, which would put everything back, is away; the leader stops when its validity is over, and nobody leads
/// before the operator is back.
fn without_rights(stage: &Stage<'_>, take: impl FnOnce()) -> Course {
    let operator = Scaled::to(stage.environment, 0);
    let event = conch_probe::now();
    take();
    sleep(stage.timing.limit().as_secs() + 4);
    let before = conch_probe::now();
    stage.assert_nobody_leads(later(event, stage.timing.validity + Duration::from_secs(2)), before);
    drop(operator);
    let healed = conch_probe::now();
    stage.new_term_within(event, healed, Duration::from_nanos(healed - event) + stage.timing.limit())
}

#[test]
fn a_leader_without_any_right_stops_and_one_leads_when_the_operator_is_back() {
    let title = "49 RoleBinding deleted while the operator is away";
    Scenario::new(title, "binding-away").fast().alone().run(|stage| {
        without_rights(stage, || {
            stage.kubectl(&["delete", "rolebinding", &stage.probes.lease()]);
        })
    });
}

#[test]
fn a_leader_that_may_read_and_not_write_stops() {
    let title = "42, 49 the right to update the Lease taken while the operator is away";
    Scenario::new(title, "read-only")
        .fast()
        .alone()
        .run(|stage| without_rights(stage, || stage.allow(&["get", "watch"])));
}

#[test]
fn followers_that_may_not_watch_still_take_over() {
    let title = "50 the right to watch the Lease taken while the operator is away";
    Scenario::new(title, "no-watch").fast().alone().run(|stage| {
        let operator = Scaled::to(stage.environment, 0);
        stage.allow(&["get", "update"]);
        // A watch that is open goes on for minutes; a new process has to open one.
        for follower in stage.followers() {
            stage.probes.kill_sidecar(&follower).unwrap();
        }
        sleep(8);
        let event = conch_probe::now();
        stage.kubectl(&["delete", "pod", &stage.leader.name, "--wait=false"]);
        let exit = stage.probes.wait_exit(&stage.leader, FAIL_OVER_LIMIT).unwrap();
        let fail_over = stage.probes.wait_next_term(exit, 2 * FAIL_OVER_LIMIT).unwrap();
        drop(operator);
        Course::new_terms(event, conch_probe::now(), vec![fail_over], stage.timing.limit())
    });
}

#[test]
fn without_a_valid_token_nobody_leads_until_new_pods_have_one() {
    Scenario::new("48 ServiceAccount deleted and made anew", "tokens").fast().run(|stage| {
        let event = conch_probe::now();
        // Tokens are bound to its UID. The controller makes another of its name at once; the kubelet renews the token of a
        // running pod only when it gets old.
        stage.kubectl(&["delete", "serviceaccount", "default"]);
        let over = later(event, TOKEN_CACHE + stage.timing.validity + Duration::from_secs(2));
        sleep(25);
        stage.assert_nobody_leads(over, conch_probe::now());
        stage.kubectl(&["rollout", "restart", stage.probes.reference()]);
        stage.kubectl(&["rollout", "status", stage.probes.reference(), "--timeout=2m"]);
        let healed = conch_probe::now();
        stage.new_term_within(event, healed, Duration::from_nanos(healed - event) + stage.timing.limit())
    });
}

/// A policy of a third party about every write of the namespace's Leases.
fn third_party<'a>(stage: &Stage<'a>, kind: &str, mut spec: Value) -> Fault<'a> {
    let namespace = stage.probes.namespace;
    let name = namespace.name.clone();
    let rule = json!({"apiGroups": ["coordination.k8s.io"], "apiVersions": ["v1"],
        "operations": ["CREATE", "UPDATE"], "resources": ["leases"]});
    spec["failurePolicy"] = json!("Fail");
    spec["matchConstraints"] = json!({"resourceRules": [rule],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}});
    let object = |kind: String, spec: &Value| {
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
            "metadata": {"name": name}, "spec": spec})
    };
    let mut binding = json!({"policyName": name});
    if kind.starts_with("Validating") {
        binding["validationActions"] = json!(["Deny"]);
    }
    let tools = namespace.tools();
    tools.apply(&object(kind.to_owned(), &spec)).unwrap();
    tools.apply(&object(format!("{kind}Binding"), &binding)).unwrap();
    let kinds = format!("{kind}Binding,{kind}").to_lowercase();
    let name = name.clone();
    Fault::healed_by(move || tools.kubectl(&["delete", &kinds, &name]).map(drop))
}

/// How long the API server takes to obey a new policy.
const POLICY_DELAY: Duration = Duration::from_secs(5);

fn meddled(stage: &Stage<'_>, kind: &str, spec: Value) -> Course {
    let event = conch_probe::now();
    let policy = third_party(stage, kind, spec);
    sleep(20);
    let over = later(event, POLICY_DELAY + stage.timing.validity + Duration::from_secs(1));
    stage.assert_nobody_leads(over, conch_probe::now());
    let healed = later(policy.heal(), POLICY_DELAY);
    stage.new_term_within(event, healed, Duration::from_nanos(healed - event) + stage.timing.limit())
}

#[test]
fn a_leader_whose_writes_a_third_party_denies_stops() {
    Scenario::new("52 an admission policy denies every write of the Lease", "denied").fast().run(|stage| {
        let validations = json!([{"expression": "false", "message": "not today"}]);
        meddled(stage, "ValidatingAdmissionPolicy", json!({"validations": validations}))
    });
}

#[test]
fn a_leader_whose_writes_a_third_party_alters_stops() {
    Scenario::new("52 an admission policy alters every write of the Lease", "altered").fast().run(|stage| {
        let expression = "Object{spec: Object.spec{leaseDurationSeconds: 7}}";
        let mutations = json!([{"patchType": "ApplyConfiguration",
            "applyConfiguration": {"expression": expression}}]);
        let spec = json!({"mutations": mutations, "reinvocationPolicy": "Never"});
        meddled(stage, "MutatingAdmissionPolicy", spec)
    });
}
