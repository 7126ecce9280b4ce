//! The state machine: what comes in, and what to do next.

use crate::{
    io::{Action, EndCause, Event, Failure, FailureKind, Input, NotCurrent, WriteError},
    record::{Claim, Fence, Identity, Record, Stored, Token, WriteId},
    register::{Memory, Register},
    term::{Attempt, InFlight, Newest, Purpose, Role, Term},
    time::{Moment, Span},
    timing::Timing,
};
use std::{collections::VecDeque, time::Duration};

/// Take-overs are spread over this time, so that not all candidates write at once. The compare-and-set decides.
const JITTER_MAX: Duration = Duration::from_millis(10);

/// More writes of unknown outcome than this are not kept. A forgotten one that lands later counts as foreign: that costs a
/// wait, never safety.
const UNSETTLED_MAX: usize = 16;

/// So many reads in a row that show less than was seen before mean that the store lost history.
const STALE_READS_MAX: u32 = 3;

/// More events than this are not kept for a driver that does not drain them.
const EVENTS_MAX: usize = 256;

/// What an elector is told once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// Who this candidate is.
    pub identity: Identity,
    /// The policy's durations.
    pub timing: Timing,
    /// The longest lease that any living candidate may count with, e.g. while a rollout lowers it.
    pub longest_lease: Duration,
    /// Added to each fence to give the token, unless a record with a higher one was seen.
    pub fencing_offset: u64,
}

/// A candidate of one election.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Elector {
    pub(crate) config: Config,
    pub(crate) role: Role,
    pub(crate) register: Register,
    pub(crate) memory: Memory,
    pub(crate) in_flight: Option<InFlight>,
    /// Writes whose outcome is not known. Each is settled by what is read: its id is seen, or its version is past.
    pub(crate) unsettled: Vec<Attempt>,
    /// The newest write of this process that stands in the register, as long as nothing else was seen there.
    pub(crate) own_latest: Option<WriteId>,
    pub(crate) highest_fence: Option<Fence>,
    /// Until when a program may act on what it was promised, its stop grace included.
    pub(crate) promised: Option<Span>,
    /// Until when the program may act on what an earlier process of this pod promised it. Nobody can take that back: no one here
    /// knows to whom it was promised, nor with which stop grace.
    pub(crate) inherited: Option<Span>,
    pub(crate) willing: bool,
    pub(crate) terminating: bool,
    pub(crate) cool_down: Option<Span>,
    pub(crate) failure: Option<FailureKind>,
    sequence: u64,
    read_due: bool,
    not_before: Option<Span>,
    failures_in_a_row: u32,
    conflicts_in_a_row: u32,
    stale_reads_in_a_row: u32,
    events: VecDeque<Event>,
}

impl Elector {
    /// Starts a candidate that is not yet [willing](Input::Willing). The driver must already own the socket on which the
    /// program asks: that proves that no earlier process of this pod still answers.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            role: Role::Following,
            register: Register::Unseen,
            memory: Memory::default(),
            in_flight: None,
            unsettled: Vec::new(),
            own_latest: None,
            highest_fence: None,
            promised: None,
            inherited: None,
            willing: false,
            terminating: false,
            cool_down: None,
            failure: None,
            sequence: 0,
            read_due: true,
            not_before: None,
            failures_in_a_row: 0,
            conflicts_in_a_row: 0,
            stale_reads_in_a_row: 0,
            events: VecDeque::new(),
        }
    }

    /// Takes note of something that happened.
    pub fn handle(&mut self, now: Moment, input: Input) {
        self.expire(now);
        match input {
            Input::Tick => {}
            Input::Read(result) => self.on_read(now, result),
            Input::Written(result) => self.on_written(now, result),
            Input::Changed(found) => {
                self.store_answered();
                self.observe(now, found);
            }
            Input::Willing(willing) => self.willing = willing,
            Input::ProgramStopped => {
                self.promised = None;
                self.stop(EndCause::Resigned);
            }
            Input::GiveAway => self.stop(EndCause::Unhealthy),
            Input::StandBack => {
                self.stop(EndCause::Transferred);
                self.cool_down(now, self.config.timing.lease());
            }
            Input::Terminate => {
                self.terminating = true;
                self.stop(EndCause::Terminated);
            }
        }
    }

    /// The program has stopped leading the term with this token: release it now, and leave the lead to others for
    /// `cool_down` (`None`: one renewal interval).
    pub fn resign(
        &mut self,
        now: Moment,
        token: Token,
        cool_down: Option<Duration>,
    ) -> Result<(), NotCurrent> {
        self.expire(now);
        match &self.role {
            Role::Leading(term) | Role::Stopping(term) if term.token == token => {}
            Role::Leading(term) => {
                return Err(NotCurrent { current: Some(term.token) });
            }
            _ => return Err(NotCurrent { current: None }),
        }
        self.promised = None;
        self.stop(EndCause::Resigned);
        self.cool_down(now, cool_down.unwrap_or(self.config.timing.renew_interval()));
        Ok(())
    }

    /// The program is another one than the one that was told this token, and wants a higher one of its own: with the next
    /// write, at most once in a renewal interval, a new term of this process follows the running one. Nothing that was
    /// promised ends by that; whoever was told the old token is refused where the new one was seen.
    pub fn begin_anew(&mut self, now: Moment, token: Token) -> Result<(), NotCurrent> {
        self.expire(now);
        let current = match &mut self.role {
            Role::Leading(term) if term.token == token => {
                term.next_wanted = true;
                return Ok(());
            }
            Role::Leading(term) => Some(term.token),
            _ => None,
        };
        Err(NotCurrent { current })
    }

    /// The next request to perform, if any. For a write, `now` is the moment from which its validity counts.
    pub fn poll_action(&mut self, now: Moment) -> Option<Action> {
        self.expire(now);
        if self.due_in(now)? > Duration::ZERO {
            return None;
        }
        let timeout = self.config.timing.attempt_timeout();
        if self.read_due {
            self.in_flight = Some(InFlight::Read(self.newest_seen()));
            return Some(Action::Read { timeout });
        }
        let attempt = self.next_attempt(now)?;
        let action = Action::Write {
            record: Box::new(attempt.record.clone()),
            expected: attempt.expected.clone(),
            token: self.token_for_people(&attempt.purpose),
            timeout,
        };
        self.in_flight = Some(InFlight::Write(Box::new(attempt)));
        Some(action)
    }

    /// How long the driver may sleep before it calls [`Self::handle`] with [`Input::Tick`]; `None`: until something happens.
    pub fn poll_timeout(&self, now: Moment) -> Option<Duration> {
        let expiry = match &self.role {
            Role::Leading(term) => Some(term.validity.surely_left(now)),
            Role::Following | Role::Stopping(_) if self.terminating => {
                Some(self.claimed_for(now)).filter(|left| !left.is_zero())
            }
            _ => None,
        };
        [self.due_in(now), expiry].into_iter().flatten().min()
    }

    /// The next event, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// In how long [`Self::poll_action`] has something to do, if nothing comes in before. `None`: not by waiting.
    fn due_in(&self, now: Moment) -> Option<Duration> {
        if self.in_flight.is_some() {
            return None;
        }
        let due = match &self.role {
            Role::HistoryLost => return None,
            Role::Following if self.terminating && self.unsettled.is_empty() => return None,
            _ if self.read_due => Duration::ZERO,
            Role::Following => self.acquire_in(now)?,
            Role::Leading(term) if self.willing => {
                let from = if term.next_wanted { term.began } else { term.validity.from };
                Span::new(from, self.config.timing.renew_interval()).surely_left(now)
            }
            Role::Leading(_) => return None,
            Role::Stopping(_) => [self.promised, self.inherited]
                .into_iter()
                .flatten()
                .map(|standing| standing.possibly_left(now))
                .max()
                .unwrap_or_default(),
        };
        Some(due.max(self.not_before.map_or(Duration::ZERO, |span| span.surely_left(now))))
    }

    /// In how long this candidate may try to acquire, or to make a missing record anew.
    fn acquire_in(&self, now: Moment) -> Option<Duration> {
        if !self.willing || self.terminating {
            return None;
        }
        let wait = if let Register::Missing { since } = self.register {
            // Made anew at once: that claims nothing, and the wait begins with it.
            Span::new(since, self.jitter()).possibly_left(now)
        } else if self.may_reacquire() {
            Duration::ZERO
        } else {
            let configured = self.config.timing.lease().max(self.config.longest_lease);
            let mut span = self.register.wait(&self.memory, configured)?;
            span.length += self.jitter();
            span.possibly_left(now)
        };
        Some(wait.max(self.cool_down.map_or(Duration::ZERO, |span| span.possibly_left(now))))
    }

    /// The record is this pod's own: nobody else can lead, and the compare-and-set fails if somebody else begins to.
    fn may_reacquire(&self) -> bool {
        let Some(record) = self.register.record() else {
            return false;
        };
        self.register.observation().is_some_and(|observation| !observation.stored.deleting)
            && (self.own_latest == Some(record.write) || self.is_left_by_own_pod(record))
    }

    /// Held by an earlier process of this pod, which is dead because this one owns its socket. Its program runs on here, on
    /// promises that ended with *its* lease, which may have been a longer one: outside a pod a configuration can change.
    /// Whoever saw anything else in between knows that this was put back, over a leader that may know nothing of it.
    fn is_left_by_own_pod(&self, record: &Record) -> bool {
        let me = &self.config.identity;
        matches!(&record.claim, Claim::Held { holder, lease, reacquired: false, .. }
            if holder.pod_uid == me.pod_uid && holder.nonce != me.nonce && *lease <= self.config.timing.lease())
            && !self.memory.others_seen(&me.pod_uid)
            && self.memory.is_latest(record)
    }

    /// The write that is due now.
    fn next_attempt(&mut self, now: Moment) -> Option<Attempt> {
        self.sequence += 1;
        let write = WriteId { nonce: self.config.identity.nonce, sequence: self.sequence };
        let (purpose, transitions, claim) = match &self.role {
            Role::Following if matches!(self.register, Register::Missing { .. }) => {
                (Purpose::Create, self.register.transitions(&self.memory), Claim::Vacant)
            }
            Role::Following => {
                let reacquired = self.register.record().is_some_and(|record| self.is_left_by_own_pod(record));
                let purpose = Purpose::Acquire { previous: self.register.holder_name(), reacquired };
                (
                    purpose,
                    self.register.transitions(&self.memory).saturating_add(1),
                    self.held(write, reacquired),
                )
            }
            Role::Leading(term) => {
                let recent = now.shortest_since(term.acquired) < self.config.timing.lease();
                let reacquired = term.reacquired && recent;
                if term.next_wanted {
                    let purpose = Purpose::Follow { ended: term.id };
                    (purpose, term.transitions.saturating_add(1), self.held(write, reacquired))
                } else {
                    (Purpose::Renew, term.transitions, self.held(term.id, reacquired))
                }
            }
            Role::Stopping(term) => (Purpose::Release, term.transitions, Claim::Released { term: term.id }),
            Role::HistoryLost => return None,
        };
        if matches!(purpose, Purpose::Acquire { reacquired: true, .. }) {
            // What the earlier process promised, stop grace included, ends before its lease, whatever its policy was.
            let lease = self.register.record().and_then(Record::lease);
            self.inherited = Some(Span::new(now, lease.unwrap_or(self.config.timing.lease())));
        }
        Some(Attempt {
            purpose,
            record: Record { write, transitions, fencing_offset: self.fencing_offset(), claim },
            expected: self.register.version().cloned(),
            sent: now,
            fence_floor: self.highest_fence,
        })
    }

    fn fencing_offset(&self) -> u64 {
        self.config.fencing_offset.max(self.memory.fencing_offset())
    }

    fn held(&self, term: WriteId, reacquired: bool) -> Claim {
        let holder = self.config.identity.clone();
        Claim::Held { holder, term, lease: self.config.timing.lease(), reacquired }
    }

    fn token_for_people(&self, purpose: &Purpose) -> Option<Token> {
        match (&self.role, purpose) {
            (Role::Leading(term) | Role::Stopping(term), _) => Some(term.token),
            _ => None,
        }
    }

    /// A few milliseconds, different for each candidate, each of its attempts and each term of anybody: whoever was late
    /// once is not late for ever.
    fn jitter(&self) -> Duration {
        let transitions = self.register.transitions(&self.memory);
        let occasion = (u128::from(self.sequence) << u32::BITS) + u128::from(transitions);
        let seed = self.config.identity.nonce.0 ^ occasion.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = seed.wrapping_mul(0xDA94_2042_E4DD_58B5_9E37_79B9_7F4A_7C15) >> 64;
        let micros = mixed % JITTER_MAX.as_micros();
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    }

    fn on_read(&mut self, now: Moment, result: Result<Option<Stored>, Failure>) {
        let Some(InFlight::Read(before)) = self.in_flight.take() else {
            unreachable!("a read was in flight");
        };
        match result {
            Ok(found) => {
                self.read_due = false;
                self.store_answered();
                self.distrust_history(now, before, found.as_ref());
                self.observe(now, found);
            }
            Err(failure) => self.request_failed(now, failure),
        }
    }

    fn on_written(&mut self, now: Moment, result: Result<crate::Written, WriteError>) {
        let Some(InFlight::Write(attempt)) = self.in_flight.take() else {
            unreachable!("a write was in flight");
        };
        match result {
            Ok(written) => {
                self.conflicts_in_a_row = 0;
                self.store_answered();
                self.confirm(now, &attempt, &written);
            }
            Err(WriteError::Conflict) => {
                self.store_answered();
                self.conflicts_in_a_row += 1;
                if self.conflicts_in_a_row > 1 {
                    self.not_before = Some(Span::new(now, self.config.timing.retry_delay()));
                }
                self.settle_later(*attempt);
            }
            Err(WriteError::Failed(failure)) => {
                self.settle_later(*attempt);
                self.request_failed(now, failure);
            }
        }
    }

    pub(crate) fn newest_seen(&self) -> Newest {
        Newest { fence: self.highest_fence, own: self.own_latest }
    }

    /// A linearizable read that shows less than what was seen before it was sent: once may be a fault of the store, again and
    /// again means that the store was put back to an earlier state.
    fn distrust_history(&mut self, now: Moment, before: Newest, found: Option<&Stored>) {
        if !found.is_some_and(|stored| before.is_newer_than(stored)) {
            self.stale_reads_in_a_row = 0;
            return;
        }
        self.stale_reads_in_a_row += 1;
        if self.stale_reads_in_a_row == STALE_READS_MAX {
            self.event(Event::HistoryLost);
            return self.end(EndCause::HistoryLost);
        }
        self.read_due = true;
        self.not_before = Some(Span::new(now, self.config.timing.retry_delay()));
    }

    /// Whether the write took effect is asked of the store: only a record that carries its id confirms it.
    fn settle_later(&mut self, attempt: Attempt) {
        if self.unsettled.len() == UNSETTLED_MAX {
            self.unsettled.remove(0);
        }
        self.unsettled.push(attempt);
        self.read_due = true;
    }

    fn store_answered(&mut self) {
        self.failure = None;
        self.failures_in_a_row = 0;
        self.not_before = None;
    }

    fn request_failed(&mut self, now: Moment, failure: Failure) {
        self.failure = Some(failure.kind);
        self.event(Event::RequestFailed(failure.kind));
        let timing = &self.config.timing;
        let left = match &self.role {
            Role::Leading(term) => Some(term.validity.surely_left(now)),
            _ => None,
        };
        let own_pace = match (failure.kind, left) {
            // The time that it took was the pause.
            (FailureKind::Timeout, _) => Duration::ZERO,
            (_, Some(_)) => timing.retry_delay(),
            (_, None) => {
                let doubled = timing.retry_delay().saturating_mul(1 << self.failures_in_a_row.min(8));
                doubled.min(timing.renew_interval().max(timing.retry_delay()))
            }
        };
        // A store may ask for an hour; a leader has its validity, and a follower must not sleep through a whole lease.
        let cap = left.map_or(timing.lease(), |left| left / crate::ATTEMPTS).max(own_pace);
        self.not_before =
            Some(Span::new(now, failure.retry_after.unwrap_or_default().max(own_pace).min(cap)));
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
    }

    /// Turns a term whose validity is over into no term. Answers don't depend on it: they compare the clock themselves.
    fn expire(&mut self, now: Moment) {
        if let Role::Leading(term) = &self.role
            && term.validity.surely_left(now).is_zero()
        {
            self.end(EndCause::Expired);
        }
    }

    /// Stops leading while the record is still our own, so that it can be released.
    pub(crate) fn stop(&mut self, cause: EndCause) {
        self.role = match std::mem::replace(&mut self.role, Role::Following) {
            Role::Leading(term) => {
                self.event(Event::TermEnded { token: term.token, cause });
                Role::Stopping(term)
            }
            other => other,
        };
    }

    /// Stops leading, and there is nothing to release.
    pub(crate) fn end(&mut self, cause: EndCause) {
        if let Role::Leading(Term { token, .. }) = self.role {
            self.event(Event::TermEnded { token, cause });
        }
        self.role = if cause == EndCause::HistoryLost { Role::HistoryLost } else { Role::Following };
    }

    /// Leaves the lead to others for so long at least.
    pub(crate) fn cool_down(&mut self, now: Moment, length: Duration) {
        if self.cool_down.is_none_or(|span| span.possibly_left(now) < length) {
            self.cool_down = Some(Span::new(now, length));
        }
    }

    pub(crate) fn event(&mut self, event: Event) {
        if self.events.len() < EVENTS_MAX {
            self.events.push_back(event);
        }
    }
}
