//! What comes in over a connection to the sidecar.

use axum::Router;
use conch_crds::program::Presence;
use conch_election::{Config, Identity, Moment, Nonce, Timing};
use conch_process::{health::health_router, readiness::Readiness, serve::serve_connection};
use conch_sidecar::{
    gate::Rules,
    http,
    metrics::{LeaderStatus, Metrics},
    program::Program,
    run::API_LIMITS,
    shutdown::Shutdown,
    sidecar::Sidecar,
    view::About,
    watchdog::LoopTurns,
    witness::Witness,
};
use conch_stores::{Fencing, driver::Driver, memory::MemoryStore};
use prometheus_client::registry::Registry;
use std::{
    future,
    sync::{Arc, LazyLock},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    runtime::Builder,
    task::yield_now,
    time::{Instant, timeout},
};

/// A request arrives in such pieces.
const PIECE_BYTES: usize = 512;
/// More than all answers: hyper cuts off its last one, to a malformed request, where the pipe is full.
const PIPE_BYTES: usize = 4 << 20;
/// The client stays for so long: longer than any request may wait.
const PATIENCE: Duration = Duration::from_mins(7);
const STOP_GRACE: Duration = Duration::from_secs(3);

static START: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);

/// Sends the bytes to the sidecar of a pod that never led, on either of its ports, and panics unless
///
/// * every answer has a whole head, and its status is none of a defect (500),
/// * no answer says, in its body or its head, that the pod leads.
pub fn requests(bytes: &[u8]) {
    LazyLock::force(&START);
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("it needs nothing").block_on(async {
        let pod = Pod::new();
        let api = exchange(http::router(Arc::clone(&pod.sidecar)), bytes);
        let answers = tokio::select! {
            answers = api => answers,
            () = pod.sidecar.run_timers() => unreachable!("they run for ever"),
        };
        check(&answers);
        let (readiness, _starting) = Readiness::new();
        check(&exchange(health_router(Arc::new(pod.registry), readiness), bytes).await);
    });
}

/// What comes back until the server closes, or the client loses patience. Time passes at once where nothing else happens.
async fn exchange(router: Router, bytes: &[u8]) -> Vec<u8> {
    let (client, server) = duplex(PIPE_BYTES);
    let serving = serve_connection(server, router, API_LIMITS, future::pending());
    let (mut answers, mut questions) = tokio::io::split(client);
    let mut received = Vec::new();
    let asking = async {
        for piece in bytes.chunks(PIECE_BYTES) {
            let _ = questions.write_all(piece).await; // the server may close before it has read all
            yield_now().await;
        }
        future::pending::<()>().await;
    };
    let session = async {
        tokio::select! {
            _ = answers.read_to_end(&mut received) => {}
            () = asking => {}
        }
    };
    // A connection that breaks is the client's fault here.
    let _ = timeout(PATIENCE, async { tokio::join!(serving, session) }).await;
    received
}

fn check(answers: &[u8]) {
    let text = String::from_utf8_lossy(answers);
    assert!(!text.contains(r#""leader":true"#) && !text.contains("\r\nconch-token:"), "{text}");
    let mut rest = answers;
    while !rest.is_empty() {
        rest = after_one(rest);
    }
}

/// What follows one answer.
fn after_one(answers: &[u8]) -> &[u8] {
    let end = answers.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no whole head: {}", answers.escape_ascii()));
    let (head, rest) = (String::from_utf8_lossy(&answers[..end]), &answers[end + 4..]);
    let (version, status) = head.split_once(' ').expect("an answer begins with its version");
    assert!(matches!(version, "HTTP/1.1" | "HTTP/1.0"), "{head}");
    let status = status.get(..3).and_then(|status| status.parse().ok()).expect("a status");
    assert!(matches!(status, 100 | 200 | 204 | 400..500 | 503), "{head}");
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
    // What answers a HEAD has no body, whatever its head says.
    if rest.is_empty() || rest.starts_with(b"HTTP/1.") {
        return rest;
    }
    if let Some(length) = field("content-length: ") {
        let length: usize = length.parse().expect("a length");
        return rest.get(length..).expect("a whole body");
    }
    assert!(status == 100 || field("content-type: text/event-stream").is_some(), "{head}");
    // A stream of events lasts until the connection ends.
    if status == 100 { rest } else { &[] }
}

struct Pod {
    sidecar: Arc<Sidecar>,
    registry: Registry,
}

impl Pod {
    /// A sidecar that nobody drives, so that it never comes to lead.
    fn new() -> Self {
        let lease = Duration::from_secs(15);
        let timing = Timing::new(lease, Duration::from_secs(2), STOP_GRACE, Duration::from_secs(5));
        let identity = Identity { pod: "pod-1".to_owned(), pod_uid: "uid-1".to_owned(), nonce: Nonce(1) };
        let config =
            Config { identity, timing: timing.expect("safe"), longest_lease: lease, fencing_offset: 0 };
        let mut registry = Registry::default();
        let witness = Arc::new(Witness::new(Metrics::register(&mut registry), LoopTurns::default()));
        let (_, candidate) = Driver::new(MemoryStore::new(), config, now, witness.clone());
        let about = About {
            election: "shop/payments".to_owned(),
            pod: "pod-1".to_owned(),
            pod_uid: "uid-1".to_owned(),
            boot_id: "boot".to_owned(),
            store: "memory".to_owned(),
            fencing: Box::new(|| Fencing::Strict),
        };
        let program = Program::new(Presence::Asked, Rules::NONE, STOP_GRACE);
        let shutdown = Shutdown::new("uid-1".to_owned(), "conch:1".to_owned(), false);
        let sidecar = Arc::new(Sidecar::new(candidate, now, about, witness, program, shutdown));
        let status_of = Arc::clone(&sidecar);
        let election = sidecar.about().election.clone();
        registry.register_collector(Box::new(LeaderStatus { election, leads: move || status_of.leads() }));
        Self { sidecar, registry }
    }
}

/// The runtime's time, which does not pass by itself.
fn now() -> Moment {
    Moment::from_uptime(Instant::now().into_std().duration_since(*START))
}
