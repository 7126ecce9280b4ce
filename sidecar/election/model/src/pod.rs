//! A pod: one elector at a time, its clocks, its messages, and a program that asks.

use crate::{Rules, STEP, timing};
use conch_election::{
    Action, Claim, Config, Content, Elector, Failure, FailureKind, Identity, Input, Moment, Nonce, Record,
    Stored, Token, Version, WriteError, Written,
};
use std::time::Duration;

/// Requests leave so many milliseconds into a step, after everything that was heard in it, so that a wait that began with
/// a step is over, with its jitter, where a step begins.
const INTO_A_STEP: u64 = 10;

/// For each pod, the rates of the raw clock and of BOOTTIME, in parts per million: one slow, one fast, as far as may be.
const RATES: [(u64, u64); 2] = [(999_000, 900_000), (1_001_000, 1_100_000)];

/// Times are steps, if nothing else is said.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pod {
    number: usize,
    elector: Elector,
    /// The process: a sidecar that was started again is another one.
    process: u8,
    pub(crate) request: Option<Request>,
    /// One that was given up and may still arrive.
    pub(crate) zombie: Option<Request>,
    pub(crate) reply: Option<Reply>,
    /// The record changed, and it has not heard of it.
    pub(crate) has_news: bool,
    pub(crate) paused_until: u64,
    pub(crate) is_cut: bool,
    /// Until when its program may act, in milliseconds of true time.
    pub(crate) acts_until: u64,
    /// Before when nobody may send a take-over of what it wrote.
    pub(crate) stands_until: u64,
    /// The latest that its program had.
    pub token: Option<Token>,
}

/// On its way to the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Request {
    Read,
    Write { record: Box<Record>, expected: Option<Version>, sent: u64 },
}

/// On its way back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reply {
    Read(Option<Stored>),
    Written { result: Result<Written, WriteError>, sent: u64 },
}

impl Pod {
    pub(crate) fn new(number: usize) -> Self {
        Self {
            number,
            elector: elector(number, 0),
            process: 0,
            request: None,
            zombie: None,
            reply: None,
            has_news: false,
            paused_until: 0,
            is_cut: false,
            acts_until: 0,
            stands_until: 0,
            token: None,
        }
    }

    /// What the clocks show, this many milliseconds after a step began.
    fn clocks(&self, step: u64, milliseconds: u64) -> Moment {
        let (raw, boottime) = RATES[self.number];
        let at = |rate: u64| Duration::from_micros((step * STEP + milliseconds) * rate / 1_000);
        Moment { boottime: at(boottime), monotonic: at(boottime), monotonic_raw: at(raw) }
    }

    pub(crate) fn is_paused(&self, now: u64) -> bool {
        now < self.paused_until
    }

    pub(crate) fn leads(&self, now: u64) -> bool {
        self.elector.leads(self.clocks(now, INTO_A_STEP))
    }

    fn counts_from_receipt(&self, rules: Rules) -> bool {
        rules == Rules::FromReceipt && self.number == 0
    }

    /// An answer that counts from its receipt comes a step late.
    pub(crate) fn can_be_answered(&self, rules: Rules, now: u64) -> bool {
        let arrived = match &self.reply {
            Some(Reply::Written { sent, .. }) if self.counts_from_receipt(rules) => now == sent + 1,
            reply => reply.is_some(),
        };
        arrived && !self.is_paused(now)
    }

    /// How many messages wait for it, that could come now.
    pub(crate) fn late(&self, rules: Rules, now: u64) -> u8 {
        if self.is_cut || self.is_paused(now) {
            return 0;
        }
        let waiting = [self.request.is_some(), self.can_be_answered(rules, now), self.has_news];
        waiting.into_iter().map(u8::from).sum()
    }

    pub(crate) fn answered(&mut self, rules: Rules, now: u64) {
        let input = match self.reply.take() {
            Some(Reply::Read(found)) => Input::Read(Ok(found)),
            Some(Reply::Written { result, .. }) => Input::Written(result),
            None => return,
        };
        self.tell(rules, now, input);
    }

    /// A step begins: what was not answered for two steps is given up.
    pub(crate) fn turn(&mut self, rules: Rules, now: u64) {
        let failure = Failure { kind: FailureKind::Timeout, retry_after: None };
        let input = match (&self.request, &self.reply) {
            (Some(Request::Write { sent, .. }), _) | (_, Some(Reply::Written { sent, .. }))
                if sent + 1 < now =>
            {
                Input::Written(Err(WriteError::Failed(failure)))
            }
            (Some(Request::Read), _) | (_, Some(Reply::Read(_))) => Input::Read(Err(failure)),
            _ => return self.tell(rules, now, Input::Tick),
        };
        self.zombie = self.request.take().filter(|request| *request != Request::Read).or(self.zombie.take());
        self.reply = None;
        self.tell(rules, now, input);
    }

    pub(crate) fn restart(&mut self, rules: Rules, now: u64) {
        self.process += 1;
        self.zombie = self.request.take().filter(|request| *request != Request::Read).or(self.zombie.take());
        self.reply = None;
        self.elector = elector(self.number, self.process);
        self.tell(rules, now, Input::Willing(true));
    }

    /// The process takes note, and sends what is due.
    pub(crate) fn tell(&mut self, rules: Rules, now: u64, input: Input) {
        let input = match (rules, input) {
            (Rules::MissingIsFree, Input::Read(Ok(found))) => Input::Read(Ok(Some(as_if_free(found)))),
            (Rules::MissingIsFree, Input::Changed(found)) => Input::Changed(Some(as_if_free(found))),
            (_, input) => input,
        };
        self.elector.handle(self.clocks(now, 0), input);
        let mut moment = self.clocks(now, INTO_A_STEP);
        if self.counts_from_receipt(rules)
            && matches!(self.elector.clone().poll_action(moment), Some(Action::Write { .. }))
        {
            moment = self.clocks(now + 1, INTO_A_STEP);
        }
        match self.elector.poll_action(moment) {
            Some(Action::Read { .. }) => self.request = Some(Request::Read),
            Some(Action::Write { record, expected, .. }) => {
                let expected = expected.filter(|version| *version != none());
                self.request = Some(Request::Write { record, expected, sent: now });
            }
            None => {}
        }
        while self.elector.poll_event().is_some() {}
    }

    /// The program asks: its token, and until when it may act, in milliseconds of true time. Its clock is as slow as a
    /// kernel can make it.
    pub(crate) fn ask(&mut self, now: u64) -> Option<(Token, u64)> {
        let promise = self.elector.answer(self.clocks(now, INTO_A_STEP)).promise?;
        let valid_for = u64::try_from(promise.valid_for.as_millis()).unwrap_or(u64::MAX) * 10 / 9;
        let grace = u64::try_from(timing().stop_grace().as_millis()).unwrap_or(u64::MAX);
        Some((promise.token, now * STEP + INTO_A_STEP + valid_for + grace))
    }
}

fn elector(number: usize, process: u8) -> Elector {
    let nonce = Nonce(u128::from(process) * 2 + number as u128);
    let identity = Identity { pod: number.to_string(), pod_uid: number.to_string(), nonce };
    Elector::new(Config { identity, timing: timing(), longest_lease: timing().lease(), fencing_offset: 0 })
}

fn none() -> Version {
    Version(String::new())
}

/// What a candidate is told that takes a missing or cleared record for a free one.
fn as_if_free(found: Option<Stored>) -> Stored {
    let write = conch_election::WriteId { nonce: Nonce(u128::MAX), sequence: 0 };
    let released = Content::Record(Record {
        write,
        transitions: 1_000,
        fencing_offset: 0,
        claim: Claim::Released { term: write },
    });
    match found {
        None => Stored {
            version: none(),
            incarnation: conch_election::Incarnation(String::new()),
            fence: None,
            deleting: false,
            longest_lease: None,
            content: released,
        },
        Some(stored) if matches!(stored.content, Content::Unknown(_)) => {
            Stored { content: released, ..stored }
        }
        Some(stored) => stored,
    }
}
