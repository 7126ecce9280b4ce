//! "Do I lead, until when, with which token?"

use crate::{
    elector::Elector,
    io::{Answer, FailureKind, Promise, Reason},
    record::{Claim, Content, Record, Token},
    register::Register,
    term::{Role, Term},
    time::{Moment, Span},
};
use std::time::Duration;

/// How much of the validity that is left a program is told of, in percent. A kernel may slew the clock with which the
/// program counts by 10 %; one more percent covers the raw clock's own error and the rounding.
const PROMISE_PERCENT: u128 = 89;

impl Elector {
    /// Does this pod lead, until when, with which token? What is promised here is remembered: no release goes out before
    /// it is over.
    pub fn answer(&mut self, now: Moment) -> Answer {
        let answer = self.look(now);
        if let Some(promise) = answer.promise {
            self.remember_promise(now, promise.valid_for);
        }
        answer
    }

    /// The same for somebody who does nothing by it: it is not remembered, so nothing waits for its end.
    pub fn look(&self, now: Moment) -> Answer {
        let promise = self.promise(now);
        Answer { promise, reason: self.reason(now, promise.is_some()), holder: self.register.holder_name() }
    }

    /// Does this pod lead at this moment? For metrics and logs: promises nothing.
    pub fn leads(&self, now: Moment) -> bool {
        self.promise(now).is_some()
    }

    /// The token of the running term, if this pod leads at this moment. Promises nothing.
    pub fn token(&self, now: Moment) -> Option<Token> {
        self.promise(now).map(|promise| promise.token)
    }

    /// Does the record stand as this process wrote it last? Then nobody has led since. `false` if it wrote none.
    pub fn wrote_last(&self) -> bool {
        self.register.record().is_some_and(|record| record.write.nonce == self.config.identity.nonce)
    }

    fn promise(&self, now: Moment) -> Option<Promise> {
        let Role::Leading(Term { token, validity, .. }) = &self.role else {
            return None;
        };
        let left = validity.surely_left(now);
        let valid_for = whole_milliseconds(percent_of(left)).min(self.config.timing.max_promise());
        if valid_for.is_zero() {
            return None;
        }
        assert!(longest_in_truth(valid_for) <= left, "a promise never outlives its term");
        Some(Promise { token: *token, valid_for, deadline_boottime: now.boottime + valid_for })
    }

    /// Remembers until when the program may act.
    pub(crate) fn remember_promise(&mut self, now: Moment, valid_for: Duration) {
        let standing = self.standing(now, valid_for);
        if self.promised.is_none_or(|promised| promised.possibly_left(now) < standing.length) {
            self.promised = Some(standing);
        }
    }

    /// How long a program may act on a promise: the promise on the slowest clock that it may have, then its stop grace.
    pub(crate) fn standing(&self, now: Moment, valid_for: Duration) -> Span {
        Span::new(now, longest_in_truth(valid_for) + self.config.timing.stop_grace())
    }

    fn reason(&self, now: Moment, leads: bool) -> Reason {
        match (&self.role, self.failure) {
            _ if leads => Reason::Leading,
            (Role::HistoryLost, _) => Reason::HistoryLost,
            _ if self.terminating => Reason::Terminating,
            (_, Some(FailureKind::Denied)) => Reason::StoreDenied,
            (_, Some(FailureKind::Invalid)) => Reason::StoreInvalid,
            (_, Some(FailureKind::Timeout | FailureKind::Unavailable)) => Reason::StoreUnavailable,
            _ if matches!(self.register, Register::Unseen) => Reason::NotContacted,
            _ if self.cool_down.is_some_and(|span| !span.possibly_left(now).is_zero()) => Reason::CoolingDown,
            _ if !self.willing => Reason::NotAsked,
            _ => self.reason_in_the_record(),
        }
    }

    fn reason_in_the_record(&self) -> Reason {
        match self.register.observation().map(|observation| &observation.stored.content) {
            Some(Content::Record(Record { claim: Claim::Held { holder, .. }, .. })) => {
                if *holder == self.config.identity { Reason::Acquiring } else { Reason::OtherLeads }
            }
            Some(Content::Unknown(unknown))
                if unknown.holder.as_deref().is_some_and(|name| !name.is_empty()) =>
            {
                Reason::OtherLeads
            }
            Some(Content::Record(Record { claim: Claim::Released { .. }, .. }) | Content::Fresh) => {
                Reason::Acquiring
            }
            Some(Content::Record(_) | Content::Unknown(_)) | None => Reason::RecordUnknown,
        }
    }
}

fn percent_of(left: Duration) -> Duration {
    nanoseconds(left.as_nanos() * PROMISE_PERCENT / 100)
}

/// How long a promise may last in truth, if the program's clock is as slow as a kernel can make it.
fn longest_in_truth(valid_for: Duration) -> Duration {
    nanoseconds((valid_for.as_nanos() * 100).div_ceil(PROMISE_PERCENT))
}

fn whole_milliseconds(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

fn nanoseconds(nanoseconds: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}
