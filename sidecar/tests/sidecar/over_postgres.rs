//! Real sidecar processes that hold their election in a real PostgreSQL server, outside of any cluster. Where PostgreSQL is
//! not installed, each test says that it was skipped.

use crate::{
    postgres_server::{PASSWORD, Server, programs},
    real::{LEASE, MAX_PROMISE, STOP_GRACE, Sidecar, skipped, two_free_ports},
};
use rustix::process::Signal;
use std::{
    fs,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// What a busy machine may take beside a lease.
const SLACK: Duration = Duration::from_millis(1_500);
const END: Duration = Duration::from_secs(10);

/// An election in a database, and where its processes keep their locks.
struct Election {
    server: Server,
    directory: TempDir,
}

impl Election {
    fn new() -> Option<Self> {
        if programs().is_none() {
            skipped("PostgreSQL is not installed");
            return None;
        }
        Some(Self { server: Server::start(""), directory: tempfile::tempdir().unwrap() })
    }

    /// A command, all of whose settings come from the environment, the password among them.
    fn command(&self, id: &str, port: u16, task: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_conch-sidecar"));
        let socket = self.server.path().display().to_string().replace('/', "%2F");
        command
            .args(task)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("CONCH_STORE", "postgres")
            .env("CONCH_POSTGRES_URL", format!("postgresql://postgres:{PASSWORD}@{socket}/postgres"))
            .env("CONCH_POSTGRES_CREATE_TABLE", "true")
            .env("CONCH_ELECTION", "jobs")
            .env("CONCH_INSTANCE_ID", id)
            .env("CONCH_STATE_DIRECTORY", self.directory.path())
            .env("CONCH_LEASE_DURATION_MS", LEASE.as_millis().to_string())
            .env("CONCH_RENEW_INTERVAL_MS", "500")
            .env("CONCH_STOP_GRACE_MS", STOP_GRACE.as_millis().to_string())
            .env("CONCH_MAX_PROMISE_MS", MAX_PROMISE.as_millis().to_string())
            .env("CONCH_PORT", port.to_string())
            .env("CONCH_LOG", "debug");
        command
    }

    fn start(&self, id: &str) -> Sidecar {
        let port = two_free_ports();
        let log = fs::File::options().create(true).append(true).open(self.log(id)).unwrap();
        let child = self.command(id, port, &["serve"]).stderr(log.try_clone().unwrap()).stdout(log).spawn();
        let sidecar = Sidecar::new(child.unwrap(), port);
        assert!(sidecar.run("ready").status.success());
        sidecar
    }

    fn log(&self, id: &str) -> std::path::PathBuf {
        self.directory.path().join(format!("{id}.log"))
    }
}

/// A belief to lead: from when the answer had come until its deadline, counted from before it was asked for.
#[derive(Clone, Copy, Debug)]
struct Belief {
    who: u16,
    from: Instant,
    until: Instant,
}

/// Asks these sidecars all the time, as programs do.
struct Watch {
    ends: Arc<AtomicBool>,
    beliefs: Arc<Mutex<Vec<Belief>>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Watch {
    fn on(ports: &[u16]) -> Self {
        let (ends, beliefs) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Vec<Belief>>>::default());
        let threads = ports.iter().map(|&who| {
            let (ends, beliefs) = (Arc::clone(&ends), Arc::clone(&beliefs));
            thread::spawn(move || {
                while !ends.load(Ordering::Relaxed) {
                    let asked = Instant::now();
                    if let Some(valid) = valid_for(who) {
                        let belief = Belief { who, from: Instant::now(), until: asked + valid };
                        beliefs.lock().unwrap().push(belief);
                    }
                    thread::sleep(Duration::from_millis(10));
                }
            })
        });
        Self { threads: threads.collect(), ends, beliefs }
    }

    /// Waits until this one, which did not lead, believes that it does; says when.
    fn until_leads(&self, who: u16, limit: Duration) -> Instant {
        let began = Instant::now();
        loop {
            let later = |belief: &&Belief| belief.who == who && belief.from > began;
            if let Some(belief) = self.beliefs.lock().unwrap().iter().find(later) {
                return belief.from;
            }
            assert!(began.elapsed() < limit, "it does not lead");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// At no instant did two of them believe that they lead.
    fn end(self) -> usize {
        self.ends.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let beliefs = self.beliefs.lock().unwrap().clone();
        for (index, one) in beliefs.iter().enumerate() {
            for other in &beliefs[index + 1..] {
                let both = one.who != other.who && one.from < other.until && other.from < one.until;
                assert!(!both, "two at a time: {one:?} {other:?}");
            }
        }
        beliefs.len()
    }
}

/// How long the sidecar on this port says that its program leads. A dead one says nothing, a stopped one in its own time.
fn valid_for(port: u16) -> Option<Duration> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    stream.write_all(b"GET /v1/leader HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let body: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
    let valid = body["validForMs"].as_u64().map(Duration::from_millis);
    valid.filter(|_| body["leader"] == true)
}

#[test]
fn a_leader_that_is_killed_stopped_or_told_to_end_is_followed_and_never_joined() {
    let Some(election) = Election::new() else { return };
    let mut first = election.start("first");
    let token = first.lead()["token"].clone();
    let mut second = election.start("second");
    let watch = Watch::on(&[first.port(), second.port()]);
    watch.until_leads(first.port(), END);

    // Killed: a whole lease passes, and not much more.
    let died = Instant::now();
    first.signal(Signal::KILL);
    first.ends_within(END);
    let late = watch.until_leads(second.port(), LEASE * 3) - died;
    println!("killed: the next one led {late:?} later, with a lease of {LEASE:?}");
    assert!(late < LEASE + SLACK, "{late:?}");
    let next = second.lead();
    assert!(next["token"].as_str() > token.as_str());
    assert_eq!(next["fencing"], "Strict");

    // Stopped for longer than a lease: the first thing that it says then is no.
    let third = election.start("third");
    let more = Watch::on(&[third.port(), second.port()]);
    thread::sleep(Duration::from_secs(1));
    let froze = Instant::now();
    second.signal(Signal::STOP);
    let late = more.until_leads(third.port(), LEASE * 3) - froze;
    println!("stopped: the next one led {late:?} later");
    assert!(late < LEASE + SLACK, "{late:?}");
    second.signal(Signal::CONT);
    thread::sleep(Duration::from_secs(1));

    // Told to end: what was promised is waited for, and no more.
    let fourth = election.start("fourth");
    let last = Watch::on(&[third.port(), fourth.port()]);
    thread::sleep(Duration::from_millis(500));
    second.signal(Signal::TERM);
    assert!(second.ends_within(END).success());
    let told = Instant::now();
    third.signal(Signal::TERM);
    let late = last.until_leads(fourth.port(), LEASE * 3) - told;
    println!("told to end: the next one led {late:?} later");
    assert!(late < MAX_PROMISE + STOP_GRACE + SLACK, "{late:?}");
    for watch in [watch, more, last] {
        assert!(watch.end() > 10, "nobody was seen to lead");
    }
    for id in ["first", "second", "third", "fourth"] {
        let said = fs::read_to_string(election.log(id)).unwrap();
        assert!(said.contains("conch_elections") && !said.contains(PASSWORD), "{said}");
    }
}

#[test]
fn a_leader_outlives_a_restart_of_the_database_and_not_its_absence() {
    let Some(election) = Election::new() else { return };
    let (first, second) = (election.start("first"), election.start("second"));
    let token = first.lead()["token"].clone();
    let watch = Watch::on(&[first.port(), second.port()]);
    let stopped = Instant::now();
    election.server.stop("INT");
    election.server.serve();
    let took = stopped.elapsed();
    thread::sleep(LEASE);
    if took < LEASE / 2 {
        assert_eq!(first.lead()["token"], token, "a restart that took {took:?} cost the lead");
    } else {
        skipped(&format!("the database took {took:?} to restart"));
    }

    election.server.stop("KILL");
    let killed = Instant::now();
    for sidecar in [&first, &second] {
        while sidecar.get("/v1/leader").1["reason"] != "StoreUnavailable" {
            assert!(killed.elapsed() < LEASE + END, "{}", sidecar.get("/v1/leader").1);
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(sidecar.get("/v1/leader").0, 503);
    }
    election.server.serve();
    let back = Instant::now();
    let leads = || [&first, &second].into_iter().find(|sidecar| sidecar.get("/v1/leader").0 == 200);
    while leads().is_none() {
        assert!(back.elapsed() < LEASE + END, "nobody leads again");
        thread::sleep(Duration::from_millis(20));
    }
    println!("led again {:?} after the database was back", back.elapsed());
    assert!(leads().unwrap().lead()["token"].as_str() > token.as_str());
    watch.end();
}

#[test]
fn a_program_is_run_while_its_process_leads_and_never_sees_the_password() {
    let Some(election) = Election::new() else { return };
    let script = "test -z \"$CONCH_POSTGRES_URL\" && echo $CONCH_TOKEN";
    let mut run = election.command("runner", two_free_ports(), &["run", "--", "sh", "-c", script]);
    let output = run.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said} {}", String::from_utf8_lossy(&output.stderr));
    assert!(
        said.lines().any(|line| line.len() == 20 && line.bytes().all(|byte| byte.is_ascii_digit())),
        "{said}"
    );
}

/// The block "postgresql-candidate" of docs/postgresql.md.
#[test]
fn the_commands_of_the_document_work() {
    let Some(election) = Election::new() else { return };
    let document =
        include_str!("../../../docs/postgresql.md").split("```sh name=postgresql-candidate\n").nth(1);
    let block = document.unwrap().split("```").next().unwrap();
    let commands: Vec<&str> = block.lines().filter_map(|line| line.strip_prefix("conch-sidecar ")).collect();
    assert_eq!(commands.len(), 2);
    for (id, line) in ["first", "second"].into_iter().zip(commands) {
        let line = line.replace("/usr/bin/worker", "true");
        let words: Vec<&str> = line.split(' ').collect();
        let port = two_free_ports();
        let mut sidecar = Sidecar::new(election.command(id, port, &words).spawn().unwrap(), port);
        if words[0] == "run" {
            assert!(sidecar.ends_within(END).success());
        } else {
            assert!(sidecar.run("ready").status.success());
            assert_eq!(sidecar.lead()["election"], "shop/payments");
            sidecar.signal(Signal::TERM);
            assert!(sidecar.ends_within(END).success());
        }
    }
}

#[test]
fn what_is_wrong_is_said_at_the_start_without_the_password() {
    let Some(election) = Election::new() else { return };
    let refused = |variable: &str, value: &str| {
        let mut command = election.command("first", two_free_ports(), &["serve"]);
        let output = command.env(variable, value).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = refused("CONCH_POSTGRES_URL", &format!("postgresql://u:{PASSWORD}@db/d?sslmode=verify-full"));
    assert!(said.contains("sslmode") && !said.contains(PASSWORD), "{said}");
    let help = election.command("first", 4_040, &["serve", "--help"]).output().unwrap();
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    assert!(help.contains("CONCH_POSTGRES_URL") && !help.contains(PASSWORD), "{help}");
}
