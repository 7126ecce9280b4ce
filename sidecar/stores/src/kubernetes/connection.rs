//! The way to the API server: one request is one attempt, and an attempt that got no answer costs its connection.
//!
//! The client that kube builds by default repeats a request for minutes by itself, holds an idle connection that may be
//! dead, and reads its token once a minute. Here each request is sent once; TCP keep-alive finds a dead peer under a
//! silent watch; and after a request that was given up, broke or was not authenticated, the next one goes over a new
//! client: new connection, token and certificate authority read again.

use conch_election::{Failure, FailureKind};
use http::{HeaderMap, Request, Response, StatusCode, header::RETRY_AFTER};
use hyper_util::{
    client::legacy::{Client as HyperClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client, Config,
    client::{Body, ConfigExt},
    core::Status,
};
use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tower::{BoxError, ServiceBuilder};
use tracing::trace;

/// An API server that does not accept a connection within this time is tried again on a new one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A silent connection is probed after this time,
const KEEPALIVE: Duration = Duration::from_secs(5);
/// and taken for dead after so many probes without an answer.
const KEEPALIVE_PROBES: u32 = 3;

/// Why no connection can be made from the configuration.
#[derive(Debug, thiserror::Error)]
#[error("failed to build a client for the API server")]
pub struct ConnectError(#[source] Box<kube::Error>);

pub(super) struct Connection {
    config: Config,
    client: Mutex<Option<Client>>,
}

/// Why a request did not succeed.
#[derive(Debug)]
pub(super) enum Rejection {
    /// The server said no.
    Status {
        status: StatusCode,
        /// What it says about it; `None` if the answer is none of an API server, but of something before it.
        details: Option<Box<Status>>,
        retry_after: Option<Duration>,
    },
    /// No whole answer came.
    Broken(Box<kube::Error>),
}

/// A request under way. Dropped unsettled, it leaves no client for the next one.
struct Attempt<'c> {
    connection: &'c Connection,
    settled: bool,
}

impl Connection {
    pub(super) fn new(config: Config) -> Result<Self, ConnectError> {
        let client = build(&config).map_err(|error| ConnectError(Box::new(error)))?;
        Ok(Self { config, client: Mutex::new(Some(client)) })
    }

    /// Sends a request once and returns the body of a successful answer.
    pub(super) async fn exchange(&self, request: Request<Vec<u8>>) -> Result<Vec<u8>, Rejection> {
        let client = self.client()?;
        trace!(method = %request.method(), "sends a request");
        let mut attempt = Attempt { connection: self, settled: false };
        let response = client.send(request.map(Body::from)).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = read_body(response).await?;
        attempt.settled = status != StatusCode::UNAUTHORIZED;
        if status.is_success() { Ok(body) } else { Err(Rejection::of(status, &headers, &body)) }
    }

    /// The client for the next request.
    pub(super) fn client(&self) -> Result<Client, Rejection> {
        let mut client = self.lock();
        match &*client {
            Some(client) => Ok(client.clone()),
            None => Ok(client.insert(build(&self.config)?).clone()),
        }
    }

    /// Lets the next request build a new client.
    pub(super) fn renew(&self) {
        self.lock().take();
    }

    fn lock(&self) -> MutexGuard<'_, Option<Client>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Connection").field("server", &self.config.cluster_url).finish_non_exhaustive()
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.connection.renew();
        }
    }
}

impl Rejection {
    fn of(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let details = serde_json::from_slice::<Status>(body).ok().map(Box::new);
        // Priority and fairness answers with the header and plain text, other parts of the server with details.
        let header = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let detail = details.as_ref().and_then(|status| Some(status.details.as_ref()?.retry_after_seconds));
        let retry_after =
            header.or(detail.map(u64::from)).filter(|seconds| *seconds > 0).map(Duration::from_secs);
        Self::Status { status, details, retry_after }
    }

    /// Does the API server itself say that the object does not exist? A 404 of a proxy, or for an API that is not served,
    /// says nothing about it.
    pub(super) fn is_not_found(&self) -> bool {
        self.says(StatusCode::NOT_FOUND, "NotFound")
    }

    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, Self::Status { status: StatusCode::CONFLICT, .. })
    }

    pub(super) fn is_forbidden(&self) -> bool {
        matches!(self, Self::Status { status: StatusCode::FORBIDDEN, .. })
    }

    /// Does the server no longer know what happened since?
    pub(super) fn is_gone(&self) -> bool {
        matches!(self, Self::Status { status: StatusCode::GONE, .. })
    }

    /// What the election needs to know of it.
    pub(super) fn failure(&self) -> Failure {
        match self {
            Self::Broken(error) => {
                let unreadable = matches!(**error, kube::Error::SerdeError(_));
                let kind = if unreadable { FailureKind::Invalid } else { FailureKind::Unavailable };
                Failure { kind, retry_after: None }
            }
            Self::Status { status, retry_after, .. } => {
                Failure { kind: kind(*status), retry_after: *retry_after }
            }
        }
    }

    /// For people.
    pub(super) fn message(&self) -> String {
        match self {
            Self::Status { status, details, .. } => {
                let message = details.as_ref().map_or("", |details| details.message.as_str());
                format!("{status}: {message}")
            }
            Self::Broken(error) => chain(error.as_ref()),
        }
    }

    fn says(&self, expected: StatusCode, reason: &str) -> bool {
        matches!(self, Self::Status { status, details: Some(details), .. }
            if *status == expected && details.reason == reason)
    }
}

impl From<kube::Error> for Rejection {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(details) => match StatusCode::from_u16(details.code) {
                Ok(status) => {
                    let seconds = details.details.as_ref().map_or(0, |details| details.retry_after_seconds);
                    let retry_after = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
                    Self::Status { status, details: Some(details), retry_after }
                }
                Err(_) => Self::Broken(Box::new(kube::Error::Api(details))),
            },
            error => Self::Broken(Box::new(error)),
        }
    }
}

fn kind(status: StatusCode) -> FailureKind {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => FailureKind::Denied,
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => FailureKind::Timeout,
        // A 404 that is none of the API server's own comes from something that stands before it, e.g. while it starts.
        StatusCode::TOO_MANY_REQUESTS | StatusCode::NOT_FOUND => FailureKind::Unavailable,
        status if status.is_server_error() => FailureKind::Unavailable,
        _ => FailureKind::Invalid,
    }
}

async fn read_body(response: Response<Body>) -> Result<Vec<u8>, kube::Error> {
    Ok(response.into_body().collect_bytes().await?.into())
}

/// The whole story of an error, outermost first: kube's errors often say only "service error" themselves.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn build(config: &Config) -> Result<Client, kube::Error> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_keepalive_interval(Some(KEEPALIVE));
    connector.set_keepalive_retries(Some(KEEPALIVE_PROBES));
    // HTTP/1.1 only: dropping a request closes its connection, and one slow answer delays no other.
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(HyperClient::builder(TokioExecutor::new()).build(connector));
    Ok(Client::new(service, config.default_namespace.clone()))
}
