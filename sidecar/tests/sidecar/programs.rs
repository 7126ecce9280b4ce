//! Programs that hang, fail their check or are restarted, beside the real process and a real API server; see [`crate::process`].

use crate::real::{Election, LEASE, MAX_PROMISE, STOP_GRACE, Sidecar, two_free_ports};
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// What a hand-over may take besides, on a machine that is busy with other tests.
const SOON: Duration = MAX_PROMISE;
/// Promises on a clock that is as slow as a kernel can make it, and the time to stop.
const PROMISES: Duration = MAX_PROMISE.saturating_add(Duration::from_millis(125)).saturating_add(STOP_GRACE);

/// Set when the test is over, however it ends.
#[derive(Default)]
struct Over(AtomicBool);

impl Over {
    fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn guard(&self) -> impl Drop + '_ {
        struct Guard<'over>(&'over Over);
        impl Drop for Guard<'_> {
            fn drop(&mut self) {
                self.0.0.store(true, Ordering::Relaxed);
            }
        }
        Guard(self)
    }
}

/// Answers checks until the test is over.
fn answer_checks(listener: &TcpListener, healthy: &AtomicBool, over: &Over) {
    listener.set_nonblocking(true).unwrap();
    while !over.is_over() {
        let Ok((mut stream, _)) = listener.accept() else {
            thread::sleep(Duration::from_millis(5));
            continue;
        };
        stream.set_nonblocking(false).unwrap();
        let _ = stream.read(&mut [0; 1_024]);
        let status = if healthy.load(Ordering::Relaxed) { "200 OK" } else { "503 Down" };
        let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
    }
}

/// Runs with a program that is alive beside this sidecar.
fn alive<T>(sidecar: &Sidecar, run: impl FnOnce() -> T) -> T {
    let over = Over::default();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.is_over() {
                assert_eq!(sidecar.post("/v1/heartbeat", "").0, 200);
                thread::sleep(Duration::from_millis(200));
            }
        });
        let _guard = over.guard();
        run()
    })
}

#[test]
fn a_program_that_hangs_beside_a_healthy_sidecar_is_followed_within_the_policys_time() {
    let Some(election) = Election::new() else { return };
    let beats = [("CONCH_PRESENCE", "Heartbeat"), ("CONCH_HEARTBEAT_TIMEOUT_MS", "1000")];
    let (first, second) = (election.start_with("first", &beats), election.start_with("second", &beats));
    let term = alive(&first, || first.lead());
    let hung = Instant::now();
    let next = alive(&second, || second.lead());
    assert!(next["token"].as_str() > term["token"].as_str());
    let limit = Duration::from_secs(1) + PROMISES + SOON;
    assert!(hung.elapsed() < limit && limit < LEASE, "{:?}", hung.elapsed());
    let (status, answer) = first.get("/v1/leader");
    assert_eq!((status, &answer["reason"]), (503, &"HeartbeatMissing".into()));
}

#[test]
fn a_program_that_fails_its_check_is_followed_and_one_that_has_none_never_leads() {
    let Some(election) = Election::new() else { return };
    let port = two_free_ports();
    let url = format!("http://localhost:{port}/healthz");
    let checks = [
        ("CONCH_CHECK", url.as_str()),
        ("CONCH_CHECK_PERIOD_MS", "500"),
        ("CONCH_CHECK_TIMEOUT_MS", "300"),
        ("CONCH_CHECK_FAILURES", "2"),
        ("CONCH_CHECK_SUCCESSES", "1"),
    ];
    let (first, second) = (election.start_with("first", &checks), election.start("second"));
    let (status, answer) = first.get("/v1/leader?wait=1s");
    assert_eq!((status, &answer["reason"]), (503, &"Unhealthy".into()));

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    let (healthy, over) = (AtomicBool::new(true), Over::default());
    thread::scope(|scope| {
        scope.spawn(|| answer_checks(&listener, &healthy, &over));
        let _guard = over.guard();
        first.lead();
        second.get("/v1/leader");
        healthy.store(false, Ordering::Relaxed);
        let failed = Instant::now();
        second.lead();
        let limit = 2 * Duration::from_millis(500) + PROMISES + SOON;
        assert!(failed.elapsed() < limit && limit < LEASE, "{:?}", failed.elapsed());
        assert_eq!(first.get("/v1/leader").1["reason"], "Unhealthy");
    });
}

#[test]
fn a_program_that_was_restarted_gets_a_token_of_its_own_from_a_real_lease() {
    let Some(election) = Election::new() else { return };
    let (first, second) = (election.start("first"), election.start("second"));
    let mut token = first.lead()["token"].as_str().unwrap().to_owned();
    second.get("/v1/leader");
    for _ in 0..3 {
        let (status, answer) = first.post("/v1/term", &format!(r#"{{"token":"{token}"}}"#));
        assert_eq!(status, 200, "{answer}");
        let next = answer["token"].as_str().unwrap().to_owned();
        assert!(next > token);
        token = next;
    }
    thread::sleep(LEASE + SOON);
    assert_eq!(first.get("/v1/leader").1["token"], *token, "it renews as any other");
    assert_eq!(second.get("/v1/leader").1["holder"], "first");
    let resigned = Instant::now();
    assert_eq!(first.post("/v1/resign", &format!(r#"{{"token":"{token}"}}"#)).0, 200);
    second.lead();
    assert!(resigned.elapsed() < SOON, "the release names the last term: {:?}", resigned.elapsed());
}

#[test]
fn what_cannot_be_asked_of_a_program_does_not_start() {
    let Some(election) = Election::new() else { return };
    let output = election
        .command("first", 4_040)
        .envs([("CONCH_CHECK", "tcp://localhost:1"), ("CONCH_CHECK_TIMEOUT_MS", "2001")])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("must be at most its period, 2000 ms"), "{said}");
}
