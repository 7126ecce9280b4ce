//! The way to the API server: one request is one attempt, and an attempt that got no answer costs its connection.
//!
//! The client that kube builds by default repeats a request for minutes by itself, holds an idle connection that may be
//! dead, and reads its token once a minute. Here each request is sent once; TCP keep-alive finds a dead peer under a
//! silent watch; and after a request that was given up, broke or was not authenticated, the next one goes over a new
//! client: new connection, token and certificate authority read again.

use conch_election::{Failure, FailureKind, LEASE_MAX};
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
    fmt, io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tower::{BoxError, ServiceBuilder};
use tracing::trace;

/// An API server that does not accept a connection within this time is tried again on a new one, from another port: where the
/// first SYN was sent before the address of its Service was translated, none of its repetitions ever is. TCP repeats one
/// after a second.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_500);
/// A silent connection is probed after this time, which is the default interval of renewals: a watch that works is seldom
/// silent for as long,
const KEEPALIVE: Duration = Duration::from_secs(2);
/// then in this interval,
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// and taken for dead after so many probes without an answer. That is before TCP's own repetitions are so far apart that a
/// connection which outlives an outage brings its news much later than a new one.
const KEEPALIVE_PROBES: u32 = 2;

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
    /// No answer came in time.
    TimedOut,
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
        let seconds = header.or(detail.map(u64::from)).unwrap_or_default();
        Self::Status { status, details, retry_after: retry_after(seconds) }
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
            Self::TimedOut => Failure { kind: FailureKind::Timeout, retry_after: None },
            Self::Broken(error) => {
                let kind = match **error {
                    kube::Error::SerdeError(_) => FailureKind::Invalid,
                    _ if timed_out(error.as_ref()) => FailureKind::Timeout,
                    _ => FailureKind::Unavailable,
                };
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
            Self::TimedOut => "no answer in time".to_owned(),
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
                    Self::Status { status, details: Some(details), retry_after: retry_after(seconds.into()) }
                }
                Err(_) => Self::Broken(Box::new(kube::Error::Api(details))),
            },
            error => Self::Broken(Box::new(error)),
        }
    }
}

/// Zero asks for nothing, and nobody is left alone for longer than any lease.
fn retry_after(seconds: u64) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds).min(LEASE_MAX))
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

/// The whole story of an error: kube's errors often say only "service error" themselves.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    causes(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Was it a wait in vain, e.g. for a connection? Then the time that it took was pause enough.
fn timed_out(error: &(dyn std::error::Error + 'static)) -> bool {
    let is_timeout = |error: &io::Error| error.kind() == io::ErrorKind::TimedOut;
    causes(error).any(|cause| cause.downcast_ref().is_some_and(is_timeout))
}

/// Outermost first.
fn causes<'e>(
    error: &'e (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'e (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

fn build(config: &Config) -> Result<Client, kube::Error> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn rejection(status: u16, retry_after: Option<&str>, body: &str) -> Rejection {
        let headers = retry_after.map(|value| (RETRY_AFTER, value.parse().unwrap()));
        Rejection::of(StatusCode::from_u16(status).unwrap(), &headers.into_iter().collect(), body.as_bytes())
    }

    #[test]
    fn each_status_is_told_as_what_people_do_about_it() {
        for (status, kind) in [
            (400, FailureKind::Invalid),
            (401, FailureKind::Denied),
            (403, FailureKind::Denied),
            (404, FailureKind::Unavailable),
            (405, FailureKind::Invalid),
            (408, FailureKind::Timeout),
            (413, FailureKind::Invalid),
            (422, FailureKind::Invalid),
            (429, FailureKind::Unavailable),
            (302, FailureKind::Invalid),
            (500, FailureKind::Unavailable),
            (502, FailureKind::Unavailable),
            (503, FailureKind::Unavailable),
            (504, FailureKind::Timeout),
        ] {
            assert_eq!(
                rejection(status, None, "").failure(),
                Failure { kind, retry_after: None },
                "{status}"
            );
        }
    }

    #[test]
    fn the_server_may_ask_to_be_left_alone_in_two_ways() {
        const DETAILS: &str = r#"{"kind":"Status","code":429,"details":{"retryAfterSeconds":7}}"#;
        for (header, body, seconds) in [
            (Some("3"), "Too many requests, please try again later.\n", Some(3)),
            (None, DETAILS, Some(7)),
            (Some("3"), DETAILS, Some(3)),
            (Some("Wed, 21 Oct 2026 07:28:00 GMT"), DETAILS, Some(7)),
            (Some("0"), "", None),
            (Some("-1"), "", None),
            (Some("18446744073709551615"), "", Some(3_600)),
            (None, "{", None),
        ] {
            let expected = seconds.map(Duration::from_secs);
            assert_eq!(rejection(429, header, body).failure().retry_after, expected, "{header:?} {body}");
        }
    }

    #[test]
    fn only_the_api_server_can_say_that_there_is_no_lease() {
        const NOT_FOUND: &str = r#"{"kind":"Status","status":"Failure","reason":"NotFound","code":404,
            "message":"leases.coordination.k8s.io \"x\" not found","details":{"name":"x","kind":"leases"}}"#;
        assert!(rejection(404, None, NOT_FOUND).is_not_found());
        assert!(!rejection(404, None, "404 page not found\n").is_not_found());
        assert!(!rejection(404, None, "<html>").is_not_found());
        assert!(!rejection(404, None, "{}").is_not_found());
        assert!(!rejection(503, None, NOT_FOUND).is_not_found());
    }

    #[tokio::test]
    async fn a_server_that_takes_no_connection_is_late_and_one_that_refuses_is_unavailable() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let full = tokio::net::TcpSocket::new_v4().unwrap();
        full.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = full.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let kind = async || {
            let config = Config::new(format!("https://{address}").parse().unwrap());
            let request = Request::get("/").body(Vec::new()).unwrap();
            let attempt = Connection::new(config).unwrap().exchange(request).await;
            attempt.unwrap_err().failure().kind
        };
        // The kernel drops every SYN while as many connections wait to be accepted as the queue has places.
        let waiting = futures::future::join_all((0..4).map(|_| {
            tokio::time::timeout(Duration::from_millis(200), tokio::net::TcpStream::connect(address))
        }));
        let waiting = waiting.await;
        assert!(waiting.iter().any(Result::is_err), "the queue is not full");
        assert_eq!(kind().await, FailureKind::Timeout);
        drop(listener);
        assert_eq!(kind().await, FailureKind::Unavailable);
    }

    #[test]
    fn an_answer_that_cannot_be_read_is_invalid_and_a_broken_one_is_not() {
        let unreadable = serde_json::from_str::<u8>("x").unwrap_err();
        assert_eq!(Rejection::from(kube::Error::SerdeError(unreadable)).failure().kind, FailureKind::Invalid);
        let broken = kube::Error::Service("reset".into());
        assert_eq!(Rejection::from(broken).failure().kind, FailureKind::Unavailable);
        let gone = Status::failure("too old", "Expired").with_code(410);
        assert!(Rejection::from(kube::Error::Api(gone.boxed())).is_gone());
    }
}
