//! What the operator may do by the chart's roles, as a real API server decides. `CONCH_TEST_KUBECONFIG` names an
//! administrator's kubeconfig of a cluster that may be used for tests; without it each test says that it was skipped.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod cluster;
#[path = "chart/helm.rs"]
#[expect(dead_code, reason = "the tests of the chart use the rest")]
mod helm;

use conch_crds::names::{self, operator_objects};
use kube::{
    Api, Client, Error,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    core::gvk::GroupVersionKind,
};
use serde_json::{Value, json};
use std::time::Duration;

/// Some team's namespace.
const TEAM: &str = "team";
const RBAC: &str = "rbac.authorization.k8s.io";

/// The chart's roles under names of this test, in namespaces of this test.
struct Rights {
    test: String,
    admin: Client,
}

impl Rights {
    async fn grant(test: &str) -> Option<Self> {
        let admin = cluster::client(test).await?;
        let rights = Self { test: format!("conch-{}-test", test.replace('_', "-")), admin };
        for namespace in [helm::NAMESPACE, TEAM] {
            let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": rights.namespace(namespace) } });
            rights.apply(namespace).await;
        }
        let chart = helm::render(&[]);
        for kind in ["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"] {
            let mut role = chart.get(kind, names::OPERATOR).clone();
            let namespace = rights.namespace(helm::NAMESPACE);
            role["metadata"] = json!({ "name": rights.test });
            if !kind.starts_with("Cluster") {
                role["metadata"]["namespace"] = json!(namespace);
            }
            if kind.ends_with("Binding") {
                role["roleRef"]["name"] = json!(rights.test);
                role["subjects"][0]["namespace"] = json!(namespace);
            }
            rights.apply(role).await;
        }
        rights.wait().await;
        Some(rights)
    }

    /// Until the authorizer knows of the bindings.
    async fn wait(&self) {
        for _ in 0..100 {
            let secrets =
                Attributes { namespace: Some(helm::NAMESPACE), resource: "secrets", ..Attributes::default() };
            if self.allows("list", &team("", "pods")).await && self.allows("create", &secrets).await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the authorizer does not know of the roles of {}", self.test);
    }

    fn namespace(&self, namespace: &str) -> String {
        format!("{}-{namespace}", self.test)
    }

    fn user(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace(helm::NAMESPACE), names::OPERATOR)
    }

    fn api(&self, object: &Value) -> Api<DynamicObject> {
        let (group, version) = object["apiVersion"].as_str().unwrap().rsplit_once('/').unwrap_or(("", "v1"));
        let kind =
            ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, object["kind"].as_str().unwrap()));
        match object["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(self.admin.clone(), namespace, &kind),
            None => Api::all_with(self.admin.clone(), &kind),
        }
    }

    async fn apply(&self, object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let apply = PatchParams::apply("conch-test").force();
        self.api(&object).patch(&name, &apply, &Patch::Apply(object)).await.unwrap();
    }

    /// Does the API server's authorizer let the operator do this?
    async fn allows(&self, verb: &str, what: &Attributes) -> bool {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "metadata": {},
            "spec": {
                "user": self.user(),
                "resourceAttributes": {
                    "verb": verb,
                    "group": what.group,
                    "resource": what.resource,
                    "subresource": what.subresource,
                    "name": what.name,
                    "namespace": what.namespace.map(|namespace| self.namespace(namespace)),
                },
            },
        });
        let request = serde_json::from_value(review.clone()).unwrap();
        let answer = self.api(&review).create(&PostParams::default(), &request).await.unwrap();
        answer.data["status"]["allowed"] == true
    }

    /// Creates the object as the operator, in the team's namespace.
    async fn create_as_operator(&self, mut object: Value) -> Result<(), Error> {
        object["metadata"]["namespace"] = json!(self.namespace(TEAM));
        let path = format!(
            "/apis/{RBAC}/v1/namespaces/{}/{}s?dryRun=All",
            self.namespace(TEAM),
            object["kind"].as_str().unwrap().to_lowercase()
        );
        let request = http::Request::post(path)
            .header("Content-Type", "application/json")
            .header("Impersonate-User", self.user())
            .body(object.to_string().into_bytes())
            .unwrap();
        self.admin.request::<Value>(request).await.map(drop)
    }

    async fn withdraw(self) {
        let delete = DeleteParams::default();
        for kind in ["ClusterRole", "ClusterRoleBinding"] {
            let object = json!({ "apiVersion": format!("{RBAC}/v1"), "kind": kind, "metadata": {} });
            self.api(&object).delete(&self.test, &delete).await.unwrap();
        }
        let namespaces = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": {} });
        for namespace in [helm::NAMESPACE, TEAM] {
            self.api(&namespaces).delete(&self.namespace(namespace), &delete).await.unwrap();
        }
    }
}

/// What a request is about.
#[derive(Debug, Default)]
struct Attributes {
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
    namespace: Option<&'static str>,
    name: Option<&'static str>,
}

/// Things in the team's namespace.
fn team(group: &'static str, resource: &'static str) -> Attributes {
    Attributes { group, resource, namespace: Some(TEAM), name: Some("thing"), ..Attributes::default() }
}

#[tokio::test]
async fn the_operator_may_do_what_it_does_and_nothing_worse() {
    let Some(rights) = Rights::grant("rights").await else { return };
    let own_secret = Attributes {
        resource: "secrets",
        namespace: Some(helm::NAMESPACE),
        name: Some(operator_objects::CERTIFICATE_SECRET),
        ..Attributes::default()
    };
    let other_secret = Attributes { name: Some("other"), ..own_secret };
    let own_webhooks = Attributes {
        group: "admissionregistration.k8s.io",
        resource: "mutatingwebhookconfigurations",
        name: Some(operator_objects::WEBHOOK_CONFIGURATION),
        ..Attributes::default()
    };
    let other_webhooks = Attributes { name: Some("other"), ..own_webhooks };
    let status = |resource| Attributes { subresource: "status", ..team("conch.rs", resource) };
    let cases: [(&Attributes, &[&str], &[&str]); 16] = [
        (
            &team("conch.rs", "coordinationpolicies"),
            &["list", "watch", "create"],
            &["update", "patch", "delete"],
        ),
        (
            &team("conch.rs", "elections"),
            &["list", "watch", "create", "patch", "delete"],
            &["deletecollection"],
        ),
        (&status("coordinationpolicies"), &["patch"], &["update"]),
        (&status("elections"), &["patch"], &["update"]),
        (&team("apps", "deployments"), &["list", "watch", "patch"], &["create", "update", "delete"]),
        (&team("apps", "statefulsets"), &["list", "watch", "patch"], &["create", "update", "delete"]),
        (&team("apps", "daemonsets"), &["list", "watch", "patch"], &["create", "update", "delete"]),
        (&team("", "pods"), &["list", "watch"], &["create", "update", "patch", "delete"]),
        (&team("", "secrets"), &[], &["get", "list", "watch", "create"]),
        (
            &team("coordination.k8s.io", "leases"),
            &["list", "watch", "create", "patch", "delete"],
            &["deletecollection"],
        ),
        (&team(RBAC, "roles"), &["list", "watch", "create", "patch", "delete"], &["escalate", "bind"]),
        (&team(RBAC, "rolebindings"), &["list", "watch", "create", "patch", "delete"], &["deletecollection"]),
        (&own_secret, &["get", "create", "update"], &["list", "watch", "delete"]),
        (&other_secret, &[], &["get", "update", "patch", "watch", "delete"]),
        (&own_webhooks, &["get", "list", "watch", "patch", "delete"], &["create", "update"]),
        (&other_webhooks, &[], &["get", "update", "patch", "delete"]),
    ];
    for (what, allowed, denied) in cases {
        for verb in allowed {
            assert!(rights.allows(verb, what).await, "{verb} must be allowed: {what:?}");
        }
        for verb in denied {
            assert!(!rights.allows(verb, what).await, "{verb} must be denied: {what:?}");
        }
    }
    rights.withdraw().await;
}

#[tokio::test]
async fn the_operator_may_grant_a_sidecar_its_four_verbs_and_no_right_that_it_lacks() {
    let Some(rights) = Rights::grant("grants").await else { return };
    let role = |rule: Value| json!({ "apiVersion": format!("{RBAC}/v1"), "kind": "Role", "metadata": { "name": "conch-e" }, "rules": [rule] });
    let sidecar = role(json!({
        "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": ["conch-e"],
        "verbs": ["get", "update", "watch", "create"],
    }));
    rights.create_as_operator(sidecar.clone()).await.unwrap();
    let too_much = role(json!({ "apiGroups": [""], "resources": ["secrets"], "verbs": ["get"] }));
    let error = rights.create_as_operator(too_much).await.unwrap_err().to_string();
    assert!(error.contains("attempting to grant RBAC permissions not currently held"), "{error}");

    let mut stored = sidecar;
    stored["metadata"]["namespace"] = json!(rights.namespace(TEAM));
    rights.apply(stored).await;
    let binding = |kind: &str, name: &str| {
        json!({
            "apiVersion": format!("{RBAC}/v1"), "kind": "RoleBinding", "metadata": { "name": "conch-e" },
            "roleRef": { "apiGroup": RBAC, "kind": kind, "name": name },
            "subjects": [{ "kind": "ServiceAccount", "name": "default", "namespace": rights.namespace(TEAM) }],
        })
    };
    rights.create_as_operator(binding("Role", "conch-e")).await.unwrap();
    let error = rights.create_as_operator(binding("ClusterRole", "admin")).await.unwrap_err().to_string();
    assert!(error.contains("attempting to grant RBAC permissions not currently held"), "{error}");
    rights.withdraw().await;
}
