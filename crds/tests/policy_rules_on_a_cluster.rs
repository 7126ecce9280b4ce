//! The same rules on a real API server, which has the last word on CEL and on its cost limits. `CONCH_TEST_KUBECONFIG` names
//! an administrator's kubeconfig of a cluster that may be used for tests; without it each test says that it was skipped.
//!
//! Each test brings the CRD along under a group of its own, so that it neither needs nor disturbs an installed Conch.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod cluster;
mod support;

use conch_crds::CoordinationPolicy;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, CustomResourceExt, Error,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    core::gvk::GroupVersionKind,
};
use serde_json::{Value, json};
use std::time::Duration;

const MANAGER: &str = "conch-test";

struct ApiServer {
    group: String,
    crds: Api<CustomResourceDefinition>,
    policies: Api<DynamicObject>,
}

impl ApiServer {
    /// With the CRD installed under a group for this test; `None` where no cluster was given.
    async fn new(test: &str) -> Option<Self> {
        let client = cluster::client(test).await?;
        let group = format!("{}.test.conch.rs", test.replace('_', "-"));
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk(&group, "v1alpha1", "CoordinationPolicy"));
        let policies = Api::namespaced_with(client.clone(), "default", &kind);
        let server = Self { group, crds: Api::all(client), policies };
        server.install().await;
        Some(server)
    }

    async fn install(&self) {
        let mut crd = json!(CoordinationPolicy::crd());
        crd["metadata"]["name"] = json!(self.crd_name());
        crd["spec"]["group"] = json!(self.group);
        self.crds.patch(&self.crd_name(), &PatchParams::apply(MANAGER), &Patch::Apply(crd)).await.unwrap();
        for _ in 0..100 {
            let is_served = self.create(support::policy(&json!({}))).await.is_ok();
            if is_served {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the API server does not serve {}", self.crd_name());
    }

    async fn remove(self) {
        self.crds.delete(&self.crd_name(), &DeleteParams::default()).await.unwrap();
    }

    fn crd_name(&self) -> String {
        format!("coordinationpolicies.{}", self.group)
    }

    fn in_group(&self, mut policy: Value) -> Value {
        policy["apiVersion"] = json!(format!("{}/v1alpha1", self.group));
        policy
    }

    /// A dry run.
    async fn create(&self, policy: Value) -> Result<DynamicObject, Error> {
        let policy = serde_json::from_value(self.in_group(policy)).unwrap();
        self.policies.create(&PostParams { dry_run: true, ..PostParams::default() }, &policy).await
    }

    /// What the API server says against the policy.
    async fn objection(&self, policy: Value) -> Option<String> {
        match self.create(policy.clone()).await {
            Ok(_) => None,
            Err(Error::Api(status)) if status.code == 422 => Some(status.message),
            Err(error) => panic!("the API server did not judge {policy}: {error}"),
        }
    }

    async fn apply(&self, name: &str, spec: Value) -> Result<DynamicObject, Error> {
        let mut policy = self.in_group(support::policy(&spec));
        policy["metadata"]["name"] = json!(name);
        self.policies.patch(name, &PatchParams::apply(MANAGER), &Patch::Apply(policy)).await
    }
}

#[tokio::test]
async fn the_api_server_and_the_elector_refuse_the_same_timings() {
    let Some(server) = ApiServer::new("same_timings").await else { return };
    let (mut accepted, mut refused) = (0, 0);
    for case in support::grid() {
        let (by_server, by_elector) = (server.objection(case.policy()).await, case.objection());
        assert_eq!(by_server.is_none(), by_elector.is_none(), "{case:?}: {by_server:?}, {by_elector:?}");
        match (by_server, by_elector) {
            (Some(by_server), Some(by_elector)) => {
                refused += 1;
                let same_words = !by_elector.contains("at least") || by_server.contains(&by_elector);
                assert!(same_words, "{case:?}: {by_server}, {by_elector}");
            }
            _ => accepted += 1,
        }
    }
    assert!(accepted > 200 && refused > 200, "the grid has both: {accepted} accepted, {refused} refused");
    server.remove().await;
}

#[tokio::test]
async fn the_api_server_fills_in_what_the_code_takes_for_the_default() {
    let Some(server) = ApiServer::new("same_defaults").await else { return };
    let created = server.create(support::policy(&json!({}))).await.unwrap();
    assert_eq!(created.data["spec"], json!(conch_crds::CoordinationPolicySpec::default()));
    server.remove().await;
}

#[tokio::test]
async fn the_api_server_refuses_what_the_other_rules_refuse() {
    let Some(server) = ApiServer::new("other_rules").await else { return };
    let mut long_name = support::policy(&json!({}));
    long_name["metadata"]["name"] = json!("a".repeat(53));
    let spec = |spec: Value| support::policy(&spec);
    let cases = [
        (long_name, "has 53 characters"),
        (spec(json!({ "timing": { "stopGrace": "0s" } })), "stopGrace must be longer than 0s"),
        (spec(json!({ "timing": { "leaseDuration": "15" } })), "spec.timing.leaseDuration"),
        (spec(json!({ "timing": { "leaseDuration": "99999999999h" } })), "spec.timing.leaseDuration"),
        (
            spec(json!({ "sidecar": { "resources": { "requests": { "memory": "64Mi" } } } })),
            "may exceed its limit",
        ),
        (
            spec(json!({ "sidecar": { "resources": { "limits": { "memroy": "64Mi" } } } })),
            "ephemeral-storage",
        ),
        (spec(json!({ "sidecar": { "port": 65535 } })), "spec.sidecar.port"),
        (spec(json!({ "sharedElections": ["a", "a"] })), "Duplicate value"),
        (spec(json!({ "sharedElections": ["A"] })), "spec.sharedElections[0]"),
        (spec(json!({ "fencingOffset": -1 })), "spec.fencingOffset"),
        (spec(json!({ "store": { "type": "Paper" } })), "spec.store.type"),
    ];
    let of_programs = support::refused_of_a_program().into_iter();
    let of_programs = of_programs.map(|(program, expected)| (spec(json!({ "program": program })), expected));
    for (policy, expected) in cases.into_iter().chain(of_programs) {
        let objection = server.objection(policy.clone()).await.unwrap_or_default();
        assert!(objection.contains(expected), "{expected} expected, {objection:?} found for {policy}");
    }
    server.remove().await;
}

#[tokio::test]
async fn the_api_server_accepts_what_people_write() {
    let Some(server) = ApiServer::new("written_forms").await else { return };
    for spec in [
        json!({ "timing": { "leaseDuration": "1m30s", "renewInterval": "1.5s", "stopGrace": "250ms", "maxPromise": "1h" } }),
        json!({ "consequence": "DuplicateWork", "timing": { "stopGrace": "0s" } }),
        json!({ "program": { "presence": "None" }, "injection": "Optional", "sharedElections": ["a", "b.c"] }),
        json!({ "sidecar": { "resources": { "requests": { "cpu": 1 }, "limits": { "cpu": "1500m", "memory": "1Gi" } } } }),
        json!({ "sidecar": { "resources": { "requests": { "cpu": "500m" }, "limits": { "cpu": 1 } } } }),
        json!({ "fencingOffset": 9_000_000_000_000_000_000_u64 }),
    ]
    .into_iter()
    .chain(support::accepted_of_a_program().into_iter().map(|program| json!({ "program": program })))
    {
        let objection = server.objection(support::policy(&spec)).await;
        assert_eq!(objection, None, "{spec}");
        serde_json::from_value::<conch_crds::CoordinationPolicySpec>(spec).unwrap();
    }
    server.remove().await;
}

#[tokio::test]
async fn the_api_server_never_lowers_a_fencing_offset() {
    let Some(server) = ApiServer::new("fencing_offset").await else { return };
    let offset = |offset: Value| json!({ "fencingOffset": offset });
    server.apply("offset", offset(json!(7))).await.unwrap();
    for lower in [json!(6), Value::Null] {
        let error = server.apply("offset", offset(lower)).await.unwrap_err().to_string();
        assert!(error.contains("can only be raised"), "{error}");
    }
    server.apply("offset", offset(json!(8))).await.unwrap();
    server.remove().await;
}
