//! The end of a pod.

use crate::pod::{IMAGE, MAX_PROMISE, STOP_GRACE, pod, pod_of};
use axum::http::StatusCode;
use conch_sidecar::shutdown::MARK_PATIENCE;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

#[tokio::test]
async fn sigterm_with_proof_hands_over_at_once_and_without_it_after_every_promise() {
    for proven in [true, false] {
        let pod = pod();
        let other = pod_of(pod.store.candidate(), 2);
        pod.lead().await;
        pod.sidecar.pre_stop(conch_stores::clock::now());
        // Where it names another image, that one is the reason for SIGTERM.
        pod.is_being_deleted(if proven { IMAGE } else { "conch:2" });
        let promised = Instant::now();
        assert_eq!(pod.get("/v1/leader").await.status, StatusCode::OK);
        pod.sidecar.signalled("SIGTERM");
        assert_eq!(pod.get("/v1/leader").await.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(other.get("/v1/leader?wait=10s").await.status, StatusCode::OK);
        let promise_is_over = promised.elapsed() >= MAX_PROMISE + STOP_GRACE;
        assert_eq!(promise_is_over, !proven, "{:?}", promised.elapsed());
    }
}

/// The kubelet restarts the sidecar alone.
#[tokio::test]
async fn a_leader_whose_pod_stays_leads_until_its_process_ends() {
    let pod = pod();
    let token = pod.lead().await;
    pod.sidecar.pre_stop(conch_stores::clock::now());
    pod.sidecar.signalled("SIGTERM");
    let began = Instant::now();
    let asking = async {
        loop {
            let answer = pod.get("/v1/leader").await;
            assert_eq!((answer.status, &answer.body["token"]), (StatusCode::OK, &token.clone().into()));
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = asking => {}
        () = pod.sidecar.ends_alone() => {}
    }
    assert!(began.elapsed() >= MARK_PATIENCE, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_leader_that_hears_in_time_that_its_pod_is_deleted_does_not_end_alone() {
    let pod = pod();
    pod.lead().await;
    pod.sidecar.signalled("SIGTERM");
    pod.is_being_deleted(IMAGE);
    assert_eq!(pod.get("/v1/leader").await.body["reason"], "Terminating");
    assert!(timeout(MARK_PATIENCE * 2, pod.sidecar.ends_alone()).await.is_err());
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
