//! One question over a connection that is kept.

use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

/// A kept connection to the sidecar, or none.
#[derive(Debug)]
pub struct Connection {
    /// Host and port.
    address: String,
    sender: Option<Sender>,
}

type Sender = SendRequest<Full<Bytes>>;

/// A `/v1/lead` stream. Dropping it closes its connection at once.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    /// What was received of the next event.
    received: Vec<u8>,
    connection: AbortHandle,
    /// The connection is open as long as this is.
    _sender: Sender,
}

/// What a sidecar answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Conch's: status, deadline and token.
    Deadline,
    /// The status alone: 200 or 503. It is believed until the next question, and for two intervals at most.
    StatusAlone,
}

/// A whole HTTP answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub body: Bytes,
}

/// What an answer to `GET /v1/leader` means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// This pod leads.
    Yes {
        /// How long, from when the question was asked.
        valid_for: Duration,
        /// The same as an instant of `CLOCK_BOOTTIME`, in nanoseconds.
        deadline: u64,
        /// The term's fencing token.
        token: u128,
    },
    /// It does not.
    No,
    /// The answer contradicts itself or lacks a field.
    Bad,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The URL is not `http://host:port`.
    #[error("{0:?} is no http://host:port")]
    Url(String),
    /// No connection.
    #[error("failed to connect")]
    Connect(#[source] std::io::Error),
    /// The connection broke.
    #[error("failed to exchange HTTP")]
    Http(#[from] hyper::Error),
    /// The question could not be written as a request.
    #[error("failed to build the request")]
    Request(#[from] http::Error),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    leader: bool,
    token: Option<String>,
    valid_for_ms: Option<u64>,
    deadline_boottime_ns: Option<String>,
}

impl Connection {
    /// A connection that is opened with the first question.
    ///
    /// # Errors
    /// The URL is not `http://host:port`.
    pub fn new(url: &str) -> Result<Self, AskError> {
        let address = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
        match address.filter(|address| address.contains(':') && !address.contains('/')) {
            Some(address) => Ok(Self { address: address.to_owned(), sender: None }),
            None => Err(AskError::Url(url.to_owned())),
        }
    }

    /// Sends `GET path`, over the kept connection if it is still good.
    ///
    /// # Errors
    /// The connection cannot be opened or breaks; the next question opens a new one. A caller that stops waiting must
    /// call [`Connection::close`], or a late answer would be taken for the next one's.
    pub async fn get(&mut self, path: &str) -> Result<Reply, AskError> {
        let request = Request::get(path).header("Host", &self.address).body(Full::default())?;
        self.exchange(request).await
    }

    /// Says that the program has stopped leading a term.
    ///
    /// # Errors
    /// As with [`Connection::get`].
    pub async fn resign(&mut self, token: u128) -> Result<Reply, AskError> {
        let body = format!(r#"{{"token":"{token:020}"}}"#);
        let request = Request::post("/v1/resign").header("Host", &self.address).header("Conch-Request", "1");
        self.exchange(request.body(Full::from(body))?).await
    }

    /// Opens a stream of answers on a connection of its own.
    ///
    /// # Errors
    /// The connection cannot be opened or breaks.
    pub async fn stream(&self, path: &str) -> Result<Events, AskError> {
        let request = Request::get(path).header("Host", &self.address).body(Full::default())?;
        let (mut sender, connection) = self.connect().await?;
        let body = sender.send_request(request).await?.into_body();
        Ok(Events { body, received: Vec::new(), connection, _sender: sender })
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Reply, AskError> {
        let mut sender = match self.sender.take() {
            Some(sender) if !sender.is_closed() => sender,
            _ => self.connect().await?.0,
        };
        let response = sender.send_request(request).await?;
        let reply = read(response).await?;
        self.sender = Some(sender);
        Ok(reply)
    }

    /// Gives the connection up.
    pub fn close(&mut self) {
        self.sender = None;
    }

    async fn connect(&self) -> Result<(Sender, AbortHandle), AskError> {
        let stream = TcpStream::connect(&self.address).await.map_err(AskError::Connect)?;
        stream.set_nodelay(true).map_err(AskError::Connect)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with its sender; what it says about a broken connection the sender says too.
        let task = tokio::spawn(async move { connection.await.is_ok() });
        sender.ready().await?;
        Ok((sender, task.abort_handle()))
    }
}

impl Events {
    /// The next answer on the stream; `None` when it has ended.
    pub async fn next(&mut self) -> Option<Answer> {
        loop {
            if let Some(event) = next_event(&mut self.received) {
                return Some(event);
            }
            let frame = self.body.frame().await?.ok()?;
            self.received.extend_from_slice(frame.data_ref()?);
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Takes the first whole event with data off what was received; comments are skipped.
fn next_event(received: &mut Vec<u8>) -> Option<Answer> {
    loop {
        let end = received.windows(2).position(|pair| pair == b"\n\n")?;
        let event: Vec<u8> = received.drain(..end + 2).collect();
        let mut lines = event.split(|byte| *byte == b'\n');
        if let Some(data) = lines.find_map(|line| line.strip_prefix(b"data:")) {
            let body = serde_json::from_slice::<Body>(data);
            return Some(body.map_or(Answer::Bad, Body::answer));
        }
    }
}

async fn read(response: Response<Incoming>) -> Result<Reply, AskError> {
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    Ok(Reply { status, body })
}

impl Reply {
    /// Reads the answer to `GET /v1/leader`.
    pub fn answer(&self) -> Answer {
        let Ok(body) = serde_json::from_slice::<Body>(&self.body) else {
            return Answer::Bad;
        };
        match (self.status, body.leader) {
            (StatusCode::OK, true) | (StatusCode::SERVICE_UNAVAILABLE, false) => body.answer(),
            _ => Answer::Bad,
        }
    }
}

impl Body {
    fn answer(self) -> Answer {
        if self.leader { self.yes().unwrap_or(Answer::Bad) } else { Answer::No }
    }

    fn yes(self) -> Option<Answer> {
        Some(Answer::Yes {
            valid_for: Duration::from_millis(self.valid_for_ms?),
            deadline: self.deadline_boottime_ns?.parse().ok()?,
            token: self.token?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &'static str) -> Answer {
        Reply { status: StatusCode::from_u16(status).unwrap(), body: Bytes::from_static(body.as_bytes()) }
            .answer()
    }

    #[test]
    fn an_answer_counts_as_yes_only_if_status_and_body_agree_and_nothing_is_missing() {
        let yes = r#"{"leader":true,"token":"00000000000000000042","validForMs":4450,"deadlineBoottimeNs":"77","x":1}"#;
        let expected = Answer::Yes { valid_for: Duration::from_millis(4_450), deadline: 77, token: 42 };
        assert_eq!(answer(200, yes), expected);
        assert_eq!(answer(503, r#"{"leader":false,"reason":"Follower"}"#), Answer::No);
        for (status, body) in [
            (503, yes),
            (200, r#"{"leader":false}"#),
            (200, r#"{"leader":true,"validForMs":1,"deadlineBoottimeNs":"1"}"#),
            (200, r#"{"leader":true,"token":"1","deadlineBoottimeNs":"1"}"#),
            (200, r#"{"leader":true,"token":"1","validForMs":1}"#),
            (200, r#"{"leader":true,"token":"x","validForMs":1,"deadlineBoottimeNs":"1"}"#),
            (500, ""),
            (200, "<html>"),
        ] {
            assert_eq!(answer(status, body), Answer::Bad, "{status} {body}");
        }
    }

    #[test]
    fn events_are_read_whole_and_one_by_one_whatever_the_pieces() {
        let yes =
            r#"{"leader":true,"token":"00000000000000000042","validForMs":4450,"deadlineBoottimeNs":"77"}"#;
        let stream =
            format!(": alive\n\nid: 0\ndata: {yes}\n\ndata:{{\"leader\":false}}\n\ndata: {{}}\n\ndata: cut");
        let expected = Answer::Yes { valid_for: Duration::from_millis(4_450), deadline: 77, token: 42 };
        let mut received = Vec::new();
        let mut answers = Vec::new();
        for byte in stream.bytes() {
            received.push(byte);
            answers.extend(next_event(&mut received));
        }
        assert_eq!(answers, [expected, Answer::No, Answer::Bad]);
    }

    #[test]
    fn only_plain_urls_with_a_port_are_taken() {
        assert!(Connection::new("http://127.0.0.1:4040").is_ok());
        assert!(Connection::new("http://127.0.0.1:4040/").is_ok());
        for url in ["", "127.0.0.1:4040", "https://127.0.0.1:4040", "http://127.0.0.1", "http://a:1/b"] {
            assert!(Connection::new(url).is_err(), "{url}");
        }
    }
}
