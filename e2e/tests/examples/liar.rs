//! Each example beside a sidecar that lies, falls silent, is late or breaks off: on this machine, no cluster needed.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;

use crate::languages::{Example, GO, JAVA, NODE, PYTHON, RUST, SHELL};
use crate::{ledger, skip, steps};

const TOKEN: &str = "00000000000000081234";
/// What a true yes promises.
const PROMISE: Duration = Duration::from_millis(2_500);
/// A JVM on a busy machine takes its time.
const PATIENCE: Duration = Duration::from_secs(40);

/// What the sidecar does with a request or a new stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    /// What a leader's sidecar says.
    Yes,
    No,
    Terminating,
    /// The connection is closed at once.
    Closed,
    /// Nothing comes.
    Silent,
    /// No JSON.
    Page,
    NoToken,
    NullToken,
    NoDeadline,
    /// A yes whose deadline is over.
    Expired,
    /// A yes that was good for half a second, and comes after one.
    Late,
    /// A yes with a status that is none.
    Broken,
    /// A yes that breaks off.
    Torn,
}

use Mood::{
    Broken, Closed, Expired, Late, No, NoDeadline, NoToken, NullToken, Page, Silent, Terminating, Torn, Yes,
};

const NOT_A_YES: [Mood; 11] =
    [Silent, Closed, No, Page, NoToken, NullToken, NoDeadline, Expired, Late, Broken, Torn];

#[derive(Debug)]
struct State {
    mood: Mood,
    /// How often the mood changed.
    turns: usize,
    /// Requests since then.
    requests: usize,
}

/// A sidecar's address, with no sidecar behind it.
#[derive(Debug, Clone)]
struct Liar(Arc<Mutex<State>>);

impl Liar {
    fn start() -> (Self, String) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let liar = Self(Arc::new(Mutex::new(State { mood: Closed, turns: 0, requests: 0 })));
        let server = liar.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let server = server.clone();
                thread::spawn(move || server.answer(stream));
            }
        });
        (liar, url)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Open connections are closed, unless it falls silent.
    fn turn(&self, mood: Mood) {
        let turns = self.state().turns + 1;
        *self.state() = State { mood, turns, requests: 0 };
    }

    fn wait_requests(&self, count: usize) {
        wait("request", || self.state().requests >= count);
    }

    fn note_request(&self) -> (Mood, usize) {
        let mut state = self.state();
        state.requests += 1;
        (state.mood, state.turns)
    }

    fn answer(&self, mut stream: TcpStream) -> Option<()> {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).ok()?;
            request.extend(byte);
        }
        let asked = boottime();
        let (mood, turns) = self.note_request();
        if mood == Late {
            thread::sleep(Duration::from_secs(1));
        }
        let is_stream = request.starts_with(b"GET /v1/lead ");
        if let Some((status, headers, body)) = said(mood, asked) {
            // A stream is one whatever it tells.
            let status = if is_stream && status == 503 { 200 } else { status };
            let head = format!("HTTP/1.1 {status} x\r\nConnection: close\r\n{headers}");
            let text = if is_stream {
                let end = if mood == Torn { "" } else { "\n\n" };
                format!("{head}Content-Type: text/event-stream\r\n\r\nid: 0\ndata: {body}{end}")
            } else {
                let missing = if mood == Torn { 100 } else { 0 };
                format!("{head}Content-Length: {}\r\n\r\n{body}", body.len() + missing)
            };
            stream.write_all(text.as_bytes()).ok()?;
        }
        // A stream stays open, and so does what says nothing.
        let stays = |state: &State| state.turns == turns || state.mood == Silent;
        while (is_stream || mood == Silent) && ![Closed, Torn].contains(&mood) && stays(&self.state()) {
            thread::sleep(Duration::from_millis(10));
        }
        Some(())
    }
}

/// Status, headers and body of an answer that was asked for at this time.
fn said(mood: Mood, asked: Duration) -> Option<(u16, String, String)> {
    let promise = match mood {
        Closed | Silent => return None,
        Page => return Some((200, String::new(), "<html>It works!</html>".to_owned())),
        No => return Some((503, String::new(), no(false))),
        Terminating => return Some((503, String::new(), no(true))),
        Expired => Duration::ZERO,
        Late => Duration::from_millis(500),
        _ => PROMISE,
    };
    let milliseconds = promise.as_millis();
    let deadline = (asked + promise).as_nanos();
    let token = match mood {
        NoToken => String::new(),
        NullToken => r#","token":null"#.to_owned(),
        _ => format!(r#","token":"{TOKEN}""#),
    };
    let valid = match mood {
        NoDeadline => String::new(),
        _ => format!(r#","validForMs":{milliseconds},"deadlineBoottimeNs":"{deadline}""#),
    };
    let headers = match mood {
        NoToken | NullToken => format!("Conch-Valid-For-Ms: {milliseconds}\r\n"),
        NoDeadline => format!("Conch-Token: {TOKEN}\r\n"),
        _ => format!("Conch-Token: {TOKEN}\r\nConch-Valid-For-Ms: {milliseconds}\r\n"),
    };
    let mut body =
        format!(r#"{{"leader":true,"election":"shop/payments"{token}{valid},"terminating":false}}"#);
    if mood == Torn {
        body.truncate(body.find(r#","deadline"#).unwrap_or(0) + 25);
    }
    Some((if mood == Broken { 500 } else { 200 }, headers, body))
}

fn no(terminating: bool) -> String {
    format!(
        r#"{{"leader":false,"token":null,"validForMs":0,"deadlineBoottimeNs":null,"terminating":{terminating}}}"#
    )
}

fn boottime() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.try_into().unwrap(), now.tv_nsec.try_into().unwrap())
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "no {what} within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A running example; ended when dropped.
struct Running {
    child: Child,
    log: PathBuf,
    _directory: TempDir,
}

impl Running {
    fn start(example: Example, conch: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        if let Err(missing) = example.prepare(directory.path()) {
            skip(&format!("{} beside a lying sidecar", example.file), &missing);
            return None;
        }
        let log = directory.path().join("steps");
        let command = example.command(directory.path());
        let mut child = Command::new(&command[0]);
        child.args(&command[1..]).env("CONCH_URL", conch).env("LEDGER_URL", ledger_to(&log));
        child.env("DATABASE_URL", &log).env("PATH", path_with_psql(directory.path()));
        child.env_remove("http_proxy").env_remove("HTTP_PROXY").env_remove("all_proxy").stdout(Stdio::null());
        let child = child.stderr(Stdio::null()).spawn().unwrap();
        Some(Self { child, log, _directory: directory })
    }

    fn steps(&self) -> Vec<steps::Step> {
        steps::read(&self.log)
    }

    fn wait_exit(&mut self) -> ExitStatus {
        let mut status = None;
        wait("exit", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ledger_to(log: &Path) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}/entries", listener.local_addr().unwrap());
    let log = File::create(log).unwrap();
    thread::spawn(move || ledger::serve(&listener, log));
    url
}

/// No database here: this `psql` writes the ledger's line. On the cluster it is the real one.
fn path_with_psql(directory: &Path) -> String {
    let psql = directory.join("psql");
    let script = "#!/bin/sh\nfor word; do case $word in\n\
        --set=token=*) echo \"1 127.0.0.1 ${word#--set=token=} 200\" >>\"$1\" ;;\nesac; done\n";
    fs::write(&psql, script).unwrap();
    fs::set_permissions(&psql, fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", directory.display(), std::env::var("PATH").unwrap())
}

/// Only a yes is a yes, and only until its deadline; and the end of the pod is the end of the program.
fn works_only_after_a_yes(example: Example) {
    let (liar, url) = Liar::start();
    let Some(mut running) = Running::start(example, &url) else { return };
    for mood in NOT_A_YES {
        liar.turn(mood);
        liar.wait_requests(1);
        thread::sleep(Duration::from_millis(1_500));
        assert_eq!(running.steps(), [], "{} took {mood:?} for a yes", example.file);
    }
    liar.turn(Yes);
    wait("step", || running.steps().len() >= 2);
    assert!(running.steps().iter().all(|step| step.token == TOKEN), "{:?}", running.steps());
    liar.turn(Silent);
    thread::sleep(PROMISE + Duration::from_secs(1));
    let before = running.steps().len();
    thread::sleep(Duration::from_secs(2));
    assert_eq!(running.steps().len(), before, "{} goes on after the deadline", example.file);
    liar.turn(Yes);
    wait("step after the silence", || running.steps().len() > before);
    liar.turn(Terminating);
    let status = running.wait_exit();
    assert!(status.success(), "{}: {status}", example.file);
}

#[test]
fn the_shell_works_only_after_a_yes() {
    works_only_after_a_yes(SHELL);
}

#[test]
fn go_works_only_after_a_yes() {
    works_only_after_a_yes(GO);
}

#[test]
fn python_works_only_after_a_yes() {
    works_only_after_a_yes(PYTHON);
}

#[test]
fn java_works_only_after_a_yes() {
    works_only_after_a_yes(JAVA);
}

#[test]
fn node_works_only_after_a_yes() {
    works_only_after_a_yes(NODE);
}

#[test]
fn rust_works_only_after_a_yes() {
    works_only_after_a_yes(RUST);
}
