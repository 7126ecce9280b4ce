//! The Helm chart: installed, tested, upgraded, removed.

use conch_e2e::{Environment, Namespace, OPERATOR_NAMESPACE, RELEASE, Tools, Workload, chart_directory};

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::support::{
    PATIENCE, breakable, environment, is_injected, name_of, wait_condition, wait_event, wait_leader,
};

/// Puts the chart back, also when the test fails.
struct Reinstall<'a>(&'a Environment);

impl Drop for Reinstall<'_> {
    fn drop(&mut self) {
        self.0.install().unwrap();
    }
}

fn leads_in_a_new_namespace(words: &str) {
    let namespace = Namespace::new(environment(), words).unwrap();
    let workload = Workload { replicas: 1, policy: Some("default"), ..Workload::deployment("app") };
    namespace.apply(workload.manifest()).unwrap();
    namespace.wait_rolled_out(&workload.reference()).unwrap();
    wait_leader(&namespace, "app");
}

#[test]
fn helm_test_passes() {
    let said = environment()
        .tools
        .helm(&["test", RELEASE, "--namespace", OPERATOR_NAMESPACE, "--timeout=2m"])
        .unwrap();
    assert!(said.contains("Succeeded"), "{said}");
}

#[test]
fn an_upgrade_leaves_leaders_alone() {
    let environment = environment();
    let namespace = Namespace::new(environment, "upgrade").unwrap();
    let workload = Workload { policy: Some("default"), ..Workload::deployment("app") };
    namespace.apply(workload.manifest()).unwrap();
    namespace.wait_rolled_out(&workload.reference()).unwrap();
    let before = wait_leader(&namespace, "app");
    environment.install().unwrap();
    let after = wait_leader(&namespace, "app");
    assert_eq!((&before.0, &before.1["token"]), (&after.0, &after.1["token"]), "the same term");
}

/// Everything in the cluster that bears our name or label, but for the CRDs, which stay with every policy, and elections of
/// tests.
fn left_of_the_release(environment: &Environment) -> Vec<String> {
    let kinds = ["api-resources", "--verbs=list", "--output=name"];
    let kinds = environment.tools.kubectl(&kinds).unwrap();
    let kinds: Vec<&str> = kinds.lines().filter(|kind| !kind.starts_with("events")).collect();
    let all = environment.tools.get(&[&kinds.join(","), "--all-namespaces"]).unwrap();
    let mut left = Vec::new();
    for object in all["items"].as_array().unwrap() {
        let (kind, metadata) = (object["kind"].as_str().unwrap(), &object["metadata"]);
        let (name, namespace) = (name_of(object), metadata["namespace"].as_str().unwrap_or_default());
        let is_ours = name.contains("conch") || metadata["labels"].to_string().contains("conch");
        let stays = match kind {
            "CustomResourceDefinition" | "APIService" => name.ends_with("conch.rs"),
            "Namespace" => name == OPERATOR_NAMESPACE || name.starts_with("e2e-"),
            _ => namespace.starts_with("e2e-"),
        };
        if is_ours && !stays {
            left.push(format!("{kind} {namespace}/{name}"));
        }
    }
    left
}

fn uninstall(environment: &Environment) {
    environment.tools.helm(&["uninstall", RELEASE, "--namespace", OPERATOR_NAMESPACE, "--wait"]).unwrap();
}

#[test]
fn after_an_uninstallation_nothing_blocks_pods_and_elections_go_on_and_it_can_be_installed_again() {
    let environment = environment();
    let namespace = Namespace::new(environment, "uninstall").unwrap();
    let workload = Workload { policy: Some("default"), ..Workload::deployment("app") };
    namespace.apply(workload.manifest()).unwrap();
    namespace.wait_rolled_out(&workload.reference()).unwrap();
    let (leader, _) = wait_leader(&namespace, "app");

    let reinstall = Reinstall(environment);
    let chart = chart_directory();
    assert!(chart.is_dir());
    uninstall(environment);
    // What the garbage collector removes may take a moment.
    Tools::wait_for("nothing of the release", PATIENCE, || {
        let left = left_of_the_release(environment);
        Ok(if left.is_empty() { Ok(()) } else { Err(left.join(", ")) })
    })
    .unwrap();
    // A stamped workload's new pod is created, without a sidecar, and the others elect.
    namespace.kubectl(&["delete", "pod", &leader]).unwrap();
    Tools::wait_for("new pod", PATIENCE, || {
        let pods = crate::support::pods(&namespace, "app")?;
        Ok(if pods.len() == 3 { Ok(()) } else { Err(format!("{} pods", pods.len())) })
    })
    .unwrap();

    // Annotations that come and go without an operator are caught up with.
    let early = Workload { replicas: 1, ..Workload::deployment("early") };
    namespace.apply(early.manifest()).unwrap();
    namespace.wait_rolled_out(&early.reference()).unwrap();
    namespace.kubectl(&["annotate", &early.reference(), "conch.rs/policy=default"]).unwrap();
    namespace.kubectl(&["annotate", &workload.reference(), "conch.rs/policy-"]).unwrap();
    install_over_crds_of_somebody_else(environment, &chart);
    drop(reinstall);
    wait_leader(&namespace, "early");
    wait_event(&namespace, "StampRemoved");
    namespace.wait_rolled_out(&workload.reference()).unwrap();
    let labels =
        namespace.get(&[&workload.reference()]).unwrap()["spec"]["template"]["metadata"]["labels"].clone();
    assert_eq!(labels, json!({"app": "app"}), "no stamp is left over");
    assert!(crate::support::pods(&namespace, "app").unwrap().iter().all(|pod| !is_injected(pod)));
    leads_in_a_new_namespace("install-again");
}

/// CRDs that `kubectl apply` brought carry no mark of the release. Only on a cluster of ours.
fn install_over_crds_of_somebody_else(environment: &Environment, chart: &Path) {
    if environment.cluster.is_none() {
        return;
    }
    for crd in ["coordinationpolicies.conch.rs", "elections.conch.rs"] {
        let annotations = ["meta.helm.sh/release-name-", "meta.helm.sh/release-namespace-"];
        environment.tools.kubectl(&[&["annotate", "crd", crd], &annotations[..]].concat()).unwrap();
        environment.tools.kubectl(&["label", "crd", crd, "app.kubernetes.io/managed-by-"]).unwrap();
    }
    let chart = chart.to_string_lossy();
    let install = ["install", RELEASE, &chart, "--namespace", OPERATOR_NAMESPACE, "--wait", "--timeout=2m"];
    let refused = environment.tools.helm(&install);
    let owned = environment.tools.helm(&[&install[..], &["--take-ownership"]].concat());
    owned.unwrap();
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("ownership"), "{refused}");
}

/// What the roles of the operator allow: group, resource with its subresource, and verb.
fn granted(environment: &Environment) -> BTreeSet<(String, String, String)> {
    let roles = [
        environment.tools.get(&["clusterrole", "conch-operator"]).unwrap(),
        environment.tools.get(&["role", "conch-operator", "--namespace", OPERATOR_NAMESPACE]).unwrap(),
    ];
    let words = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    let mut rights = BTreeSet::new();
    for rule in roles.iter().flat_map(|role| role["rules"].as_array().unwrap()) {
        for group in words(&rule["apiGroups"]) {
            for resource in words(&rule["resources"]) {
                let verbs = words(&rule["verbs"]).into_iter();
                rights.extend(verbs.map(|verb| (group.clone(), resource.clone(), verb)));
            }
        }
    }
    rights
}

/// What the operator did ask for and was given, by the API server's own log.
fn used(log: &Path) -> BTreeSet<(String, String, String)> {
    let text = fs::read_to_string(log).unwrap();
    let mut used = BTreeSet::new();
    for line in text.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let field = |name: &str| event["objectRef"][name].as_str().unwrap_or_default().to_owned();
        if event["responseStatus"]["code"] == 403 || event["objectRef"].is_null() {
            continue;
        }
        let subresource = field("subresource");
        let slash = if subresource.is_empty() { "" } else { "/" };
        let resource = format!("{}{slash}{subresource}", field("resource"));
        used.insert((field("apiGroup"), resource, event["verb"].as_str().unwrap().to_owned()));
    }
    used
}

/// A workload without pods.
fn asleep<'a>(kind: &'a str, name: &'a str, policy: Option<&'a str>) -> Value {
    let mut manifest = Workload { kind, replicas: 0, policy, ..Workload::deployment(name) }.manifest();
    if kind == "DaemonSet" {
        manifest["spec"]["template"]["spec"]["nodeSelector"] = json!({"no": "node"});
    }
    manifest
}

/// Things that happen to an operator in its life, so that it does all that it ever does.
fn live(environment: &Environment, namespace: &Namespace<'_>) {
    // Annotated while there is no operator: it lets admission stamp them.
    uninstall(environment);
    for (kind, name) in [("Deployment", "one"), ("StatefulSet", "two"), ("DaemonSet", "three")] {
        namespace.apply(asleep(kind, name, Some("default"))).unwrap();
    }
    environment.install().unwrap();
    let missing = ["delete", "secret", "conch-operator-certificate", "--namespace", OPERATOR_NAMESPACE];
    environment.tools.kubectl(&missing).unwrap();
    // The operator makes it again: Helm, asked too early, would do so as well.
    Tools::wait_for("a new Secret", PATIENCE, || {
        let secret = ["secret", "conch-operator-certificate", "--namespace", OPERATOR_NAMESPACE];
        Ok(environment.tools.get(&secret).map(drop).map_err(|error| error.to_string()))
    })
    .unwrap();
    // Names that are taken are looked at.
    for (group, kind, rest) in [
        ("coordination.k8s.io", "Lease", json!({})),
        ("rbac.authorization.k8s.io", "Role", json!({"rules": []})),
        (
            "rbac.authorization.k8s.io",
            "RoleBinding",
            json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io",
            "kind": "Role", "name": "conch-taken"}}),
        ),
    ] {
        let mut object =
            json!({"apiVersion": format!("{group}/v1"), "kind": kind, "metadata": {"name": "conch-taken"}});
        object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        namespace.apply(object).unwrap();
    }
    namespace.apply(asleep("Deployment", "taken", Some("default"))).unwrap();
    wait_condition(namespace, "election/taken", "Ready", "False", "NotOurs");
    // A policy that comes and goes; the Event that comes again is counted.
    let timing =
        json!({"leaseDuration": "3s", "renewInterval": "500ms", "stopGrace": "100ms", "maxPromise": "1s"});
    let short = json!({"apiVersion": "conch.rs/v1alpha1", "kind": "CoordinationPolicy",
        "metadata": {"name": "short"}, "spec": {"timing": timing}});
    namespace.apply(asleep("Deployment", "brief", Some("short"))).unwrap();
    wait_condition(namespace, "election/brief", "Ready", "False", "PolicyNotFound");
    namespace.apply(short.clone()).unwrap();
    wait_condition(namespace, "election/brief", "Ready", "False", "NoCandidates");
    namespace.kubectl(&["delete", "coordinationpolicy", "short"]).unwrap();
    wait_condition(namespace, "election/brief", "Ready", "False", "PolicyNotFound");
    namespace.apply(short).unwrap();
    wait_condition(namespace, "election/brief", "Ready", "False", "NoCandidates");
    // What somebody spoils is mended.
    namespace.kubectl(&["patch", "role", "conch-brief", "--type=merge", "--patch={\"rules\":[]}"]).unwrap();
    namespace
        .kubectl(&["patch", "rolebinding", "conch-brief", "--type=merge", "--patch={\"subjects\":[]}"])
        .unwrap();
    Tools::wait_for("the Role as it was", PATIENCE, || {
        let role = namespace.get(&["role", "conch-brief"])?;
        Ok(if role["rules"][0].is_null() { Err(role.to_string()) } else { Ok(()) })
    })
    .unwrap();
    // An election that nobody asks for any more is removed.
    namespace.kubectl(&["annotate", "deployment/brief", "conch.rs/policy-"]).unwrap();
    namespace.kubectl(&["wait", "--for=delete", "election/brief", "--timeout=1m"]).unwrap();
    for (kind, name) in [("deployment", "one"), ("statefulset", "two"), ("daemonset", "three")] {
        let stamped = "jsonpath={.spec.template.metadata.labels.conch\\.rs/policy}=default";
        namespace.kubectl(&["wait", kind, name, &format!("--for={stamped}"), "--timeout=1m"]).unwrap();
    }
}

#[test]
fn every_right_of_the_operator_is_one_that_it_uses() {
    let Some(environment) = breakable("the rights that the operator uses, by the audit log") else { return };
    let namespace = Namespace::new(environment, "rights").unwrap();
    let reinstall = Reinstall(environment);
    live(environment, &namespace);
    drop(reinstall);
    let log = environment.cluster.as_ref().unwrap().log("audit").unwrap();
    let granted = granted(environment);
    Tools::wait_for("use of every right", PATIENCE, || {
        let used = used(&log);
        let unused: Vec<_> = granted.difference(&used).collect();
        Ok(if unused.is_empty() { Ok(()) } else { Err(format!("{unused:?} were never used")) })
    })
    .unwrap();
}
