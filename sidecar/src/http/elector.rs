//! `GET /` and `GET /sse` as nais/elector and the retired leader-elector answer them: who leads, and not until when.
//!
//! Programs that were written for these compare the name with their host name. Some decode strictly and fail without a name,
//! and some take every failure for a yes. So there are always exactly two keys, the name is never absent, and no answer to a
//! program of this pod is an error.

use super::{
    refusal::Refusal,
    streams::{Reader, Streams},
};
use crate::{program::Channel, sidecar::Sidecar, view::View};
use axum::{
    Json, Router,
    extract::State,
    http::{
        HeaderValue, StatusCode,
        header::{CACHE_CONTROL, CONNECTION},
    },
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
    routing::get,
};
use conch_election::Reason;
use futures::stream;
use jiff::Timestamp;
use serde::Serialize;
use std::sync::{Arc, Mutex, PoisonError};

/// The name when no other pod is known to lead and this one does not. No host and no pod can have it, because of the underscore,
/// and an unset variable is not equal to it, as it would be to nothing.
const NOBODY: &str = "_nobody";

pub(super) fn routes(sidecar: Arc<Sidecar>, streams: Streams, host_name: String) -> Router {
    let elector = Elector { sidecar, streams, host_name, said: Mutex::default() };
    // A HEAD would open a stream and close it at once.
    let no_head = || async { Refusal::MethodNotAllowed };
    Router::new()
        .route("/", get(leader))
        .route("/sse", get(changes).head(no_head))
        .with_state(Arc::new(elector))
}

struct Elector {
    sidecar: Arc<Sidecar>,
    streams: Streams,
    /// What the program compares the name with.
    host_name: String,
    /// What was said last.
    said: Mutex<Option<Answer>>,
}

/// The whole answer, in the order of nais/elector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Answer {
    name: String,
    /// Since when this sidecar says so.
    last_update: Timestamp,
}

impl Elector {
    fn answer(&self, view: &View) -> Answer {
        let name = self.name(view);
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        match &*said {
            Some(answer) if answer.name == name => answer.clone(),
            _ => said.insert(Answer { name: name.to_owned(), last_update: Timestamp::now() }).clone(),
        }
    }

    /// This pod's host name exactly while this pod leads, whatever the record says.
    fn name<'a>(&'a self, view: &'a View) -> &'a str {
        let other = view.holder.as_deref().filter(|_| view.reason == Reason::OtherLeads);
        match other {
            _ if view.leader => &self.host_name,
            Some(other) if other != self.host_name && other != view.pod => other,
            _ => NOBODY,
        }
    }
}

async fn leader(State(elector): State<Arc<Elector>>) -> Response {
    elector.sidecar.ask();
    let view = elector.sidecar.answer(Channel::Elsewhere);
    elector.sidecar.witness().metrics.answered("elector", view.leader);
    ([(CACHE_CONTROL, HeaderValue::from_static("no-cache"))], Json(elector.answer(&view))).into_response()
}

/// The same at once, and then at each change; nothing else is ever sent.
async fn changes(State(elector): State<Arc<Elector>>) -> Response {
    let reader = match Reader::new(&elector.streams, "elector", Channel::Elsewhere) {
        Ok(reader) => reader,
        // To these clients the server's fault may be a yes.
        Err(refusal) => return (StatusCode::TOO_MANY_REQUESTS, refusal).into_response(),
    };
    elector.sidecar.ask();
    let events = stream::unfold((reader, elector, None), async |(mut reader, elector, last)| {
        loop {
            let view = reader.next().await?;
            let answer = elector.answer(&view);
            if last.as_ref() != Some(&answer) {
                let event = Event::default().json_data(&answer);
                return Some((event, (reader, elector, Some(answer))));
            }
        }
    });
    let mut response = Sse::new(events).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("keep-alive"));
    response
}
