//! A TCP relay in front of a real server, so that its connections can be broken.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::broadcast,
};

/// Relays until it is dropped.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    breaks: broadcast::Sender<Break>,
    accepted: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

/// What happens to the connections that are open.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Break {
    /// They are closed.
    Cut,
    /// They stay open, and nothing goes through them any more.
    Silence,
}

impl Proxy {
    pub(crate) async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let breaks = broadcast::Sender::new(16);
        let accepted = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn({
            let (breaks, accepted) = (breaks.clone(), Arc::clone(&accepted));
            async move {
                let mut connections = tokio::task::JoinSet::new();
                loop {
                    let (client, _) = listener.accept().await.unwrap();
                    accepted.fetch_add(1, Ordering::SeqCst);
                    connections.spawn(relay(client, server, breaks.subscribe()));
                }
            }
        });
        Self { address, breaks, accepted, task }
    }

    /// Breaks what is open now; what comes later is whole.
    pub(crate) fn break_connections(&self, how: Break) {
        // No receiver: nothing is open.
        let _ = self.breaks.send(how);
    }

    /// How many connections were made so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(mut client: TcpStream, server: SocketAddr, mut breaks: broadcast::Receiver<Break>) {
    let mut server = TcpStream::connect(server).await.unwrap();
    let how = tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => return,
        how = breaks.recv() => how,
    };
    if matches!(how, Ok(Break::Silence)) {
        // Held open until the proxy goes.
        std::future::pending::<()>().await;
    }
}
