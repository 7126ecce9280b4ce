//! Server-sent events, and what holding and closing them means.

use crate::pod::{Events, LEASE, MAX_PROMISE, RENEW_INTERVAL, STOP_GRACE, pod, pod_of};
use axum::http::StatusCode;
use conch_process::serve::serve;
use conch_sidecar::run::API_LIMITS;
use conch_stores::clock;
use futures::StreamExt;
use serde_json::Value;
use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};

fn deadline(data: &Value) -> u128 {
    data["deadlineBoottimeNs"].as_str().unwrap().parse().unwrap()
}

/// Waits for the event that says no. A client finds it out by itself when the last promise is over.
async fn told_of_the_end(events: &mut Events) -> Value {
    timeout(MAX_PROMISE, events.until(false)).await.expect("no event before the last promise was over")
}

#[tokio::test]
async fn holding_the_lead_stream_is_being_a_candidate_and_closing_it_is_resigning() {
    let pod = pod();
    let other = pod_of(pod.store.candidate(), 2);
    let mut events = pod.stream("/v1/lead").await;
    let (first, _) = events.next().await;
    assert!(first.contains("id: 0\n") && first.contains("retry: 1000\n"), "{first}");
    let leading = events.until(true).await;
    assert!(leading["validForMs"].as_u64().unwrap() > 0);

    let waiting = tokio::spawn(async move { other.get("/v1/leader?wait=10s").await.body });
    sleep(Duration::from_millis(50)).await;
    let (_, last) = events.next().await;
    drop(events);
    let next = waiting.await.unwrap();
    // Else the other one leads when the promise and the stop grace are over.
    assert!(clock::now().boottime.as_nanos() < deadline(&last) + STOP_GRACE.as_nanos());
    assert!(next["token"].as_str() > leading["token"].as_str());
    assert_eq!(pod.get("/v1/status").await.body["candidate"], false);
}

#[tokio::test]
async fn closing_the_stream_waits_for_promises_that_were_made_elsewhere() {
    let pod = pod();
    let other = pod_of(pod.store.candidate(), 2);
    let mut events = pod.stream("/v1/lead").await;
    events.until(true).await;
    let told = Instant::now();
    assert_eq!(pod.get("/v1/leader").await.status, StatusCode::OK);
    drop(events);
    assert_eq!(pod.get("/v1/leader").await.body["reason"], "CoolingDown");
    assert!(!pod.sidecar.leads());
    let next = other.get("/v1/leader?wait=10s").await;
    assert_eq!(next.status, StatusCode::OK);
    assert!(told.elapsed() >= MAX_PROMISE + STOP_GRACE, "{:?}", told.elapsed());
    assert!(told.elapsed() + RENEW_INTERVAL < LEASE, "it is released, not run out: {:?}", told.elapsed());
}

#[tokio::test]
async fn a_stream_tells_each_extension_of_the_deadline_and_a_watcher_claims_nothing() {
    let pod = pod();
    let mut watched = pod.stream("/v1/watch").await;
    let (_, idle) = watched.next().await;
    assert_eq!(idle["leader"], false);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(pod.get("/v1/status").await.body["candidate"], false);

    let mut events = pod.stream("/v1/lead").await;
    let mut last = deadline(&events.until(true).await);
    assert_eq!(watched.until(true).await["leader"], true);
    for _ in 0..8 {
        let (_, data) = events.next().await;
        assert!(
            clock::now().boottime.as_nanos() < last,
            "the next event comes before the deadline of the last"
        );
        assert!(deadline(&data) > last);
        last = deadline(&data);
    }
}

/// With every place taken, over real connections, and nobody else reading.
#[tokio::test]
async fn the_last_of_64_streams_hears_of_a_change_within_milliseconds() {
    let pod = pod();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, pod.router.clone(), API_LIMITS, std::future::pending()));
    let open = async |path: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await.unwrap();
        stream
    };
    // A task of its own, woken as the streams are.
    let (mut changes, happened) = (pod.sidecar.subscribe(), Arc::new(Mutex::new(Instant::now())));
    let note = Arc::clone(&happened);
    tokio::spawn(async move {
        while changes.changed().await.is_ok() {
            *note.lock().unwrap() = Instant::now();
        }
    });
    let mut unread = Vec::new();
    for _ in 0..63 {
        unread.push(open("/v1/watch").await);
    }
    let mut program = BufReader::new(open("/v1/lead").await);
    let mut delays = Vec::new();
    for _ in 0..12 {
        let mut line = String::new();
        while !line.starts_with("data: ") {
            line.clear();
            program.read_line(&mut line).await.unwrap();
        }
        delays.push(happened.lock().unwrap().elapsed());
    }
    delays.sort_unstable();
    println!("RESULT 64 streams: the last one hears of a change after {delays:?}");
    // 5 ms is what is promised of the binary that is shipped.
    let limit = Duration::from_millis(if cfg!(debug_assertions) { 25 } else { 5 });
    assert!(delays[delays.len() / 2] <= limit, "{delays:?}");
}

#[tokio::test]
async fn streams_tell_of_the_announced_end_and_of_the_lost_lead_at_once() {
    let pod = pod();
    let mut events = pod.stream("/v1/lead").await;
    events.until(true).await;
    pod.sidecar.pre_stop(conch_stores::clock::now());
    loop {
        let (_, data) = events.next().await;
        assert_eq!(data["leader"], true, "the leader goes on leading until SIGTERM");
        if data["terminating"] == true {
            break;
        }
    }
    pod.is_told_to_end();
    let data = told_of_the_end(&mut events).await;
    assert_eq!(data["reason"], "Terminating");
}

#[tokio::test]
async fn a_lead_that_somebody_else_took_is_told_at_once() {
    let pod = pod();
    let mut events = pod.stream("/v1/lead").await;
    events.until(true).await;
    pod.store.delete();
    let data = told_of_the_end(&mut events).await;
    assert_eq!(data["reason"], "RecordUnknown");
}

#[tokio::test]
async fn streams_are_counted_and_the_next_one_gets_the_place_of_a_closed_one() {
    let pod = pod();
    let mut open: Vec<Events> =
        futures::stream::iter(0..64).then(|_| pod.stream("/v1/watch")).collect().await;
    for path in ["/v1/watch", "/v1/lead"] {
        let answer = pod.get(path).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.body["reason"], "TooManyStreams");
    }
    assert_eq!(pod.get("/v1/status").await.body["candidate"], false);
    open.pop();
    assert_eq!(pod.stream("/v1/lead").await.until(true).await["leader"], true);
}
