//! The end of a pod.

use crate::pod::{MAX_PROMISE, STOP_GRACE, pod, pod_of};
use axum::http::StatusCode;
use conch_sidecar::shutdown::Sign;
use std::time::Duration;
use tokio::time::{Instant, sleep};

#[tokio::test]
async fn sigterm_with_proof_hands_over_at_once_and_without_it_after_every_promise() {
    for proven in [true, false] {
        let pod = pod();
        let other = pod_of(pod.store.candidate(), 2);
        pod.lead().await;
        pod.sidecar.pre_stop(conch_stores::clock::now());
        if proven {
            pod.sidecar.note(Sign::Deletion(
                conch_stores::clock::now(),
                conch_crds::PodDeletion {
                    pod_uid: "uid-1".to_owned(),
                    grace_seconds: 30,
                    sidecar_image: "conch:1".to_owned(),
                },
            ));
        }
        let promised = Instant::now();
        assert_eq!(pod.get("/v1/leader").await.status, StatusCode::OK);
        pod.sidecar.signalled("SIGTERM");
        assert_eq!(pod.get("/v1/leader").await.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(other.get("/v1/leader?wait=10s").await.status, StatusCode::OK);
        let promise_is_over = promised.elapsed() >= MAX_PROMISE + STOP_GRACE;
        assert_eq!(promise_is_over, !proven, "{:?}", promised.elapsed());
    }
}

#[tokio::test]
async fn a_follower_that_is_about_to_end_takes_no_lead() {
    let first = pod();
    let second = pod_of(first.store.candidate(), 2);
    let token = first.lead().await;
    second.get("/v1/leader").await;
    second.sidecar.pre_stop(conch_stores::clock::now());
    assert_eq!(first.resign(&format!(r#"{{"token":"{token}"}}"#)).await.status, StatusCode::OK);
    sleep(Duration::from_millis(200)).await;
    second.get("/v1/leader").await;
    sleep(Duration::from_millis(100)).await;
    assert!(!second.sidecar.leads());
}

#[tokio::test]
async fn a_leader_that_resigns_because_it_is_about_to_end_does_not_come_back() {
    let pod = pod();
    let token = pod.lead().await;
    pod.sidecar.pre_stop(conch_stores::clock::now());
    assert_eq!(pod.get("/v1/leader").await.status, StatusCode::OK);
    assert_eq!(
        pod.resign(&format!(r#"{{"token":"{token}","coolDown":"1ms"}}"#)).await.status,
        StatusCode::OK
    );
    for _ in 0..10 {
        sleep(Duration::from_millis(50)).await;
        assert_eq!(pod.get("/v1/leader").await.body["reason"], "Terminating");
    }
}
