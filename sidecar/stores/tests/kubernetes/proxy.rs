//! A TCP relay in front of a real server, so that its connections can be broken.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
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
    swallows: Arc<AtomicBool>,
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
        let (accepted, swallows) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let task = tokio::spawn({
            let (breaks, accepted, swallows) = (breaks.clone(), Arc::clone(&accepted), Arc::clone(&swallows));
            async move {
                let (mut connections, mut swallowed) = (tokio::task::JoinSet::new(), Vec::new());
                loop {
                    let (client, _) = listener.accept().await.unwrap();
                    if swallows.load(Ordering::SeqCst) {
                        swallowed.push(client);
                    } else {
                        connections.spawn(relay(client, server, breaks.subscribe()));
                    }
                    accepted.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        Self { address, breaks, accepted, swallows, task }
    }

    /// Breaks what is open now; what comes later is whole.
    pub(crate) fn break_connections(&self, how: Break) {
        // No receiver: nothing is open.
        let _ = self.breaks.send(how);
    }

    /// From now on, are connections held open with nothing behind them? They stay so when later ones are relayed, like
    /// those whose first packet was lost on a way that did not exist yet.
    pub(crate) fn swallow(&self, swallows: bool) {
        self.swallows.store(swallows, Ordering::SeqCst);
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
