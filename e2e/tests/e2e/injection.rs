//! Which pods get a sidecar, and what is said where one cannot.

use conch_crds::names;
use conch_e2e::{Environment, Namespace, OPERATOR_NAMESPACE, Tools, Workload};
use serde_json::{Value, json};

use crate::support::{PATIENCE, environment, is_injected, pods, wait_condition, wait_event, wait_leader};

/// How often the pods of a workload were rolled: each template has a revision of its own.
fn revisions(namespace: &Namespace<'_>, workload: &Workload<'_>) -> usize {
    let kind = if workload.kind == "Deployment" { "replicasets" } else { "controllerrevisions" };
    namespace.list(&[kind, "--selector", &format!("app={}", workload.name)]).unwrap().len()
}

fn wait_all(namespace: &Namespace<'_>, workload: &Workload<'_>, injected: bool) {
    Tools::wait_for(&format!("pods with sidecar: {injected}"), PATIENCE, || {
        let pods = pods(namespace, workload.name)?;
        let right = pods.iter().filter(|pod| is_injected(pod) == injected).count();
        let all = !pods.is_empty() && right == pods.len();
        Ok(if all { Ok(()) } else { Err(format!("{right} of {}", pods.len())) })
    })
    .unwrap();
}

fn annotating_rolls_once_and_back(kind: &str, words: &str) {
    let namespace = Namespace::new(environment(), words).unwrap();
    let workload = Workload { kind, replicas: 2, ..Workload::deployment("app") };
    let reference = workload.reference();
    namespace.apply(workload.manifest()).unwrap();
    namespace.wait_rolled_out(&reference).unwrap();
    wait_all(&namespace, &workload, false);

    namespace.kubectl(&["annotate", &reference, "conch.rs/policy=default"]).unwrap();
    namespace.wait_rolled_out(&reference).unwrap();
    wait_all(&namespace, &workload, true);
    assert_eq!(revisions(&namespace, &workload), 2, "rolled once");
    wait_leader(&namespace, "app");
    assert_eq!(revisions(&namespace, &workload), 2, "rolled once, and not again later");

    namespace.kubectl(&["annotate", &reference, "conch.rs/policy-"]).unwrap();
    namespace.wait_rolled_out(&reference).unwrap();
    wait_all(&namespace, &workload, false);
    let template = namespace.get(&[&reference]).unwrap()["spec"]["template"]["metadata"]["labels"].clone();
    assert_eq!(template, json!({"app": "app"}), "no stamp is left");
}

#[test]
fn annotating_a_deployment_rolls_it_once_and_taking_the_annotation_off_rolls_it_back() {
    annotating_rolls_once_and_back("Deployment", "annotate-deployment");
}

#[test]
fn annotating_a_stateful_set_rolls_it_once_and_taking_the_annotation_off_rolls_it_back() {
    annotating_rolls_once_and_back("StatefulSet", "annotate-statefulset");
}

#[test]
fn annotating_a_daemon_set_rolls_it_once_and_taking_the_annotation_off_rolls_it_back() {
    annotating_rolls_once_and_back("DaemonSet", "annotate-daemonset");
}

/// A pod that cannot have a sidecar, under a policy that requires one and under one that does not.
fn what_cannot_be_injected(words: &str, reason: &str, change: impl Fn(&mut Value)) {
    let namespace = Namespace::new(environment(), words).unwrap();
    for (name, injection) in [("must", "Required"), ("may", "Optional")] {
        namespace
            .apply(json!({
                "apiVersion": "conch.rs/v1alpha1", "kind": "CoordinationPolicy",
                "metadata": {"name": name}, "spec": {"injection": injection},
            }))
            .unwrap();
        let workload = Workload { replicas: 1, policy: Some(name), ..Workload::deployment(name) };
        let mut manifest = workload.manifest();
        change(&mut manifest["spec"]["template"]["spec"]);
        namespace.apply(manifest).unwrap();
    }
    namespace.wait_rolled_out("deployment/may").unwrap();
    assert!(pods(&namespace, "may").unwrap().iter().all(|pod| !is_injected(pod)));
    wait_event(&namespace, "InjectionSkipped");
    wait_event(&namespace, "InjectionRefused");
    assert!(pods(&namespace, "must").unwrap().is_empty());
    for election in ["election/must", "election/may"] {
        let condition = wait_condition(&namespace, election, "Injected", "False", reason);
        assert!(!condition["message"].as_str().unwrap().is_empty());
    }
}

#[test]
fn a_pod_whose_program_wants_the_port_is_refused_or_plain_as_the_policy_says() {
    what_cannot_be_injected("port-taken", "PortTaken", |pod| {
        pod["containers"][0]["ports"] = json!([{"containerPort": names::API_PORT}]);
    });
}

#[test]
fn a_pod_on_the_hosts_network_is_refused_or_plain_as_the_policy_says() {
    what_cannot_be_injected("host-network", "HostNetwork", |pod| pod["hostNetwork"] = json!(true));
}

#[test]
fn a_pod_without_a_mounted_token_leads() {
    let namespace = Namespace::new(environment(), "no-token").unwrap();
    let workload = Workload { replicas: 1, policy: Some("default"), ..Workload::deployment("quiet") };
    let mut manifest = workload.manifest();
    manifest["spec"]["template"]["spec"]["automountServiceAccountToken"] = json!(false);
    namespace.apply(manifest).unwrap();
    namespace.wait_rolled_out(&workload.reference()).unwrap();
    wait_leader(&namespace, "quiet");
    let pod = &pods(&namespace, "quiet").unwrap()[0];
    let mounts = &pod["spec"]["containers"][0]["volumeMounts"];
    assert!(mounts.is_null(), "the program still has no token: {mounts}");
}

#[test]
fn a_pod_of_a_restricted_namespace_leads() {
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    let namespace = Namespace::labelled(environment(), "restricted", &labels).unwrap();
    let workload = Workload { replicas: 1, policy: Some("default"), ..Workload::deployment("strict") };
    namespace.apply(workload.manifest()).unwrap();
    namespace.wait_rolled_out(&workload.reference()).unwrap();
    wait_leader(&namespace, "strict");
}

#[test]
fn pods_of_a_disabled_namespace_stay_plain() {
    let labels = json!({names::INJECTION: "disabled"});
    let namespace = Namespace::labelled(environment(), "disabled", &labels).unwrap();
    let workload = Workload { replicas: 1, policy: Some("default"), ..Workload::deployment("plain") };
    namespace.apply(workload.manifest()).unwrap();
    namespace.wait_rolled_out(&workload.reference()).unwrap();
    wait_all(&namespace, &workload, false);
}

#[test]
fn pods_of_a_workload_that_came_too_late_to_an_election_are_refused_and_it_says_why() {
    let namespace = Namespace::new(environment(), "not-shared").unwrap();
    let apply = |name: &str| {
        let workload = Workload { replicas: 1, policy: Some("default"), ..Workload::deployment(name) };
        let mut manifest = workload.manifest();
        manifest["metadata"]["annotations"][names::ELECTION] = json!("ledger");
        namespace.apply(manifest).unwrap();
        workload.reference()
    };
    namespace.wait_rolled_out(&apply("first")).unwrap();
    let (leader, _) = wait_leader(&namespace, "first");
    apply("second");
    let condition = wait_condition(&namespace, "election/ledger", "Ready", "False", "NotShared");
    let message = condition["message"].as_str().unwrap();
    assert!(message.contains("Deployment second") && message.contains("sharedElections"), "{message}");
    assert!(wait_event(&namespace, "ElectionNotShared").contains("Deployment first"));
    // The Deployment itself says why it has no pods.
    Tools::wait_for("refusal of the pod", PATIENCE, || {
        let conditions = namespace.get(&["deployment/second"])?["status"]["conditions"].to_string();
        let told = conditions.contains("asks for the election of Deployment first");
        Ok(if told { Ok(()) } else { Err(conditions) })
    })
    .unwrap();
    assert!(pods(&namespace, "second").unwrap().is_empty());
    assert_eq!(wait_leader(&namespace, "first").0, leader);
}

/// Removes what a test made in the namespace of the release.
struct Neighbours<'a>(&'a Environment);

impl Drop for Neighbours<'_> {
    fn drop(&mut self) {
        let delete = ["delete", "--namespace", OPERATOR_NAMESPACE, "--ignore-not-found"];
        let workloads = ["deployment/neighbour", "deployment/operator", "coordinationpolicy/default"];
        if let Err(error) = self.0.tools.kubectl(&[&delete[..], &workloads[..]].concat()) {
            println!("{error}");
        }
    }
}

#[test]
fn the_namespace_of_the_release_is_like_any_other() {
    let environment = environment();
    let _neighbours = Neighbours(environment);
    for (name, replicas) in [("neighbour", 1), ("operator", 0)] {
        let mut manifest =
            Workload { replicas, policy: Some("default"), ..Workload::deployment(name) }.manifest();
        manifest["metadata"]["namespace"] = json!(OPERATOR_NAMESPACE);
        environment.tools.apply(&manifest).unwrap();
    }
    let ready = |election: &str| -> conch_e2e::Result<String> {
        let election = environment.tools.get(&["--namespace", OPERATOR_NAMESPACE, "election", election])?;
        let conditions = election["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.into_iter().find(|condition| condition["type"] == "Ready");
        Ok(ready.map(|ready| ready["reason"].as_str().unwrap_or_default().to_owned()).unwrap_or_default())
    };
    // The operator has a Role of this name for itself.
    for (election, reason) in [("neighbour", "Led"), ("operator", "NotOurs")] {
        Tools::wait_for(reason, PATIENCE, || {
            let found = ready(election)?;
            Ok(if found == reason { Ok(()) } else { Err(found) })
        })
        .unwrap();
    }
}
