//! The webhook's answers, without TLS and without a cluster.

use crate::{
    properties::{json_value, podlike},
    support::{LONGEST_LEASE, NAMESPACE, image, injected, pods, policies},
};
use axum::{Router, body::Body, http::Request};
use conch_crds::names;
use conch_operator::webhook::{KnownPolicy, LookupError, Policies, Webhook, WebhookMetrics, router};
use http_body_util::BodyExt;
use k8s_openapi::ByteString;
use prometheus_client::{encoding::text::encode, registry::Registry};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tower::ServiceExt;

/// The policies of this directory, all in one namespace; the one named `away` cannot be read.
pub(crate) struct FilePolicies {
    pub(crate) namespace: String,
    /// The longest lease that stands on the Lease.
    pub(crate) announced: Duration,
    /// How often the workload of a pod with the label `young` is not known yet.
    pub(crate) unheard: AtomicU32,
}

impl Default for FilePolicies {
    fn default() -> Self {
        Self { namespace: NAMESPACE.to_owned(), announced: Duration::MAX, unheard: AtomicU32::new(0) }
    }
}

impl Policies for FilePolicies {
    async fn policy(&self, namespace: &str, name: &str) -> Result<Option<KnownPolicy>, LookupError> {
        assert_eq!(namespace, self.namespace);
        if name == "away" {
            return Err(LookupError::TimedOut);
        }
        Ok(policies().remove(name).map(KnownPolicy::from))
    }

    fn longest_lease(&self, namespace: &str, election: &str) -> Option<Duration> {
        assert_eq!((namespace, election), (self.namespace.as_str(), "payments"));
        LONGEST_LEASE
    }

    fn is_announced(&self, _namespace: &str, _election: &str, lease: Duration) -> bool {
        lease <= self.announced
    }

    fn knows_workload_of(&self, _namespace: &str, pod: &Value) -> bool {
        let ask = |left: u32| left.checked_sub(1);
        pod.pointer("/metadata/labels/young").is_none()
            || self.unheard.fetch_update(Ordering::Relaxed, Ordering::Relaxed, ask).is_err()
    }

    fn not_shared(&self, _namespace: &str, election: &str, pod: &Value) -> Option<String> {
        let known = self.unheard.load(Ordering::Relaxed) == 0;
        let late = known && pod.pointer("/metadata/labels/late").is_some();
        late.then(|| format!("election {election} belongs to another workload"))
    }
}

struct Server {
    router: Router,
    registry: Registry,
}

impl Server {
    fn new() -> Self {
        Self::with(FilePolicies::default())
    }

    fn with(policies: FilePolicies) -> Self {
        let metrics = WebhookMetrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let router = router(Arc::new(Webhook { image: image(), policies, metrics }));
        Self { router, registry }
    }

    async fn post(&self, path: &str, body: Vec<u8>) -> (u16, Vec<u8>) {
        let request = Request::post(path).body(Body::from(body)).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        (status, response.into_body().collect().await.unwrap().to_bytes().to_vec())
    }

    async fn ask(&self, path: &str, object: &Value, old: &Value) -> Value {
        let (status, body) = self.post(path, serde_json::to_vec(&review(object, old)).unwrap()).await;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
        assert_eq!(answer["kind"], "AdmissionReview");
        assert_eq!(answer["response"]["uid"], "the-uid");
        answer["response"].clone()
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        text
    }
}

pub(crate) fn review(object: &Value, old: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "the-uid", "namespace": NAMESPACE, "operation": "CREATE", "dryRun": true, "object": object, "oldObject": old,
            "futureField": {},
        },
    })
}

fn patched(object: &Value, response: &Value) -> Value {
    assert_eq!(response["patchType"], "JSONPatch");
    let patch: ByteString = serde_json::from_value(response["patch"].clone()).unwrap();
    let mut object = object.clone();
    let patch: json_patch::Patch = serde_json::from_slice(&patch.0).unwrap();
    json_patch::patch(&mut object, &patch).unwrap();
    object
}

#[tokio::test]
async fn each_golden_pod_is_answered_as_it_is_decided() {
    let (server, policies) = (Server::new(), policies());
    for (name, pod) in pods() {
        let response = server.ask("/inject", &pod, &Value::Null).await;
        if let Some(injected) = injected(&pod, &policies) {
            assert_eq!(response["allowed"], true, "{name}");
            assert_eq!(patched(&pod, &response), injected, "{name}");
        } else {
            assert_eq!(response.get("patch"), None, "{name}");
        }
    }
    let metrics = server.metrics();
    let total = format!("conch_admission_duration_seconds_count{{webhook=\"inject\"}} {}", pods().len());
    for line in [
        &total,
        "conch_admissions_total{webhook=\"inject\",outcome=\"refused\",reason=\"HostNetwork\"} 1",
        "conch_admissions_total{webhook=\"inject\",outcome=\"refused\",reason=\"PortTaken\"} 2",
        "conch_admissions_total{webhook=\"inject\",outcome=\"unchanged\",reason=\"\"} 2",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn a_required_pod_whose_policy_is_missing_is_refused_with_what_to_do() {
    let response = Server::new().ask("/inject", &pods()["policy_missing"], &Value::Null).await;
    assert_eq!(response["allowed"], false);
    assert_eq!(response["status"]["code"], 403);
    let message = response["status"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("CoordinationPolicy \"nope\" does not exist in namespace \"shop\": create it"),
        "{message}"
    );
}

#[tokio::test]
async fn an_optional_pod_that_cannot_have_a_sidecar_starts_without_and_says_so() {
    let mut pod = pods()["optional"].clone();
    pod["spec"]["hostNetwork"] = json!(true);
    let server = Server::new();
    let response = server.ask("/inject", &pod, &Value::Null).await;
    assert_eq!((&response["allowed"], response.get("patch")), (&json!(true), None));
    let warning = response["warnings"][0].as_str().unwrap();
    assert!(warning.starts_with("the pod starts without a sidecar: the pod uses hostNetwork"), "{warning}");
    assert!(server.metrics().contains("outcome=\"plain\",reason=\"HostNetwork\"} 1"));
}

#[tokio::test]
async fn a_pod_of_a_workload_that_came_too_late_gets_no_sidecar() {
    let server = Server::new();
    let mut pod = pods()["plain"].clone();
    pod["metadata"]["labels"]["late"] = json!("yes");
    let response = server.ask("/inject", &pod, &Value::Null).await;
    assert_eq!(response["allowed"], false);
    assert!(response["status"]["message"].as_str().unwrap().contains("belongs to another workload"));
    assert!(server.metrics().contains("outcome=\"refused\",reason=\"NotShared\"} 1"));

    pod["metadata"]["labels"][names::INJECTION] = json!("Optional");
    let response = server.ask("/inject", &pod, &Value::Null).await;
    assert_eq!((&response["allowed"], response.get("patch")), (&json!(true), None));
}

#[tokio::test]
async fn a_pod_that_is_faster_than_the_news_of_its_workload_is_judged_when_they_have_come() {
    let server = Server::with(FilePolicies { unheard: AtomicU32::new(3), ..FilePolicies::default() });
    let mut pod = pods()["plain"].clone();
    pod["metadata"]["labels"]["late"] = json!("yes");
    pod["metadata"]["labels"]["young"] = json!("yes");
    assert_eq!(server.ask("/inject", &pod, &Value::Null).await["allowed"], false);
    // Of whom nothing is ever heard was stamped by hand, and does not wait for ever.
    let server = Server::with(FilePolicies { unheard: AtomicU32::new(u32::MAX), ..FilePolicies::default() });
    assert_eq!(server.ask("/inject", &pod, &Value::Null).await["allowed"], true);
}

#[tokio::test]
async fn a_pod_with_a_longer_lease_than_the_others_know_of_waits_until_the_lease_says_so() {
    let short = FilePolicies { announced: Duration::from_secs(14), ..FilePolicies::default() };
    let server = Server::with(short);
    let review = serde_json::to_vec(&review(&pods()["plain"], &Value::Null)).unwrap();
    let (status, body) = server.post("/inject", review).await;
    let message = String::from_utf8(body).unwrap();
    assert_eq!(status, 503, "{message}");
    assert!(message.contains("leases of 15 s"), "{message}");
    assert!(server.metrics().contains("outcome=\"failed\",reason=\"LeaseNotAnnounced\"} 1"));
}

#[tokio::test]
async fn what_cannot_be_known_is_an_error_so_that_the_failure_policy_decides() {
    let server = Server::new();
    let mut pod = pods()["plain"].clone();
    pod["metadata"]["labels"]["conch.rs/policy"] = json!("away");
    let (status, body) =
        server.post("/inject", serde_json::to_vec(&review(&pod, &Value::Null)).unwrap()).await;
    assert_eq!(
        (status, String::from_utf8(body).unwrap().as_str()),
        (503, "failed to read the policy within 2 s")
    );
    assert!(server.metrics().contains("outcome=\"failed\",reason=\"PolicyUnreadable\"} 1"));
}

#[tokio::test]
async fn a_workload_is_stamped_and_unstamped() {
    let server = Server::new();
    let workload = |annotations: &Value| {
        json!({
            "kind": "Deployment", "metadata": {"name": "payments", "annotations": annotations},
            "spec": {"template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": []}}},
        })
    };
    let annotated = workload(&json!({"conch.rs/policy": "default"}));
    let stamped = patched(&annotated, &server.ask("/stamp", &annotated, &Value::Null).await);
    assert_eq!(stamped["spec"]["template"]["metadata"]["labels"]["conch.rs/election"], "payments");

    let mut removed = stamped.clone();
    removed["metadata"]["annotations"] = json!({});
    let unstamped = patched(&removed, &server.ask("/stamp", &removed, &stamped).await);
    assert_eq!(unstamped, workload(&json!({})));

    let missing = server.ask("/stamp", &workload(&json!({"conch.rs/policy": "nope"})), &Value::Null).await;
    assert_eq!(missing["allowed"], true);
    assert!(missing["warnings"][0].as_str().unwrap().starts_with("pods wait"));

    let refused = server.ask("/stamp", &workload(&json!({"conch.rs/policy": "No Name"})), &Value::Null).await;
    assert_eq!(refused["allowed"], false);
}

#[tokio::test]
async fn what_is_no_admission_review_is_refused() {
    let server = Server::new();
    let mut other = review(&pods()["plain"], &Value::Null);
    other["apiVersion"] = json!("admission.k8s.io/v1beta1");
    for body in [
        b"".to_vec(),
        b"{}".to_vec(),
        vec![0xff; 100],
        vec![b'['; 100_000],
        vec![b' '; 9 << 20],
        other.to_string().into(),
    ] {
        for path in ["/inject", "/stamp"] {
            assert_eq!(server.post(path, body.clone()).await.0, 400);
        }
    }
    assert_eq!(server.post("/other", Vec::new()).await.0, 404);
    assert!(server.metrics().contains("reason=\"BodyUnreadable\"} 1"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn any_object_is_answered(object in prop_oneof![podlike(), json_value()], old in json_value()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let server = Server::new();
        let mut object = object;
        if let Some(Value::Object(labels)) = object.pointer_mut("/metadata/labels") {
            labels.insert("conch.rs/election".to_owned(), json!("payments"));
        }
        let body = serde_json::to_vec(&review(&object, &old)).unwrap();
        for path in ["/inject", "/stamp"] {
            let (status, _) = runtime.block_on(server.post(path, body.clone()));
            prop_assert!([200, 400].contains(&status), "{}", status);
        }
    }

    #[test]
    fn any_bytes_are_answered(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (status, _) = runtime.block_on(Server::new().post("/inject", body));
        prop_assert_eq!(status, 400);
    }
}
