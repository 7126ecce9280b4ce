//! `/v1/lead` and `/v1/watch`: the answer, and each new one, as server-sent events.
//!
//! An event is made when the connection can take it, from the clock at that time. So there is no queue that could grow or
//! hold something old: whoever reads slowly misses events, and whoever reads nothing is dropped by the server.

use super::refusal::Refusal;
use crate::{
    program::{Channel, Closed},
    sidecar::Sidecar,
    view::View,
};
use axum::{
    Extension,
    extract::State,
    http::{HeaderValue, header::CACHE_CONTROL},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use conch_process::serve::Connection;
use futures::{Stream, stream};
use prometheus_client::metrics::gauge::Gauge;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};

/// So many streams may be open at one time.
pub(crate) const STREAMS_MAX: usize = 64;
/// A comment after this silence, so that whoever stands between does not take the stream for dead.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a client should wait before it opens a stream again.
const RETRY: Duration = Duration::from_secs(1);
/// A later deadline is an event if it is later by this much.
const EXTENSION_MIN_NS: u128 = 100_000_000;
/// A stream looks for a later deadline when half of the last one is left, but not more often than this.
const LOOK_MIN: Duration = Duration::from_millis(100);

/// What the streams of one sidecar share.
#[derive(Clone)]
pub(super) struct Streams {
    sidecar: Arc<Sidecar>,
    free: Arc<Semaphore>,
}

impl Streams {
    pub(super) fn new(sidecar: Arc<Sidecar>) -> Self {
        Self { sidecar, free: Arc::new(Semaphore::new(STREAMS_MAX)) }
    }
}

/// Holding this stream is being a candidate; closing it is resigning.
pub(super) async fn lead(
    State(streams): State<Streams>,
    connection: Option<Extension<Connection>>,
) -> Result<Response, Refusal> {
    let reader = Reader::new(&streams, "lead", Channel::Lead)?;
    let claim = Claim::new(streams.sidecar, connection.map(|Extension(connection)| connection));
    Ok(respond(reader, Some(claim)))
}

/// The same events, with no claim.
pub(super) async fn watch(State(streams): State<Streams>) -> Result<Response, Refusal> {
    Ok(respond(Reader::new(&streams, "watch", Channel::Elsewhere)?, None))
}

/// As long as it lives, the program wants to lead.
struct Claim {
    sidecar: Arc<Sidecar>,
    connection: Option<Connection>,
}

impl Claim {
    fn new(sidecar: Arc<Sidecar>, connection: Option<Connection>) -> Self {
        sidecar.open_stream();
        Self { sidecar, connection }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let given_up = self.connection.as_ref().is_some_and(Connection::is_stalled);
        self.sidecar.close_stream(if given_up { Closed::ByUs } else { Closed::ByProgram });
    }
}

/// One open stream.
pub(super) struct Reader {
    sidecar: Arc<Sidecar>,
    changes: watch::Receiver<()>,
    endpoint: &'static str,
    channel: Channel,
    last: Option<View>,
    events: u64,
    open: Gauge,
    _permit: OwnedSemaphorePermit,
}

impl Reader {
    pub(super) fn new(streams: &Streams, endpoint: &'static str, channel: Channel) -> Result<Self, Refusal> {
        let permit = Arc::clone(&streams.free).try_acquire_owned().map_err(|_| Refusal::TooManyStreams)?;
        let sidecar = Arc::clone(&streams.sidecar);
        let open = sidecar.witness().metrics.streams(endpoint);
        open.inc();
        let changes = sidecar.subscribe();
        Ok(Self { sidecar, changes, endpoint, channel, last: None, events: 0, open, _permit: permit })
    }

    /// Waits for the next answer that is worth an event. `None`: the process ends.
    pub(super) async fn next(&mut self) -> Option<View> {
        loop {
            self.changes.mark_unchanged();
            let view = self.sidecar.answer(self.channel);
            if self.last.as_ref().is_none_or(|last| is_news(last, &view)) {
                self.sidecar.witness().metrics.answered(self.endpoint, view.leader);
                self.last = Some(view.clone());
                return Some(view);
            }
            match time_until_look(&view) {
                None => self.changes.changed().await.ok()?,
                Some(pause) => {
                    if let Ok(changed) = timeout(pause, self.changes.changed()).await {
                        changed.ok()?;
                    }
                }
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.open.dec();
    }
}

fn respond(reader: Reader, claim: Option<Claim>) -> Response {
    let events = stream::unfold((reader, claim), async |(mut reader, claim)| {
        let view = reader.next().await?;
        let event = event(&view, reader.events);
        reader.events += 1;
        Some((event, (reader, claim)))
    });
    let mut response = sse(events).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn sse(events: impl Stream<Item = Result<Event, axum::Error>> + Send + 'static) -> impl IntoResponse {
    Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT).text("alive"))
}

fn event(view: &View, number: u64) -> Result<Event, axum::Error> {
    let event = Event::default().id(number.to_string());
    let event = if number == 0 { event.retry(RETRY) } else { event };
    event.json_data(view)
}

/// Does the reader need to know? Everything but the passing of time is news, and so is a deadline that was put off.
fn is_news(last: &View, view: &View) -> bool {
    let without_time = |view: &View| View { valid_for_ms: 0, deadline_boottime_ns: None, ..view.clone() };
    without_time(last) != without_time(view)
        || deadline(view).saturating_sub(deadline(last)) >= EXTENSION_MIN_NS
}

fn deadline(view: &View) -> u128 {
    view.deadline_boottime_ns.as_deref().and_then(|deadline| deadline.parse().ok()).unwrap_or(0)
}

/// When a promise that was capped can be put off although nothing happened. `None`: not before something happens.
fn time_until_look(view: &View) -> Option<Duration> {
    view.leader.then(|| (Duration::from_millis(view.valid_for_ms) / 2).max(LOOK_MIN))
}
