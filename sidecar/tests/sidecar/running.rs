//! A sidecar process of its own, and what it says.

use crate::real::two_free_ports;
use serde_json::Value;
use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Output},
    time::Duration,
};
use tempfile::TempDir;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_conch-sidecar");
pub(crate) const RENEW_INTERVAL: Duration = Duration::from_millis(250);

/// Killed when dropped.
pub(crate) struct Running {
    child: Child,
    pub(crate) port: u16,
    directory: TempDir,
}

/// What came back over a connection, as it was sent.
pub(crate) struct Raw(pub(crate) String);

impl Running {
    /// Serves alone, over a register in its memory.
    pub(crate) fn alone(more: &[&str]) -> Self {
        Self::start("me", None, &[&["--store", "memory"], more].concat(), None)
    }

    /// One of the candidates for the Lease that this kubeconfig leads to. `files`: its limit of open files.
    pub(crate) fn candidate(id: &str, kubeconfig: &Path, more: &[&str], files: Option<usize>) -> Self {
        Self::start(id, Some(kubeconfig), more, files)
    }

    fn start(id: &str, kubeconfig: Option<&Path>, more: &[&str], files: Option<usize>) -> Self {
        let (directory, port) = (TempDir::new().unwrap(), two_free_ports());
        let mut command = command(id, port, directory.path(), files);
        command.args(more).stderr(File::create(directory.path().join("log")).unwrap());
        command.envs(kubeconfig.map(|path| ("KUBECONFIG", path)));
        let running = Self { child: command.spawn().unwrap(), port, directory };
        assert!(running.run(&["ready"]).status.success(), "{}", running.said());
        running
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs another command of the binary beside it.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        Command::new(BINARY).args(arguments).env("CONCH_PORT", self.port.to_string()).output().unwrap()
    }

    /// All that it logged so far.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Sends these bytes, says that no more will come, and reads until the sidecar closes.
    pub(crate) fn exchange(&self, request: &[u8]) -> Raw {
        exchange(self.connect(), request)
    }

    pub(crate) fn get(&self, path: &str) -> Raw {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        self.exchange(request.as_bytes())
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Raw {
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConch-Request: 1\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        );
        self.exchange(request.as_bytes())
    }

    /// Waits until it leads; returns the token.
    pub(crate) fn lead(&self) -> String {
        let answer = self.get("/v1/leader?wait=30s");
        assert_eq!(answer.statuses(), [200], "{}\n{}", answer.0, self.said());
        answer.json()["token"].as_str().unwrap().to_owned()
    }

    pub(crate) fn resign(&self, token: &str) {
        let answer = self.post("/v1/resign", &format!(r#"{{"token":"{token}"}}"#));
        assert_eq!(answer.statuses(), [200], "{}", answer.0);
    }

    /// What Prometheus would get.
    pub(crate) fn metrics(&self) -> String {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port + 1)).unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n";
        let answer = exchange(stream, request);
        assert!(answer.0.contains("application/openmetrics-text; version=1.0.0"), "{}", answer.0);
        answer.0.split_once("\r\n\r\n").unwrap().1.to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Raw {
    /// The status of each answer. Of those that begin in a body that was cut off as well: none is to be missed.
    pub(crate) fn statuses(&self) -> Vec<u16> {
        let status = |rest: &str| rest.split(' ').nth(1)?.get(..3)?.parse().ok();
        self.0.match_indices("HTTP/1.").filter_map(|(at, _)| status(&self.0[at..])).collect()
    }

    /// The body of the only answer.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(self.0.split_once("\r\n\r\n").unwrap().1).unwrap()
    }
}

/// Not yet started.
pub(crate) fn command(id: &str, port: u16, directory: &Path, files: Option<usize>) -> Command {
    // A shell is the way to a limit that only this process has.
    let limit = files.map(|files| format!("ulimit -n {files} && ")).unwrap_or_default();
    let mut command = Command::new("sh");
    command.env_clear().args(["-c", &format!("{limit}exec \"$0\" \"$@\""), BINARY, "serve"]);
    command.args(["--election", "jobs", "--instance-id", id, "--state-directory"]).arg(directory);
    command.args(["--lease-duration-ms", "4000", "--stop-grace-ms", "500", "--max-promise-ms", "1000"]);
    command.args(["--renew-interval-ms", &RENEW_INTERVAL.as_millis().to_string()]);
    command.args(["--port", &port.to_string()]);
    command
}

/// Writes all that the other side takes, and reads all that it sends. A reset is an end as good as another.
pub(crate) fn exchange(mut stream: TcpStream, request: &[u8]) -> Raw {
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let mut buffer = [0; 16_384];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("neither an answer nor an end: {}", String::from_utf8_lossy(request))
            }
            Err(_) => break,
        }
    }
    Raw(String::from_utf8_lossy(&answer).into_owned())
}
