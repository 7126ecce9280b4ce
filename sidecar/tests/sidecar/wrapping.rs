//! Real processes of `conch-sidecar run` and of its guard, with programs that would not end by themselves.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};
use tempfile::TempDir;

use crate::real::{LEASE, MAX_PROMISE, STOP_GRACE, two_free_ports};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_conch-sidecar");
const SOON: Duration = Duration::from_secs(10);

/// How long a process sleeps by which a test knows it again: nobody else sleeps for so many seconds.
pub(crate) struct Mark(String);

/// A guard, and the wrapper's end of its channel.
pub(crate) struct Guard {
    pub(crate) child: Child,
    pub(crate) channel: BufReader<UnixStream>,
    pub(crate) started: Instant,
}

/// A wrapper; killed when dropped.
pub(crate) struct Wrapper {
    pub(crate) child: Child,
    port: u16,
}

impl Mark {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        Self(format!("7{:07}{:03}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)))
    }

    /// A program that ignores SIGTERM, with a daemon that left its session.
    pub(crate) fn stubborn(&self) -> String {
        let Self(mark) = self;
        format!("trap '' TERM; setsid sleep {mark} & while :; do sleep {mark}; done")
    }

    /// A program that ends when it is told to.
    pub(crate) fn sleep(&self) -> String {
        format!("exec sleep {}", self.0)
    }

    /// How many processes live that sleep so long.
    pub(crate) fn alive(&self) -> usize {
        let command_line = format!("sleep\0{}\0", self.0);
        let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path().join("cmdline"));
        processes.filter(|path| fs::read_to_string(path).is_ok_and(|line| line == command_line)).count()
    }

    pub(crate) fn wait_for(&self, count: usize) {
        until("the processes are as many", || self.alive() == count);
    }
}

pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < SOON, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn boottime() -> Duration {
    conch_stores::clock::now().boottime
}

impl Guard {
    pub(crate) fn start(stop_grace: Duration, runs_for: Duration, script: &str) -> Self {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let deadline = boottime() + runs_for;
        let started = Instant::now();
        let child = Command::new(BINARY)
            .args(["guard", "--stop-grace-ms", &stop_grace.as_millis().to_string()])
            .args(["--deadline-ns", &deadline.as_nanos().to_string(), "--", "sh", "-c", script])
            .stdin(OwnedFd::from(theirs))
            .spawn()
            .unwrap();
        ours.write_all(b"\n").unwrap();
        ours.set_read_timeout(Some(SOON)).unwrap();
        Self { child, channel: BufReader::new(ours), started }
    }

    pub(crate) fn tell(&mut self, order: &str) {
        self.channel.get_mut().write_all(format!("{order}\n").as_bytes()).unwrap();
    }

    /// What it says at its end, and how long after its start.
    pub(crate) fn report(&mut self) -> (String, Duration) {
        let mut line = String::new();
        self.channel.read_line(&mut line).unwrap();
        (line.trim_end().to_owned(), self.started.elapsed())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The arguments of `run` for a test: an instance of its own, where the test keeps its locks.
pub(crate) fn run_command(directory: &TempDir, port: u16, script: &str) -> Command {
    let mut command = Command::new(BINARY);
    command
        .args(["run", "--store", "memory", "--election", "jobs", "--instance-id", "me"])
        .args(["--lease-duration-ms", &LEASE.as_millis().to_string(), "--renew-interval-ms", "500"])
        .args(["--stop-grace-ms", &STOP_GRACE.as_millis().to_string()])
        .args(["--max-promise-ms", &MAX_PROMISE.as_millis().to_string(), "--port", &port.to_string()])
        .arg("--state-directory")
        .arg(directory.path())
        .args(["--", "sh", "-c", script])
        .env_remove("CONCH_KUBECONFIG")
        .stderr(Stdio::null());
    command
}

impl Wrapper {
    pub(crate) fn start(directory: &TempDir, script: &str) -> Self {
        let port = two_free_ports();
        Self::new(run_command(directory, port, script).spawn().unwrap(), port)
    }

    pub(crate) fn new(child: Child, port: u16) -> Self {
        Self { child, port }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The child of the wrapper.
    pub(crate) fn guard(&self) -> Pid {
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        let pid = fs::read_to_string(children).unwrap().trim().parse().unwrap();
        Pid::from_raw(pid).unwrap()
    }

    pub(crate) fn ends(&mut self) -> ExitStatus {
        let mut status = None;
        until("the wrapper ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Status and JSON of an answer.
    pub(crate) fn ask(&self, method: &str, path: &str) -> (u16, Value) {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConch-Request: 1\r\n");
        write!(stream, "{head}Content-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap())
    }
}

impl Drop for Wrapper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
