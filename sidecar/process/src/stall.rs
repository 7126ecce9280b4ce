//! A connection whose peer may keep neither the writer waiting for ever, nor everybody else while it asks and asks.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// The connection over which a request came, for handlers: an extension of each request.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    stalled: Arc<AtomicBool>,
    /// A request was answered since the peer had nothing more to say.
    answered: Arc<AtomicBool>,
}

impl Connection {
    /// Did this side give up on the peer, because it took nothing? Then it may still be there and not know.
    pub fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    /// Waits until everybody else had a turn, if this peer sent its next request before the last one was answered: otherwise a
    /// few of them that never stop would keep the process for milliseconds each time that they run.
    pub(crate) async fn turn(&self) {
        if self.answered.swap(true, Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
    }
}

/// Fails with [`io::ErrorKind::TimedOut`] when the peer takes nothing for a while although there is something to take.
pub(crate) struct StallGuard<Stream> {
    stream: Stream,
    limit: Duration,
    connection: Connection,
    /// Running while a write waits for the peer.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<Stream> StallGuard<Stream> {
    pub(crate) fn new(stream: Stream, limit: Duration, connection: Connection) -> Self {
        Self { stream, limit, connection, stalled: None }
    }

    fn guard<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let limit = self.limit;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(stalled.as_mut().poll(context));
        self.connection.stalled.store(true, Ordering::Relaxed);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<Stream: AsyncRead + Unpin> AsyncRead for StallGuard<Stream> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_pending() {
            self.connection.answered.store(false, Ordering::Relaxed);
        }
        read
    }
}

impl<Stream: AsyncWrite + Unpin> AsyncWrite for StallGuard<Stream> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.guard(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.guard(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.guard(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.guard(context, shut)
    }
}
