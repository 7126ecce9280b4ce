//! Programs that were written for nais/elector or the retired leader-elector, beside a sidecar whose policy asks for
//! compatibility. The clients are shaped as those that are in use.

use crate::{
    pod::Pod,
    real::two_free_ports,
    states::{HOST, State, World, fresh, request, timing, virtual_pod},
};
use axum::http::{Method, StatusCode};
use conch_crds::{names::sidecar_env, program::Compatibility};
use conch_stores::memory::{Link, MemoryStore};
use http_body_util::BodyExt;
use jiff::Timestamp;
use serde::Deserialize;
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    process::Command,
    time::Duration,
};
use tempfile::tempdir;
use tokio::time::{Instant, sleep, timeout};

const NOBODY: &str = "_nobody";

/// A decoder that takes nothing else.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Strict {
    name: String,
    last_update: Timestamp,
}

/// A decoder that needs the name and nothing else.
#[derive(Deserialize)]
struct NameAlone {
    name: String,
}

/// The status and the body of `GET /`.
async fn get(pod: &Pod) -> (StatusCode, String) {
    let response = pod.send(request("/", &Method::GET, "")).await;
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(response.headers()["cache-control"], "no-cache");
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

async fn strict(pod: &Pod) -> Strict {
    serde_json::from_str(&get(pod).await.1).unwrap()
}

/// "Better that several pods start the job than none": whatever goes wrong is a yes.
async fn fail_open(pod: &Pod, host_name: &str) -> bool {
    let (status, body) = get(pod).await;
    let answer = serde_json::from_str::<NameAlone>(&body);
    !status.is_success() || answer.map_or(true, |answer| answer.name == host_name)
}

/// Whatever goes wrong is a no.
async fn fail_closed(pod: &Pod, host_name: &str) -> bool {
    let (status, body) = get(pod).await;
    let answer = serde_json::from_str::<NameAlone>(&body);
    status.is_success() && answer.is_ok_and(|answer| answer.name == host_name)
}

/// A pod whose program asks by these paths alone.
fn elector(store: MemoryStore, number: u128, stop_grace: Duration) -> Pod {
    let lease = Duration::from_secs(12) + stop_grace;
    virtual_pod(store, number, timing(lease, stop_grace)).with_elector(&format!("pod-{number}"))
}

/// Two pods of one election; the first one leads.
async fn two(stop_grace: Duration) -> (MemoryStore, Pod, Pod) {
    let store = fresh();
    let first = elector(store.clone(), 1, stop_grace);
    let second = elector(store.candidate(), 2, stop_grace);
    while !fail_closed(&first, "pod-1").await {
        sleep(Duration::from_millis(10)).await;
    }
    sleep(Duration::from_millis(10)).await;
    (store, first, second)
}

#[tokio::test(start_paused = true)]
async fn asking_is_being_a_candidate_and_every_pod_names_the_leader() {
    let (_store, first, second) = two(Duration::from_secs(3)).await;
    assert!(!fail_open(&second, "pod-2").await);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(strict(&first).await.name, "pod-1");
    assert_eq!(strict(&second).await.name, "pod-1");
    let (status, body) = get(&first).await;
    let Strict { name, last_update } = serde_json::from_str(&body).unwrap();
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body, format!(r#"{{"name":"{name}","last_update":"{last_update}"}}"#), "to the byte");
    assert_eq!(strict(&first).await.last_update, last_update, "nothing has changed");

    let token = first.get("/v1/leader").await.body["token"].as_str().unwrap().to_owned();
    first.resign(&format!(r#"{{"token":"{token}","coolDown":"1m"}}"#)).await;
    assert!(!fail_open(&first, "pod-1").await);
    sleep(Duration::from_secs(1)).await;
    let next = strict(&second).await;
    assert_eq!(next.name, "pod-2");
    assert!(next.last_update >= last_update);
}

#[tokio::test(start_paused = true)]
async fn in_no_state_is_there_an_error_or_an_answer_without_a_name_and_only_the_leader_hears_its_own() {
    for state in State::ALL {
        let World { pod, others } = state.bring_about().await;
        let pod = pod.with_elector(HOST);
        let (status, body) = get(&pod).await;
        assert_eq!(status, StatusCode::OK, "{state:?}");
        let answer: Strict =
            serde_json::from_str(&body).unwrap_or_else(|error| panic!("{state:?}: {error}: {body}"));
        let leads = state.answer().0 == 200;
        let expected = if leads {
            HOST
        } else if state == State::NotLeader {
            "pod-2"
        } else {
            NOBODY
        };
        assert_eq!(answer.name, expected, "{state:?}");
        assert_eq!(fail_open(&pod, HOST).await, leads, "{state:?}");
        // An unset variable is an empty name to a shell.
        assert!(!fail_closed(&pod, "").await);
        for query in ["/?", "/?pretty=1"] {
            let response = pod.send(request(query, &Method::GET, "")).await;
            assert_eq!(response.status(), StatusCode::OK, "{state:?}");
        }
        drop(others);
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_shares_its_host_name_with_the_leader_is_not_told_that_name() {
    let (_store, _first, second) = two(Duration::from_secs(3)).await;
    let second = second.with_elector("pod-1");
    assert_eq!(second.get("/v1/leader").await.body["holder"], "pod-1");
    assert_eq!(strict(&second).await.name, NOBODY);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_cannot_know_who_leads_names_nobody_whatever_the_record_said_last() {
    let store = fresh();
    let first = elector(store.clone(), 1, Duration::from_secs(3));
    first.lead().await;
    let cut_off = store.candidate();
    let second = elector(cut_off.clone(), 2, Duration::from_secs(3));
    get(&second).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(strict(&second).await.name, "pod-1");
    cut_off.set_link(Link::Refused);
    sleep(Duration::from_mins(1)).await;
    assert_eq!(second.get("/v1/leader").await.body["holder"], "pod-1");
    assert_eq!(strict(&second).await.name, NOBODY);
}

#[tokio::test(start_paused = true)]
async fn a_stream_has_a_frame_at_once_and_one_at_each_change_and_nothing_else() {
    let (_store, first, second) = two(Duration::from_secs(3)).await;
    second.get("/v1/leader").await;
    let response = first.send(request("/sse", &Method::GET, "")).await;
    let headers = response.headers();
    let expected =
        [("content-type", "text/event-stream"), ("cache-control", "no-cache"), ("connection", "keep-alive")];
    assert!(expected.iter().all(|(name, value)| headers[*name] == *value), "{headers:?}");
    let mut body = response.into_body();
    let mut frame = async || {
        let bytes = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let json = text.strip_prefix("data: ").and_then(|rest| rest.strip_suffix("\n\n")).unwrap();
        assert!(!json.contains('\n'), "{text}");
        serde_json::from_str::<Strict>(json).unwrap().name
    };
    assert_eq!(frame().await, "pod-1");
    let quiet = timeout(Duration::from_mins(10), frame()).await;
    assert!(quiet.is_err(), "{quiet:?}: renewals are no change");

    let token = first.get("/v1/leader").await.body["token"].as_str().unwrap().to_owned();
    let resigned = Instant::now();
    first.resign(&format!(r#"{{"token":"{token}","coolDown":"1m"}}"#)).await;
    assert_eq!(frame().await, NOBODY);
    assert!(
        resigned.elapsed() < Duration::from_millis(5),
        "the clients stop by this: {:?}",
        resigned.elapsed()
    );
    while frame().await != "pod-2" {}
}

#[tokio::test(start_paused = true)]
async fn without_a_policy_that_asks_for_it_there_is_nothing() {
    let World { pod, .. } = State::Leading.bring_about().await;
    for path in ["/", "/sse"] {
        assert_eq!(pod.get(path).await.status, StatusCode::NOT_FOUND);
    }
}

/// How long after its last yes the other pod leads, if the first one is cut off from the store, or told to end.
async fn followed_after(stop_grace: Duration, end: impl AsyncFn(&MemoryStore, &Pod)) -> Duration {
    let (store, first, second) = two(stop_grace).await;
    sleep(Duration::from_secs(5)).await;
    second.get("/v1/leader").await;
    assert!(fail_closed(&first, "pod-1").await);
    let asked = Instant::now();
    end(&store, &first).await;
    assert_eq!(second.get("/v1/leader?wait=5m").await.status, StatusCode::OK);
    asked.elapsed()
}

/// A client that asks once a minute and goes by the answer in between. Failure scenario: two of them act at once.
#[tokio::test(start_paused = true)]
async fn a_client_that_keeps_an_answer_is_waited_for_if_the_time_to_stop_is_longer_and_not_otherwise() {
    let kept = Compatibility::LeaderElector.answer_kept();
    let step = Duration::from_secs(1);
    let cut_off = async |store: &MemoryStore, _: &Pod| store.set_link(Link::Silent);
    let told_to_end = async |_: &MemoryStore, first: &Pod| first.sidecar.signalled("SIGTERM");
    let (accepted, refused) = (kept + step, Duration::from_secs(3));
    let safe = [followed_after(accepted, cut_off).await, followed_after(accepted, told_to_end).await];
    assert!(safe.iter().all(|after| *after >= kept + step), "{safe:?}");
    let unsafe_ = [followed_after(refused, cut_off).await, followed_after(refused, told_to_end).await];
    assert!(
        unsafe_.iter().all(|after| *after < kept),
        "the rule of the policy would not be needed: {unsafe_:?}"
    );
}

/// The real process, over a real connection, as a client of nais/elector asks it.
#[test]
fn the_process_names_the_machine_on_which_it_runs() {
    let (directory, port) = (tempdir().unwrap(), two_free_ports());
    let mut sidecar = Command::new(env!("CARGO_BIN_EXE_conch-sidecar"))
        .args(["serve", "--store", "memory", "--election", "jobs", "--instance-id", "me", "--port"])
        .arg(port.to_string())
        .env(sidecar_env::COMPATIBILITY, "LeaderElector")
        .env(sidecar_env::STATE_DIRECTORY, directory.path())
        .spawn()
        .unwrap();
    let ask = || -> Option<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
        let head = format!("GET / HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        Some(serde_json::from_str::<Strict>(answer.split_once("\r\n\r\n")?.1).unwrap().name)
    };
    let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let (began, mut name) = (std::time::Instant::now(), None);
    while name.as_deref() != Some(host_name.trim()) && began.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(20));
        name = ask();
    }
    sidecar.kill().unwrap();
    sidecar.wait().unwrap();
    assert_eq!(name.as_deref(), Some(host_name.trim()));
}
