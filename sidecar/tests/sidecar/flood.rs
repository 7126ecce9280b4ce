//! Clients that take all they can get, and what the renewals of the lead notice of it: the API server of these tests closes
//! the connection after each write, so that every renewal needs a file descriptor that is free.

use crate::{
    lease_server::{LeaseServer, worked},
    running::{BINARY, RENEW_INTERVAL, Running, command, exchange},
};
use std::{
    fs,
    io::Write,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

const CONNECTIONS: usize = 10_000;
const FLOODERS: usize = 4;
/// A round that was disturbed is repeated, so often at most.
const ROUNDS: u32 = 3;
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);
/// So long a round lasts at least.
const LOAD: Duration = Duration::from_secs(10);
/// How long the sidecar itself may work for its clients between the moment at which a renewal is due and its arrival. Time in
/// which it had no processor is not counted: other tests and the attackers run on the same ones. 50 ms is what is promised
/// of the binary that is shipped. One that is not optimised needs 25 ms, and 90 to 135 ms if it serves whoever pipelines as
/// long as there is something to serve: the bound is between.
const WORK_MAX: Duration = Duration::from_millis(if cfg!(debug_assertions) { 70 } else { 50 });
/// From one look at how much it has worked to the next.
const LOOK: Duration = Duration::from_millis(2);
const FILES: usize = 240;

/// What became of the renewals after `since`.
struct Lateness {
    /// How late each came, counted from one renewal interval after the one before it; sorted.
    late: Vec<Duration>,
    /// How much the process worked meanwhile; sorted.
    work: Vec<Duration>,
}

impl Lateness {
    /// `looks`: how much it had worked at some moments.
    fn of(server: &LeaseServer, since: Instant, looks: &[(Instant, Duration)]) -> Self {
        let (mut late, mut work) = (Vec::new(), Vec::new());
        let writes = server.writes();
        for pair in writes.windows(2).filter(|pair| pair[0].at >= since) {
            let due = pair[0].at + RENEW_INTERVAL;
            late.push(pair[1].at.saturating_duration_since(due));
            let before = looks.iter().rev().find(|(at, _)| *at <= due).map_or(pair[0].worked, |look| look.1);
            work.push(pair[1].worked.saturating_sub(before));
        }
        late.sort_unstable();
        work.sort_unstable();
        Self { late, work }
    }

    fn print(&self, when: &str) {
        let show = |sorted: &[Duration]| {
            let (median, worst) = (sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
            format!("median {median:?} p90 {:?} max {worst:?}", nine_of_ten(sorted))
        };
        let (late, work) = (show(&self.late), show(&self.work));
        println!("RESULT renewals {when}: {}, late {late}, own work meanwhile {work}", self.late.len());
    }
}

/// Nine of ten were not worse than this.
fn nine_of_ten(sorted: &[Duration]) -> Duration {
    sorted[sorted.len() * 9 / 10]
}

/// Notes how much the process has worked, until the end.
fn look(pid: u32, ended: &AtomicBool) -> Vec<(Instant, Duration)> {
    let mut looks = Vec::new();
    while !ended.load(Ordering::Relaxed) {
        looks.push((Instant::now(), worked(pid)));
        thread::sleep(LOOK);
    }
    looks
}

fn addresses(port: u16) -> [SocketAddr; 2] {
    [(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]
}

fn open(address: SocketAddr) -> Option<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).ok()?;
    stream.set_write_timeout(Some(CONNECT_TIMEOUT)).ok()?;
    stream.set_read_timeout(Some(CONNECT_TIMEOUT)).ok()?;
    Some(stream)
}

/// Streams that nobody reads, and heads that come byte by byte for ever.
fn hold_places(port: u16, ended: &AtomicBool) {
    let streams: Vec<_> = (0..64)
        .filter_map(|_| {
            let mut stream = open(addresses(port)[0])?;
            stream.write_all(b"GET /v1/watch HTTP/1.1\r\nHost: localhost\r\n\r\n").ok()?;
            Some(stream)
        })
        .collect();
    let mut slow: Vec<_> = (0..64).filter_map(|number| open(addresses(port)[number % 2])).collect();
    while !ended.load(Ordering::Relaxed) {
        for stream in &mut slow {
            let _ = stream.write_all(b"G");
        }
        thread::sleep(Duration::from_millis(50));
    }
    drop((streams, slow));
}

/// Heads of a megabyte, pipelines that are not read, and more of the same.
fn send_much(port: u16, ended: &AtomicBool) {
    let head = format!("GET /v1/leader HTTP/1.1\r\nHost: localhost\r\nX: {}", "x".repeat(1 << 20));
    let pipeline = "GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(2_000);
    let mut unread = Vec::new();
    while !ended.load(Ordering::Relaxed) {
        for address in addresses(port) {
            let Some(mut stream) = open(address) else { continue };
            let _ = stream.write_all(head.as_bytes());
            let Some(mut stream) = open(address) else { continue };
            let _ = stream.write_all(pipeline.as_bytes());
            unread.truncate(16);
            unread.insert(0, stream);
        }
    }
}

/// Attempts its part of the connections, holding as many as it may.
fn flood(port: u16, attempts: &AtomicUsize, ended: &AtomicBool) {
    let mut held = Vec::new();
    while attempts.fetch_add(1, Ordering::Relaxed) < CONNECTIONS || !ended.load(Ordering::Relaxed) {
        held.extend(open(addresses(port)[0]));
        if held.len() == 100 {
            held.drain(..50);
        }
    }
}

/// What is measured is what the sidecar's work for its clients costs, not that these threads take the core from it.
fn yielding(attack: impl FnOnce()) {
    let _ = rustix::process::nice(19); // of this thread
    attack();
}

/// One round of everything at once.
fn attack(running: &Running, server: &LeaseServer, attempts: &AtomicUsize) -> Lateness {
    let (began, ended) = (Instant::now(), AtomicBool::new(false));
    let looks = thread::scope(|scope| {
        scope.spawn(|| yielding(|| hold_places(running.port, &ended)));
        scope.spawn(|| yielding(|| send_much(running.port, &ended)));
        for _ in 0..FLOODERS {
            scope.spawn(|| yielding(|| flood(running.port, attempts, &ended)));
        }
        let looks = scope.spawn(|| look(running.pid(), &ended));
        thread::sleep(LOAD);
        ended.store(true, Ordering::Relaxed);
        looks.join().unwrap()
    });
    Lateness::of(server, began, &looks)
}

#[test]
fn renewals_are_on_time_whatever_clients_do() {
    let server = LeaseServer::start();
    let running = Running::candidate("me", &server.kubeconfig(), &[], None);
    let token = running.lead();
    server.observe(running.pid());
    let (began, attempts) = (Instant::now(), AtomicUsize::new(0));
    thread::sleep(RENEW_INTERVAL * 8);
    Lateness::of(&server, began, &[]).print("before");
    // Where the API server's thread gets no processor, the sidecar goes on working for others, which is counted here though
    // nothing waits for it. That only adds, so one renewal in ten is not looked at, and the best round counts.
    let mut worst = (0..ROUNDS).map(|round| {
        let under_load = attack(&running, &server, &attempts);
        under_load.print(&format!("under load, round {round}"));
        assert!(under_load.work.len() >= 10, "{:?}", under_load.late);
        nine_of_ten(&under_load.work)
    });
    let in_time = worst.any(|worst| worst <= WORK_MAX);
    let attempts = attempts.load(Ordering::Relaxed);
    println!("RESULT connections attempted: {attempts} in {:?}", began.elapsed());
    assert!(in_time && attempts >= CONNECTIONS);
    // Nobody waits for the end of the attack: places are free as soon as their clients are gone.
    let answer = running.get("/v1/leader");
    assert_eq!(answer.statuses(), [200], "{}", running.said());
    assert_eq!(answer.json()["token"], *token, "one term, without a gap");
}

#[test]
fn with_every_place_taken_a_renewal_still_finds_a_file_descriptor() {
    let server = LeaseServer::start();
    let running = Running::candidate("me", &server.kubeconfig(), &[], Some(FILES));
    let mut program = running.connect();
    program.write_all(b"GET /v1/lead HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let token = running.lead();
    let open_files = || fs::read_dir(format!("/proc/{}/fd", running.pid())).unwrap().count();
    let mut held: Vec<TcpStream> = Vec::new();
    for address in addresses(running.port).into_iter().chain([(Ipv4Addr::LOCALHOST, running.port + 1).into()])
    {
        held.extend((0..300).filter_map(|_| open(address)));
    }
    thread::sleep(Duration::from_millis(200));
    let (open_now, since) = (open_files(), Instant::now());
    assert!(open_now <= FILES - 16, "{open_now} are open, and renewals have too few");
    assert!(open_now >= 160, "{open_now}: not all places are taken");
    // The places are really taken: one more is closed, unanswered.
    let answer = running.get("/v1/leader");
    assert_eq!(answer.0, "");
    thread::sleep(Duration::from_secs(5)); // longer than the lease
    let renewals = server.writes().iter().filter(|write| write.at >= since).count();
    assert!(renewals >= 15, "{renewals} renewals\n{}", running.said());
    println!("RESULT file descriptors: limit {FILES}, open with every place taken {open_now}");
    drop(held);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(running.get("/v1/leader").json()["token"], *token, "one term, without a gap");
    drop(program);
}

#[test]
fn too_few_file_descriptors_are_said_before_anything_is_held() {
    let directory = TempDir::new().unwrap();
    let port = crate::real::two_free_ports();
    let mut command = command("me", port, directory.path(), Some(128));
    let output = command.args(["--store", "memory"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{BINARY}: {said}");
    assert!(said.contains("limit of open files is 128") && said.contains("ulimit -n"), "{said}");
    let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
    assert!(refused.is_err(), "{:?}", refused.map(|stream| exchange(stream, b"").0));
}
