//! The state machine. (Interface; behaviour follows.)
use crate::{
    io::{Action, Answer, Event, Input, NotCurrent},
    record::{Identity, Token},
    time::Moment,
    timing::Timing,
};
use std::time::Duration;

/// What an elector is told once.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who this candidate is.
    pub identity: Identity,
    /// The policy's durations.
    pub timing: Timing,
    /// The longest lease that any living candidate may count with, e.g. while a rollout lowers it.
    pub longest_lease: Duration,
    /// Added to each fence to give the token.
    pub fencing_offset: u128,
}

/// A candidate of one election.
#[derive(Debug)]
pub struct Elector {}

impl Elector {
    /// Starts a candidate that is not yet [willing](Input::Willing). The driver must already own the socket on which the
    /// program asks: that proves that no earlier process of this pod still answers.
    pub fn new(config: Config) -> Self {
        let _ = config;
        Self {}
    }
    /// Takes note of something that happened.
    pub fn handle(&mut self, _now: Moment, _input: Input) {}
    /// The next request to perform, if any. For a write, `now` is the moment from which its validity counts.
    pub fn poll_action(&mut self, _now: Moment) -> Option<Action> {
        None
    }
    /// How long the driver may sleep before it calls [`Self::handle`] with [`Input::Tick`]; `None`: until something happens.
    pub fn poll_timeout(&self, _now: Moment) -> Option<Duration> {
        None
    }
    /// The next event, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }
    /// Does this pod lead, until when, with which token? What is promised here is remembered: no release goes out before
    /// it is over.
    pub fn answer(&mut self, _now: Moment) -> Answer {
        Answer { promise: None, reason: crate::Reason::NotContacted, holder: None }
    }
    /// Does this pod lead at this moment? For metrics and logs: promises nothing.
    pub fn leads(&self, _now: Moment) -> bool {
        false
    }
    /// The program has stopped leading the term with this token: release it now, and leave the lead to others for
    /// `cool_down` (`None`: one renewal interval).
    pub fn resign(&mut self, _now: Moment, _token: Token, _cool_down: Option<Duration>) -> Result<(), NotCurrent> {
        Err(NotCurrent { current: None })
    }
    /// After [`Input::Terminate`]: nothing is left to do, the process may exit. Until then it should go on as long as it
    /// is let.
    pub fn is_done(&self, _now: Moment) -> bool {
        true
    }
}
