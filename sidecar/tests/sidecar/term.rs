//! A new term for a program that was restarted beside its sidecar.

use crate::pod::{LEASE, LOCAL, MAX_PROMISE, Pod, RENEW_INTERVAL, STOP_GRACE, pod, pod_of};
use axum::http::{Method, StatusCode};
use std::time::Duration;
use tokio::time::{Instant, sleep};

async fn begin_anew(pod: &Pod, token: &str) -> crate::pod::Answer {
    pod.post("/v1/term", &format!(r#"{{"token":"{token}"}}"#)).await
}

#[tokio::test]
async fn a_restarted_program_gets_a_higher_token_and_nobody_else_leads_meanwhile() {
    let pod = pod();
    let other = pod_of(pod.store.candidate(), 2);
    let old = pod.lead().await;
    let mut watched = pod.stream("/v1/watch").await;
    assert_eq!(watched.until(true).await["token"], *old);
    let waiting = other.get("/v1/leader?wait=3s");
    let renewing = async {
        let new = begin_anew(&pod, &old).await;
        assert_eq!((new.status, &new.body["leader"]), (StatusCode::OK, &true.into()), "{}", new.body);
        let new = new.body["token"].as_str().unwrap().to_owned();
        assert!(new > old);
        loop {
            let event = watched.until(true).await;
            if event["token"] == *new {
                break;
            }
        }
        assert_eq!(pod.get("/v1/leader").await.headers["conch-token"], *new);
        new
    };
    let (waited, new) = tokio::join!(waiting, renewing);
    assert_eq!((waited.status, &waited.body["holder"]), (StatusCode::SERVICE_UNAVAILABLE, &"pod-1".into()));
    assert_eq!(pod.get("/v1/leader").await.body["token"], *new, "it renews as any other");
    let cause = r#"conch_transitions_total{cause="NewTerm"} 1"#;
    assert!(pod.metrics().contains(cause), "{}", pod.metrics());
}

#[tokio::test]
async fn the_program_before_it_can_neither_resign_the_new_term_nor_begin_another() {
    let pod = pod();
    let old = pod.lead().await;
    assert_eq!(begin_anew(&pod, &old).await.status, StatusCode::OK);
    for answer in [begin_anew(&pod, &old).await, pod.resign(&format!(r#"{{"token":"{old}"}}"#)).await] {
        assert_eq!((answer.status, &answer.body["reason"]), (StatusCode::CONFLICT, &"NotCurrent".into()));
    }
    assert_eq!(pod.get("/v1/leader").await.status, StatusCode::OK);
}

#[tokio::test]
async fn new_terms_come_no_faster_than_renewals() {
    let pod = pod();
    let mut token = pod.lead().await;
    let began = Instant::now();
    for _ in 0..4 {
        let answer = begin_anew(&pod, &token).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        token = answer.body["token"].as_str().unwrap().to_owned();
    }
    assert!(began.elapsed() + RENEW_INTERVAL / 2 >= 4 * RENEW_INTERVAL, "{:?}", began.elapsed());
    assert!(began.elapsed() < LEASE, "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_the_program_before_it_was_promised_is_waited_for() {
    let pod = pod();
    let other = pod_of(pod.store.candidate(), 2);
    let mut events = pod.stream("/v1/lead").await;
    let old = events.until(true).await["token"].as_str().unwrap().to_owned();
    let told = Instant::now();
    assert_eq!(pod.get("/v1/leader").await.status, StatusCode::OK);
    assert_eq!(begin_anew(&pod, &old).await.status, StatusCode::OK);
    drop(events);
    assert_eq!(other.get("/v1/leader?wait=10s").await.status, StatusCode::OK);
    assert!(told.elapsed() >= MAX_PROMISE + STOP_GRACE, "{:?}", told.elapsed());
}

#[tokio::test]
async fn who_does_not_lead_has_no_term_to_follow() {
    let pod = pod();
    let other = pod_of(pod.store.candidate(), 2);
    let token = pod.lead().await;
    other.get("/v1/leader").await;
    for asked in [&token, "1"] {
        let answer = begin_anew(&other, asked).await;
        assert_eq!((answer.status, &answer.body["reason"]), (StatusCode::CONFLICT, &"NotCurrent".into()));
        assert!(answer.body["message"].as_str().unwrap().contains("does not lead"));
    }
    // Not even the pod that leads, while it gives the lead away.
    let events = pod.stream("/v1/lead").await;
    pod.get("/v1/leader").await;
    drop(events);
    assert_eq!(begin_anew(&pod, &token).await.status, StatusCode::CONFLICT);
}

#[tokio::test]
async fn a_lead_that_is_lost_while_a_new_term_is_asked_for_is_told() {
    let pod = pod();
    let token = pod.lead().await;
    // The running term is too young for another: the question waits, and the record goes.
    let lose = async {
        sleep(Duration::from_millis(50)).await;
        pod.store.delete();
    };
    let (answer, ()) = tokio::join!(begin_anew(&pod, &token), lose);
    assert_eq!((answer.status, &answer.body["reason"]), (StatusCode::CONFLICT, &"NotCurrent".into()));
}

#[tokio::test]
async fn a_body_without_a_token_is_refused_and_so_is_a_post_without_the_header() {
    let pod = pod();
    pod.lead().await;
    for body in ["", "{}", r#"{"token":1}"#, r#"{"token":"x"}"#, r#"{"token":"1","coolDown":"1s"}"#] {
        let answer = pod.post("/v1/term", body).await;
        assert_eq!(
            (answer.status, &answer.body["reason"]),
            (StatusCode::BAD_REQUEST, &"BadBody".into()),
            "{body}"
        );
    }
    for path in ["/v1/term", "/v1/heartbeat"] {
        let answer = pod.ask(Method::POST, path, &[LOCAL], "{}").await;
        assert_eq!(
            (answer.status, &answer.body["reason"]),
            (StatusCode::FORBIDDEN, &"RequestHeaderMissing".into())
        );
        assert_eq!(pod.get(path).await.status, StatusCode::METHOD_NOT_ALLOWED);
    }
}
