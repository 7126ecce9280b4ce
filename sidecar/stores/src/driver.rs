//! The one loop that joins an elector with its store, its timers and the commands of its owner.
//!
//! [`Driver::run`] is the loop; a [`Candidate`] is a handle on the same elector for everybody who asks or commands. The
//! elector sits behind a mutex that is never held across an await, so an answer waits for no request: losing the lead
//! turns answers at once, and the network comes after.

use crate::{Store, transition::Transition};
use conch_election::{
    Action, Answer, Config, Elector, Event, Failure, FailureKind, Input, Moment, Nonce, NotCurrent, Stored,
    Token, WriteError,
};
use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, OptionFuture},
};
use rustix::rand::{GetRandomFlags, getrandom};
use std::{
    fmt,
    future::Future,
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};

/// The loop turns at least this often, so that its owner can tell a stuck loop from an idle one.
pub const TURN_MAX: Duration = Duration::from_secs(5);

/// Where the driver takes the time from: [`crate::clock::now`], or virtual time in a test.
pub type Clock = fn() -> Moment;

/// Told of everything that is worth counting. Called on the driver's loop: it must not wait.
pub trait Observer: Send + Sync + 'static {
    /// Something happened in the election.
    fn event(&self, _event: &Event) {}
    /// Who leads changed.
    fn transition(&self, _transition: &Transition) {}
    /// A request to the store came to an end, or its stream of changes yielded.
    fn request_ended(&self, _request: Request, _result: Result<(), WriteError>) {}
    /// The loop turned: it does so at least once in [`TURN_MAX`].
    fn turned(&self) {}
}

/// For those who count nothing.
impl Observer for () {}

/// What was asked of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    /// The record, past every cache.
    Read,
    /// A compare-and-set.
    Write,
    /// The next change.
    Watch,
}

/// The store's stream of changes ended, which it promised never to do.
#[derive(Debug, thiserror::Error)]
#[error("the store's stream of changes ended")]
pub struct ChangesEnded;

/// A handle on a candidate. All clones speak of the same one.
#[derive(Clone)]
pub struct Candidate {
    shared: Arc<Shared>,
}

/// Runs a candidate against its store.
pub struct Driver<S> {
    store: Arc<S>,
    shared: Arc<Shared>,
    observer: Arc<dyn Observer>,
    /// The pod of this candidate.
    own: String,
    /// A request was given up, and none was answered since: an outage is two lines, not one for each attempt.
    unanswered: bool,
}

struct Shared {
    elector: Mutex<Elector>,
    clock: Clock,
    /// A command changed what the loop has to do next.
    commanded: Notify,
    /// Something changed that answers may depend on.
    changed: watch::Sender<()>,
}

/// A nonce for [`conch_election::Identity`]: draw one for each process, once.
pub fn draw_nonce() -> io::Result<Nonce> {
    let mut bytes = [0; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        filled += getrandom(&mut bytes[filled..], GetRandomFlags::empty())?;
    }
    Ok(Nonce(u128::from_ne_bytes(bytes)))
}

impl<S: Store> Driver<S> {
    /// A driver for a new candidate, not yet willing, and the handle to command it. Nothing happens until [`Self::run`].
    pub fn new(store: S, config: Config, clock: Clock, observer: Arc<dyn Observer>) -> (Self, Candidate) {
        let own = config.identity.pod.clone();
        let shared = Arc::new(Shared {
            elector: Mutex::new(Elector::new(config)),
            clock,
            commanded: Notify::new(),
            changed: watch::Sender::new(()),
        });
        let candidate = Candidate { shared: Arc::clone(&shared) };
        (Self { store: Arc::new(store), shared, observer, own, unanswered: false }, candidate)
    }

    /// Runs until [`Candidate::terminate`] was called and nothing is left to do. Dropping it is like the death of the
    /// process: nothing is released.
    pub async fn run(mut self) -> Result<(), ChangesEnded> {
        tracing::info!(store = self.store.name(), "follows the election");
        let mut changes = self.store.changes();
        let mut request: OptionFuture<BoxFuture<'static, Input>> = None.into();
        while let Some(pause) = self.turn(&mut request) {
            tokio::select! {
                Some(input) = &mut request => {
                    request = None.into();
                    self.request_ended(&input);
                    self.handle(input);
                }
                change = changes.next() => self.change(change.ok_or(ChangesEnded)?),
                () = self.shared.commanded.notified() => {}
                () = sleep(pause) => self.handle(Input::Tick),
            }
        }
        Ok(())
    }

    /// Starts the request that is due and says how long to wait for something to happen; `None`: nothing is left to do.
    fn turn(&self, request: &mut OptionFuture<BoxFuture<'static, Input>>) -> Option<Duration> {
        self.observer.turned();
        let mut elector = self.shared.elector();
        // For a write this is the moment from which its validity counts: before it is sent, in the same poll.
        let now = (self.shared.clock)();
        if let Some(action) = elector.poll_action(now) {
            *request = Some(perform(Arc::clone(&self.store), action).boxed()).into();
        }
        let pause = elector.poll_timeout(now).map_or(TURN_MAX, |pause| pause.min(TURN_MAX));
        let done = elector.is_done(now);
        self.drain(elector);
        (!done).then_some(pause)
    }

    fn handle(&self, input: Input) {
        let mut elector = self.shared.elector();
        elector.handle((self.shared.clock)(), input);
        self.drain(elector);
        self.shared.changed.send_replace(());
    }

    /// Hands out the events. They are observed after the elector is unlocked, so that an observer may ask it.
    fn drain(&self, mut elector: MutexGuard<'_, Elector>) {
        let events: Vec<Event> = std::iter::from_fn(|| elector.poll_event()).collect();
        drop(elector);
        for event in &events {
            log(event);
            self.observer.event(event);
        }
        for transition in Transition::of(&self.own, &events) {
            transition.log();
            self.observer.transition(&transition);
        }
    }

    fn change(&mut self, change: Result<Option<Stored>, Failure>) {
        match change {
            Ok(found) => {
                self.observed(Request::Watch, Ok(()));
                self.handle(Input::Changed(found));
            }
            // The elector needs no news to be safe; without it, it finds out when its requests fail or its waits are over.
            Err(failure) => self.observed(Request::Watch, Err(WriteError::Failed(failure))),
        }
    }

    fn request_ended(&mut self, input: &Input) {
        match input {
            Input::Read(result) => {
                self.observed(
                    Request::Read,
                    result.as_ref().map(drop).map_err(|failure| WriteError::Failed(*failure)),
                );
            }
            Input::Written(result) => {
                self.observed(Request::Write, result.as_ref().map(drop).map_err(|error| *error));
            }
            _ => {}
        }
    }

    /// Only the driver knows that it gave up waiting. Of every other failure the store knows more, and logs it.
    fn observed(&mut self, request: Request, result: Result<(), WriteError>) {
        self.observer.request_ended(request, result);
        match result {
            Err(WriteError::Failed(Failure { kind: FailureKind::Timeout, .. }))
                if request != Request::Watch =>
            {
                if !std::mem::replace(&mut self.unanswered, true) {
                    tracing::warn!(%request, "the store does not answer in time");
                }
            }
            Err(WriteError::Failed(_)) => {}
            Ok(()) | Err(WriteError::Conflict) => {
                if request != Request::Watch && std::mem::take(&mut self.unanswered) {
                    tracing::info!(%request, "the store answers again");
                }
            }
        }
    }
}

/// One request, given up after the time that the elector allows.
async fn perform<S: Store>(store: Arc<S>, action: Action) -> Input {
    match action {
        Action::Read { timeout } => Input::Read(within(timeout, store.read(), TIMEOUT).await),
        Action::Write { record, expected, token, timeout } => {
            let write = store.write(&record, expected.as_ref(), token);
            Input::Written(within(timeout, write, WriteError::Failed(TIMEOUT)).await)
        }
    }
}

const TIMEOUT: Failure = Failure { kind: FailureKind::Timeout, retry_after: None };

async fn within<T, E>(limit: Duration, request: impl Future<Output = Result<T, E>>, late: E) -> Result<T, E> {
    timeout(limit, request).await.unwrap_or(Err(late))
}

/// Of what is no transition.
fn log(event: &Event) {
    match event {
        Event::Released { token } => tracing::info!(%token, "released the lead"),
        Event::Renewed { latency, margin } => tracing::debug!(?latency, ?margin, "renewed"),
        Event::HistoryLost => {
            tracing::error!("the store lost history: tokens would repeat; this pod will not lead");
        }
        // Transitions are logged as such, and failures where the request was made.
        Event::TermBegan { .. }
        | Event::TermEnded { .. }
        | Event::HolderChanged { .. }
        | Event::RequestFailed(_) => {}
    }
}

impl Candidate {
    /// Does this pod lead, until when, with which token? What is promised here is remembered: ask only when somebody is
    /// told the answer.
    pub fn answer(&self) -> Answer {
        let mut elector = self.shared.elector();
        elector.answer((self.shared.clock)())
    }

    /// Does this pod lead at this moment? Promises nothing.
    pub fn leads(&self) -> bool {
        let elector = self.shared.elector();
        elector.leads((self.shared.clock)())
    }

    /// The token of the running term, if this pod leads at this moment. Promises nothing.
    pub fn token(&self) -> Option<Token> {
        let elector = self.shared.elector();
        elector.token((self.shared.clock)())
    }

    /// See [`Elector::wrote_last`].
    pub fn wrote_last(&self) -> bool {
        self.shared.elector().wrote_last()
    }

    /// See [`Input::Willing`].
    pub fn set_willing(&self, willing: bool) {
        self.command(|elector, now| elector.handle(now, Input::Willing(willing)));
    }

    /// See [`Elector::resign`].
    pub fn resign(&self, token: Token, cool_down: Option<Duration>) -> Result<(), NotCurrent> {
        self.command(|elector, now| elector.resign(now, token, cool_down))
    }

    /// See [`Input::ProgramStopped`].
    pub fn program_stopped(&self) {
        self.command(|elector, now| elector.handle(now, Input::ProgramStopped));
    }

    /// See [`Input::GiveAway`].
    pub fn give_away(&self) {
        self.command(|elector, now| elector.handle(now, Input::GiveAway));
    }

    /// See [`Input::StandBack`].
    pub fn stand_back(&self) {
        self.command(|elector, now| elector.handle(now, Input::StandBack));
    }

    /// See [`Elector::begin_anew`]. Subscribers are told when the new term has begun.
    pub fn begin_anew(&self, token: Token) -> Result<(), NotCurrent> {
        self.command(|elector, now| elector.begin_anew(now, token))
    }

    /// Answers no from now on. [`Driver::run`] returns when nothing is left to do.
    pub fn terminate(&self) {
        self.command(|elector, now| elector.handle(now, Input::Terminate));
    }

    /// Is told after everything on which an answer may depend: terms, renewals, holders, failures, commands. Ask for the
    /// answer then. Time alone also changes answers, and is not told.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.shared.changed.subscribe()
    }

    /// Tells subscribers to ask again, because of something that the elector does not know and their answers show.
    pub fn announce(&self) {
        self.shared.changed.send_replace(());
    }

    fn command<T>(&self, command: impl FnOnce(&mut Elector, Moment) -> T) -> T {
        let mut elector = self.shared.elector();
        let result = command(&mut elector, (self.shared.clock)());
        drop(elector);
        self.shared.commanded.notify_one();
        self.shared.changed.send_replace(());
        result
    }
}

impl Shared {
    /// An elector that panicked broke an invariant: nothing may be answered from it, and the process ends.
    fn elector(&self) -> MutexGuard<'_, Elector> {
        self.elector.lock().unwrap_or_else(|_| std::process::abort())
    }
}

impl fmt::Display for Request {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Watch => "watch",
        })
    }
}

impl fmt::Debug for Candidate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Candidate").finish_non_exhaustive()
    }
}

impl<S: fmt::Debug> fmt::Debug for Driver<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Driver").field("store", &self.store).finish_non_exhaustive()
    }
}
