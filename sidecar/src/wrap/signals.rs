//! The signals that are meant for the program.

use rustix::process::Signal;
use std::{future::poll_fn, io, task::Poll};
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};

/// What is passed on. Everything else does to the wrapper what it does to any process.
pub(super) const FORWARDED: [(SignalKind, Signal); 7] = [
    (SignalKind::terminate(), Signal::TERM),
    (SignalKind::interrupt(), Signal::INT),
    (SignalKind::quit(), Signal::QUIT),
    (SignalKind::hangup(), Signal::HUP),
    (SignalKind::user_defined1(), Signal::USR1),
    (SignalKind::user_defined2(), Signal::USR2),
    (SignalKind::window_change(), Signal::WINCH),
];

/// The signals that come.
#[derive(Debug)]
pub(super) struct Forwarded {
    streams: Vec<(SignalStream, Signal)>,
}

impl Forwarded {
    /// From now on none of them does anything by itself. Must be called inside a tokio runtime.
    pub(super) fn new() -> io::Result<Self> {
        let streams = FORWARDED.iter().map(|(kind, sent)| Ok((signal(*kind)?, *sent)));
        Ok(Self { streams: streams.collect::<io::Result<_>>()? })
    }

    /// The next one. Cancel safe.
    pub(super) async fn next(&mut self) -> Signal {
        poll_fn(|context| {
            for (stream, sent) in &mut self.streams {
                if let Poll::Ready(Some(())) = stream.poll_recv(context) {
                    return Poll::Ready(*sent);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Does this signal ask for the end?
pub(super) fn asks_for_the_end(signal: Signal) -> bool {
    [Signal::TERM, Signal::INT, Signal::QUIT].contains(&signal)
}
