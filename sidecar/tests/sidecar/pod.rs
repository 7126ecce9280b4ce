//! A sidecar with a register in memory behind it, asked without a network.

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Method, Request, StatusCode},
    response::Response,
};
use conch_crds::{PodDeletion, program::Presence};
use conch_election::{Config, Content, Identity, Nonce, Timing};
use conch_sidecar::{
    gate::Rules,
    http,
    metrics::{LeaderStatus, Metrics},
    program::Program,
    shutdown::{Shutdown, Sign},
    sidecar::Sidecar,
    view::About,
    watchdog::LoopTurns,
    witness::Witness,
};
use conch_stores::{
    Fencing, Store, clock,
    driver::{ChangesEnded, Clock, Driver},
    memory::MemoryStore,
};
use http_body_util::BodyExt;
use prometheus_client::{encoding::text::encode, registry::Registry};
use serde_json::Value;
use std::{sync::Arc, time::Duration};
use tokio::{task::JoinHandle, time::timeout};
use tower::ServiceExt;

pub(crate) const LEASE: Duration = Duration::from_secs(4);
pub(crate) const RENEW_INTERVAL: Duration = Duration::from_millis(500);
pub(crate) const MAX_PROMISE: Duration = Duration::from_secs(1);
pub(crate) const STOP_GRACE: Duration = Duration::from_millis(500);
/// The sidecar image that was injected.
pub(crate) const IMAGE: &str = "conch:1";
pub(crate) const LOCAL: (&str, &str) = ("host", "localhost:4040");
pub(crate) const POST: (&str, &str) = ("conch-request", "1");

pub(crate) struct Pod {
    pub(crate) sidecar: Arc<Sidecar>,
    pub(crate) router: Router,
    pub(crate) store: MemoryStore,
    registry: Registry,
    _driver: JoinHandle<Result<(), ChangesEnded>>,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

/// A pod of a fresh election: it leads a moment after it is a candidate.
pub(crate) fn pod() -> Pod {
    let store = MemoryStore::new();
    store.overwrite(Content::Fresh);
    pod_of(store, 1)
}

pub(crate) fn pod_of(store: MemoryStore, number: u128) -> Pod {
    pod_with(store, number, Presence::Asked, Rules::NONE)
}

pub(crate) fn pod_with(store: MemoryStore, number: u128, presence: Presence, rules: Rules) -> Pod {
    let timing = Timing::new(LEASE, RENEW_INTERVAL, STOP_GRACE, MAX_PROMISE).unwrap();
    pod_over(store.clone(), store, number, clock::now, timing, Program::new(presence, rules, STOP_GRACE))
}

/// A pod whose sidecar reaches the register `memory` by `store`, and reads this clock.
pub(crate) fn pod_over<S: Store>(
    store: S,
    memory: MemoryStore,
    number: u128,
    clock: Clock,
    timing: Timing,
    program: Program,
) -> Pod {
    let (pod, pod_uid) = (format!("pod-{number}"), format!("uid-{number}"));
    let identity = Identity { pod: pod.clone(), pod_uid: pod_uid.clone(), nonce: Nonce(number) };
    let config = Config { identity, timing, longest_lease: timing.lease(), fencing_offset: 0 };
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let witness = Arc::new(Witness::new(metrics, LoopTurns::default()));
    let (driver, candidate) = Driver::new(store, config, clock, witness.clone());
    let about = About {
        election: "shop/payments".to_owned(),
        pod,
        pod_uid: pod_uid.clone(),
        boot_id: "boot".to_owned(),
        store: "memory".to_owned(),
        fencing: Box::new(|| Fencing::Strict),
    };
    let shutdown = Shutdown::new(pod_uid, IMAGE.to_owned(), false);
    let sidecar = Arc::new(Sidecar::new(candidate, clock, about, witness, program, shutdown));
    let status_of = Arc::clone(&sidecar);
    let election = sidecar.about().election.clone();
    registry.register_collector(Box::new(LeaderStatus { election, leads: move || status_of.leads() }));
    let timers = Arc::clone(&sidecar);
    tokio::spawn(async move { timers.run_timers().await });
    let router = http::router(Arc::clone(&sidecar));
    Pod { sidecar, router, store: memory, registry, _driver: tokio::spawn(driver.run()) }
}

impl Pod {
    /// What the operator says when somebody deletes this pod, which names this image of the sidecar then.
    pub(crate) fn is_being_deleted(&self, image: &str) {
        let (pod_uid, sidecar_image) = (self.sidecar.about().pod_uid.clone(), image.to_owned());
        let deletion = PodDeletion { pod_uid, grace_seconds: 30, sidecar_image };
        self.sidecar.note(Sign::Deletion(conch_stores::clock::now(), deletion));
    }

    /// SIGTERM of a pod that is being deleted, without a proof that its program has exited.
    pub(crate) fn is_told_to_end(&self) {
        self.is_being_deleted("another image");
        self.sidecar.signalled("SIGTERM");
    }

    /// The same pod, whose sidecar also answers as nais/elector does.
    pub(crate) fn with_elector(mut self, host_name: &str) -> Self {
        self.router = http::router_with_elector(Arc::clone(&self.sidecar), host_name.to_owned());
        self
    }

    /// The same pod, whose sidecar runs the program itself.
    pub(crate) fn wrapped(mut self) -> Self {
        self.router = http::wrapped_router(Arc::clone(&self.sidecar));
        self
    }

    /// The response as it is, for bodies that are no JSON or never end.
    pub(crate) async fn send(&self, request: Request<Body>) -> Response {
        self.router.clone().oneshot(request).await.unwrap()
    }

    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
        Answer { status, headers, body }
    }

    pub(crate) fn metrics(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        text
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, &[LOCAL], "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Answer {
        self.ask(Method::POST, path, &[LOCAL, POST], body).await
    }

    pub(crate) async fn resign(&self, body: &str) -> Answer {
        self.post("/v1/resign", body).await
    }

    /// Asks until this pod leads; returns its token.
    pub(crate) async fn lead(&self) -> String {
        let answer = self.get("/v1/leader?wait=10s").await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        answer.body["token"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn stream(&self, path: &str) -> Events {
        let request = Request::get(path).header(LOCAL.0, LOCAL.1).body(Body::empty()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        Events { body: response.into_body() }
    }
}

pub(crate) struct Events {
    pub(crate) body: Body,
}

impl Events {
    /// The next event: its fields as text, and its data.
    pub(crate) async fn next(&mut self) -> (String, Value) {
        let frame = timeout(Duration::from_secs(10), self.body.frame()).await.expect("an event comes");
        let text = String::from_utf8(frame.unwrap().unwrap().into_data().unwrap().to_vec()).unwrap();
        let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap_or("null");
        (text.clone(), serde_json::from_str(data).unwrap())
    }

    pub(crate) async fn until(&mut self, leader: bool) -> Value {
        loop {
            let (_, data) = self.next().await;
            if data["leader"] == leader {
                return data;
            }
        }
    }
}
