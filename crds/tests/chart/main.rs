//! The Helm chart renders what the code and a careful administrator expect.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod helm;

use conch_crds::names::{self, operator_env, operator_objects};
use helm::{NAMESPACE, helm, refusal, render};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs};

/// The words of a list of strings.
fn words(list: &Value) -> BTreeSet<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn helm_finds_nothing_to_complain_about() {
    let report = helm(&["lint", "--strict", helm::chart().to_str().unwrap()]).unwrap();
    assert!(report.contains("0 chart(s) failed"), "{report}");
}

#[test]
fn a_value_that_means_nothing_is_refused() {
    let unknown = [
        "replica=3",
        "image.tga=1",
        "sidecar.images.tag=1",
        "webhook.failurePolicy=Ignore",
        "crds.keeep=true",
        "monitoring.operator.labels.a=b",
    ];
    for setting in unknown {
        let error = refusal(NAMESPACE, &[setting]);
        assert!(
            error.contains("additional properties") || error.contains("not allowed"),
            "{setting}: {error}"
        );
    }
    for setting in [
        "log.format=xml",
        "image.digest=abc",
        "image.pullPolicy=Often",
        "replicas=0",
        "webhook.timeoutSeconds=60",
        "networkPolicy.apiServerPorts={https}",
    ] {
        let error = refusal(NAMESPACE, &[setting]);
        assert!(error.contains("values don't meet the specifications"), "{setting}: {error}");
    }
}

#[test]
fn the_namespaces_of_the_cluster_itself_are_refused() {
    for namespace in ["kube-system", "kube-public"] {
        let error = refusal(namespace, &[]);
        assert!(error.contains("--namespace conch-system"), "{error}");
    }
}

#[test]
fn a_cluster_without_stable_sidecar_containers_is_refused_and_one_of_a_cloud_is_not() {
    let template = |version: &str| {
        helm(&["template", helm::RELEASE, helm::chart().to_str().unwrap(), "--kube-version", version])
    };
    let error = template("1.32.9").unwrap_err();
    assert!(error.contains("incompatible with Kubernetes"), "{error}");
    for version in ["1.33.0", "1.33.1-gke.100", "1.37.1"] {
        template(version).unwrap_or_else(|error| panic!("{version}: {error}"));
    }
}

#[test]
fn the_names_are_those_that_the_code_uses() {
    let chart = render(&[]);
    chart.get("MutatingWebhookConfiguration", operator_objects::WEBHOOK_CONFIGURATION);
    let service = chart.get("Service", operator_objects::SERVICE);
    assert_eq!(
        service["spec"]["ports"],
        json!([{ "name": "webhook", "port": 443, "targetPort": "webhook" }])
    );
    let container = &chart.get("Deployment", names::OPERATOR)["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(
        container["ports"],
        json!([
            { "name": "webhook", "containerPort": operator_objects::WEBHOOK_PORT },
            { "name": "metrics", "containerPort": operator_objects::METRICS_PORT },
        ])
    );
    let set: BTreeSet<_> = container["env"]
        .as_array()
        .unwrap()
        .iter()
        .map(|variable| variable["name"].as_str().unwrap())
        .collect();
    let known = [
        operator_env::POD_NAME,
        operator_env::POD_UID,
        operator_env::NAMESPACE,
        operator_env::SIDECAR_IMAGE,
        operator_env::SIDECAR_PULL_POLICY,
        operator_env::LOG,
        operator_env::LOG_FORMAT,
    ];
    assert_eq!(set, BTreeSet::from(known));
}

#[test]
fn only_pods_that_require_their_sidecar_wait_for_the_operator() {
    let chart = render(&[]);
    let configuration = chart.get("MutatingWebhookConfiguration", operator_objects::WEBHOOK_CONFIGURATION);
    let webhooks = configuration["webhooks"].as_array().unwrap();
    assert_eq!(webhooks.len(), 3);
    for webhook in webhooks {
        let required = webhook["objectSelector"]["matchLabels"] == json!({ names::INJECTION: "Required" });
        let expected = if required { "Fail" } else { "Ignore" };
        assert_eq!(webhook["failurePolicy"], expected, "{webhook}");
        assert_eq!(webhook["sideEffects"], "None");
        assert_eq!(webhook["reinvocationPolicy"], "IfNeeded");
        assert_eq!(webhook["matchPolicy"], "Equivalent");
        assert_eq!(webhook["timeoutSeconds"], 5);
        assert_eq!(webhook["rules"].as_array().unwrap().len(), 1);
        assert_eq!(webhook["rules"][0]["scope"], "Namespaced");
        assert_eq!(
            webhook["namespaceSelector"]["matchExpressions"],
            json!([
                { "key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": names::SYSTEM_NAMESPACES },
                { "key": names::INJECTION, "operator": "NotIn", "values": ["disabled"] },
            ])
        );
    }
    assert_eq!(webhooks.iter().filter(|webhook| webhook["failurePolicy"] == "Fail").count(), 1);
}

#[test]
fn pods_without_our_labels_and_workloads_without_our_annotation_never_reach_the_webhooks() {
    let chart = render(&[]);
    let configuration = chart.get("MutatingWebhookConfiguration", operator_objects::WEBHOOK_CONFIGURATION);
    for webhook in configuration["webhooks"].as_array().unwrap() {
        let service = &webhook["clientConfig"]["service"];
        assert_eq!(service["name"], operator_objects::SERVICE);
        assert_eq!(service["namespace"], NAMESPACE);
        if webhook["rules"][0]["resources"] == json!(["pods"]) {
            assert_eq!(service["path"], operator_objects::INJECT_PATH);
            assert_eq!(webhook["rules"][0]["operations"], json!(["CREATE"]));
            let selector = webhook["objectSelector"].to_string();
            assert!(selector.contains(names::POLICY) || selector.contains(names::INJECTION), "{selector}");
        } else {
            assert_eq!(service["path"], operator_objects::STAMP_PATH);
            assert_eq!(
                webhook["rules"][0]["resources"],
                json!(["deployments", "statefulsets", "daemonsets"])
            );
            let condition = webhook["matchConditions"][0]["expression"].as_str().unwrap();
            assert!(condition.contains(&format!("'{}'", names::POLICY)), "{condition}");
        }
    }
}

#[test]
fn the_fields_of_the_operator_are_never_rendered() {
    let chart = render(&[]);
    let secret = chart.get("Secret", operator_objects::CERTIFICATE_SECRET);
    assert!(
        secret["data"].is_null() && secret["stringData"].is_null(),
        "a key in it would be that of every cluster"
    );
    let configuration = chart.get("MutatingWebhookConfiguration", operator_objects::WEBHOOK_CONFIGURATION);
    assert!(!configuration.to_string().contains("caBundle"));
}

#[test]
fn every_pod_meets_the_restricted_pod_security_standard() {
    let chart = render(&[]);
    let pods = chart.pods();
    assert_eq!(pods.len(), 3, "the operator, the check, the uninstallation");
    for (name, pod) in pods {
        let security = &pod["spec"]["securityContext"];
        assert_eq!(security["runAsNonRoot"], true, "{name}");
        assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault", "{name}");
        for field in ["hostNetwork", "hostPID", "hostIPC", "volumes"] {
            assert_eq!(pod["spec"][field], Value::Null, "{name}: {field}");
        }
        for container in pod["spec"]["containers"].as_array().unwrap() {
            let security = &container["securityContext"];
            assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(security["capabilities"], json!({ "drop": ["ALL"] }), "{name}");
            assert!(container["resources"]["limits"]["memory"].is_string(), "{name}");
        }
    }
}

#[test]
fn the_crds_are_the_generated_ones_and_stay_unless_told_otherwise() {
    let directory = helm::chart().join("files/crds");
    let rendered = render(&[]);
    let generated: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(rendered.all("CustomResourceDefinition").count(), generated.len());
    for path in generated {
        let crd: Value = serde_saphyr::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let in_chart = rendered.get("CustomResourceDefinition", crd["metadata"]["name"].as_str().unwrap());
        assert_eq!(
            numbers_as_floats(&in_chart["spec"]),
            numbers_as_floats(&crd["spec"]),
            "{}",
            path.display()
        );
        assert_eq!(in_chart["metadata"]["annotations"], json!({ "helm.sh/resource-policy": "keep" }));
    }
    let removed = render(&["crds.keep=false"]);
    assert!(removed.all("CustomResourceDefinition").all(|crd| crd["metadata"]["annotations"].is_null()));
    assert_eq!(render(&["crds.install=false"]).all("CustomResourceDefinition").count(), 0);
}

/// helm writes every number of a file that it read as a float.
fn numbers_as_floats(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(items) => items.iter().map(numbers_as_floats).collect(),
        Value::Object(fields) => Value::Object(
            fields.iter().map(|(name, field)| (name.clone(), numbers_as_floats(field))).collect(),
        ),
        other => other.clone(),
    }
}

#[test]
fn one_replica_has_no_disruption_budget_that_would_block_a_node() {
    assert_eq!(render(&["replicas=1"]).all("PodDisruptionBudget").count(), 0);
    let chart = render(&["replicas=2"]);
    let budget = chart.get("PodDisruptionBudget", names::OPERATOR);
    assert_eq!(budget["spec"]["maxUnavailable"], 1);
    let deployment = chart.get("Deployment", names::OPERATOR);
    assert_eq!(budget["spec"]["selector"], deployment["spec"]["selector"]);
    assert_eq!(
        chart.get("Service", names::OPERATOR)["spec"]["selector"],
        deployment["spec"]["selector"]["matchLabels"]
    );
}

#[test]
fn an_image_can_be_named_by_registry_tag_and_digest() {
    let image = |settings: &[&str]| {
        let chart = render(settings);
        let container =
            &chart.get("Deployment", names::OPERATOR)["spec"]["template"]["spec"]["containers"][0];
        let sidecar = container["env"]
            .as_array()
            .unwrap()
            .iter()
            .find(|variable| variable["name"] == "CONCH_SIDECAR_IMAGE");
        (
            container["image"].as_str().unwrap().to_owned(),
            sidecar.unwrap()["value"].as_str().unwrap().to_owned(),
        )
    };
    let version = env!("CARGO_PKG_VERSION");
    let (operator, sidecar) = image(&[]);
    assert_eq!(operator, format!("ghcr.io/conch-rs/conch-operator:{version}"));
    assert_eq!(sidecar, format!("ghcr.io/conch-rs/conch-sidecar:{version}"));
    let digest = format!("sha256:{}", "0".repeat(64));
    let (operator, sidecar) = image(&[
        "image.registry=",
        "image.repository=operator",
        &format!("image.digest={digest}"),
        "sidecar.image.tag=v9",
    ]);
    assert_eq!(operator, format!("operator:{version}@{digest}"));
    assert_eq!(sidecar, "ghcr.io/conch-rs/conch-sidecar:v9");
}

/// What a role's rules allow: each verb on each resource, by API group.
fn granted(role: &Value) -> BTreeSet<(&str, &str, &str)> {
    let rules = role["rules"].as_array().unwrap().iter();
    let all = rules.flat_map(|rule| {
        words(&rule["apiGroups"]).into_iter().flat_map(move |group| {
            words(&rule["resources"]).into_iter().flat_map(move |resource| {
                words(&rule["verbs"]).into_iter().map(move |verb| (group, resource, verb))
            })
        })
    });
    all.collect()
}

/// That the operator uses each of them is a test of a whole cluster, which reads it from the API server's audit log.
#[test]
fn the_operator_has_these_rights_and_no_other() {
    const CLUSTER: [(&str, &str, &str); 14] = [
        ("conch.rs", "coordinationpolicies", "get list watch create"),
        ("conch.rs", "elections", "list watch create patch delete"),
        ("conch.rs", "coordinationpolicies/status", "patch"),
        ("conch.rs", "elections/status", "patch"),
        ("apps", "deployments", "list watch patch"),
        ("apps", "statefulsets", "list watch patch"),
        ("apps", "daemonsets", "list watch patch"),
        ("", "pods", "list watch"),
        ("", "namespaces", "list watch"),
        ("coordination.k8s.io", "leases", "get list watch create update patch delete"),
        ("rbac.authorization.k8s.io", "roles", "get list watch create patch delete"),
        ("rbac.authorization.k8s.io", "rolebindings", "get list watch create patch delete"),
        ("events.k8s.io", "events", "create patch"),
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "get list watch patch delete"),
    ];
    const OWN: [(&str, &str, &str); 1] = [("", "secrets", "get create update")];
    let chart = render(&[]);
    for (kind, listed) in [("ClusterRole", &CLUSTER[..]), ("Role", &OWN[..])] {
        let listed: BTreeSet<_> = listed
            .iter()
            .flat_map(|(group, resource, verbs)| verbs.split(' ').map(|verb| (*group, *resource, verb)))
            .collect();
        assert_eq!(granted(chart.get(kind, names::OPERATOR)), listed, "{kind}");
    }
}

#[test]
fn the_operators_own_pods_never_wait_for_its_webhooks() {
    let chart = render(&[]);
    let configuration = chart.get("MutatingWebhookConfiguration", operator_objects::WEBHOOK_CONFIGURATION);
    for webhook in configuration["webhooks"].as_array().unwrap() {
        let conditions = webhook["matchConditions"].as_array().unwrap();
        let own = conditions.iter().find(|condition| condition["name"] == "not-the-operator").unwrap();
        let expression = own["expression"].as_str().unwrap();
        assert!(expression.contains(&format!("request.namespace != '{NAMESPACE}'")), "{expression}");
    }
    // What they are told apart by.
    for (name, pod) in chart.pods() {
        assert_eq!(pod["spec"]["serviceAccountName"], names::OPERATOR, "{name}");
    }
}

#[test]
fn the_operator_can_grant_what_a_sidecar_needs_and_cannot_raise_itself() {
    let chart = render(&[]);
    let role = chart.get("ClusterRole", names::OPERATOR);
    let rules = role["rules"].as_array().unwrap();
    let leases = rules.iter().find(|rule| words(&rule["resources"]).contains("leases")).unwrap();
    assert!(words(&leases["verbs"]).is_superset(&BTreeSet::from(["get", "update", "watch", "create"])));
    for role in chart.all("ClusterRole").chain(chart.all("Role")) {
        for rule in role["rules"].as_array().unwrap() {
            for verb in ["*", "bind", "escalate", "impersonate"] {
                assert!(!words(&rule["verbs"]).contains(verb), "{rule}");
            }
            assert!(
                !words(&rule["resources"]).contains("*") && !words(&rule["apiGroups"]).contains("*"),
                "{rule}"
            );
        }
    }
}

#[test]
fn the_operator_reads_no_secret_but_its_own() {
    let chart = render(&[]);
    for role in chart.all("ClusterRole") {
        assert!(!role["rules"].to_string().contains("secrets"), "{}", role["metadata"]["name"]);
    }
    let role = chart.get("Role", names::OPERATOR);
    for rule in
        role["rules"].as_array().unwrap().iter().filter(|rule| words(&rule["resources"]).contains("secrets"))
    {
        let named = rule["resourceNames"] == json!([operator_objects::CERTIFICATE_SECRET]);
        assert!(named || rule["verbs"] == json!(["create"]), "{rule}");
    }
}

#[test]
fn who_may_edit_a_namespace_may_edit_policies_and_only_read_elections() {
    let chart = render(&[]);
    let granted = |aggregate: &str, resource: &str| {
        let label = format!("rbac.authorization.k8s.io/aggregate-to-{aggregate}");
        let roles = chart.all("ClusterRole").filter(|role| role["metadata"]["labels"][&label] == "true");
        let grants = roles.flat_map(|role| role["rules"].as_array().unwrap());
        let verbs = grants
            .filter(|rule| words(&rule["resources"]).contains(resource))
            .flat_map(|rule| words(&rule["verbs"]));
        verbs.map(ToOwned::to_owned).collect::<BTreeSet<String>>()
    };
    for aggregate in ["view", "edit", "admin"] {
        assert_eq!(granted(aggregate, "elections"), ["get", "list", "watch"].map(String::from).into());
    }
    assert_eq!(granted("view", "coordinationpolicies"), ["get", "list", "watch"].map(String::from).into());
    assert!(granted("edit", "coordinationpolicies").contains("create"));
    assert!(granted("admin", "coordinationpolicies").contains("delete"));
}

#[test]
fn the_webhooks_go_before_anything_else_when_the_release_is_uninstalled() {
    let chart = render(&[]);
    let job = chart.get("Job", "conch-uninstall");
    assert_eq!(job["metadata"]["annotations"]["helm.sh/hook"], "pre-delete");
    let shown = &job["metadata"]["annotations"]["helm.sh/hook-output-log-policy"];
    assert_eq!(shown, "hook-succeeded,hook-failed", "it names the workloads that are still annotated");
    let container = &job["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["args"], json!(["uninstall"]));
    let role = chart.get("ClusterRole", names::OPERATOR);
    let grant = role["rules"].as_array().unwrap().iter().find(|rule| {
        words(&rule["resources"]).contains("mutatingwebhookconfigurations")
            && words(&rule["verbs"]).contains("delete")
    });
    assert_eq!(grant.unwrap()["resourceNames"], json!([operator_objects::WEBHOOK_CONFIGURATION]));
}

#[test]
fn what_is_optional_is_rendered_only_where_it_is_asked_for() {
    let plain = render(&[]);
    assert_eq!(plain.all("NetworkPolicy").count() + plain.all("PodMonitor").count(), 0);

    let chart = render(&[
        "networkPolicy.enabled=true",
        "monitoring.operator.enabled=true",
        "monitoring.sidecars.enabled=true",
        "monitoring.labels.release=prometheus",
    ]);
    let policy = chart.get("NetworkPolicy", names::OPERATOR);
    assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(policy["spec"]["egress"], json!([{ "ports": [{ "port": 443 }, { "port": 6443 }] }]));
    let other = render(&["networkPolicy.enabled=true", "networkPolicy.apiServerPorts={16443}"]);
    let egress = &other.get("NetworkPolicy", names::OPERATOR)["spec"]["egress"];
    assert_eq!(egress, &json!([{ "ports": [{ "port": 16443 }] }]));
    let sidecars = chart.get("PodMonitor", "conch-sidecars");
    assert_eq!(sidecars["spec"]["podMetricsEndpoints"][0]["port"], names::METRICS_PORT_NAME);
    assert_eq!(sidecars["spec"]["selector"]["matchExpressions"][0]["key"], names::POLICY);
    for monitor in chart.all("PodMonitor") {
        assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    }
}

#[test]
fn leases_have_a_share_of_the_api_server_unless_it_is_switched_off() {
    let chart = render(&[]);
    let schema = &chart.get("FlowSchema", "conch-leases")["spec"];
    assert_eq!(schema["priorityLevelConfiguration"]["name"], "conch-leases");
    assert_eq!(schema["rules"][0]["resourceRules"][0]["resources"], json!(["leases"]));
    chart.get("PriorityLevelConfiguration", "conch-leases");
    let without = render(&["flowControl.enabled=false"]);
    assert_eq!(without.all("FlowSchema").chain(without.all("PriorityLevelConfiguration")).count(), 0);
}

#[test]
fn every_setting_of_the_pods_reaches_them() {
    let chart = render(&[
        "priorityClassName=system-cluster-critical",
        "imagePullSecrets[0].name=registry",
        "nodeSelector.pool=system",
        "tolerations[0].operator=Exists",
        "podLabels.team=platform",
        "podAnnotations.sidecar\\.istio\\.io/inject=off",
        "affinity.nodeAffinity.example=1",
        "log.filter=debug",
    ]);
    let template = &chart.get("Deployment", names::OPERATOR)["spec"]["template"];
    assert_eq!(template["spec"]["priorityClassName"], "system-cluster-critical");
    assert_eq!(template["spec"]["affinity"]["nodeAffinity"]["example"], 1);
    for (name, pod) in chart.pods() {
        assert_eq!(pod["metadata"]["labels"]["team"], "platform", "{name}");
        assert_eq!(pod["metadata"]["annotations"]["sidecar.istio.io/inject"], "off", "{name}");
        assert_eq!(pod["spec"]["imagePullSecrets"], json!([{ "name": "registry" }]), "{name}");
        assert_eq!(pod["spec"]["nodeSelector"], json!({ "pool": "system" }), "{name}");
        assert_eq!(pod["spec"]["tolerations"], json!([{ "operator": "Exists" }]), "{name}");
        let variables = pod["spec"]["containers"][0]["env"].as_array().unwrap();
        assert!(variables.contains(&json!({ "name": "CONCH_LOG", "value": "debug" })), "{name}");
    }
}
