//! What the cluster's supervisor is asked and answers, one JSON line each over its socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};

/// The longest that one request may take.
const LIMIT: Duration = Duration::from_secs(90);

/// What is done to a program of the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Deed {
    Stop,
    Continue,
    Kill,
    Restart,
}

/// A request to the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    Status,
    StartNode(usize),
    KillNode(usize),
    CutNode(usize),
    HealNode(usize),
    Component(String, Deed),
}

/// The supervisor's answer: which nodes run, or what went wrong.
pub(crate) type Answer = std::result::Result<Vec<usize>, String>;

/// Asks the supervisor and waits for its answer.
pub(crate) fn ask(socket: &Path, request: &Request) -> Result<Vec<usize>> {
    let mut stream = UnixStream::connect(socket).at("connect to", socket)?;
    stream.set_read_timeout(Some(LIMIT)).at("use", socket)?;
    send(&mut stream, request).at("write to", socket)?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).at("read from", socket)?;
    let answer: Answer = serde_json::from_str(&line)
        .map_err(|error| Error::Refused(format!("the supervisor's answer makes no sense: {error}")))?;
    answer.map_err(Error::Refused)
}

/// Reads one request.
pub(crate) fn receive(stream: &UnixStream) -> std::io::Result<Request> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

/// Writes one line.
pub(crate) fn send<T: Serialize>(stream: &mut UnixStream, value: &T) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    stream.write_all(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_the_socket() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let request = Request::Component("etcd".into(), Deed::Stop);
        send(&mut near, &request).unwrap();
        assert_eq!(receive(&far).unwrap(), request);
    }
}
