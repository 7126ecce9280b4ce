//! A TCP relay in front of a server's socket, so that its connections can be broken in the ways in which networks break.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::{broadcast, watch},
    task::{JoinHandle, JoinSet},
    time::sleep,
};

/// What happens to what passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Up,
    /// Connections are closed at once.
    Refused,
    /// Nothing passes, and nobody says so. What was open stays so for ever.
    Silent,
    /// Requests pass, and no answer does.
    AnswersLost,
    /// Requests pass, but so much later.
    Late(Duration),
}

/// Relays until it is dropped.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    way: watch::Sender<Way>,
    cuts: broadcast::Sender<()>,
    accepted: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Relay {
    pub(crate) async fn before(socket: PathBuf) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (way, cuts) = (watch::Sender::new(Way::Up), broadcast::Sender::new(16));
        let accepted = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn({
            let (way, cuts, accepted) = (way.clone(), cuts.clone(), Arc::clone(&accepted));
            async move {
                let mut connections = JoinSet::new();
                loop {
                    let (client, _) = listener.accept().await.unwrap();
                    accepted.fetch_add(1, Ordering::SeqCst);
                    if *way.borrow() != Way::Refused {
                        connections.spawn(relay(client, socket.clone(), way.subscribe(), cuts.subscribe()));
                    }
                }
            }
        });
        Self { address, way, cuts, accepted, task }
    }

    pub(crate) fn set(&self, way: Way) {
        self.way.send_replace(way);
    }

    /// Closes what is open now; what comes later is whole.
    pub(crate) fn cut(&self) {
        // No receiver: nothing is open.
        let _ = self.cuts.send(());
    }

    /// How many connections were made so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(
    client: TcpStream,
    socket: PathBuf,
    way: watch::Receiver<Way>,
    mut cuts: broadcast::Receiver<()>,
) {
    let both = async {
        if *way.borrow() == Way::Silent {
            std::future::pending::<()>().await;
        }
        let Ok(server) = UnixStream::connect(socket).await else { return };
        let (client_read, client_write) = client.into_split();
        let (server_read, server_write) = server.into_split();
        let requests = pass(client_read, server_write, way.clone(), false);
        let answers = pass(server_read, client_write, way.clone(), true);
        // A client that gave up does not take back what it sent.
        tokio::join!(requests, answers);
    };
    tokio::select! {
        () = both => {}
        _ = cuts.recv() => {}
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    way: watch::Receiver<Way>,
    answers: bool,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let now = *way.borrow();
        match now {
            Way::Silent => std::future::pending().await,
            Way::AnswersLost if answers => std::future::pending().await,
            Way::Late(pause) if !answers => sleep(pause).await,
            _ => {}
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
