//! Sees everything that the driver tells, and keeps what answers and metrics need of it.

use crate::{metrics::Metrics, watchdog::Heartbeat};
use conch_election::{Event, Token, WriteError};
use conch_stores::driver::{Observer, Request};
use jiff::Timestamp;
use std::sync::{Mutex, PoisonError};

/// The driver's observer.
#[derive(Debug)]
pub struct Witness {
    /// What is counted.
    pub metrics: Metrics,
    /// The loop's life.
    pub heartbeat: Heartbeat,
    term: Mutex<Option<(Token, Timestamp)>>,
}

impl Witness {
    /// A witness that has seen nothing.
    pub fn new(metrics: Metrics, heartbeat: Heartbeat) -> Self {
        Self { metrics, heartbeat, term: Mutex::default() }
    }

    /// When the term with this token began, on the wall clock, for people.
    pub fn term_began(&self, token: Token) -> Option<Timestamp> {
        let term = self.term.lock().unwrap_or_else(PoisonError::into_inner);
        term.filter(|(began, _)| *began == token).map(|(_, at)| at)
    }
}

impl Observer for Witness {
    fn event(&self, event: &Event) {
        if let Event::TermBegan { token, .. } = event {
            *self.term.lock().unwrap_or_else(PoisonError::into_inner) = Some((*token, Timestamp::now()));
        }
        self.metrics.event(event);
    }

    fn request_ended(&self, request: Request, result: Result<(), WriteError>) {
        self.metrics.request_ended(request, result);
    }

    fn turned(&self) {
        self.heartbeat.beat();
    }
}
