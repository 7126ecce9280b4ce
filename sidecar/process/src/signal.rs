//! The signals that ask a process to end.

use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask this process to end: SIGTERM, SIGINT, SIGQUIT, and SIGHUP of a terminal that is closed. From its
/// creation on they no longer end the process by themselves.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
}

impl Signals {
    /// Must be called inside a tokio runtime.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Completes with the name of the next signal. The first one asks for an orderly end; at the second one the caller
    /// ends at once, or waits with [`Self::abort_on_next`].
    ///
    /// Cancel safe.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.quit.recv() => "SIGQUIT",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }

    /// Waits for one more signal and then aborts the process: somebody does not want to wait for the orderly end.
    pub async fn abort_on_next(&mut self) {
        let signal = self.next().await;
        tracing::error!(signal, "aborts on a second signal");
        std::process::abort();
    }
}
