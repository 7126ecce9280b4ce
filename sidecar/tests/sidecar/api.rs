//! The API, request by request.

use crate::pod::{Answer, LOCAL, MAX_PROMISE, POST, pod, pod_of};
use axum::http::{Method, StatusCode};
use conch_sidecar::http;
use conch_stores::clock;
use serde_json::Value;
use std::time::Duration;
use tokio::time::{Instant, sleep};

#[tokio::test]
async fn leader_answers_200_or_503_with_one_shape() {
    let pod = pod();
    let no = pod.get("/v1/leader").await;
    assert_eq!(no.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(no.body["leader"], false);
    assert_eq!(no.body["validForMs"], 0);
    assert_eq!(no.headers["conch-valid-for-ms"], "0");
    assert!(!no.headers.contains_key("conch-token"));

    pod.lead().await;
    let yes = pod.get("/v1/leader").await;
    assert_eq!(yes.status, StatusCode::OK);
    let fields = |answer: &Answer| answer.body.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(fields(&yes), fields(&no));
    for (field, value) in [
        ("election", "shop/payments"),
        ("pod", "pod-1"),
        ("podUid", "uid-1"),
        ("holder", "pod-1"),
        ("bootId", "boot"),
        ("fencing", "Strict"),
        ("reason", "Leading"),
        ("message", "This pod leads."),
    ] {
        assert_eq!(yes.body[field], value);
    }
    assert_eq!(yes.body["terminating"], false);
    let token = yes.body["token"].as_str().unwrap();
    assert_eq!((token.len(), token), (20, yes.headers["conch-token"].to_str().unwrap()));
    assert_eq!(yes.body["validForMs"], 1_000);
    assert_eq!(yes.headers["conch-valid-for-ms"], "1000");
    assert_eq!(yes.headers["cache-control"], "no-store");
    let deadline: u128 = yes.body["deadlineBoottimeNs"].as_str().unwrap().parse().unwrap();
    let left = deadline.saturating_sub(clock::now().boottime.as_nanos());
    assert!(left > 0 && left <= MAX_PROMISE.as_nanos(), "{left}");
    assert!(yes.body["since"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
}

#[tokio::test]
async fn head_answers_the_same_without_a_body() {
    let pod = pod();
    let token = pod.lead().await;
    let answer = pod.ask(Method::HEAD, "/v1/leader", &[LOCAL], "").await;
    assert_eq!((answer.status, answer.body), (StatusCode::OK, Value::Null));
    assert_eq!(answer.headers["conch-token"], *token);
}

#[tokio::test]
async fn a_pod_is_no_candidate_before_its_program_asks() {
    let pod = pod();
    sleep(Duration::from_millis(100)).await;
    let status = pod.get("/v1/status").await;
    assert_eq!(status.status, StatusCode::OK);
    assert_eq!((&status.body["candidate"], &status.body["leader"]), (&false.into(), &false.into()));
    assert_eq!(status.body["reason"], "NotAsked");
    assert_eq!(pod.get("/v1/status").await.body["candidate"], false);

    pod.lead().await;
    let status = pod.get("/v1/status").await;
    assert_eq!((&status.body["candidate"], &status.body["leader"]), (&true.into(), &true.into()));
    assert_eq!(status.body["store"], "memory");
}

#[tokio::test]
async fn wait_answers_when_this_pod_leads_or_when_the_time_is_over() {
    let first = pod();
    let second = pod_of(first.store.candidate(), 2);
    let token = first.lead().await;
    let began = Instant::now();
    let answer = second.get("/v1/leader?wait=300ms").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!((&answer.body["reason"], &answer.body["holder"]), (&"OtherLeads".into(), &"pod-1".into()));
    assert!(began.elapsed() >= Duration::from_millis(300));

    let resignation = format!(r#"{{"token":"{token}","coolDown":"10s"}}"#);
    let (waited, resigned) = tokio::join!(second.get("/v1/leader?wait=10s"), first.resign(&resignation));
    assert_eq!((waited.status, resigned.status), (StatusCode::OK, StatusCode::OK));
    assert!(began.elapsed() < Duration::from_secs(2));
    assert!(waited.body["token"].as_str().unwrap() > token.as_str());
    assert_eq!(resigned.body["leader"], false);
}

#[tokio::test]
async fn wait_ends_when_the_pod_is_about_to_end() {
    let first = pod();
    let second = pod_of(first.store.candidate(), 2);
    first.lead().await;
    let announced = async {
        sleep(Duration::from_millis(50)).await;
        second.sidecar.pre_stop(conch_stores::clock::now());
    };
    let began = Instant::now();
    let (answer, ()) = tokio::join!(second.get("/v1/leader?wait=60s"), announced);
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!((&answer.body["terminating"], &answer.body["reason"]), (&true.into(), &"Terminating".into()));
}

#[tokio::test]
async fn a_bad_query_is_refused_and_asks_nothing() {
    let pod = pod();
    for query in
        ["wait=", "wait=30", "wait=-1s", "wait=1s&wait=2s", "wait=6m", "wait=999999h", "wiat=3s", "wait=%00"]
    {
        let answer = pod.get(&format!("/v1/leader?{query}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query}");
        assert_eq!(answer.body["reason"], "BadQuery", "{query}");
        assert!(answer.body["message"].as_str().is_some_and(|message| !message.is_empty()));
    }
    assert_eq!(pod.get("/v1/status").await.body["candidate"], false);
}

#[tokio::test]
async fn resign_wants_the_running_term_and_a_body_that_it_understands() {
    let pod = pod();
    let nothing = pod.resign(r#"{"token":"00000000000000000001"}"#).await;
    assert_eq!((nothing.status, &nothing.body["reason"]), (StatusCode::CONFLICT, &"NotCurrent".into()));

    let token = pod.lead().await;
    let next = format!("{:020}", token.parse::<u128>().unwrap() + 1);
    assert_eq!(pod.resign(&format!(r#"{{"token":"{next}"}}"#)).await.status, StatusCode::CONFLICT);
    let long = format!(r#"{{"token":"{}"}}"#, "1".repeat(5_000));
    let bad = [
        "",
        "null",
        "[]",
        &format!(r#"["{token}"]"#),
        &format!(r#"["{token}",null]"#),
        "{}",
        r#"{"token":1}"#,
        r#"{"token":""}"#,
        r#"{"token":"+1"}"#,
        r#"{"token":"1e3"}"#,
        r#"{"token":"999999999999999999999999999999999999999999"}"#,
        r#"{"token":"1","coolDown":"5"}"#,
        r#"{"token":"1","coolDown":"61m"}"#,
        r#"{"token":"1","more":1}"#,
        &long,
    ];
    for body in bad {
        let answer = pod.resign(body).await;
        assert_eq!(
            (answer.status, &answer.body["reason"]),
            (StatusCode::BAD_REQUEST, &"BadBody".into()),
            "{body}"
        );
    }
    assert_eq!(pod.get("/v1/leader").await.body["token"], *token);

    let resigned = pod.resign(&format!(r#"{{"token":"{token}","coolDown":"5s"}}"#)).await;
    assert_eq!(resigned.status, StatusCode::OK);
    assert_eq!((&resigned.body["leader"], &resigned.body["reason"]), (&false.into(), &"CoolingDown".into()));
    sleep(Duration::from_millis(100)).await; // until the release is confirmed, saying it again is no error
    assert_eq!(pod.resign(&format!(r#"{{"token":"{token}"}}"#)).await.status, StatusCode::CONFLICT);
}

#[tokio::test]
async fn strangers_are_refused() {
    let pod = pod();
    let foreign: &[&[(&str, &str)]] = &[
        &[],
        &[("host", "evil.example:4040")],
        &[("host", "localhost.evil.example")],
        &[("host", "10.1.2.3:4040")],
        &[LOCAL, ("host", "evil.example")],
    ];
    for headers in foreign {
        for path in ["/v1/leader", "/v1/lead", "/nothing"] {
            let answer = pod.ask(Method::GET, path, headers, "").await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{headers:?}");
            assert_eq!(answer.body["reason"], "ForeignHost");
        }
    }
    let absolute = pod.ask(Method::GET, "http://evil.example/v1/leader", &[LOCAL], "").await;
    assert_eq!(absolute.body["reason"], "ForeignHost");
    for origin in ["http://evil.example", "null", "http://localhost:4040"] {
        for method in [Method::GET, Method::OPTIONS, Method::POST] {
            let answer = pod.ask(method, "/v1/leader", &[LOCAL, POST, ("origin", origin)], "").await;
            assert_eq!(
                (answer.status, &answer.body["reason"]),
                (StatusCode::FORBIDDEN, &"OriginRefused".into())
            );
            assert!(!answer.headers.keys().any(|name| name.as_str().starts_with("access-control")));
        }
    }
    for path in ["/v1/resign", http::PRE_STOP] {
        for header in [("conch-request", "0"), ("conch-requests", "1")] {
            let answer = pod.ask(Method::POST, path, &[LOCAL, header], "{}").await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN);
            assert_eq!(answer.body["reason"], "RequestHeaderMissing");
        }
    }
    let status = pod.get("/v1/status").await;
    assert_eq!((&status.body["candidate"], &status.body["terminating"]), (&false.into(), &false.into()));
}

#[tokio::test]
async fn a_wrong_path_or_method_is_told_the_right_ones() {
    let pod = pod();
    let rows = [
        (Method::GET, "/", StatusCode::NOT_FOUND, "NotFound"),
        (Method::GET, "/v1/leader/", StatusCode::NOT_FOUND, "NotFound"),
        (Method::GET, "/v1/elections/other/leader", StatusCode::NOT_FOUND, "NotFound"),
        (Method::POST, "/v1/leader", StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        (Method::GET, "/v1/resign", StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        (Method::GET, http::PRE_STOP, StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
    ];
    for (method, path, status, reason) in rows {
        let answer = pod.ask(method, path, &[LOCAL, POST], "").await;
        assert_eq!((answer.status, &answer.body["reason"]), (status, &reason.into()), "{path}");
        assert!(answer.body["endpoints"].as_array().unwrap().contains(&"GET /v1/leader".into()));
    }
    for path in ["/v1/lead", "/v1/watch"] {
        let head = pod.ask(Method::HEAD, path, &[LOCAL], "").await;
        assert_eq!(
            (head.status, &head.headers["allow"]),
            (StatusCode::METHOD_NOT_ALLOWED, &"GET".parse().unwrap())
        );
    }
    assert_eq!(pod.get("/v1/status").await.body["candidate"], false);
}

#[tokio::test]
async fn what_was_answered_is_counted_and_whether_this_pod_leads_is_computed() {
    let pod = pod();
    pod.get("/v1/leader").await;
    assert!(pod.metrics().contains("leader_election_master_status{name=\"shop/payments\"} 0\n"));
    let token = pod.lead().await;
    let metrics = pod.metrics();
    for line in [
        "leader_election_master_status{name=\"shop/payments\"} 1",
        "conch_transitions_total{cause=\"Acquired\"} 1",
        "conch_store_requests_total{request=\"Write\",outcome=\"Ok\"} 1",
        "conch_answers_total{endpoint=\"leader\",leader=\"false\"} 1",
        "conch_answers_total{endpoint=\"leader\",leader=\"true\"} 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}\n{metrics}");
    }
    let stream = pod.stream("/v1/watch").await;
    assert!(pod.metrics().contains("conch_streams{endpoint=\"watch\"} 1\n"));
    drop(stream);
    pod.resign(&format!(r#"{{"token":"{token}"}}"#)).await;
    sleep(Duration::from_millis(50)).await;
    let metrics = pod.metrics();
    assert!(metrics.contains("conch_streams{endpoint=\"watch\"} 0\n"));
    assert!(metrics.contains("conch_transitions_total{cause=\"Resigned\"} 1\n"));
    assert!(metrics.contains("leader_election_master_status{name=\"shop/payments\"} 0\n"));
}
