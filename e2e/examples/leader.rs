//! Does five steps a second while this pod leads. It asks before every step. `CONCH_URL`, `LEDGER_URL`: see leader.go.

use std::io::{Error, Result, Write};
use std::{env, fs, net::TcpStream, thread, time::Duration};

/// An answer; what is not clearly a yes has a deadline that is over.
#[derive(Default)]
struct Answer {
    token: String,
    deadline: Duration,
    terminating: bool,
}

fn ask() -> Result<Answer> {
    let (ok, answer) = send("GET", "CONCH_URL", "/v1/leader", "")?;
    let text = |name| Some(answer.split_once(&format!("\"{name}\":\""))?.1.split_once('"')?.0.to_owned());
    let token = text("token").unwrap_or_default();
    let leads = ok && answer.contains("\"leader\":true") && token.len() == 20;
    let nanoseconds = text("deadlineBoottimeNs").filter(|_| leads).and_then(|deadline| deadline.parse().ok());
    let deadline = Duration::from_nanos(nanoseconds.unwrap_or(0));
    Ok(Answer { token, deadline, terminating: answer.contains("\"terminating\":true") })
}

/// One effect, shorter than the policy's `stopGrace` (3 s). The ledger refuses a token lower than it has seen: 412.
fn step(token: &str) -> Result<()> {
    let headers = format!("Content-Length: 0\r\nConch-Token: {token}\r\n");
    let (ok, answer) = send("POST", "LEDGER_URL", "", &headers)?;
    if ok { Ok(()) } else { Err(Error::other(answer)) }
}

/// HTTP/1.0: no chunks, and the connection ends with the answer. Also says whether its status is 200.
fn send(method: &str, base: &str, path: &str, headers: &str) -> Result<(bool, String)> {
    let url = env::var(base).map_err(Error::other)? + path;
    let (host, path) = url.trim_start_matches("http://").split_once('/').unwrap_or((&url, ""));
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "{method} /{path} HTTP/1.0\r\nHost: {host}\r\n{headers}\r\n")?;
    let answer = std::io::read_to_string(stream)?;
    Ok((answer.get(8..13) == Some(" 200 "), answer))
}

/// `CLOCK_BOOTTIME`, which goes on while the machine is suspended; `Instant` stands still. Rounded up to 10 ms.
fn uptime() -> Result<Duration> {
    let text = fs::read_to_string("/proc/uptime")?;
    let seconds: f64 = text.split(' ').next().unwrap_or_default().parse().map_err(Error::other)?;
    Ok(Duration::from_secs_f64(seconds + 0.01))
}

fn main() -> Result<()> {
    loop {
        let answer = ask().inspect_err(|error| eprintln!("no answer: {error}")).unwrap_or_default();
        if answer.terminating {
            return Ok(());
        }
        if uptime()? < answer.deadline {
            step(&answer.token).unwrap_or_else(|error| eprintln!("no step: {error}"));
        }
        thread::sleep(Duration::from_millis(200));
    }
}
