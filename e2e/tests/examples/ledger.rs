//! The resource that the examples write to: an HTTP server that checks tokens as `docs/fencing.md` has it. In the local
//! tests it is a thread; in a pod it is this file, compiled by itself.
//!
//! It writes down every attempt, also what it refuses, when its connection is accepted: a line with the time in nanoseconds,
//! the caller's address, the token and the status.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// As the program of a pod: the port, and the file to write to.
#[allow(dead_code, reason = "used where this file is a program")]
fn main() -> io::Result<()> {
    let arguments: Vec<_> = std::env::args().collect();
    serve(&TcpListener::bind(("0.0.0.0", 8080))?, File::create(&arguments[1])?)
}

/// One request after the other, so that comparing the token and writing is one step.
pub(crate) fn serve(listener: &TcpListener, mut log: File) -> io::Result<()> {
    let mut highest = String::new();
    loop {
        let (stream, caller) = listener.accept()?;
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        // A caller that was killed says nothing, or not to its end: it did nothing.
        if let Ok((token, status)) = answer(stream, &mut highest) {
            writeln!(log, "{at} {} {token} {status}", address(caller.ip()))?;
        }
    }
}

fn answer(mut stream: TcpStream, highest: &mut String) -> io::Result<(String, &'static str)> {
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        request.extend(byte);
    }
    let request = String::from_utf8_lossy(&request).to_lowercase();
    let header = |name| request.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let length = header("content-length:").and_then(|length| length.parse().ok()).unwrap_or(0);
    stream.read_exact(&mut vec![0; length])?;
    let token = header("conch-token:").unwrap_or_default().to_owned();
    let status = if token.len() != 20 || !token.bytes().all(|digit| digit.is_ascii_digit()) {
        "428 Precondition Required"
    } else if token < *highest {
        "412 Precondition Failed"
    } else {
        highest.clone_from(&token);
        "200 OK"
    };
    // The caller may be gone.
    let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    Ok((token, &status[..3]))
}

fn address(address: IpAddr) -> IpAddr {
    address.to_canonical()
}
