//! A program that hangs, fails its check or comes and goes.

use crate::pod::{LEASE, MAX_PROMISE, Pod, RENEW_INTERVAL, STOP_GRACE, pod_of, pod_with};
use axum::http::StatusCode;
use conch_crds::program::{Presence, WhenAllUnhealthy};
use conch_election::Content;
use conch_sidecar::gate::{Rules, Thresholds};
use conch_stores::memory::MemoryStore;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Until every promise is over, on the slowest clock that a program may have, and all that it began.
const PROMISES: Duration = MAX_PROMISE.saturating_add(Duration::from_millis(125)).saturating_add(STOP_GRACE);
/// What else a hand-over takes on a busy machine.
const SLACK: Duration = Duration::from_millis(700);
const CHECK: Thresholds = Thresholds { failures: 2, successes: 2 };

fn fresh() -> MemoryStore {
    let store = MemoryStore::new();
    store.overwrite(Content::Fresh);
    store
}

fn beating(store: MemoryStore, number: u128, heartbeat_timeout: Duration) -> Pod {
    let rules = Rules { heartbeat_timeout: Some(heartbeat_timeout), cool_down: LEASE, ..Rules::NONE };
    pod_with(store, number, Presence::Heartbeat, rules)
}

fn checked(store: MemoryStore, number: u128, cool_down: Duration, unhealthy: WhenAllUnhealthy) -> Pod {
    let rules = Rules { check: Some(CHECK), cool_down, when_all_unhealthy: unhealthy, ..Rules::NONE };
    pod_with(store, number, Presence::Asked, rules)
}

fn check(pod: &Pod, results: &[bool]) {
    for passed in results {
        pod.sidecar.checked(*passed);
    }
}

/// A program that is alive, for ever.
async fn live(pod: &Pod) {
    loop {
        assert_eq!(pod.post("/v1/heartbeat", "").await.status, StatusCode::OK);
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn where_the_policy_asks_for_heartbeats_nothing_else_makes_a_candidate() {
    let pod = beating(fresh(), 1, LEASE);
    let _stream = pod.stream("/v1/lead").await;
    let no = pod.get("/v1/leader?wait=200ms").await;
    assert_eq!(
        (no.status, &no.body["reason"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"HeartbeatMissing".into())
    );
    assert!(no.body["message"].as_str().unwrap().contains("POST /v1/heartbeat"));
    let status = pod.get("/v1/status").await.body;
    assert_eq!((&status["candidate"], &status["healthy"]), (&false.into(), &false.into()));
    let beat = pod.post("/v1/heartbeat", "{}").await;
    assert_eq!((beat.status, &beat.body["pod"]), (StatusCode::OK, &"pod-1".into()));
    pod.lead().await;
    assert_eq!(pod.get("/v1/status").await.body["healthy"], true);
}

#[tokio::test]
async fn a_leader_that_hangs_says_no_in_time_and_is_followed_when_its_promises_are_over() {
    let timeout = Duration::from_millis(400);
    let first = beating(fresh(), 1, timeout);
    let second = beating(first.store.candidate(), 2, timeout);
    first.post("/v1/heartbeat", "").await;
    let term = first.lead().await;
    let hung = Instant::now();
    first.post("/v1/heartbeat", "").await;
    let (mut said_no, mut promised) = (None, hung);
    let next = async {
        // Somebody else in the pod goes on asking: what it is told counts.
        while said_no.is_none() {
            let answer = first.get("/v1/leader").await;
            if answer.status == StatusCode::OK {
                promised = Instant::now();
            } else {
                assert_eq!(answer.body["reason"], "HeartbeatMissing");
                said_no = Some(hung.elapsed());
            }
            sleep(Duration::from_millis(10)).await;
        }
        second.lead().await
    };
    let next = tokio::select! {
        next = next => next,
        () = live(&second) => unreachable!(),
    };
    assert!(next > term);
    let said_no = said_no.unwrap();
    assert!(said_no >= timeout && said_no < timeout + SLACK, "{said_no:?}");
    assert!(promised.elapsed() >= MAX_PROMISE + STOP_GRACE, "{:?}", promised.elapsed());
    assert!(
        promised.elapsed() < PROMISES + SLACK,
        "it is handed over, not run out: {:?}",
        promised.elapsed()
    );
}

#[tokio::test]
async fn a_leader_that_hangs_for_longer_than_its_promises_is_followed_at_once() {
    let timeout = PROMISES + Duration::from_millis(300);
    let first = beating(fresh(), 1, timeout);
    let second = beating(first.store.candidate(), 2, timeout);
    first.post("/v1/heartbeat", "").await;
    first.lead().await;
    first.post("/v1/heartbeat", "").await;
    let hung = Instant::now();
    tokio::select! {
        _ = second.lead() => {}
        () = live(&second) => unreachable!(),
    }
    assert!(hung.elapsed() >= timeout && hung.elapsed() < timeout + SLACK, "{:?}", hung.elapsed());
}

#[tokio::test]
async fn a_leader_that_fails_its_check_hands_over_and_cools_down() {
    let cool_down = 2 * PROMISES;
    let first = checked(fresh(), 1, cool_down, WhenAllUnhealthy::Nobody);
    let no = first.get("/v1/leader?wait=100ms").await;
    assert_eq!(no.body["reason"], "Unhealthy");
    check(&first, &[true; 2]);
    first.lead().await;
    check(&first, &[false]);
    assert_eq!(first.get("/v1/leader").await.status, StatusCode::OK, "one failure is none");
    let failed = Instant::now();
    check(&first, &[false]);
    assert_eq!(first.get("/v1/leader").await.body["reason"], "Unhealthy");
    check(&first, &[true; 2]);
    assert_eq!(first.get("/v1/leader").await.body["reason"], "CoolingDown");
    sleep(PROMISES + SLACK).await;
    assert_eq!(first.get("/v1/leader").await.body["reason"], "CoolingDown", "although nobody leads");
    first.lead().await;
    assert!(failed.elapsed() >= cool_down, "{:?}", failed.elapsed());
}

#[tokio::test]
async fn a_healthy_candidate_follows_an_unhealthy_leader_whatever_happens_when_all_are_unhealthy() {
    for unhealthy in [WhenAllUnhealthy::Nobody, WhenAllUnhealthy::KeepLast] {
        let first = checked(fresh(), 1, LEASE, unhealthy);
        let second = pod_of(first.store.candidate(), 2);
        check(&first, &[true; 2]);
        first.lead().await;
        assert_eq!(second.get("/v1/leader").await.body["reason"], "OtherLeads");
        check(&first, &[false; 2]);
        let failed = Instant::now();
        second.lead().await;
        assert!(failed.elapsed() < PROMISES + SLACK, "{:?}", failed.elapsed());
        sleep(2 * RENEW_INTERVAL).await;
        let status = first.get("/v1/status").await.body;
        assert_eq!(
            (&status["candidate"], &status["reason"]),
            (&false.into(), &"Unhealthy".into()),
            "{unhealthy:?}"
        );
    }
}

#[tokio::test]
async fn when_all_are_unhealthy_nobody_leads_or_the_last_as_the_policy_says() {
    for (unhealthy, leads) in [(WhenAllUnhealthy::Nobody, false), (WhenAllUnhealthy::KeepLast, true)] {
        let first = checked(fresh(), 1, RENEW_INTERVAL, unhealthy);
        let second = checked(first.store.candidate(), 2, RENEW_INTERVAL, unhealthy);
        check(&first, &[true; 2]);
        let term = first.lead().await;
        second.get("/v1/leader").await;
        check(&first, &[false; 2]);
        sleep(PROMISES + RENEW_INTERVAL + SLACK).await;
        let answer = first.get("/v1/leader").await;
        assert_eq!(answer.status == StatusCode::OK, leads, "{unhealthy:?}: {}", answer.body);
        if leads {
            assert!(answer.body["token"].as_str() > Some(&term));
        }
        assert_eq!(second.get("/v1/leader").await.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(first.get("/v1/status").await.body["healthy"], false);
    }
}

#[tokio::test]
async fn a_program_that_comes_and_goes_does_not_move_the_lead_to_and_fro() {
    let pod = checked(fresh(), 1, Duration::from_secs(2), WhenAllUnhealthy::Nobody);
    check(&pod, &[true; 2]);
    pod.lead().await;
    let asking = async {
        for _ in 0..60 {
            check(&pod, &[false; 2]);
            sleep(Duration::from_millis(25)).await;
            check(&pod, &[true; 2]);
            sleep(Duration::from_millis(25)).await;
        }
    };
    asking.await;
    let began = r#"conch_transitions_total{cause="Acquired"}"#;
    let metrics = pod.metrics();
    let terms = metrics.lines().find_map(|line| line.strip_prefix(began)).unwrap().trim();
    // Two seconds after the first loss it leads again, loses the lead at once, and then waits four.
    assert!(["1", "2"].contains(&terms), "{metrics}");
}

#[tokio::test]
async fn an_unhealthy_leader_that_is_about_to_end_does_not_come_back() {
    let pod = checked(fresh(), 1, RENEW_INTERVAL, WhenAllUnhealthy::KeepLast);
    check(&pod, &[true; 2]);
    pod.lead().await;
    pod.sidecar.pre_stop(conch_stores::clock::now());
    check(&pod, &[false; 2]);
    sleep(PROMISES + RENEW_INTERVAL + SLACK).await;
    assert_eq!(pod.get("/v1/leader").await.body["reason"], "Terminating");
}

#[tokio::test]
async fn where_the_policy_asks_for_a_stream_nothing_else_makes_a_candidate() {
    let pod = pod_with(fresh(), 1, Presence::Stream, Rules::NONE);
    pod.post("/v1/heartbeat", "").await;
    let no = pod.get("/v1/leader?wait=200ms").await;
    assert_eq!((no.status, &no.body["reason"]), (StatusCode::SERVICE_UNAVAILABLE, &"StreamMissing".into()));
    let mut events = pod.stream("/v1/lead").await;
    events.until(true).await;
    drop(events);
    let no = pod.get("/v1/leader?wait=200ms").await;
    assert_eq!(no.body["reason"], "StreamMissing");
}

#[tokio::test]
async fn a_stream_is_told_at_once_that_its_program_fails() {
    let pod = checked(fresh(), 1, LEASE, WhenAllUnhealthy::Nobody);
    check(&pod, &[true; 2]);
    let mut events = pod.stream("/v1/lead").await;
    events.until(true).await;
    let failed = Instant::now();
    check(&pod, &[false; 2]);
    assert_eq!(events.until(false).await["reason"], "Unhealthy");
    assert!(failed.elapsed() < MAX_PROMISE, "{:?}", failed.elapsed());
}

#[tokio::test]
async fn a_heartbeat_has_no_body_that_says_anything() {
    let pod = beating(fresh(), 1, LEASE);
    for body in ["null", "{", r#"{"alive":true}"#, &" ".repeat(5_000)] {
        let answer = pod.post("/v1/heartbeat", body).await;
        assert_eq!((answer.status, &answer.body["reason"]), (StatusCode::BAD_REQUEST, &"BadBody".into()));
    }
    sleep(Duration::from_millis(100)).await;
    assert_eq!(pod.get("/v1/leader").await.body["reason"], "HeartbeatMissing");
}
