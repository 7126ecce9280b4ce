//! Sees everything that the driver tells, and keeps what answers and metrics need of it.

use crate::{metrics::Metrics, watchdog::Heartbeat};
use conch_election::{Event, Token, WriteError};
use conch_stores::{
    driver::{Observer, Request},
    transition::Transition,
};
use jiff::Timestamp;
use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

/// So many transitions are remembered for people who look.
const TRANSITIONS_MAX: usize = 10;

/// The driver's observer.
#[derive(Debug)]
pub struct Witness {
    /// What is counted.
    pub metrics: Metrics,
    /// The loop's life.
    pub heartbeat: Heartbeat,
    term: Mutex<Option<(Token, Timestamp)>>,
    transitions: Mutex<VecDeque<(Timestamp, Transition)>>,
}

impl Witness {
    /// A witness that has seen nothing.
    pub fn new(metrics: Metrics, heartbeat: Heartbeat) -> Self {
        Self { metrics, heartbeat, term: Mutex::default(), transitions: Mutex::default() }
    }

    /// When the term with this token began, on the wall clock, for people.
    pub fn term_began(&self, token: Token) -> Option<Timestamp> {
        let term = self.term.lock().unwrap_or_else(PoisonError::into_inner);
        term.filter(|(began, _)| *began == token).map(|(_, at)| at)
    }

    /// The last changes of who leads, oldest first, with the wall clock's time.
    pub fn transitions(&self) -> Vec<(Timestamp, Transition)> {
        self.transitions.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

impl Observer for Witness {
    fn event(&self, event: &Event) {
        if let Event::TermBegan { token, .. } = event {
            *self.term.lock().unwrap_or_else(PoisonError::into_inner) = Some((*token, Timestamp::now()));
        }
        self.metrics.event(event);
    }

    fn transition(&self, transition: &Transition) {
        self.metrics.transition(transition.cause);
        let mut transitions = self.transitions.lock().unwrap_or_else(PoisonError::into_inner);
        if transitions.len() == TRANSITIONS_MAX {
            transitions.pop_front();
        }
        transitions.push_back((Timestamp::now(), transition.clone()));
    }

    fn request_ended(&self, request: Request, result: Result<(), WriteError>) {
        self.metrics.request_ended(request, result);
    }

    fn turned(&self) {
        self.heartbeat.beat();
    }
}
