//! The server holds what `docs/openapi.yaml` says, and the document says all that the server does.

use crate::{
    openapi::{DOCUMENT, Operation},
    states::{HOST, State, World, fresh, request, timing, virtual_pod},
};
use axum::{
    body::Body,
    http::{Method, Request, StatusCode},
};
use conch_crds::duration::DurationText;
use conch_election::Reason;
use conch_sidecar::http::PRE_STOP;
use conch_stores::memory::Link;
use proptest::{collection::vec, option, prelude::*, sample::select, string::string_regex};
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};
use tokio::runtime::Builder;

const WAIT_MAX: Duration = Duration::from_mins(5);
const COOL_DOWN_MAX: Duration = Duration::from_hours(1);
const BODY_BYTES_MAX: usize = 4_096;
const DURATION: &str = "/components/schemas/Duration";

/// A request as its sender made it.
#[derive(Clone, Debug)]
struct Question {
    operation: Operation,
    query: Option<String>,
    hosts: Vec<&'static str>,
    origin: Option<&'static str>,
    permission: Option<&'static str>,
    body: String,
}

/// Runs in a time that passes at once where nothing happens.
fn run<T>(future: impl Future<Output = T>) -> T {
    Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(future)
}

fn pattern(pointer: &str) -> String {
    let schema = DOCUMENT.root.pointer(pointer).unwrap();
    schema["pattern"].as_str().unwrap().trim_matches(['^', '$']).to_owned()
}

fn operation() -> impl Strategy<Value = Operation> {
    let documented = DOCUMENT.operations();
    let paths: Vec<String> = documented.iter().map(|operation| operation.path.clone()).collect();
    let methods = &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE"];
    let method = || select(methods).prop_map(|method| method.parse().unwrap());
    let near = (select(paths.clone()), "[/a-z0-9.~%-]{0,3}").prop_map(|(path, more)| format!("{path}{more}"));
    let valid = |path: &String| path.parse::<axum::http::Uri>().is_ok() && !path.starts_with("//");
    let path = prop_oneof![select(paths), near, "/[a-zA-Z0-9/._~-]{0,12}"].prop_filter("a path", valid);
    let anything = (path.prop_filter("not ours", |path| path != PRE_STOP), method())
        .prop_map(|(path, method)| Operation { path, method });
    prop_oneof![3 => select(documented), 1 => anything]
}

/// A body that the document allows, or one that is broken in some way.
fn body() -> impl Strategy<Value = String> {
    let token = string_regex(&pattern("/components/schemas/SentToken")).unwrap();
    let duration = string_regex(&pattern(DURATION)).unwrap();
    let right = (token, option::of(prop_oneof![duration, select(&["5s", "1h"]).prop_map(str::to_owned)]))
        .prop_map(|(token, cool_down)| match cool_down {
            None => json!({ "token": token }),
            Some(cool_down) => json!({ "token": token, "coolDown": cool_down }),
        });
    let word = prop_oneof![select(&["token", "coolDown", "cool_down"]).prop_map(str::to_owned), "[a-z]{1,4}"];
    let value = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        "[0-9+a-f-]{0,45}".prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
    ];
    let other = vec((word, value), 0..3).prop_map(|pairs| Value::Object(pairs.into_iter().collect()));
    let long =
        (BODY_BYTES_MAX - 9..BODY_BYTES_MAX + 9).prop_map(|spaces| format!("{{}}{}", " ".repeat(spaces)));
    prop_oneof![
        4 => right.prop_map(|body| body.to_string()),
        2 => other.prop_map(|body| body.to_string()),
        2 => Just(String::new()),
        1 => Just("{}".to_owned()),
        1 => long,
        1 => "[ -~]{0,30}",
    ]
}

fn question() -> impl Strategy<Value = Question> {
    let duration = string_regex(&pattern(DURATION)).unwrap();
    let wait = prop_oneof![duration, select(&["30s", "5m", "5m1ms", "301s"]).prop_map(str::to_owned)];
    let query = prop_oneof![
        2 => Just(None),
        2 => wait.prop_map(|wait| Some(format!("wait={wait}"))),
        1 => "[a-z0-9=&%+._~-]{0,12}".prop_map(Some),
    ];
    let hosts = prop_oneof![
        12 => select(&["localhost:4040", "127.0.0.1", "[::1]:4040"]).prop_map(|host| vec![host]),
        1 => select(&["evil.example", "10.0.0.1:4040", ""]).prop_map(|host| vec![host]),
        1 => Just(vec![]),
        1 => Just(vec!["localhost", "evil.example"]),
    ];
    let origin =
        prop_oneof![12 => Just(None), 1 => select(&["null", "http://localhost:4040"]).prop_map(Some)];
    let permission =
        prop_oneof![6 => Just(Some("1")), 1 => select(&["0", ""]).prop_map(Some), 1 => Just(None)];
    (operation(), query, hosts, origin, permission, body()).prop_map(
        |(operation, query, hosts, origin, permission, body)| Question {
            operation,
            query,
            hosts,
            origin,
            permission,
            body,
        },
    )
}

impl Question {
    fn request(&self) -> Request<Body> {
        let Operation { path, method } = &self.operation;
        let uri = self.query.as_ref().map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
        let mut request = Request::builder().method(method).uri(uri);
        for host in &self.hosts {
            request = request.header("host", *host);
        }
        let more = [("origin", self.origin), ("conch-request", self.permission)];
        for (name, value) in more {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        request.body(Body::from(self.body.clone())).unwrap()
    }

    /// Whoever may not ask.
    fn is_strange(&self) -> bool {
        let reads = matches!(self.operation.method, Method::GET | Method::HEAD);
        let [host] = self.hosts[..] else { return true };
        host.is_empty()
            || host.contains("evil")
            || host.starts_with("10.")
            || self.origin.is_some()
            || !(reads || self.permission == Some("1"))
    }

    /// Whether the document allows its query and its body; what a schema can't say of durations is said here.
    fn is_understood(&self) -> bool {
        let Operation { path, method } = &self.operation;
        let operation = DOCUMENT.operation(path, method).unwrap();
        if operation.get("parameters").is_some() && matches!(*method, Method::GET | Method::HEAD) {
            let query = self.query.as_deref().unwrap_or_default();
            return query.split('&').all(str::is_empty)
                || query.strip_prefix("wait=").is_some_and(|wait| is_duration(wait, WAIT_MAX));
        }
        let Some(described) = operation.get("requestBody") else { return true };
        if self.body.is_empty() {
            return described["required"] == false;
        }
        let Ok(body) = serde_json::from_str::<Value>(&self.body) else { return false };
        let cool_down = body["coolDown"].as_str().is_none_or(|text| is_duration(text, COOL_DOWN_MAX));
        let schema = &described["content"]["application/json"]["schema"];
        self.body.len() <= BODY_BYTES_MAX && cool_down && DOCUMENT.allows(schema, &body)
    }

    fn check(&self, status: StatusCode, has_elector: bool) {
        let Operation { path, method } = &self.operation;
        let refused = |refusal: StatusCode| assert_eq!(status, refusal, "{self:?}");
        if self.is_strange() {
            return refused(StatusCode::FORBIDDEN);
        }
        let absent = !has_elector && matches!(path.as_str(), "/" | "/sse");
        if absent || !DOCUMENT.knows(path) {
            return refused(StatusCode::NOT_FOUND);
        }
        if DOCUMENT.operation(path, method).is_none() {
            return refused(StatusCode::METHOD_NOT_ALLOWED);
        }
        assert_eq!(status == StatusCode::BAD_REQUEST, !self.is_understood(), "{status} {self:?}");
        assert_ne!(status, StatusCode::FORBIDDEN, "{self:?}");
    }
}

fn is_duration(text: &str, max: Duration) -> bool {
    let schema = DOCUMENT.root.pointer(DURATION).unwrap();
    let parsed = text.parse::<DurationText>();
    assert_eq!(DOCUMENT.allows(schema, &text.into()), parsed.is_ok(), "{text}");
    parsed.is_ok_and(|duration| duration.get() <= max)
}

async fn world(state: State, has_elector: bool) -> World {
    let World { pod, others } = state.bring_about().await;
    World { pod: if has_elector { pod.with_elector(HOST) } else { pod }, others }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_request_is_answered_as_the_document_says(
        state in select(&State::ALL), has_elector in any::<bool>(), questions in vec(question(), 1..12),
    ) {
        run(async {
            let world = world(state, has_elector).await;
            for question in questions {
                let response = world.pod.send(question.request()).await;
                let Operation { path, method } = &question.operation;
                question.check(response.status(), has_elector);
                // Without the elector its paths are unknown ones.
                if has_elector || !matches!(path.as_str(), "/" | "/sse") {
                    DOCUMENT.check(path, method, response).await;
                }
            }
        });
    }
}

#[test]
fn in_every_state_every_operation_answers_as_the_document_says_and_a_no_has_its_reason() {
    for state in State::ALL {
        for operation in DOCUMENT.operations() {
            run(async {
                let Operation { path, method } = &operation;
                let world = world(state, true).await;
                let (expected, reason) = state.answer();
                if method == Method::GET && path != "/v1/leader" {
                    let status = world.pod.get("/v1/status").await.body;
                    assert_eq!(status["reason"], reason, "{state:?}");
                }
                let token = world.pod.get("/v1/status").await.body["token"].clone();
                let body = if path == "/v1/heartbeat" {
                    String::new()
                } else {
                    json!({ "token": token }).to_string()
                };
                let (status, body) =
                    DOCUMENT.check(path, method, world.pod.send(request(path, method, &body)).await).await;
                if path == "/v1/leader" && state != State::NotAsked {
                    assert_eq!(status.as_u16(), expected, "{state:?}");
                }
                if body["leader"] == false && state != State::NotAsked && path.starts_with("/v1/lead") {
                    assert_eq!(body["reason"], reason, "{state:?} {path}");
                    assert!(body["message"].as_str().unwrap().ends_with('.'), "{state:?}");
                }
                assert_eq!(
                    body["terminating"] == true,
                    body["terminating"] != Value::Null && state.ends(),
                    "{state:?}"
                );
            });
        }
    }
}

impl State {
    fn ends(self) -> bool {
        matches!(self, Self::Terminating | Self::Terminated)
    }
}

#[test]
fn what_cools_down_leads_again_later_and_what_lost_history_never_does() {
    run(async {
        let cooling = State::CoolingDown.bring_about().await;
        assert_eq!(cooling.pod.get("/v1/leader?wait=9s").await.body["reason"], "CoolingDown");
        assert_eq!(cooling.pod.get("/v1/leader?wait=20s").await.status, StatusCode::OK);
        let lost = State::HistoryLost.bring_about().await;
        let answer = lost.pod.get("/v1/leader?wait=5m").await;
        assert_eq!((answer.status.as_u16(), &answer.body["reason"]), (503, &"HistoryLost".into()));
    });
}

#[test]
fn a_store_that_does_not_confirm_a_term_and_streams_that_are_all_taken_are_in_the_document() {
    run(async {
        let store = fresh();
        let pod = virtual_pod(store.clone(), 1, timing(crate::states::LEASE, Duration::from_secs(1)));
        let pod = pod.with_elector(HOST);
        let token = pod.lead().await;
        store.set_link(Link::Silent);
        let body = json!({ "token": token }).to_string();
        let response = pod.send(request("/v1/term", &Method::POST, &body)).await;
        let (status, body) = DOCUMENT.check("/v1/term", &Method::POST, response).await;
        assert_eq!((status, &body["reason"]), (StatusCode::SERVICE_UNAVAILABLE, &"TermPending".into()));

        let mut open = Vec::new();
        for _ in 0..64 {
            open.push(pod.stream("/v1/watch").await);
        }
        for (path, expected) in [("/v1/watch", 503), ("/v1/lead", 503), ("/sse", 429)] {
            let response = pod.send(request(path, &Method::GET, "")).await;
            let (status, body) = DOCUMENT.check(path, &Method::GET, response).await;
            assert_eq!((status.as_u16(), &body["reason"]), (expected, &"TooManyStreams".into()));
        }
    });
}

#[test]
fn beside_a_program_that_the_sidecar_runs_itself_the_document_holds_as_well() {
    run(async {
        let World { pod, .. } = State::Leading.bring_about().await;
        let pod = pod.wrapped();
        for Operation { path, method } in DOCUMENT.operations() {
            let response = pod.send(request(&path, &method, "{}")).await;
            if !matches!(path.as_str(), "/" | "/sse") {
                let (status, _) = DOCUMENT.check(&path, &method, response).await;
                let refused = method == Method::POST || path == "/v1/lead";
                assert_eq!(status == StatusCode::CONFLICT, refused, "{method} {path}");
            }
        }
    });
}

#[test]
fn the_documents_reasons_are_the_electors_and_each_has_a_sentence() {
    // Fails to compile when there is another one.
    let next = |reason: Reason| match reason {
        Reason::Leading => Some(Reason::NotContacted),
        Reason::NotContacted => Some(Reason::NotAsked),
        Reason::NotAsked => Some(Reason::StreamMissing),
        Reason::StreamMissing => Some(Reason::HeartbeatMissing),
        Reason::HeartbeatMissing => Some(Reason::Unhealthy),
        Reason::Unhealthy => Some(Reason::OtherLeads),
        Reason::OtherLeads => Some(Reason::RecordUnknown),
        Reason::RecordUnknown => Some(Reason::Acquiring),
        Reason::Acquiring => Some(Reason::StoreUnavailable),
        Reason::StoreUnavailable => Some(Reason::StoreDenied),
        Reason::StoreDenied => Some(Reason::StoreInvalid),
        Reason::StoreInvalid => Some(Reason::CoolingDown),
        Reason::CoolingDown => Some(Reason::Terminating),
        Reason::Terminating => Some(Reason::HistoryLost),
        Reason::HistoryLost => None,
    };
    let reasons: Vec<Reason> = std::iter::successors(Some(Reason::Leading), |reason| next(*reason)).collect();
    let names: Vec<String> = reasons.iter().map(|reason| format!("{reason:?}")).collect();
    assert_eq!(DOCUMENT.root["components"]["schemas"]["Reason"]["enum"], json!(names));
    let sentences: BTreeSet<&str> = reasons.iter().map(|reason| reason.sentence()).collect();
    assert_eq!(sentences.len(), reasons.len());
    let explained = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/sidecar.md"));
    for (name, sentence) in names.iter().zip(&sentences) {
        assert!(sentence.ends_with('.') && sentence.len() > 10, "{sentence}");
        assert!(explained.contains(&format!("`{name}`")), "docs/sidecar.md lacks {name}");
    }
}

#[test]
fn every_object_of_the_document_is_closed_and_every_reference_leads_somewhere() {
    fn walk(value: &Value, place: &str) {
        if value.get("$ref").is_some() {
            DOCUMENT.resolve(value);
        }
        if value["type"] == "object" {
            assert_eq!(value["additionalProperties"], false, "{place}");
        }
        match value {
            Value::Object(map) => map.iter().for_each(|(key, value)| walk(value, &format!("{place}/{key}"))),
            Value::Array(list) => list.iter().for_each(|value| walk(value, place)),
            _ => {}
        }
    }
    walk(&DOCUMENT.root, "");
    assert_eq!(DOCUMENT.root["openapi"], "3.1.0");
}
