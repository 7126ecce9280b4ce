//! The same rules on a real API server, which has the last word on CEL and on its cost limits.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use kube::{
    Api, Client, Error,
    api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams},
    core::gvk::GroupVersionKind,
};
use serde_json::{Value, json};

/// Creates nothing: every request is a dry run.
struct ApiServer {
    policies: Api<DynamicObject>,
}

impl ApiServer {
    async fn new() -> Self {
        let client = Client::try_default()
            .await
            .expect("KUBECONFIG names a cluster with the CRDs of charts/conch/files/crds");
        let kind = GroupVersionKind::gvk("conch.rs", "v1alpha1", "CoordinationPolicy");
        Self { policies: Api::namespaced_with(client, "default", &ApiResource::from_gvk(&kind)) }
    }

    /// What the API server says against the policy.
    async fn objection(&self, policy: Value) -> Option<String> {
        let policy: DynamicObject = serde_json::from_value(policy).unwrap();
        let dry_run = PostParams { dry_run: true, ..PostParams::default() };
        match self.policies.create(&dry_run, &policy).await {
            Ok(_) => None,
            Err(Error::Api(status)) if status.code == 422 => Some(status.message),
            Err(error) => panic!("the API server did not judge {policy:?}: {error}"),
        }
    }
}

#[tokio::test]
#[ignore = "needs a cluster with the CRDs installed, by KUBECONFIG"]
async fn the_api_server_and_the_elector_refuse_the_same_timings() {
    let server = ApiServer::new().await;
    let (mut accepted, mut refused) = (0, 0);
    for case in support::grid() {
        let (by_server, by_elector) = (server.objection(case.policy()).await, case.objection());
        assert_eq!(by_server.is_none(), by_elector.is_none(), "{case:?}: {by_server:?}, {by_elector:?}");
        match (by_server, by_elector) {
            (Some(by_server), Some(by_elector)) => {
                refused += 1;
                let words = !by_elector.contains("at least") || by_server.contains(&by_elector);
                assert!(words, "{case:?}: {by_server}, {by_elector}");
            }
            _ => accepted += 1,
        }
    }
    assert!(accepted > 200 && refused > 200, "the grid has both: {accepted} accepted, {refused} refused");
}

#[tokio::test]
#[ignore = "needs a cluster with the CRDs installed, by KUBECONFIG"]
async fn the_api_server_fills_in_what_the_code_takes_for_the_default() {
    let server = ApiServer::new().await;
    let policy: DynamicObject = serde_json::from_value(support::policy(&json!({}))).unwrap();
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let created = server.policies.create(&dry_run, &policy).await.unwrap();
    assert_eq!(created.data["spec"], json!(conch_crds::CoordinationPolicySpec::default()));
}

#[tokio::test]
#[ignore = "needs a cluster with the CRDs installed, by KUBECONFIG"]
async fn the_api_server_refuses_what_the_other_rules_refuse() {
    let server = ApiServer::new().await;
    let long_name = {
        let mut policy = support::policy(&json!({}));
        policy["metadata"]["name"] = json!("a".repeat(53));
        policy
    };
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
    for (policy, expected) in cases {
        let objection = server.objection(policy.clone()).await.unwrap_or_default();
        assert!(objection.contains(expected), "{expected} expected, {objection:?} found for {policy}");
    }
}

#[tokio::test]
#[ignore = "needs a cluster with the CRDs installed, by KUBECONFIG"]
async fn the_api_server_never_lowers_a_fencing_offset() {
    let server = ApiServer::new().await;
    let name = "conch-test-fencing-offset";
    let apply = PatchParams::apply("conch-test");
    let offset = |offset: Value| {
        let mut policy = support::policy(&json!({ "fencingOffset": offset }));
        policy["metadata"]["name"] = json!(name);
        Patch::Apply(policy)
    };
    server.policies.patch(name, &apply, &offset(json!(7))).await.unwrap();
    let lowered = server.policies.patch(name, &apply, &offset(json!(6))).await;
    let removed = server.policies.patch(name, &apply, &offset(Value::Null)).await;
    let raised = server.policies.patch(name, &apply, &offset(json!(8))).await;
    server.policies.delete(name, &kube::api::DeleteParams::default()).await.unwrap();
    for refused in [lowered, removed] {
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("can only be raised"), "{error}");
    }
    assert!(raised.is_ok(), "{raised:?}");
}
