//! HTTP over TLS.

use super::{
    handle::{HandleError, Handled, inject_pod, stamp},
    lookup::Policies,
    metrics::{Outcome, Path, WebhookMetrics},
};
use crate::{certs::CurrentCertificate, inject::SidecarImage};
use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use conch_crds::names::operator_objects::{INJECT_PATH, STAMP_PATH};
use conch_process::serve::{Limits, serve_with};
use rustls::{ServerConfig, crypto::ring};
use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

/// An object has at most 1.5 MiB in etcd; a request may hold two of them, in a wordier encoding.
const BODY_MAX: usize = 8 << 20;

/// How long a request may take from its head to its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Idle connections are kept for longer than Go's clients keep them, 90 s: so it is never the server that closes one just
/// when the next request is sent, which Go would not send again.
const LIMITS: Limits = Limits {
    connections: 512,
    header_bytes: 16_384,
    header_timeout: Duration::from_mins(2),
    stall_timeout: Duration::from_secs(10),
    drain_timeout: Duration::from_secs(10),
};

/// What requests are answered from.
pub struct Webhook<P> {
    /// What is injected.
    pub image: SidecarImage,
    /// Where policies are looked up.
    pub policies: P,
    /// Where admissions are counted.
    pub metrics: WebhookMetrics,
}

/// The two paths of the webhook, without TLS.
pub fn router<P: Policies>(webhook: Arc<Webhook<P>>) -> Router {
    Router::new()
        .route(STAMP_PATH, post(answer::<P>).with_state((Arc::clone(&webhook), Path::Stamp)))
        .route(INJECT_PATH, post(answer::<P>).with_state((webhook, Path::Inject)))
}

/// Serves the webhook over TLS, each handshake with the certificate that is current then, until `shutdown` completes and
/// the answers under way are sent.
pub async fn serve<P: Policies>(
    listener: TcpListener,
    certificate: Arc<CurrentCertificate>,
    webhook: Arc<Webhook<P>>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let handshake = move |stream: TcpStream| {
        let accepting = acceptor.accept(stream);
        async move { timeout(HANDSHAKE_TIMEOUT, accepting).await? }
    };
    serve_with(listener, handshake, router(webhook), LIMITS, shutdown).await
}

async fn answer<P: Policies>(State((webhook, path)): State<(Arc<Webhook<P>>, Path)>, body: Body) -> Response {
    let began = Instant::now();
    let answering = async {
        let body = to_bytes(body, BODY_MAX).await.map_err(|_| HandleError::Body)?;
        match path {
            Path::Stamp => stamp(&webhook, &body).await,
            Path::Inject => inject_pod(&webhook, &body).await,
        }
    };
    let handled = timeout(REQUEST_TIMEOUT, answering).await.unwrap_or(Err(HandleError::TimedOut));
    let (outcome, reason, response) = match handled {
        Ok(Handled { answer, outcome, reason }) => (outcome, reason, Json(answer).into_response()),
        Err(error) => (Outcome::Failed, error.reason(), failure(path, &error)),
    };
    webhook.metrics.count(path, outcome, reason, began.elapsed());
    response
}

/// What is said here reaches the author of the object, through the API server.
fn failure(path: Path, error: &HandleError) -> Response {
    tracing::warn!(webhook = path.as_str(), error = %crate::certs::WithSources(error), "failed to answer an admission request");
    let status = if error.is_permanent() { StatusCode::BAD_REQUEST } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, error.to_string()).into_response()
}
