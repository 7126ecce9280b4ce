//! The check of the program: asks it over the loopback addresses, again and again. What a result means, [`crate::gate`] decides.

use futures::FutureExt;
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request,
    body::Bytes,
    client::conn::http1,
    header::{CONNECTION, HOST, USER_AGENT},
    http::uri::PathAndQuery,
};
use hyper_util::rt::TokioIo;
use std::{
    fmt,
    future::{self, Future},
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};
use tokio::{
    net::TcpStream,
    time::{MissedTickBehavior, interval, timeout},
};

/// The most of an answer that is held, and the most of a body that is read before the connection is closed.
const ANSWER_BYTES_MAX: usize = 16 * 1_024;

/// What is checked, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is asked.
    pub target: Target,
    /// From one check to the next.
    pub period: Duration,
    /// How long one may take.
    pub timeout: Duration,
}

/// What is asked: written as `http://localhost:8080/healthz` or `tcp://localhost:5432`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Passes if the answer's status is at least 200 and below 400.
    Http {
        /// On a loopback address.
        port: u16,
        /// With the query, if there is one.
        path: PathAndQuery,
    },
    /// Passes if a connection is accepted.
    Tcp {
        /// On a loopback address.
        port: u16,
    },
}

/// Not a target.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("write http://localhost:PORT/PATH or tcp://localhost:PORT")]
pub struct InvalidTarget;

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("no connection: {0}")]
    Connect(io::Error),
    #[error("no HTTP answer: {0}")]
    Http(#[from] hyper::Error),
    #[error("the answer's status is {0}")]
    Status(u16),
    #[error("no answer within {0:?}")]
    Late(Duration),
}

impl FromStr for Target {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let port = |digits: &str| digits.parse().ok().filter(|port| *port > 0).ok_or(InvalidTarget);
        if let Some(digits) = text.strip_prefix("tcp://localhost:") {
            return Ok(Self::Tcp { port: port(digits)? });
        }
        let rest = text.strip_prefix("http://localhost:").ok_or(InvalidTarget)?;
        let (digits, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let path = if path.is_empty() { "/" } else { path };
        let path =
            if path.contains('#') { Err(InvalidTarget) } else { path.parse().map_err(|_| InvalidTarget) };
        Ok(Self::Http { port: port(digits)?, path: path? })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { port, path } => write!(formatter, "http://localhost:{port}{path}"),
            Self::Tcp { port } => write!(formatter, "tcp://localhost:{port}"),
        }
    }
}

/// Checks and tells each result, for ever; tells nothing where nothing is checked. Only changes are logged.
pub async fn run(check: Option<Check>, tell: impl Fn(bool)) {
    let Some(Check { target, period, timeout: limit }) = check else { return future::pending().await };
    let mut turns = interval(period);
    // After a pause of this process the next check is one period away, or many failures would come at once.
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut passed_before = None;
    loop {
        turns.tick().await;
        let result = timeout(limit, ask(&target)).await.unwrap_or(Err(Failed::Late(limit)));
        let passed = result.is_ok();
        if passed_before.replace(passed) != Some(passed) {
            match result {
                Ok(()) => tracing::info!(%target, "the program passes its check"),
                Err(error) => tracing::warn!(%target, %error, "the program fails its check"),
            }
        }
        tell(passed);
    }
}

async fn ask(target: &Target) -> Result<(), Failed> {
    match target {
        Target::Tcp { port } => connect(*port).await.map(drop),
        Target::Http { port, path } => get(*port, path).await,
    }
}

async fn connect(port: u16) -> Result<TcpStream, Failed> {
    let addresses: [SocketAddr; 2] = [(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()];
    TcpStream::connect(&addresses[..]).await.map_err(Failed::Connect)
}

async fn get(port: u16, path: &PathAndQuery) -> Result<(), Failed> {
    let stream = TokioIo::new(connect(port).await?);
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(ANSWER_BYTES_MAX).handshake(stream).await?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = path.clone().into();
    let headers = request.headers_mut();
    headers.insert(HOST, format!("localhost:{port}").parse().unwrap_or_else(|_| unreachable!("a host")));
    headers.insert(USER_AGENT, hyper::header::HeaderValue::from_static("conch-sidecar"));
    headers.insert(CONNECTION, hyper::header::HeaderValue::from_static("close"));
    let exchange = async {
        let mut answer = sender.send_request(request).await?;
        let status = answer.status().as_u16();
        // A server whose body is not read may take the end of the connection for an error.
        let mut read = 0;
        while let Some(Ok(frame)) = answer.body_mut().frame().await {
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > ANSWER_BYTES_MAX {
                break;
            }
        }
        if (200..400).contains(&status) { Ok(()) } else { Err(Failed::Status(status)) }
    };
    driven_by(connection.map(drop), exchange).await
}

/// An exchange goes on only while its connection is driven; when the connection is over, the exchange finds out.
async fn driven_by<T>(connection: impl Future<Output = ()>, exchange: impl Future<Output = T>) -> T {
    tokio::select! {
        result = exchange => result,
        never = connection.then(|()| future::pending()) => never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    /// Answers each connection with these bytes, and closes it.
    async fn server(answer: &'static [u8]) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1_024];
                let read = stream.read(&mut request).await.unwrap();
                let request = String::from_utf8_lossy(&request[..read]).to_lowercase();
                assert!(request.starts_with("get /healthz?deep=1 http/1.1\r\nhost: localhost:"), "{request}");
                stream.write_all(answer).await.unwrap();
            }
        });
        port
    }

    async fn get(answer: &'static [u8]) -> Result<(), String> {
        let port = server(answer).await;
        let target: Target = format!("http://localhost:{port}/healthz?deep=1").parse().unwrap();
        timeout(Duration::from_secs(5), ask(&target)).await.unwrap().map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn the_status_decides_as_in_a_kubelets_probe() {
        for fine in ["200 OK", "204 No Content", "302 Found", "399 X"] {
            let answer = format!("HTTP/1.1 {fine}\r\nContent-Length: 0\r\n\r\n").leak().as_bytes();
            assert_eq!(get(answer).await, Ok(()), "{fine}");
        }
        for bad in ["400 Bad Request", "404 Not Found", "503 Service Unavailable"] {
            let answer = format!("HTTP/1.1 {bad}\r\nContent-Length: 0\r\n\r\n").leak().as_bytes();
            assert!(get(answer).await.unwrap_err().contains(&bad[..3]), "{bad}");
        }
    }

    #[tokio::test]
    async fn what_is_no_answer_fails() {
        for nothing in [&b""[..], b"SSH-2.0-OpenSSH_9.9\r\n", b"HTTP/1.1 2"] {
            assert!(get(nothing).await.is_err(), "{nothing:?}");
        }
        let endless =
            format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(ANSWER_BYTES_MAX)).leak().as_bytes();
        assert!(get(endless).await.is_err());
    }

    #[tokio::test]
    async fn a_body_of_any_length_is_no_matter() {
        let long = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(10 * ANSWER_BYTES_MAX)).leak().as_bytes();
        assert_eq!(get(long).await, Ok(()));
    }

    #[tokio::test]
    async fn a_port_passes_exactly_while_somebody_listens_on_either_address() {
        let addresses: [SocketAddr; 2] = [(Ipv4Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, 0).into()];
        for address in addresses {
            let Ok(listener) = TcpListener::bind(address).await else { continue }; // no IPv6 here
            let target = Target::Tcp { port: listener.local_addr().unwrap().port() };
            assert!(ask(&target).await.is_ok(), "{address}");
            drop(listener);
            assert!(ask(&target).await.is_err(), "{address}");
        }
    }

    #[tokio::test]
    async fn each_result_is_told_and_one_that_is_late_is_a_failure() {
        // It accepts and says nothing.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let results = Mutex::new(Vec::new());
        for url in [format!("http://localhost:{port}/"), format!("tcp://localhost:{port}")] {
            let (period, limit) = (Duration::from_millis(20), Duration::from_millis(10));
            let check = Check { target: url.parse().unwrap(), period, timeout: limit };
            let checking = run(Some(check), |passed| results.lock().unwrap().push(passed));
            let _ = timeout(Duration::from_millis(300), checking).await;
        }
        let results = results.into_inner().unwrap();
        let late = results.iter().filter(|passed| !**passed).count();
        assert!(late > 2 && results.len() - late > 2, "{results:?}");
        assert!(results.is_sorted(), "first it is late, then it passes: {results:?}");
    }

    #[test]
    fn a_target_is_on_this_pod_and_is_read_as_it_is_written() {
        for text in ["http://localhost:8080/", "http://localhost:1/a/b?c=d&e", "tcp://localhost:65535"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        assert_eq!("http://localhost:80".parse::<Target>().unwrap().to_string(), "http://localhost:80/");
        for text in [
            "",
            "localhost:80",
            "http://localhost/",
            "http://localhost:0/",
            "http://localhost:65536/",
            "http://localhost:80/a b",
            "http://localhost:80/#a",
            "http://localhost:80@evil.example/",
            "http://10.0.0.1:80/",
            "https://localhost:443/",
            "tcp://localhost:80/",
            "tcp://localhost:",
        ] {
            assert_eq!(text.parse::<Target>(), Err(InvalidTarget), "{text}");
        }
    }

    /// The pattern of the policy's `path`.
    #[test]
    fn every_path_that_a_policy_may_name_can_be_asked() {
        let path = "/azAZ09._~!$&'()*+,;=:@%/?-?";
        for symbol in path.chars() {
            let text = format!("http://localhost:80/{symbol}");
            assert_eq!(text.parse::<Target>().map(|target| target.to_string()), Ok(text));
        }
        assert!(format!("http://localhost:80{path}").parse::<Target>().is_ok());
    }
}
