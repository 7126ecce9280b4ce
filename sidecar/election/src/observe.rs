//! What the elector makes of what it sees in the register: its own writes, and everybody else's.

use crate::{
    elector::Elector,
    io::{EndCause, Event},
    record::{Claim, Content, Fence, Record, Stored, TermId, Token, Written},
    register::Register,
    term::{Attempt, InFlight, Purpose, Role, Term},
    time::{Moment, Span},
};

impl Elector {
    /// Takes note of the register's state, whoever told it.
    pub(crate) fn observe(&mut self, now: Moment, found: Option<Stored>) {
        let holder_before = self.register.holder_name();
        let incarnation_before = self.register.incarnation().cloned();
        match found {
            // A cache that lags, or a watch that is behind an answer: it says nothing new.
            Some(stored) if self.newest_seen().is_newer_than(&stored) => return,
            Some(stored) => {
                self.highest_fence = self.highest_fence.max(stored.fence);
                self.memory.note(&stored, self.register.incarnation());
                self.register.replace(now, stored);
            }
            None => {
                self.memory.forget_terms();
                self.register.remove(now);
            }
        }
        let holder_now = self.register.holder_name();
        if holder_now != holder_before {
            self.event(Event::HolderChanged { from: holder_before, to: holder_now });
        }
        if self.register.incarnation() != incarnation_before.as_ref() {
            self.own_latest = None;
        }
        self.settle(now);
        self.check_own_record();
    }

    /// Confirms the write whose id stands in the record, and drops those that can no longer take effect: their version is
    /// past and never comes again.
    fn settle(&mut self, now: Moment) {
        let seen = self.register.record().map(|record| record.write);
        if let Some(position) = self.unsettled.iter().position(|attempt| Some(attempt.record.write) == seen) {
            let attempt = self.unsettled.swap_remove(position);
            if let Some(observation) = self.register.observation() {
                let stored = &observation.stored;
                let written = Written {
                    version: stored.version.clone(),
                    incarnation: stored.incarnation.clone(),
                    fence: stored.fence,
                };
                self.confirm(now, &attempt, &written);
            }
        }
        let version = self.register.version().cloned();
        self.unsettled.retain(|attempt| attempt.expected == version);
    }

    /// A leader stops at once when the record is not the one that it wrote.
    fn check_own_record(&mut self) {
        if self.register.record().is_none_or(|record| record.write.nonce != self.config.identity.nonce) {
            self.own_latest = None;
        }
        let (Role::Leading(term) | Role::Stopping(term)) = &self.role else {
            return;
        };
        if let Some(cause) = self.why_not_ours(term) {
            self.own_latest = None;
            self.end(cause);
        }
    }

    fn why_not_ours(&self, term: &Term) -> Option<EndCause> {
        let Some(observation) = self.register.observation() else {
            return Some(EndCause::RecordDeleted);
        };
        let stored = &observation.stored;
        let ours = |record: &Record| {
            record.write == term.latest_write
                || matches!(&self.in_flight, Some(InFlight::Write(attempt)) if attempt.record.write == record.write)
                || self.unsettled.iter().any(|attempt| attempt.record.write == record.write)
        };
        match &stored.content {
            _ if stored.incarnation != term.incarnation => Some(EndCause::RecordReplaced),
            _ if stored.deleting => Some(EndCause::RecordDeleting),
            Content::Record(record) if ours(record) => None,
            Content::Record(Record { claim: Claim::Held { holder, .. }, .. })
                if *holder != self.config.identity =>
            {
                Some(EndCause::OtherHolder)
            }
            Content::Unknown(unknown) if unknown.holder.is_some() => Some(EndCause::OtherHolder),
            _ => Some(EndCause::RecordReplaced),
        }
    }

    /// A write of ours took effect. Everything that follows from it counts from when it was **sent**.
    pub(crate) fn confirm(&mut self, now: Moment, attempt: &Attempt, written: &Written) {
        if matches!(self.role, Role::HistoryLost) {
            return;
        }
        if attempt.expected.is_some() && matches!(self.register, Register::Missing { .. }) {
            // The record was deleted after this write: the news of that was faster than the answer.
            return;
        }
        if let (Some(fence), Some(floor)) = (written.fence, attempt.fence_floor)
            && fence <= floor
        {
            self.event(Event::HistoryLost);
            return self.end(EndCause::HistoryLost);
        }
        self.note_written(now, attempt, written);
        match &attempt.purpose {
            Purpose::Acquire { previous, reacquired } => {
                self.begin(attempt, written, previous.clone(), *reacquired);
            }
            Purpose::Create => {}
            Purpose::Renew => self.renewed(now, attempt),
            Purpose::Follow { ended } => self.followed(attempt, written, *ended),
            Purpose::Release => self.released(now, attempt),
        }
    }

    /// The register is now what was written, unless something newer was seen already.
    fn note_written(&mut self, now: Moment, attempt: &Attempt, written: &Written) {
        let newer_seen =
            matches!((written.fence, self.highest_fence), (Some(fence), Some(highest)) if fence < highest);
        let held = matches!(attempt.record.claim, Claim::Held { .. }).then_some(attempt.record.write);
        if newer_seen {
            if self.register.record().is_some_and(|record| record.write == attempt.record.write) {
                self.own_latest = held;
            }
            return;
        }
        self.highest_fence = self.highest_fence.max(written.fence);
        let stored = Stored {
            version: written.version.clone(),
            incarnation: written.incarnation.clone(),
            fence: written.fence,
            deleting: false,
            longest_lease: self
                .register
                .observation()
                .and_then(|observation| observation.stored.longest_lease),
            content: Content::Record(attempt.record.clone()),
        };
        self.memory.note(&stored, self.register.incarnation());
        self.register.replace(now, stored);
        self.own_latest = held;
        let version = Some(written.version.clone());
        self.unsettled.retain(|other| other.expected == version);
    }

    fn begin(&mut self, attempt: &Attempt, written: &Written, previous: Option<String>, reacquired: bool) {
        assert!(matches!(self.role, Role::Following), "a term begins only where none is");
        let term = self.term_of(attempt, written, reacquired);
        let token = term.token;
        self.role = Role::Leading(term);
        self.event(Event::TermBegan { token, previous, reacquired });
        // Nothing was promised in this term yet: it can be given back at once.
        if self.terminating {
            self.stop(EndCause::Terminated);
        } else if !self.willing {
            self.stop(EndCause::Resigned);
        }
        // What was seen meanwhile (by a watch that was faster than the answer) may already say that it is over.
        if matches!(self.register, Register::Present(_)) {
            self.check_own_record();
        }
    }

    /// The term that a confirmed write began.
    fn term_of(&self, attempt: &Attempt, written: &Written, reacquired: bool) -> Term {
        let Fence(fence) = written.fence.unwrap_or(Fence(u128::from(attempt.record.transitions)));
        Term {
            id: attempt.record.write,
            token: Token(u128::from(attempt.record.fencing_offset).saturating_add(fence)),
            transitions: attempt.record.transitions,
            acquired: attempt.sent,
            began: attempt.sent,
            validity: Span::new(attempt.sent, self.config.timing.validity()),
            latest_write: attempt.record.write,
            incarnation: written.incarnation.clone(),
            reacquired,
            next_wanted: false,
        }
    }

    /// A term of this process took the place of its own one. The record was ours all the time: the compare-and-set says so.
    fn followed(&mut self, attempt: &Attempt, written: &Written, ended: TermId) {
        let (Role::Leading(old) | Role::Stopping(old)) = &self.role else { return };
        if old.id != ended {
            return;
        }
        let (token, acquired) = (old.token, old.acquired);
        let term = Term { acquired, ..self.term_of(attempt, written, old.reacquired) };
        if matches!(self.role, Role::Stopping(_)) {
            // It never led; the release has to name it, as the latest term that anybody saw.
            self.role = Role::Stopping(term);
            return;
        }
        let previous = Some(self.config.identity.pod.clone());
        self.event(Event::TermEnded { token, cause: EndCause::NewTerm });
        self.event(Event::TermBegan { token: term.token, previous, reacquired: false });
        self.role = Role::Leading(term);
    }

    fn renewed(&mut self, now: Moment, attempt: &Attempt) {
        let validity = self.config.timing.validity();
        let leading = matches!(self.role, Role::Leading(_));
        let (Role::Leading(term) | Role::Stopping(term)) = &mut self.role else {
            return;
        };
        if !matches!(&attempt.record.claim, Claim::Held { term: id, .. } if *id == term.id) {
            return;
        }
        let margin = term.validity.surely_left(now);
        if attempt.record.write.sequence > term.latest_write.sequence {
            term.latest_write = attempt.record.write;
        }
        if leading {
            term.extend(now, attempt.sent, validity);
            self.event(Event::Renewed { latency: now.longest_since(attempt.sent), margin });
        }
    }

    /// Whoever gave the lead away leaves it to others for a while, from when they can take it.
    fn released(&mut self, now: Moment, attempt: &Attempt) {
        let Role::Stopping(term) = &self.role else { return };
        if Some(term.id) == attempt.record.term() {
            let token = term.token;
            self.role = Role::Following;
            self.own_latest = None;
            self.cool_down(now, self.config.timing.renew_interval());
            self.event(Event::Released { token });
        }
    }
}
