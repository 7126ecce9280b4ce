//! An API server that knows one Lease and nothing else, and when each of its writes came. It closes the connection after each
//! write, so that a sidecar needs a new one for every renewal.

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Query, State},
    http::{StatusCode, header::CONNECTION},
    response::{IntoResponse, Response},
    routing::get,
};
use futures::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";

/// Served on a thread of its own until dropped.
pub(crate) struct LeaseServer {
    shared: Arc<Shared>,
    directory: TempDir,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    lease: watch::Sender<Value>,
    writes: Mutex<Vec<Write>>,
    observed: AtomicU32,
}

/// A write that came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write {
    pub(crate) at: Instant,
    /// How long the process under [`LeaseServer::observe`] had been running on a processor then.
    pub(crate) worked: Duration,
}

impl LeaseServer {
    /// With a fresh Lease named `conch-jobs`: whoever asks first may lead at once.
    pub(crate) fn start() -> Self {
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": {},
            "metadata": {
                "name": "conch-jobs", "namespace": "default", "uid": "lease-1", "resourceVersion": "100",
                "annotations": { "conch.rs/fresh": "lease-1" },
            },
        });
        let shared = Arc::new(Shared {
            lease: watch::Sender::new(lease),
            writes: Mutex::default(),
            observed: AtomicU32::default(),
        });
        let (end, ended) = oneshot::channel::<()>();
        let (tell_port, port) = std::sync::mpsc::channel();
        let router = Router::new()
            .route(LEASES, get(follow))
            .route(&format!("{LEASES}/conch-jobs"), get(read).put(write))
            .with_state(Arc::clone(&shared));
        let serve = async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell_port.send(listener.local_addr().unwrap().port()).unwrap();
            tokio::select! {
                served = axum::serve(listener, router) => served.unwrap(),
                _ = ended => {}
            }
        };
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve);
        });
        let directory = TempDir::new().unwrap();
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": format!("http://127.0.0.1:{}", port.recv().unwrap())}}],
            "users": [{"name": "it", "user": {}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        });
        std::fs::write(directory.path().join("kubeconfig"), kubeconfig.to_string()).unwrap();
        Self { shared, directory, end: Some(end), thread: Some(thread) }
    }

    /// The file by which it is reached.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    /// Takes note of how much this process has worked whenever a write comes.
    pub(crate) fn observe(&self, pid: u32) {
        self.shared.observed.store(pid, Ordering::Relaxed);
    }

    /// Each write that came.
    pub(crate) fn writes(&self) -> Vec<Write> {
        self.shared.writes.lock().unwrap().clone()
    }

    /// Somebody else holds the Lease from now on.
    pub(crate) fn take_away(&self, holder: &str) {
        self.shared.lease.send_modify(|lease| {
            lease["spec"]["holderIdentity"] = holder.into();
            count_up(lease);
        });
    }
}

impl Drop for LeaseServer {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How long the first thread of this process has been running on a processor; 0 if there is none.
pub(crate) fn worked(pid: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    let nanoseconds = text.split(' ').next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

fn count_up(lease: &mut Value) {
    let version: u64 = lease["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    lease["metadata"]["resourceVersion"] = (version + 1).to_string().into();
}

async fn read(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(shared.lease.borrow().clone())
}

async fn write(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let worked = worked(shared.observed.load(Ordering::Relaxed));
    shared.writes.lock().unwrap().push(Write { at: Instant::now(), worked });
    let mut new: Value = serde_json::from_slice(&body).unwrap();
    let is_current = |lease: &Value| {
        ["uid", "resourceVersion"].iter().all(|field| lease["metadata"][field] == new["metadata"][field])
    };
    if !is_current(&shared.lease.borrow()) {
        let status = json!({"kind": "Status", "status": "Failure", "reason": "Conflict", "code": 409});
        return (StatusCode::CONFLICT, Json(status)).into_response();
    }
    count_up(&mut new);
    shared.lease.send_replace(new.clone());
    ([(CONNECTION, "close")], Json(new)).into_response()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct From {
    #[serde(default)]
    resource_version: String,
}

/// A watch: the Lease as it is, if that is news, and after each change.
async fn follow(State(shared): State<Arc<Shared>>, Query(from): Query<From>) -> Body {
    let mut lease = shared.lease.subscribe();
    if lease.borrow()["metadata"]["resourceVersion"] != from.resource_version {
        lease.mark_changed();
    }
    Body::from_stream(stream::unfold(lease, async |mut lease| {
        lease.changed().await.ok()?;
        let event = json!({"type": "MODIFIED", "object": lease.borrow_and_update().clone()});
        Some((Ok::<_, std::io::Error>(format!("{event}\n")), lease))
    }))
}
