//! Serving HTTP/1.1 with bounds on everything that a client could hold: connections, header bytes, time.

pub use crate::stall::Connection;

use crate::stall::StallGuard;
use axum::{Extension, Router};
use hyper::{
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{future::Future, io, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinError, JoinSet},
    time::timeout,
};

/// Headers of one request beyond this number are refused with 431.
const HEADERS_MAX: usize = 64;

/// How long to wait after the kernel refused a connection, e.g. for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What clients may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at one time. One more is closed at once, unanswered.
    pub connections: usize,
    /// Bytes of the head of one request; at least 8192, which hyper demands. More is answered with 431.
    pub header_bytes: usize,
    /// How long a client may take for a handshake, and for the head of a request. A connection that is kept alive counts
    /// from its last answer, so this is also how long it may stay idle.
    pub header_timeout: Duration,
    /// How long a client may take nothing of what was written to it. Then its connection is closed: nobody waits for a slow reader.
    pub stall_timeout: Duration,
    /// How long answers under way may take after shutdown began.
    pub drain_timeout: Duration,
}

/// Serves until `shutdown` completes, then until answers under way are sent or [`Limits::drain_timeout`] is over.
///
/// Fails only where the listener itself is broken.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    serve_with(listener, |stream| async { Ok(stream) }, router, limits, shutdown).await
}

/// As [`serve`], with something to do first on each connection, e.g. a TLS handshake. A failed handshake closes the
/// connection.
pub async fn serve_with<Handshake, Handshaking, Stream>(
    listener: TcpListener,
    handshake: Handshake,
    router: Router,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()>
where
    Handshake: Fn(TcpStream) -> Handshaking,
    Handshaking: Future<Output = io::Result<Stream>> + Send + 'static,
    Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (ending, ended) = watch::channel(false);
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(joined) = connections.join_next() => rethrow(joined),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() >= limits.connections => {
                    tracing::debug!("refuses a connection: too many");
                    drop(stream);
                }
                Ok((stream, peer)) => {
                    let _ = stream.set_nodelay(true); // an optimisation
                    let handshaking = handshake(stream);
                    connections.spawn(connection(peer, handshaking, router.clone(), limits, ended.clone()));
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    drop(listener);
    ending.send_replace(true);
    let drained = async {
        while let Some(joined) = connections.join_next().await {
            rethrow(joined);
        }
    };
    if timeout(limits.drain_timeout, drained).await.is_err() {
        connections.shutdown().await;
    }
    Ok(())
}

async fn connection<Stream>(
    peer: SocketAddr,
    handshaking: impl Future<Output = io::Result<Stream>>,
    router: Router,
    limits: Limits,
    mut ended: watch::Receiver<bool>,
) where
    Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = match timeout(limits.header_timeout, handshaking).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "a handshake failed"),
        Err(_) => return tracing::debug!(%peer, "a handshake took too long"),
    };
    let ending = async {
        let _ = ended.wait_for(|ended| *ended).await; // a server that is gone has ended as well
    };
    if let Err(error) = serve_connection(stream, router, limits, ending).await {
        tracing::debug!(%peer, %error, "a connection broke");
    }
}

/// What [`serve`] does with each connection: answers requests until the client or the limits end it, or until `shutdown`
/// completes and the answer under way is sent.
pub async fn serve_connection<Stream>(
    stream: Stream,
    router: Router,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> hyper::Result<()>
where
    Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = Connection::default();
    let (answers, turns) = (router.layer(Extension(connection.clone())), connection.clone());
    let answers = TowerToHyperService::new(answers);
    let service = service_fn(move |request| {
        let (turns, answer) = (turns.clone(), answers.call(request));
        async move {
            turns.turn().await;
            answer.await
        }
    });
    let stream = StallGuard::new(stream, limits.stall_timeout, connection);
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.header_bytes)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    tokio::select! {
        result = &mut serving => result,
        () = shutdown => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    }
}

/// A connection that panicked is a defect of this process, which must not live on with it.
fn rethrow(joined: Result<(), JoinError>) {
    if let Err(error) = joined
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

/// Is this the fault of the one connection that was to be accepted, so that the next one may succeed at once?
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{body::Body, routing::get};
    use std::sync::Arc;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::Notify,
        task::JoinHandle,
    };

    const LIMITS: Limits = Limits {
        connections: 2,
        header_bytes: 8_192,
        header_timeout: Duration::from_millis(300),
        stall_timeout: Duration::from_millis(300),
        drain_timeout: Duration::from_millis(300),
    };

    struct Server {
        address: SocketAddr,
        stop: Arc<Notify>,
        task: JoinHandle<io::Result<()>>,
    }

    async fn server(router: Router) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(serve(listener, router, LIMITS, async move {
            stopped.notified().await;
        }));
        Server { address, stop, task }
    }

    fn hello() -> Router {
        Router::new().route("/", get(|| async { "hello" }))
    }

    /// What comes back until the server closes.
    async fn exchange(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.write_all(request).await;
        let _ = timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[tokio::test]
    async fn one_connection_too_many_is_closed_and_the_others_go_on() {
        let server = server(hello()).await;
        let mut first = TcpStream::connect(server.address).await.unwrap();
        let _second = TcpStream::connect(server.address).await.unwrap();
        assert_eq!(exchange(server.address, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await, "");
        first.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        first.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello"), "{answer}");
        assert!(exchange(server.address, b"GET / HTTP/1.0\r\n\r\n").await.starts_with("HTTP/1.0 200 "));
    }

    #[tokio::test]
    async fn a_slow_or_large_or_malformed_head_ends_the_connection() {
        let server = server(hello()).await;
        let began = tokio::time::Instant::now();
        let slow = exchange(server.address, b"GET / HTTP/1.1\r\nhost: ").await;
        assert!(!slow.contains(" 200 ") && began.elapsed() >= LIMITS.header_timeout, "{slow}");

        let large = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(20_000));
        let large = exchange(server.address, large.as_bytes()).await;
        assert!(large.is_empty() || large.starts_with("HTTP/1.1 431 "), "{large}");

        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(100));
        assert!(exchange(server.address, many.as_bytes()).await.starts_with("HTTP/1.1 431 "));

        let smuggled = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc";
        assert!(exchange(server.address, smuggled).await.starts_with("HTTP/1.1 400 "));
        assert!(exchange(server.address, b"GET\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
    }

    #[tokio::test]
    async fn a_reader_that_takes_nothing_is_dropped_and_its_handler_can_tell() {
        let dropped = Arc::new(Notify::new());
        let guard = Arc::clone(&dropped);
        let endless = move |Extension(connection): Extension<Connection>| {
            let guard = NotifyOnStall(Arc::clone(&guard), connection);
            async move { Body::from_stream(chunks_for_ever(guard)) }
        };
        let server = server(Router::new().route("/", get(endless))).await;
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        timeout(Duration::from_secs(20), dropped.notified()).await.unwrap();
    }

    /// Of two that send many requests at once neither is served to the end before the other one: a turn is one answer.
    #[tokio::test]
    async fn whoever_asks_without_waiting_takes_turns_with_the_others() {
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let router = |name: &'static str| {
            let order = Arc::clone(&order);
            Router::new().route("/", get(async move || order.lock().unwrap().push(name)))
        };
        let requests = "GET / HTTP/1.1\r\nhost: a\r\n\r\n".repeat(20);
        let mut serving = Vec::new();
        let mut clients = Vec::new();
        for name in ["one", "other"] {
            let (mut client, served) = tokio::io::duplex(65_536);
            client.write_all(requests.as_bytes()).await.unwrap();
            clients.push(client);
            serving.push(serve_connection(served, router(name), LIMITS, std::future::pending()));
        }
        let tasks: Vec<_> = serving.into_iter().map(tokio::spawn).collect();
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        let order = order.lock().unwrap().clone();
        assert_eq!(order.len(), 40);
        let ahead = order.iter().scan(0_i32, |ahead, name| {
            *ahead += if *name == "one" { 1 } else { -1 };
            Some(ahead.abs())
        });
        assert!(ahead.max().unwrap() <= 2, "{order:?}");
        drop((clients, tasks));
    }

    struct NotifyOnStall(Arc<Notify>, Connection);

    impl Drop for NotifyOnStall {
        fn drop(&mut self) {
            if self.1.is_stalled() {
                self.0.notify_one();
            }
        }
    }

    fn chunks_for_ever(guard: NotifyOnStall) -> impl futures::Stream<Item = io::Result<Vec<u8>>> {
        futures::stream::repeat_with(move || {
            let _alive = &guard;
            Ok(vec![0_u8; 65_536])
        })
    }

    #[tokio::test]
    async fn shutdown_lets_an_answer_under_way_finish_but_not_for_ever() {
        let release = Arc::new(Notify::new());
        let released = Arc::clone(&release);
        let slow = move || {
            let released = Arc::clone(&released);
            async move {
                released.notified().await;
                "done"
            }
        };
        for finishes in [true, false] {
            let server = server(Router::new().route("/", get(slow.clone()))).await;
            let asking = tokio::spawn(exchange(server.address, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"));
            tokio::time::sleep(Duration::from_millis(50)).await;
            server.stop.notify_one();
            if finishes {
                release.notify_one();
            }
            server.task.await.unwrap().unwrap();
            assert_eq!(asking.await.unwrap().ends_with("done"), finishes);
        }
    }
}
