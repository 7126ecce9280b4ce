//! A register and a few electors on one true time line, with every message in the test's hand.

use conch_election::{
    Action, Claim, Config, Content, Elector, Event, Failure, FailureKind, Fence, Identity, Incarnation,
    Input, Moment, Nonce, Record, Stored, Timing, Token, Unknown, Version, WriteError, Written,
};
use std::time::Duration;

pub(crate) const LEASE: Duration = Duration::from_secs(15);
pub(crate) const GRACE: Duration = Duration::from_secs(3);

pub(crate) fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Both clocks agree and show this many milliseconds.
pub(crate) fn at(milliseconds: u64) -> Moment {
    Moment::from_uptime(ms(milliseconds))
}

pub(crate) fn timing() -> Timing {
    Timing::new(LEASE, ms(2_000), GRACE, ms(5_000)).unwrap()
}

pub(crate) fn identity(number: u8) -> Identity {
    Identity {
        pod: format!("pod-{number}"),
        pod_uid: format!("uid-{number}"),
        nonce: Nonce(u128::from(number)),
    }
}

pub(crate) fn config(number: u8) -> Config {
    Config { identity: identity(number), timing: timing(), longest_lease: LEASE, fencing_offset: 0 }
}

pub(crate) fn candidate(number: u8) -> Elector {
    willing(config(number))
}

pub(crate) fn willing(config: Config) -> Elector {
    let mut elector = Elector::new(config);
    elector.handle(at(0), Input::Willing(true));
    elector
}

/// What a linearizable store holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Register {
    pub(crate) fence: u128,
    pub(crate) incarnations: u32,
    pub(crate) stored: Option<Stored>,
}

impl Register {
    pub(crate) fn fresh() -> Self {
        let mut register = Self::default();
        register.put(Content::Fresh);
        register
    }

    fn next_version(&mut self) -> (Version, Option<Fence>) {
        self.fence += 1;
        (Version(self.fence.to_string()), Some(Fence(self.fence)))
    }

    /// Somebody writes, without asking.
    pub(crate) fn put(&mut self, content: Content) {
        let (version, fence) = self.next_version();
        if self.stored.is_none() {
            self.incarnations += 1;
        }
        let incarnation = Incarnation(self.incarnations.to_string());
        self.stored =
            Some(Stored { version, incarnation, fence, deleting: false, longest_lease: None, content });
    }

    /// Somebody changes a part of the object that says nothing about the election.
    pub(crate) fn touch(&mut self) {
        let (version, fence) = self.next_version();
        let stored = self.stored.as_mut().unwrap();
        (stored.version, stored.fence) = (version, fence);
    }

    pub(crate) fn delete(&mut self) {
        self.fence += 1;
        self.stored = None;
    }

    /// What the store does with a write that reaches it.
    pub(crate) fn write(
        &mut self,
        record: &Record,
        expected: Option<&Version>,
    ) -> Result<Written, WriteError> {
        if self.stored.as_ref().map(|stored| &stored.version) != expected {
            return Err(WriteError::Conflict);
        }
        let longest_lease = self.stored.as_ref().and_then(|stored| stored.longest_lease);
        self.put(Content::Record(record.clone()));
        let stored = self.stored.as_mut().unwrap();
        stored.longest_lease = longest_lease;
        Ok(Written {
            version: stored.version.clone(),
            incarnation: stored.incarnation.clone(),
            fence: stored.fence,
        })
    }

    /// Performs an action and tells its result at `now`.
    pub(crate) fn perform(&mut self, elector: &mut Elector, now: Moment, action: &Action) {
        let input = match action {
            Action::Read { .. } => Input::Read(Ok(self.stored.clone())),
            Action::Write { record, expected, .. } => Input::Written(self.write(record, expected.as_ref())),
        };
        elector.handle(now, input);
    }

    /// Lets the elector do all that it wants at this moment, in no time.
    pub(crate) fn run(&mut self, elector: &mut Elector, now: Moment) {
        elector.handle(now, Input::Tick);
        while let Some(action) = elector.poll_action(now) {
            self.perform(elector, now, &action);
        }
    }

    /// Lets time go on to `to`, waking the elector whenever it asks for it. Both clocks run true.
    pub(crate) fn run_until(&mut self, elector: &mut Elector, from: u64, to: u64) {
        let mut now = from;
        loop {
            self.run(elector, at(now));
            let sleep = elector
                .poll_timeout(at(now))
                .map_or(u64::MAX, |sleep| u64::try_from(sleep.as_micros().div_ceil(1_000)).unwrap().max(1));
            now = now.saturating_add(sleep);
            if now >= to {
                return self.run(elector, at(to));
            }
        }
    }

    /// What a watch tells.
    pub(crate) fn tell(&self, elector: &mut Elector, now: Moment) {
        elector.handle(now, Input::Changed(self.stored.clone()));
    }
}

/// A candidate that leads since 0 ms, and the register.
pub(crate) fn leader() -> (Elector, Register) {
    let mut register = Register::fresh();
    let mut elector = candidate(1);
    register.run_until(&mut elector, 0, 20);
    assert!(elector.leads(at(20)), "{elector:?}");
    while elector.poll_event().is_some() {}
    (elector, register)
}

/// A second candidate that has seen the register at this time.
pub(crate) fn follower(register: &mut Register, now: u64) -> Elector {
    let mut elector = candidate(2);
    register.run(&mut elector, at(now));
    elector
}

/// When the elector first tries to write, if nothing comes in from `from` on; in milliseconds.
pub(crate) fn first_write(elector: &mut Elector, from: u64, to: u64) -> Option<u64> {
    (from..=to).find(|now| {
        elector.handle(at(*now), Input::Tick);
        matches!(elector.poll_action(at(*now)), Some(Action::Write { .. }))
    })
}

pub(crate) fn expect_write(action: Option<Action>) -> (Record, Option<Version>) {
    match action {
        Some(Action::Write { record, expected, .. }) => (*record, expected),
        other => panic!("a write was expected, not {other:?}"),
    }
}

/// The first write of a candidate that has read a free register, and when it was sent: it spreads over the jitter.
pub(crate) fn first_sent(elector: &mut Elector) -> (u64, (Record, Option<Version>)) {
    let sent = (0..20).find_map(|now| elector.poll_action(at(now)).map(|action| (now, action)));
    let (now, action) = sent.unwrap();
    (now, expect_write(Some(action)))
}

pub(crate) fn token(elector: &mut Elector, now: u64) -> Option<Token> {
    elector.answer(at(now)).promise.map(|promise| promise.token)
}

pub(crate) fn events(elector: &mut Elector) -> Vec<Event> {
    std::iter::from_fn(|| elector.poll_event()).collect()
}

pub(crate) fn timeout() -> Failure {
    Failure { kind: FailureKind::Timeout, retry_after: None }
}

pub(crate) fn unavailable() -> Failure {
    Failure { kind: FailureKind::Unavailable, retry_after: None }
}

pub(crate) fn held_by(number: u8, transitions: u32, lease: Duration) -> Content {
    let write = conch_election::WriteId { nonce: Nonce(u128::from(number)), sequence: 1 };
    let claim = Claim::Held { holder: identity(number), term: write, lease, reacquired: false };
    Content::Record(Record { write, transitions, fencing_offset: 0, claim })
}

pub(crate) fn unknown(holder: &str) -> Content {
    Content::Unknown(Unknown {
        holder: (!holder.is_empty()).then(|| holder.to_owned()),
        lease: None,
        fingerprint: holder.to_owned(),
    })
}
