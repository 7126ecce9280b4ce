//! The commands that the kubelet and people run beside the sidecar: each asks it over loopback.

use crate::http::{Called, PRE_STOP, REQUEST_HEADER};
use conch_election::Moment;
use conch_stores::clock;
use serde_json::Value;
use std::{
    fmt::Write as _,
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpStream},
    thread,
    time::{Duration, Instant},
};

/// How long `ready` tries: a startup probe is given one second by default.
const READY_FOR: Duration = Duration::from_millis(800);
const READY_PAUSE: Duration = Duration::from_millis(20);
const TIMEOUT: Duration = Duration::from_secs(2);
/// Of `/proc/PID/stat`, counted from 1: when the process was started, by `CLOCK_BOOTTIME` (`proc_pid_stat(5)`).
const START_TIME_FIELD: usize = 22;
/// Linux tells user space of hundredths of a second (`USER_HZ`) on every architecture that Kubernetes supports.
const TICKS_PER_SECOND: u32 = 100;

/// Why the sidecar did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection, or it broke.
    #[error("failed to ask the sidecar on port {port}")]
    Io {
        /// The API's port.
        port: u16,
        /// What the system says.
        source: io::Error,
    },
    /// Something answers there that is no sidecar, or says no.
    #[error("failed to get an answer from the sidecar: {0}")]
    Answer(String),
}

/// Waits a little until the API answers.
pub fn ready(port: u16) -> Result<(), ClientError> {
    let began = Instant::now();
    loop {
        match status(port) {
            Err(_) if began.elapsed() < READY_FOR => thread::sleep(READY_PAUSE),
            result => return result.map(drop),
        }
    }
}

/// Tells that the kubelet ran `preStop`, and when: as this process was started.
pub fn pre_stop(port: u16) -> Result<(), ClientError> {
    let called = serde_json::to_value(Called::from(started(clock::now()))).unwrap_or_default();
    let fields = called.as_object().into_iter().flatten().map(|(name, value)| format!("{name}={value}"));
    let query = fields.collect::<Vec<_>>().join("&");
    ask(port, "POST", &format!("{PRE_STOP}?{query}")).map(drop)
}

/// When this process was started: a container that is frozen or throttled may have let it wait since.
fn started(now: Moment) -> Moment {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks: Option<u64> = stat.rsplit_once(") ").and_then(|(_, fields)| {
        // The first field behind the name is the third of all (proc_pid_stat(5)).
        fields.split(' ').nth(START_TIME_FIELD - 3)?.parse().ok()
    });
    let since_boot = ticks.map(|ticks| Duration::from_secs(ticks) / TICKS_PER_SECOND);
    let age = since_boot.map_or(Duration::ZERO, |start| now.boottime.saturating_sub(start));
    Moment {
        boottime: now.boottime.saturating_sub(age),
        monotonic: now.monotonic.saturating_sub(age),
        monotonic_raw: now.monotonic_raw.saturating_sub(age),
    }
}

/// What the sidecar says of itself.
pub fn status(port: u16) -> Result<Value, ClientError> {
    let body = ask(port, "GET", "/v1/status")?;
    serde_json::from_str(&body).map_err(|error| ClientError::Answer(error.to_string()))
}

/// The status for people.
pub fn describe(status: &Value) -> String {
    let rows = [
        ("Election", text(&status["election"])),
        ("Pod", text(&status["pod"])),
        ("Leads", text(&status["leader"])),
        ("Why", format!("{}: {}", text(&status["reason"]), text(&status["message"]))),
        ("Holder", text(&status["holder"])),
        ("Token", text(&status["token"])),
        ("Since", text(&status["since"])),
        ("Valid for", format!("{} ms", text(&status["validForMs"]))),
        ("Deadline", with_unit(&status["deadlineBoottimeNs"], "ns of CLOCK_BOOTTIME")),
        ("Promises", format!("{} ms left of earlier answers", text(&status["promisesLeftMs"]))),
        ("Candidate", candidate(status)),
        ("Presence", text(&status["presence"])),
        ("Heartbeat", with_unit(&status["heartbeatAgeMs"], "ms ago")),
        ("Check", check(&status["check"])),
        ("Streams", text(&status["streams"])),
        ("Terminating", text(&status["terminating"])),
        ("Store", format!("{}, {} fencing", text(&status["store"]), text(&status["fencing"]))),
        ("Version", text(&status["version"])),
    ];
    let mut lines = rows.iter().fold(String::new(), |mut lines, (name, value)| {
        let _ = writeln!(lines, "{name:<12} {value}"); // a String takes everything
        lines
    });
    let transitions = status["transitions"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (number, change) in transitions.iter().rev().enumerate() {
        let name = if number == 0 { "Changes" } else { "" };
        let part = |field: &str| text(&change[field]);
        let (at, from, to, cause, token) =
            (part("at"), part("from"), part("to"), part("cause"), part("token"));
        let _ = writeln!(lines, "{name:<12} {at} {cause}: {from} -> {to}, token {token}");
    }
    lines
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn with_unit(value: &Value, unit: &str) -> String {
    if value.is_null() { text(value) } else { format!("{} {unit}", text(value)) }
}

fn candidate(status: &Value) -> String {
    match status["objection"].as_str() {
        Some(objection) if status["candidate"] == false => format!("false: {objection}"),
        _ => text(&status["candidate"]),
    }
}

fn check(result: &Value) -> String {
    if result.is_null() {
        return text(result);
    }
    let passed = if result["passed"] == true { "passed" } else { "failed" };
    format!("{passed} {} ms ago", text(&result["ageMs"]))
}

/// One request on a connection of its own; returns the body of a successful answer.
fn ask(port: u16, method: &str, path: &str) -> Result<String, ClientError> {
    let answer = exchange(port, method, path).map_err(|source| ClientError::Io { port, source })?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split(' ').nth(1) {
        Some(status) if head.starts_with("HTTP/1.1 ") && status.starts_with('2') => Ok(body.to_owned()),
        _ => Err(ClientError::Answer(head.lines().next().unwrap_or("nothing").to_owned())),
    }
}

fn exchange(port: u16, method: &str, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, port).into(), TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost:{port}\r\n{REQUEST_HEADER}: 1\r\nContent-Length: 0\r\n\
         Connection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.take(65_536).read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_known_is_a_dash_and_why_a_pod_is_no_candidate_is_said() {
        let status = json!({
            "leader": false, "candidate": false, "objection": "HeartbeatMissing", "heartbeatAgeMs": 12_000,
            "check": {"passed": false, "ageMs": 40}, "deadlineBoottimeNs": null,
            "transitions": [
                {"at": "1", "from": null, "to": "a", "token": null, "cause": "Observed"},
                {"at": "2", "from": "a", "to": "b", "token": "7", "cause": "Acquired"},
            ],
        });
        let lines = describe(&status);
        for line in [
            "Leads        false",
            "Holder       -",
            "Deadline     -",
            "Candidate    false: HeartbeatMissing",
            "Heartbeat    12000 ms ago",
            "Check        failed 40 ms ago",
            "Changes      2 Acquired: a -> b, token 7",
            "             1 Observed: - -> a, token -",
        ] {
            assert!(lines.lines().any(|found| found == line), "{line}\n{lines}");
        }
        assert!(describe(&json!({})).contains("Check        -\n"));
    }

    #[test]
    fn a_process_was_started_a_while_ago_and_after_its_parent() {
        thread::sleep(Duration::from_millis(50));
        let now = clock::now();
        let started = started(now);
        let age = now.longest_since(started);
        assert!(age >= Duration::from_millis(50), "{age:?}");
        // Whatever runs the tests does not take longer.
        assert!(age < Duration::from_hours(1), "{age:?}");
    }
}
