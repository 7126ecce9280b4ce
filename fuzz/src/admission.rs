//! What the API server asks the webhook.

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
};
use conch_crds::{
    CoordinationPolicySpec,
    names::{
        self,
        operator_objects::{INJECT_PATH, STAMP_PATH},
    },
};
use conch_operator::{
    inject::{PullPolicy, SidecarImage},
    webhook::{KnownPolicy, LookupError, Policies, Webhook, WebhookMetrics, router},
};
use http_body_util::BodyExt;
use json_patch::Patch;
use k8s_openapi::ByteString;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{cell::LazyCell, sync::Arc, time::Duration};
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt;

/// Added by us where nobody else said it: the container that kubectl means when none is named.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

thread_local! {
    static WEBHOOK: LazyCell<(Runtime, Router)> = LazyCell::new(|| {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("it needs nothing");
        let reference = "registry.example/conch-sidecar:0.1.0".to_owned();
        let image = SidecarImage { reference, pull_policy: PullPolicy::IfNotPresent };
        (runtime, router(Arc::new(Webhook { image, policies: Known, metrics: WebhookMetrics::default() })))
    });
}

/// Sends the bytes to both paths of the webhook, and panics unless
///
/// * the answer is that the request is none (400) or comes too early (503), or an `AdmissionReview` for it,
/// * its patch applies, and once more nothing is left to do,
/// * nothing changes in the pod but the sidecar and its volume, `CONCH_URL` and two annotations, and nothing in a workload
///   but three labels of its pod template.
pub fn admission(body: &[u8]) {
    for (path, check) in [(INJECT_PATH, only_injected as fn(&Value, &Value)), (STAMP_PATH, only_stamped)] {
        let Some(patch) = ask(path, body) else { continue };
        let mut review = read(body);
        let before = review.request.object.clone();
        let mut after = before.clone();
        json_patch::patch(&mut after, &patch).expect("the patch applies");
        if patch.0.is_empty() {
            continue;
        }
        check(&before, &after);
        review.request.object = after;
        let more = ask(path, &serde_json::to_vec(&review).expect("it was JSON"));
        assert_eq!(more, Some(Patch::default()), "{path}: twice is not once");
    }
}

/// What the webhook reads of a request. What else stands there may be no text, or no number that fits.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    request: Question,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Question {
    uid: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    object: Value,
    #[serde(default)]
    old_object: Value,
}

fn read(body: &[u8]) -> Review {
    serde_json::from_slice(body).expect("only an AdmissionReview is understood")
}

/// The patch of an answer that allows the request.
fn ask(path: &str, body: &[u8]) -> Option<Patch> {
    let (status, answer) = WEBHOOK.with(|webhook| {
        let (runtime, router) = &**webhook;
        let request = Request::post(path).body(Body::from(body.to_vec())).expect("a request");
        runtime.block_on(async {
            let answer = router.clone().oneshot(request).await.expect("infallible");
            (answer.status(), answer.into_body().collect().await.expect("a body").to_bytes())
        })
    });
    if matches!(status, StatusCode::BAD_REQUEST | StatusCode::SERVICE_UNAVAILABLE) {
        return None;
    }
    assert_eq!(status, StatusCode::OK, "{answer:?}");
    let answer: Value = serde_json::from_slice(&answer).expect("the answer is JSON");
    let review = read(body);
    assert_eq!((&answer["apiVersion"], &answer["kind"]), (&json!(review.api_version), &json!(review.kind)));
    let response = &answer["response"];
    assert_eq!(response["uid"], review.request.uid);
    if response["allowed"] == false {
        assert_eq!((&response["status"]["code"], &response["patch"]), (&json!(403), &Value::Null));
        return None;
    }
    if response["patch"].is_null() {
        return Some(Patch::default());
    }
    assert_eq!(response["patchType"], "JSONPatch");
    let bytes: ByteString = serde_json::from_value(response["patch"].clone()).expect("base64");
    Some(serde_json::from_slice(&bytes.0).expect("a patch"))
}

fn only_injected(before: &Value, after: &Value) {
    let last = after["spec"]["initContainers"].as_array().and_then(|containers| containers.last());
    assert_eq!(last.map(|last| &last["name"]), Some(&json!(names::SIDECAR_CONTAINER)));
    let (mut kept, mut rest) = (before.clone(), after.clone());
    for pod in [&mut kept, &mut rest] {
        without(pod, "/spec/initContainers", &|container| container["name"] == names::SIDECAR_CONTAINER);
        without(pod, "/spec/volumes", &|volume| volume["name"] == names::TOKEN_VOLUME);
        if let Some(annotations) = pod.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
            annotations.remove(names::INJECTED);
        }
    }
    let annotation = format!("/metadata/annotations/{}", DEFAULT_CONTAINER.replace('/', "~1"));
    if kept.pointer(&annotation).is_none() {
        without_key(&mut rest, "/metadata/annotations", DEFAULT_CONTAINER);
    }
    let count = before["spec"]["containers"].as_array().map_or(0, Vec::len);
    for index in 0..count {
        let environment = format!("/spec/containers/{index}/env");
        let variables = |pod: &Value| pod.pointer(&environment).and_then(Value::as_array).map_or(0, Vec::len);
        if variables(&rest) == variables(&kept) + 1
            && let Some(variables) = rest.pointer_mut(&environment).and_then(Value::as_array_mut)
        {
            assert_eq!(variables.pop().map(|variable| variable["name"].clone()), Some(json!(names::ENV_URL)));
        }
    }
    prune(&mut kept);
    prune(&mut rest);
    assert_eq!(rest, kept, "the injection touched something else");
}

fn only_stamped(before: &Value, after: &Value) {
    let (mut kept, mut rest) = (before.clone(), after.clone());
    for workload in [&mut kept, &mut rest] {
        for label in [names::POLICY, names::ELECTION_LABEL, names::INJECTION] {
            without_key(workload, "/spec/template/metadata/labels", label);
        }
        prune(workload);
    }
    assert_eq!(rest, kept, "the stamp touched something else");
}

fn without(value: &mut Value, list: &str, ours: &dyn Fn(&Value) -> bool) {
    if let Some(list) = value.pointer_mut(list).and_then(Value::as_array_mut) {
        list.retain(|element| !ours(element));
    }
}

fn without_key(value: &mut Value, map: &str, key: &str) {
    if let Some(map) = value.pointer_mut(map).and_then(Value::as_object_mut) {
        map.remove(key);
    }
}

/// To Kubernetes, nothing, `null` and an empty list or map are the same where these stand.
fn prune(value: &mut Value) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(prune),
        Value::Object(map) => {
            map.values_mut().for_each(prune);
            map.retain(|_, value| !(value.is_null() || *value == json!([]) || *value == json!({})));
        }
        _ => {}
    }
}

/// A namespace with one policy of each kind.
struct Known;

impl Policies for Known {
    async fn policy(&self, _: &str, name: &str) -> Result<Option<KnownPolicy>, LookupError> {
        let spec = match name {
            names::DEFAULT_POLICY => json!({}),
            "tight" => json!({
                "timing": {"leaseDuration": "6s", "renewInterval": "1s", "stopGrace": "2s", "maxPromise": "2s"},
                "program": {"presence": "None"},
                "sidecar": {"port": 9090, "logFormat": "json"},
            }),
            "relaxed" => json!({"injection": "Optional"}),
            "unsafe" => json!({"timing": {"leaseDuration": "5s"}}),
            _ => return Ok(None),
        };
        let spec: CoordinationPolicySpec = serde_json::from_value(spec).expect("a policy");
        Ok(Some(KnownPolicy { generation: 3, spec }))
    }

    fn longest_lease(&self, _: &str, _: &str) -> Option<Duration> {
        Some(Duration::from_secs(10))
    }

    fn is_announced(&self, _: &str, election: &str, _: Duration) -> bool {
        election != "early"
    }

    fn knows_workload_of(&self, _: &str, _: &Value) -> bool {
        true
    }

    fn not_shared(&self, _: &str, election: &str, _: &Value) -> Option<String> {
        (election == "taken").then(|| "election \"taken\" belongs to another workload".to_owned())
    }
}
