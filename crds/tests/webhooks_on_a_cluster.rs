//! Which requests reach the webhooks of the chart, as a real API server decides by their selectors and conditions.
//! `CONCH_TEST_KUBECONFIG` names an administrator's kubeconfig of a cluster that may be used for tests; without it the test
//! says that it was skipped.
//!
//! The webhooks are installed for one namespace, under another name, with nobody behind them and none of them to be ignored:
//! whatever reaches one is refused, in its name. Everything is a dry run.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod cluster;
#[path = "chart/helm.rs"]
#[expect(dead_code, reason = "the tests of the chart use the rest")]
mod helm;

use conch_crds::names;
use kube::{
    Api, Client, Error,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    core::gvk::GroupVersionKind,
};
use serde_json::{Value, json};
use std::time::Duration;

const NAMESPACE: &str = "conch-webhooks-test";
const DISABLED: &str = "conch-webhooks-test-disabled";
const CONFIGURATION: &str = "conch-webhooks-test";

struct Cluster(Client);

impl Cluster {
    fn objects(&self, namespace: Option<&str>, group: &str, kind: &str) -> Api<DynamicObject> {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
        match namespace {
            Some(namespace) => Api::namespaced_with(self.0.clone(), namespace, &kind),
            None => Api::all_with(self.0.clone(), &kind),
        }
    }

    fn configurations(&self) -> Api<DynamicObject> {
        self.objects(None, "admissionregistration.k8s.io", "MutatingWebhookConfiguration")
    }

    fn workloads(&self) -> Api<DynamicObject> {
        self.objects(Some(NAMESPACE), "apps", "Deployment")
    }

    async fn make_namespace(&self, name: &str, labels: Value) {
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels },
        });
        let namespaces = self.objects(None, "", "Namespace");
        namespaces.patch(name, &PatchParams::apply("conch-test"), &Patch::Apply(namespace)).await.unwrap();
    }

    async fn install_webhooks(&self) {
        let chart = helm::render(&[]);
        let name = names::operator_objects::WEBHOOK_CONFIGURATION;
        // Of a release that is installed here.
        let text = chart.get("MutatingWebhookConfiguration", name).to_string();
        let mut configuration: Value =
            serde_json::from_str(&text.replace(helm::NAMESPACE, NAMESPACE)).unwrap();
        configuration["metadata"] = json!({ "name": CONFIGURATION });
        for webhook in configuration["webhooks"].as_array_mut().unwrap() {
            webhook["failurePolicy"] = json!("Fail");
            let selector = webhook["namespaceSelector"]["matchExpressions"].as_array_mut().unwrap();
            selector.push(json!({
                "key": "kubernetes.io/metadata.name", "operator": "In", "values": [NAMESPACE, DISABLED],
            }));
        }
        let apply = PatchParams::apply("conch-test").force();
        self.configurations().patch(CONFIGURATION, &apply, &Patch::Apply(configuration)).await.unwrap();
        for _ in 0..100 {
            if self.reached(NAMESPACE, pod(&json!({ names::INJECTION: "Required" }))).await.is_some() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the API server does not know of {CONFIGURATION}");
    }

    /// The webhook that the creation of this object reaches.
    async fn reached(&self, namespace: &str, object: Value) -> Option<String> {
        let (group, kind) = match object["kind"].as_str().unwrap() {
            "Pod" => ("", "Pod"),
            kind => ("apps", kind),
        };
        let objects = self.objects(Some(namespace), group, kind);
        let dry_run = PostParams { dry_run: true, ..PostParams::default() };
        webhook_of(objects.create(&dry_run, &serde_json::from_value(object).unwrap()).await)
    }

    /// The webhook that this patch of the stored workload reaches.
    async fn reached_by_patch(&self, name: &str, patch: Value) -> Option<String> {
        let dry_run = PatchParams { dry_run: true, ..PatchParams::default() };
        webhook_of(self.workloads().patch(name, &dry_run, &Patch::Merge(patch)).await)
    }

    async fn clean_up(self) {
        self.configurations().delete(CONFIGURATION, &DeleteParams::default()).await.unwrap();
        for namespace in [NAMESPACE, DISABLED] {
            self.objects(None, "", "Namespace").delete(namespace, &DeleteParams::default()).await.unwrap();
        }
    }
}

/// The name of the webhook that could not be called.
fn webhook_of(result: Result<DynamicObject, Error>) -> Option<String> {
    match result {
        Ok(_) => None,
        Err(Error::Api(status)) if status.message.contains("failed calling webhook") => {
            status.message.split('"').nth(1).map(ToOwned::to_owned)
        }
        Err(error) => panic!("the API server refused for another reason: {error}"),
    }
}

fn pod(labels: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "pod", "labels": labels },
        "spec": { "containers": [{ "name": "program", "image": "program" }] },
    })
}

fn workload(kind: &str, annotations: &Value, template: &Value) -> Value {
    let mut workload = json!({
        "apiVersion": "apps/v1", "kind": kind,
        "metadata": { "name": "workload", "annotations": annotations },
        "spec": {
            "selector": { "matchLabels": { "app": "workload" } },
            "template": {
                "metadata": { "labels": { "app": "workload" } },
                "spec": { "containers": [{ "name": "program", "image": "program" }] },
            },
        },
    });
    for field in ["labels", "annotations"] {
        for (key, value) in template[field].as_object().into_iter().flatten() {
            workload["spec"]["template"]["metadata"][field][key] = value.clone();
        }
    }
    workload
}

#[tokio::test]
async fn requests_reach_the_webhooks_that_they_concern_and_no_other() {
    let Some(client) = cluster::client("webhooks").await else { return };
    let cluster = Cluster(client);
    cluster.make_namespace(NAMESPACE, json!({})).await;
    cluster.make_namespace(DISABLED, json!({ names::INJECTION: "disabled" })).await;
    let stored = [("plain", json!({})), ("annotated", json!({ names::POLICY: "default" }))];
    for (name, annotations) in stored {
        let mut stored = workload("Deployment", &annotations, &json!({}));
        stored["metadata"]["name"] = json!(name);
        stored["spec"]["replicas"] = json!(0);
        let apply = PatchParams::apply("conch-test");
        cluster.workloads().patch(name, &apply, &Patch::Apply(stored)).await.unwrap();
    }
    let account =
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": names::OPERATOR } });
    let apply = PatchParams::apply("conch-test");
    let accounts = cluster.objects(Some(NAMESPACE), "", "ServiceAccount");
    accounts.patch(names::OPERATOR, &apply, &Patch::Apply(account)).await.unwrap();
    cluster.install_webhooks().await;

    let policy = || json!({ names::POLICY: "default" });
    let creations = [
        (pod(&json!({})), None),
        (pod(&json!({ names::INJECTION: "disabled" })), None),
        (pod(&json!({ names::INJECTION: "Required" })), Some("inject-required.conch.rs")),
        (
            pod(&json!({ names::POLICY: "default", names::INJECTION: "Required" })),
            Some("inject-required.conch.rs"),
        ),
        (
            pod(&json!({ names::POLICY: "default", names::INJECTION: "Optional" })),
            Some("inject-optional.conch.rs"),
        ),
        (pod(&policy()), Some("inject-optional.conch.rs")),
        (workload("Deployment", &json!({}), &json!({})), None),
        (workload("Deployment", &json!({ names::ELECTION: "e" }), &json!({})), None),
        (workload("Deployment", &policy(), &json!({})), Some("stamp.conch.rs")),
        (workload("StatefulSet", &policy(), &json!({})), Some("stamp.conch.rs")),
        (workload("DaemonSet", &policy(), &json!({})), Some("stamp.conch.rs")),
        (workload("Deployment", &json!({}), &json!({ "labels": policy() })), Some("stamp.conch.rs")),
        (workload("Deployment", &json!({}), &json!({ "annotations": policy() })), Some("stamp.conch.rs")),
    ];
    for (object, expected) in creations {
        assert_eq!(cluster.reached(NAMESPACE, object.clone()).await.as_deref(), expected, "{object}");
        assert_eq!(cluster.reached(DISABLED, object.clone()).await, None, "where it is disabled: {object}");
    }
    // The release's own namespace is like any other, but for the operator's pods.
    let own = [
        pod(&json!({ names::INJECTION: "Required" })),
        pod(&policy()),
        workload("Deployment", &policy(), &json!({})),
    ];
    for mut object in own {
        let spec = if object["kind"] == "Pod" { "/spec" } else { "/spec/template/spec" };
        object.pointer_mut(spec).unwrap()["serviceAccountName"] = json!(names::OPERATOR);
        assert_eq!(cluster.reached(NAMESPACE, object.clone()).await, None, "the operator's own: {object}");
    }
    let annotate = |value: Value| json!({ "metadata": { "annotations": { names::POLICY: value } } });
    let patches = [
        ("plain", json!({ "spec": { "replicas": 0 } }), None),
        ("plain", annotate(json!("default")), Some("stamp.conch.rs")),
        ("annotated", json!({}), Some("stamp.conch.rs")),
        ("annotated", annotate(Value::Null), Some("stamp.conch.rs")),
    ];
    for (name, patch, expected) in patches {
        assert_eq!(
            cluster.reached_by_patch(name, patch.clone()).await.as_deref(),
            expected,
            "{name}: {patch}"
        );
    }
    cluster.clean_up().await;
}
