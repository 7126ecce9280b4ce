//! Does five steps a second while this pod leads. It asks before every step. `CONCH_URL`, `LEDGER_URL`: see leader.go.

use std::io::{Error, Result, Write};
use std::{env, fs, net::TcpStream, net::ToSocketAddrs, thread, time::Duration};

/// An answer; what is not clearly a yes has a deadline that is over.
#[derive(Default)]
struct Answer {
    token: String,
    deadline: Duration,
    terminating: bool,
}

fn ask() -> Result<Answer> {
    let asked = uptime()?; // before the question: nobody knows how long the answer was on its way
    let (ok, answer) = send("GET", "CONCH_URL", "/v1/leader", "")?;
    let field = |name| answer.split_once(&format!("\"{name}\":"))?.1.split([',', '}']).next();
    let token = field("token").unwrap_or_default().trim_matches('"').to_owned();
    let leads = ok && answer.contains("\"leader\":true") && token.len() == 20 && answer.ends_with('}');
    let valid = field("validForMs").filter(|_| leads).and_then(|valid| valid.parse().ok());
    let deadline = asked + Duration::from_millis(valid.unwrap_or(0));
    Ok(Answer { token, deadline, terminating: answer.contains("\"terminating\":true") })
}

/// One effect, shorter than the policy's `stopGrace` (3 s). The ledger refuses a token lower than it has seen: 412.
fn step(token: &str) -> Result<()> {
    let (ok, answer) = send("POST", "LEDGER_URL", "", token)?;
    if ok { Ok(()) } else { Err(Error::other(answer)) }
}

/// HTTP/1.0, to a host with a port: no chunks, and the connection ends with the answer. Is its status 200?
fn send(method: &str, base: &str, path: &str, token: &str) -> Result<(bool, String)> {
    let url = env::var(base).map_err(Error::other)? + path;
    let (host, path) = url.trim_start_matches("http://").split_once('/').unwrap_or((&url, ""));
    let address = host.to_socket_addrs()?.next().ok_or(Error::other("the name has no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let headers = format!("Host: {host}\r\nConch-Token: {token}\r\nContent-Length: 0\r\n");
    write!(stream, "{method} /{path} HTTP/1.0\r\n{headers}\r\n")?;
    std::io::read_to_string(stream).map(|answer| (answer.get(8..13) == Some(" 200 "), answer))
}

/// `CLOCK_BOOTTIME`, which goes on in suspend, rounded down to 10 ms. A container's file may begin at 0: only differences count.
fn uptime() -> Result<Duration> {
    let seconds = fs::read_to_string("/proc/uptime")?.split(' ').next().unwrap_or_default().parse();
    Ok(Duration::from_secs_f64(seconds.map_err(Error::other)?))
}

fn main() -> Result<()> {
    loop {
        let answer = ask().inspect_err(|error| eprintln!("no answer: {error}")).unwrap_or_default();
        if answer.terminating {
            return Ok(());
        }
        if uptime()? + Duration::from_millis(10) < answer.deadline {
            step(&answer.token).unwrap_or_else(|error| eprintln!("no step: {error}"));
        }
        thread::sleep(Duration::from_millis(200));
    }
}
