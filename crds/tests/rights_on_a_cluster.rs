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
    async fn create_as_operator(&self, object: Value) -> Result<(), Error> {
        self.as_operator("POST", TEAM, "", object).await
    }

    /// Writes, or deletes, the object as the operator: a dry run.
    async fn as_operator(
        &self,
        method: &str,
        namespace: &str,
        name: &str,
        mut object: Value,
    ) -> Result<(), Error> {
        let group = object["apiVersion"].as_str().unwrap().to_owned();
        let plural = format!("{}s", object["kind"].as_str().unwrap().to_lowercase());
        let namespace = self.namespace(namespace);
        object["metadata"]["namespace"] = json!(namespace);
        let slash = if name.is_empty() { "" } else { "/" };
        let path = format!("/apis/{group}/namespaces/{namespace}/{plural}{slash}{name}?dryRun=All");
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let body = if method == "DELETE" { Vec::new() } else { object.to_string().into_bytes() };
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("Content-Type", kind)
            .header("Impersonate-User", self.user())
            .body(body)
            .unwrap();
        self.admin.request::<Value>(request).await.map(drop)
    }

    /// The admission policy of the chart, for the operator of this test, once it is in force.
    async fn restrict(&self) {
        let chart = helm::render(&[]);
        for kind in ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"] {
            let text = chart.get(kind, names::OPERATOR).to_string();
            let text = text.replace(helm::NAMESPACE, &self.namespace(helm::NAMESPACE));
            let mut object: Value = serde_json::from_str(&text).unwrap();
            object["metadata"] = json!({ "name": self.test });
            if kind.ends_with("Binding") {
                object["spec"]["policyName"] = json!(self.test);
            }
            self.apply(object).await;
        }
        for _ in 0..200 {
            if self.create_as_operator(lease("nobodys", &json!({}))).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the API server does not know of the admission policy");
    }

    async fn withdraw(self) {
        let delete = DeleteParams::default();
        for kind in ["ValidatingAdmissionPolicyBinding", "ValidatingAdmissionPolicy"] {
            let object =
                json!({ "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {} });
            // Most tests have none.
            let _ = self.api(&object).delete(&self.test, &delete).await;
        }
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

fn lease(name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": name }, "spec": spec })
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
            &["get", "update", "deletecollection"],
        ),
        (&status("coordinationpolicies"), &["patch"], &["update"]),
        (&status("elections"), &["patch"], &["update"]),
        (&team("apps", "deployments"), &["list", "watch", "patch"], &["get", "create", "update", "delete"]),
        (&team("apps", "statefulsets"), &["list", "watch", "patch"], &["get", "create", "update", "delete"]),
        (&team("apps", "daemonsets"), &["list", "watch", "patch"], &["get", "create", "update", "delete"]),
        (&team("", "pods"), &["list", "watch"], &["get", "create", "update", "patch", "delete"]),
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

/// A Deployment whose pods no node takes.
fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": {
            "replicas": 0, "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": { "containers": [{ "name": "app", "image": "app" }] },
            },
        },
    })
}

fn role(name: &str, rules: &Value) -> Value {
    json!({ "apiVersion": format!("{RBAC}/v1"), "kind": "Role", "metadata": { "name": name }, "rules": rules })
}

fn binding(role: &str, subject: &Value) -> Value {
    json!({
        "apiVersion": format!("{RBAC}/v1"), "kind": "RoleBinding", "metadata": { "name": "conch-e" },
        "roleRef": { "apiGroup": RBAC, "kind": "Role", "name": role }, "subjects": [subject],
    })
}

/// What a sidecar may do, and the operator may grant.
fn sidecar_rules(lease: &str) -> Value {
    json!([{ "apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
        "resourceNames": [lease], "verbs": ["get", "update", "watch", "create"] }])
}

/// An object without all but its kind, and a change to its spec.
fn change(mut object: Value, spec: Value) -> Value {
    object.as_object_mut().unwrap().retain(|key, _| key == "apiVersion" || key == "kind");
    object["spec"] = spec;
    object
}

fn held() -> Value {
    json!({ "holderIdentity": "somebody", "leaseDurationSeconds": 15 })
}

/// A request as the operator, and whether it is allowed: method, namespace, name, object.
type Attempt = (bool, &'static str, &'static str, &'static str, Value);

fn attempts_at_leases() -> Vec<Attempt> {
    let freed = || change(lease("", &json!({})), json!({ "holderIdentity": "" }));
    let plain = || lease("", &json!({}));
    vec![
        (true, "POST", TEAM, "", lease("conch-f", &json!({}))),
        (false, "POST", TEAM, "", lease("f", &json!({}))),
        (false, "POST", TEAM, "", lease("conch-f", &held())),
        (true, "PATCH", TEAM, "conch-e", change(plain(), json!({}))),
        (false, "PATCH", TEAM, "conch-e", freed()),
        (false, "PATCH", TEAM, "other", freed()),
        (true, "PATCH", helm::NAMESPACE, operator_objects::LEASE, freed()),
        (true, "DELETE", TEAM, "conch-e", plain()),
        (false, "DELETE", TEAM, "other", plain()),
    ]
}

fn attempts_at_rights(account: impl Fn(&str) -> Value) -> Vec<Attempt> {
    let all_leases =
        json!([{ "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get"] }]);
    let pods = json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["list"] }]);
    let user = json!({ "kind": "User", "name": "u", "apiGroup": RBAC });
    vec![
        (true, "POST", TEAM, "", role("conch-f", &sidecar_rules("conch-f"))),
        (false, "POST", TEAM, "", role("f", &sidecar_rules("f"))),
        (false, "POST", TEAM, "", role("conch-f", &sidecar_rules("conch-e"))),
        (false, "POST", TEAM, "", role("conch-f", &all_leases)),
        (false, "POST", TEAM, "", role("conch-f", &pods)),
        (false, "DELETE", TEAM, "other", role("", &json!([]))),
        (true, "POST", TEAM, "", binding("conch-e", &account(TEAM))),
        (false, "POST", TEAM, "", binding("conch-other", &account(TEAM))),
        (false, "POST", TEAM, "", binding("conch-e", &account(helm::NAMESPACE))),
        (false, "POST", TEAM, "", binding("conch-e", &user)),
    ]
}

fn attempts_at_workloads() -> Vec<Attempt> {
    let scaled = || change(deployment(""), json!({ "replicas": 1 }));
    let containers = json!([{ "name": "app", "image": "another" }]);
    let another_image =
        || change(deployment(""), json!({ "template": { "spec": { "containers": containers } } }));
    vec![
        (true, "PATCH", TEAM, "app", change(deployment(""), json!({}))),
        (false, "PATCH", TEAM, "app", another_image()),
        (false, "PATCH", TEAM, "app", scaled()),
        (true, "PATCH", helm::NAMESPACE, names::OPERATOR, scaled()),
        (false, "PATCH", helm::NAMESPACE, names::OPERATOR, another_image()),
    ]
}

#[tokio::test]
async fn a_stolen_token_of_the_operator_opens_nothing_but_elections() {
    let Some(rights) = Rights::grant("restricted").await else { return };
    let stored = [
        (TEAM, lease("conch-e", &held())),
        (TEAM, lease("other", &held())),
        (TEAM, role("conch-e", &sidecar_rules("conch-e"))),
        (TEAM, role("other", &sidecar_rules("other"))),
        (TEAM, role("conch-other", &sidecar_rules("conch-other"))),
        (TEAM, deployment("app")),
        (helm::NAMESPACE, deployment(names::OPERATOR)),
        (helm::NAMESPACE, lease(operator_objects::LEASE, &held())),
    ];
    for (namespace, mut object) in stored {
        object["metadata"]["namespace"] = json!(rights.namespace(namespace));
        rights.apply(object).await;
    }
    rights.restrict().await;
    let account = |namespace: &str| json!({ "kind": "ServiceAccount", "name": "default", "namespace": rights.namespace(namespace) });
    let attempts = [attempts_at_leases(), attempts_at_rights(account), attempts_at_workloads()];
    for (allowed, method, namespace, name, object) in attempts.concat() {
        let result = rights.as_operator(method, namespace, name, object.clone()).await;
        match result {
            Ok(()) => assert!(allowed, "{method} {name} {object} must be refused"),
            Err(error) => {
                let error = error.to_string();
                assert!(
                    !allowed && error.contains("the operator of Conch"),
                    "{method} {name} {object}: {error}"
                );
            }
        }
    }
    rights.withdraw().await;
}

#[tokio::test]
async fn a_sidecars_renewals_do_not_wait_behind_what_else_its_account_asks_for() {
    let Some(admin) = cluster::client("flow").await else { return };
    let rights = Rights { test: "conch-flow-test".to_owned(), admin };
    let chart = helm::render(&[]);
    for kind in ["PriorityLevelConfiguration", "FlowSchema"] {
        let mut object = chart.get(kind, "conch-leases").clone();
        object["metadata"] = json!({ "name": rights.test });
        if kind == "FlowSchema" {
            object["spec"]["priorityLevelConfiguration"]["name"] = json!(rights.test);
        }
        rights.apply(object).await;
    }
    let schema =
        json!({ "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {} });
    let uid = rights.api(&schema).get(&rights.test).await.unwrap().metadata.uid.unwrap();
    let classified = async |resource: &str, account: &str| {
        let namespace = account.split(':').next().unwrap();
        let request = http::Request::get(format!("{resource}?limit=1"))
            .header("Impersonate-User", format!("system:serviceaccount:{account}"))
            .header("Impersonate-Group", "system:serviceaccounts")
            .header("Impersonate-Group", format!("system:serviceaccounts:{namespace}"))
            .body(kube::client::Body::empty())
            .unwrap();
        // Whether it is allowed does not matter here.
        let answer = rights.admin.send(request).await.unwrap();
        answer.headers()["x-kubernetes-pf-flowschema-uid"].to_str().unwrap().to_owned()
    };
    let lease = "/apis/coordination.k8s.io/v1/namespaces/team/leases/conch-e";
    let mut ours = false;
    for _ in 0..100 {
        ours = classified(lease, "team:default").await == uid;
        if ours {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(ours, "a sidecar's requests are not classified as such");
    assert_ne!(classified("/api/v1/namespaces/team/configmaps", "team:default").await, uid);
    assert_ne!(
        classified(lease, "kube-system:some-controller").await,
        uid,
        "the cluster's own stay where they are"
    );
    for kind in ["FlowSchema", "PriorityLevelConfiguration"] {
        let object = json!({ "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": kind, "metadata": {} });
        rights.api(&object).delete(&rights.test, &DeleteParams::default()).await.unwrap();
    }
}
