//! The API of the sidecar, on the loopback addresses of the pod.

mod elector;
mod guard;
mod refusal;
mod streams;
mod wrapped;

use crate::{program::Channel, sidecar::Sidecar, view::View};
use axum::{
    Json, Router,
    body::{Body, Bytes, to_bytes},
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderName, HeaderValue, StatusCode, header::CACHE_CONTROL},
    middleware::{from_fn, map_response_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use conch_crds::duration::DurationText;
use conch_election::{Moment, Token};
use refusal::{REASONS, Refusal, Refused};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

pub(crate) use guard::REQUEST_HEADER;
pub(crate) use streams::STREAMS_MAX;
pub use wrapped::wrapped_router;

/// Where `conch-sidecar prestop` tells that the kubelet ran it. For this binary alone.
pub const PRE_STOP: &str = "/internal/prestop";

/// The longest `?wait=`.
const WAIT_MAX: Duration = Duration::from_mins(5);
/// The longest cool-down that a program may ask for.
const COOL_DOWN_MAX: Duration = Duration::from_hours(1);
/// How long a program waits for a new term. It may have to wait for one renewal interval, and for the store.
const TERM_TIMEOUT: Duration = Duration::from_secs(10);
const BODY_BYTES_MAX: usize = 4_096;
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

const TOKEN_HEADER: HeaderName = HeaderName::from_static("conch-token");
const VALID_FOR_HEADER: HeaderName = HeaderName::from_static("conch-valid-for-ms");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Serves the API for one sidecar.
pub fn router(sidecar: Arc<Sidecar>) -> Router {
    let streams = streams::Streams::new(sidecar.clone());
    counted(guarded(routes(sidecar.clone(), streams)), sidecar)
}

/// The same, and `GET /` and `GET /sse` as nais/elector answers them. `host_name`: of this pod, with which its program compares
/// what it is told.
pub fn router_with_elector(sidecar: Arc<Sidecar>, host_name: String) -> Router {
    let streams = streams::Streams::new(sidecar.clone());
    let elector = elector::routes(sidecar.clone(), streams.clone(), host_name);
    counted(guarded(routes(sidecar.clone(), streams).merge(elector)), sidecar)
}

fn routes(sidecar: Arc<Sidecar>, streams: streams::Streams) -> Router {
    let no_head = || async { Refusal::MethodNotAllowed };
    Router::new()
        .route("/v1/leader", get(leader))
        .route("/v1/status", get(status))
        .route("/v1/resign", post(resign))
        .route("/v1/heartbeat", post(heartbeat))
        .route("/v1/term", post(begin_anew))
        .route(PRE_STOP, post(pre_stop))
        .with_state(sidecar)
        // A HEAD would open a stream and close it at once: a resignation.
        .route("/v1/lead", get(streams::lead).head(no_head).with_state(streams.clone()))
        .route("/v1/watch", get(streams::watch).head(no_head).with_state(streams))
}

fn guarded(routes: Router) -> Router {
    routes
        .fallback(|| async { Refusal::NotFound })
        .method_not_allowed_fallback(|| async { Refusal::MethodNotAllowed })
        .layer(from_fn(guard::guard))
}

/// Counts what is refused.
fn counted(routes: Router, sidecar: Arc<Sidecar>) -> Router {
    sidecar.witness().metrics.expect_refusals(&REASONS);
    routes.layer(map_response_with_state(
        sidecar,
        async |State(sidecar): State<Arc<Sidecar>>, response: Response| {
            if let Some(Refused(reason)) = response.extensions().get() {
                sidecar.witness().metrics.refused(reason);
            }
            response
        },
    ))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LeaderQuery {
    wait: Option<DurationText>,
}

async fn leader(
    State(sidecar): State<Arc<Sidecar>>,
    query: Result<Query<LeaderQuery>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(LeaderQuery { wait }) = query.map_err(|rejection| Refusal::BadQuery(rejection.body_text()))?;
    sidecar.ask();
    if let Some(limit) = wait {
        wait_for_lead(&sidecar, limit.get()).await?;
    }
    let view = sidecar.answer(Channel::Elsewhere);
    let status = if view.leader { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    sidecar.witness().metrics.answered("leader", view.leader);
    Ok(with_headers(status, &view, &view))
}

async fn wait_for_lead(sidecar: &Sidecar, limit: Duration) -> Result<(), Refusal> {
    if limit > WAIT_MAX {
        return Err(Refusal::BadQuery(format!("\"wait\" is at most {} s.", WAIT_MAX.as_secs())));
    }
    let mut changes = sidecar.subscribe();
    let leads = async {
        while !sidecar.leads() && !sidecar.is_ending() {
            if changes.changed().await.is_err() {
                return; // the process ends
            }
        }
    };
    let _ = timeout(limit, leads).await; // whichever came first, the answer is computed now
    Ok(())
}

async fn status(State(sidecar): State<Arc<Sidecar>>) -> Response {
    let status = sidecar.status();
    sidecar.witness().metrics.answered("status", status.answer.leader);
    with_headers(StatusCode::OK, &status.answer, &status)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Resignation {
    token: String,
    cool_down: Option<DurationText>,
}

async fn resign(State(sidecar): State<Arc<Sidecar>>, body: Body) -> Result<Response, Refusal> {
    let Resignation { token, cool_down } = read_json(body).await?;
    let token = parse_token(&token)?;
    let cool_down = cool_down.map(DurationText::get);
    if cool_down.is_some_and(|cool_down| cool_down > COOL_DOWN_MAX) {
        return Err(Refusal::BadBody(format!("\"coolDown\" is at most {} s.", COOL_DOWN_MAX.as_secs())));
    }
    sidecar.resign(token, cool_down).map_err(Refusal::NotCurrent)?;
    Ok(done(&sidecar, "resign"))
}

/// A heartbeat says nothing but that it comes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Beat {}

async fn heartbeat(State(sidecar): State<Arc<Sidecar>>, body: Body) -> Result<Response, Refusal> {
    let bytes = read(body).await?;
    if !bytes.is_empty() {
        let Beat {} = understand(&bytes)?;
    }
    sidecar.beat();
    Ok(done(&sidecar, "heartbeat"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Term {
    token: String,
}

async fn begin_anew(State(sidecar): State<Arc<Sidecar>>, body: Body) -> Result<Response, Refusal> {
    let Term { token } = read_json(body).await?;
    let begun = timeout(TERM_TIMEOUT, sidecar.begin_anew(parse_token(&token)?)).await;
    begun.map_err(|_| Refusal::TermPending)?.map_err(Refusal::NotCurrent)?;
    Ok(done(&sidecar, "term"))
}

/// What was asked for is done; the answer as it is then.
fn done(sidecar: &Sidecar, endpoint: &'static str) -> Response {
    let view = sidecar.answer(Channel::Elsewhere);
    sidecar.witness().metrics.answered(endpoint, view.leader);
    with_headers(StatusCode::OK, &view, &view)
}

fn parse_token(token: &str) -> Result<Token, Refusal> {
    let is_number = !token.is_empty() && token.bytes().all(|digit| digit.is_ascii_digit());
    let token = token.parse().ok().filter(|_| is_number).map(Token);
    token.ok_or_else(|| Refusal::BadBody("\"token\" is no token.".to_owned()))
}

/// The query of [`PRE_STOP`]: what the clocks said when the kubelet ran the command, in nanoseconds.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[expect(clippy::struct_field_names, reason = "units are in names")]
pub(crate) struct Called {
    boottime_ns: u64,
    monotonic_ns: u64,
    monotonic_raw_ns: u64,
}

impl From<Moment> for Called {
    fn from(Moment { boottime, monotonic, monotonic_raw }: Moment) -> Self {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self {
            boottime_ns: nanoseconds(boottime),
            monotonic_ns: nanoseconds(monotonic),
            monotonic_raw_ns: nanoseconds(monotonic_raw),
        }
    }
}

impl From<Called> for Moment {
    fn from(called: Called) -> Self {
        Self {
            boottime: Duration::from_nanos(called.boottime_ns),
            monotonic: Duration::from_nanos(called.monotonic_ns),
            monotonic_raw: Duration::from_nanos(called.monotonic_raw_ns),
        }
    }
}

async fn pre_stop(
    State(sidecar): State<Arc<Sidecar>>,
    query: Result<Query<Called>, QueryRejection>,
) -> Result<StatusCode, Refusal> {
    let Query(called) = query.map_err(|rejection| Refusal::BadQuery(rejection.body_text()))?;
    sidecar.pre_stop(called.into());
    Ok(StatusCode::NO_CONTENT)
}

async fn read_json<T: DeserializeOwned>(body: Body) -> Result<T, Refusal> {
    understand(&read(body).await?)
}

async fn read(body: Body) -> Result<Bytes, Refusal> {
    let late = || Refusal::BadBody("The body did not come in time.".to_owned());
    let unreadable =
        |_| Refusal::BadBody(format!("The body is broken or longer than {BODY_BYTES_MAX} bytes."));
    timeout(BODY_TIMEOUT, to_bytes(body, BODY_BYTES_MAX)).await.map_err(|_| late())?.map_err(unreadable)
}

fn understand<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, Refusal> {
    serde_json::from_slice(bytes)
        .map_err(|error| Refusal::BadBody(format!("The body is not understood: {error}.")))
}

fn with_headers(status: StatusCode, view: &View, body: &impl Serialize) -> Response {
    let mut response = (status, Json(body)).into_response();
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, NO_STORE);
    headers.insert(VALID_FOR_HEADER, HeaderValue::from(view.valid_for_ms));
    if let Some(token) = view.token.as_deref().and_then(|token| HeaderValue::from_str(token).ok()) {
        headers.insert(TOKEN_HEADER, token);
    }
    response
}
