//! Requests that no honest program sends, to a process that leads: each gets a 4xx or a closed connection, and none a yes.

use crate::running::{Raw, Running};
use std::{io::Write, time::Duration};

const YES: &str = r#""leader":true"#;
/// Ends a connection that lives on after all, with an answer that shows it.
const NEXT: &str = "GET /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

fn refused(running: &Running, request: &[u8]) -> Raw {
    let shown = String::from_utf8_lossy(&request[..request.len().min(200)]).into_owned();
    let answer = running.exchange(request);
    assert!(!answer.0.contains(YES), "{shown}\n{}", answer.0);
    for status in answer.statuses() {
        assert!((400..500).contains(&status), "{status} to {shown}\n{}", answer.0);
    }
    answer
}

#[test]
fn what_could_mean_two_things_is_refused_or_ends_the_connection() {
    let running = Running::alone(&[]);
    running.lead();
    let post = "POST /v1/heartbeat HTTP/1.1\r\nHost: localhost\r\nConch-Request: 1\r\n";
    let get = "GET /v1/leader HTTP/1.1\r\nHost: localhost\r\n";
    let requests = [
        // Two lengths.
        format!("{post}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}{NEXT}"),
        format!("{post}Content-Length: 2, 3\r\n\r\n{{}}{NEXT}"),
        format!("{post}Content-Length: +2\r\n\r\n{{}}{NEXT}"),
        format!("{post}Content-Length: 0x2\r\n\r\n{{}}{NEXT}"),
        format!("{post}Content-Length: -1\r\n\r\n{{}}{NEXT}"),
        format!("{post}Content-Length: 99999999999999999999999\r\n\r\n{{}}{NEXT}"),
        // Chunks that are none.
        format!("{post}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{NEXT}"),
        format!("{post}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{NEXT}"),
        format!("{post}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{NEXT}"),
        format!("{post}Transfer-Encoding:\u{b}chunked\r\n\r\n0\r\n\r\n{NEXT}"),
        format!("{post}Transfer-Encoding: chunked\r\n\r\n-1\r\n{{}}\r\n0\r\n\r\n{NEXT}"),
        format!("{post}Transfer-Encoding: chunked\r\n\r\n0x2\r\n{{}}\r\n0\r\n\r\n{NEXT}"),
        format!("{post}Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff2\r\n{{}}\r\n0\r\n\r\n{NEXT}"),
        format!(
            "{post}Transfer-Encoding: chunked\r\n\r\n2;{}\r\n{{}}\r\n0\r\n\r\n{NEXT}",
            "x".repeat(40_000)
        ),
        "POST /v1/heartbeat HTTP/1.0\r\nHost: localhost\r\nConch-Request: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            .to_owned(),
        // Heads that others read differently.
        format!("{get}X: a\r\n Conch-Request: 1\r\n\r\n{NEXT}"),
        format!("{get}X: a\r\n\tfolded\r\n\r\n{NEXT}"),
        format!("{get}Host : localhost\r\n\r\n{NEXT}"),
        format!("{get}X: a\0b\r\n\r\n{NEXT}"),
        format!("{get}X: a\rb\r\n\r\n{NEXT}"),
        format!("{get}no colon\r\n\r\n{NEXT}"),
        format!("{get}: no name\r\n\r\n{NEXT}"),
        format!("GET /v1/leader\r\n\r\n{NEXT}"),
        format!("GET /v1/leader HTTP/1.1 HTTP/1.1\r\nHost: localhost\r\n\r\n{NEXT}"),
        format!("GET /v1/leader HTTP/9.1\r\nHost: localhost\r\n\r\n{NEXT}"),
        format!("GET  /v1/leader HTTP/1.1\r\nHost: localhost\r\n\r\n{NEXT}"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}".to_owned() + &"\0".repeat(500),
    ];
    for request in &requests {
        refused(&running, request.as_bytes());
    }
    assert_eq!(running.get("/v1/leader").statuses(), [200], "it leads on");
}

/// hyper reads the chunks and drops the length, which is allowed if nothing follows: what comes next on the connection could
/// be part of this request's body to somebody else.
#[test]
fn nothing_follows_a_request_that_came_in_chunks() {
    let running = Running::alone(&[]);
    running.lead();
    for lengths in [
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked",
    ] {
        let head = "POST /v1/heartbeat HTTP/1.1\r\nHost: localhost\r\nConch-Request: 1";
        let answer = running.exchange(format!("{head}\r\n{lengths}\r\n\r\n0\r\n\r\n{NEXT}").as_bytes());
        assert_eq!(answer.statuses().len(), 1, "{lengths}\n{}", answer.0);
        assert!(answer.0.to_ascii_lowercase().contains("connection: close"), "{}", answer.0);
    }
}

/// A body is a body, whatever it looks like, and one after the other is answered in order.
#[test]
fn pipelined_requests_are_answered_in_order_and_bodies_are_no_requests() {
    let running = Running::alone(&[]);
    let inner =
        "POST /v1/resign HTTP/1.1\r\nHost: localhost\r\nConch-Request: 1\r\nContent-Length: 2\r\n\r\n{}";
    let body = format!(
        "POST /v1/heartbeat HTTP/1.1\r\nHost: localhost\r\nConch-Request: 1\r\nContent-Length: {}\r\n\r\n{inner}",
        inner.len()
    );
    let answer = running.exchange(format!("{body}{NEXT}").as_bytes());
    assert_eq!(answer.statuses(), [400, 200], "{}", answer.0);

    let keep = "GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let foreign = "GET /v1/leader HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    let answer = running.exchange(format!("{}{foreign}{NEXT}", keep.repeat(500)).as_bytes());
    let statuses = answer.statuses();
    assert_eq!(statuses.len(), 502);
    assert_eq!((statuses[499], statuses[500], statuses[501]), (200, 403, 200));
}

/// A line may end with a bare LF (RFC 9112, 2.2): it is the end of the line to us everywhere, so nothing can hide behind it.
#[test]
fn a_bare_line_feed_ends_a_line_wherever_it_stands() {
    let running = Running::alone(&[]);
    running.lead();
    for request in [
        "POST /v1/heartbeat HTTP/1.1\r\nHost: localhost\r\nX: a\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        "GET /v1/leader HTTP/1.1\r\nConnection: close\r\nHost: localhost\r\nX: a\nHost: evil.example\r\n\r\n",
        "GET /v1/leader HTTP/1.1\nConnection: close\nHost: localhost\nX: a\nOrigin: http://evil.example\n\n",
        "GET /v1/leader HTTP/1.1\nConnection: close\nHost: evil.example\n\n",
    ] {
        assert_eq!(refused(&running, request.as_bytes()).statuses().len(), 1, "{request}");
    }
}

#[test]
fn strangers_and_web_pages_are_refused_by_the_process() {
    let running = Running::alone(&[]);
    running.lead();
    let close = "Connection: close\r\n\r\n";
    let mut requests = vec![
        format!("GET /v1/leader HTTP/1.1\r\n{close}"),
        "GET /v1/leader HTTP/1.0\r\n\r\n".to_owned(),
        format!("GET /v1/leader HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n{close}"),
        format!("GET http://evil.example/v1/leader HTTP/1.1\r\nHost: localhost\r\n{close}"),
        format!("CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n{close}"),
        format!("TRACE /v1/leader HTTP/1.1\r\nHost: localhost\r\n{close}"),
        format!("OPTIONS * HTTP/1.1\r\nHost: localhost\r\n{close}"),
    ];
    for host in
        ["evil.example", "localhost.evil.example", "10.0.0.1:4040", "localhost@evil", "localhost, evil", ""]
    {
        requests.push(format!("GET /v1/leader HTTP/1.1\r\nHost: {host}\r\n{close}"));
    }
    for origin in ["http://evil.example", "null", "http://localhost:4040", ""] {
        for path in ["/v1/leader", "/v1/status", "/v1/watch", "/v1/lead", "/nothing"] {
            requests.push(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\n{close}"));
        }
    }
    for path in ["/v1/resign", "/v1/heartbeat", "/v1/term", "/internal/prestop", "/v1/leader"] {
        for header in
            ["X: y", "Conch-Request: 0", "Conch-Request: 1, 1", "Conch_Request: 1", "Conch-Request:"]
        {
            requests.push(format!(
                "POST {path} HTTP/1.1\r\nHost: localhost\r\n{header}\r\nContent-Length: 2\r\n{close}{{}}"
            ));
        }
    }
    for request in &requests {
        assert_eq!(refused(&running, request.as_bytes()).statuses().len(), 1, "{request}");
    }
}

#[test]
fn heads_and_bodies_without_end_are_cut_off() {
    let running = Running::alone(&[]);
    running.lead();
    let huge = "x".repeat(1 << 20);
    for request in [
        format!("GET /v1/leader HTTP/1.1\r\nHost: localhost\r\nX: {huge}\r\n\r\n"),
        format!("GET /v1/leader?{huge} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        format!("{huge} /v1/leader HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        format!("GET /v1/leader HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(150_000)),
        format!(
            "POST /v1/resign HTTP/1.1\r\nHost: localhost\r\nConch-Request: 1\r\nContent-Length: {}\r\n\r\n{huge}",
            huge.len()
        ),
    ] {
        refused(&running, request.as_bytes());
    }
    // A body that never comes ends by itself, with 400.
    let mut waiting = running.connect();
    let head =
        "POST /v1/resign HTTP/1.1\r\nHost: localhost\r\nConch-Request: 1\r\nContent-Length: 9\r\n\r\n{";
    waiting.write_all(head.as_bytes()).unwrap();
    waiting.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    let answer = crate::running::exchange(waiting, b"");
    assert_eq!(answer.statuses(), [400], "{}", answer.0);
}
