//! A pod: one elector at a time, its clocks, and a program that asks.

use super::{
    random::Random,
    scenario::{Program, SECOND},
    store::{Store, acquires},
};
use conch_election::{
    Config, Content, Elector, Fence, Identity, Moment, Nonce, Record, TermId, Timing, WriteId,
};
use std::time::Duration;

const MILLION: u64 = 1_000_000;

/// A pod, whatever process runs in it.
pub(crate) type PodId = usize;

/// The clocks of one machine: rates in parts per million of true time.
pub(crate) struct Clocks {
    raw_rate: u64,
    /// Of BOOTTIME and MONOTONIC, which are slewed alike.
    boottime_rate: u64,
    /// The rate of the clock with which a program that asks counts.
    program_rate: u64,
    offset: u64,
    /// When the machine was suspended and for how long: only BOOTTIME counts that.
    suspended: Vec<(u64, u64)>,
}

impl Clocks {
    /// Half of the machines are at a bound of what the argument allows.
    fn new(random: &mut Random) -> Self {
        let mut rate = |bound: u64| match random.below(4) {
            0 => MILLION - bound,
            1 => MILLION + bound,
            _ => random.between(MILLION - bound, MILLION + bound),
        };
        Self {
            raw_rate: rate(1_000),
            boottime_rate: rate(100_000),
            program_rate: rate(100_000),
            offset: random.below(1_000_000 * SECOND),
            suspended: Vec::new(),
        }
    }

    pub(crate) fn at(&self, true_time: u64) -> Moment {
        let suspended: u64 =
            self.suspended.iter().map(|(from, length)| true_time.saturating_sub(*from).min(*length)).sum();
        let awake = true_time - suspended;
        let scaled = |rate: u64| awake * rate / MILLION;
        Moment {
            boottime: Duration::from_micros(self.offset + scaled(self.boottime_rate) + suspended),
            monotonic: Duration::from_micros(self.offset + scaled(self.boottime_rate)),
            monotonic_raw: Duration::from_micros(self.offset + scaled(self.raw_rate)),
        }
    }

    /// How long the program, which counts by its own clock, takes for this time.
    pub(crate) fn by_program(&self, length: u64) -> u64 {
        length * MILLION / self.program_rate
    }

    /// How long BOOTTIME takes for it, at most: while the machine is suspended it runs true.
    pub(crate) fn by_boottime(&self, length: u64) -> u64 {
        length * MILLION / self.boottime_rate.min(MILLION)
    }

    pub(crate) fn suspend(&mut self, now: u64, length: u64) {
        self.suspended.push((now, length));
    }
}

/// One pod, alive or not.
pub(crate) struct Node {
    pub(crate) pod: PodId,
    name: String,
    pub(crate) program: Program,
    pub(crate) timing: Timing,
    longest_lease: Duration,
    pub(crate) elector: Elector,
    pub(crate) clocks: Clocks,
    pub(crate) random: Random,
    /// Counts processes of this pod: messages to an earlier one are lost.
    pub(crate) process: u32,
    /// Counts requests: an answer to one that timed out is lost.
    pub(crate) request: u64,
    /// How many were sent after the faults were over.
    pub(crate) late_requests: u64,
    /// The next wake-up that counts.
    pub(crate) wake: u64,
    pub(crate) frozen_until: u64,
    pub(crate) cut_until: u64,
    pub(crate) no_answers_until: u64,
    pub(crate) deaf_until: u64,
    /// The program neither asks nor listens.
    pub(crate) mute_until: u64,
    /// No process of it runs.
    pub(crate) gone: bool,
    /// The sidecar was told to end.
    pub(crate) drained: bool,
    pub(crate) knows: Knowledge,
}

/// What was told to the present process of a pod, seen from outside.
#[derive(Default)]
pub(crate) struct Knowledge {
    /// The highest fence.
    pub(crate) fence: Option<Fence>,
    /// What was its highest fence when it sent each write that was to acquire.
    sent: Vec<(WriteId, Option<Fence>)>,
    /// The number of the state of the store that it holds to be the present one.
    state: Option<usize>,
    /// How many terms there had been in that object.
    transitions: u32,
}

impl Node {
    pub(crate) fn new(
        pod: PodId,
        name: String,
        program: Program,
        timing: Timing,
        longest_lease: Duration,
        seed: u64,
    ) -> Self {
        let mut random = Random::new(seed, pod as u64 + 1);
        let config = config(pod, &name, timing, longest_lease, &mut random);
        Self {
            pod,
            name,
            program,
            timing,
            longest_lease,
            elector: Elector::new(config),
            clocks: Clocks::new(&mut random),
            random,
            process: 0,
            request: 0,
            late_requests: 0,
            wake: 0,
            frozen_until: 0,
            cut_until: 0,
            no_answers_until: 0,
            deaf_until: 0,
            mute_until: 0,
            gone: false,
            drained: false,
            knows: Knowledge::default(),
        }
    }

    pub(crate) fn name(&self) -> String {
        self.name.clone()
    }

    /// The sidecar died and is started again beside the same program.
    pub(crate) fn restart_sidecar(&mut self) {
        self.process += 1;
        self.request += 1;
        self.drained = false;
        self.gone = false;
        self.knows = Knowledge::default();
        let config = config(self.pod, &self.name, self.timing, self.longest_lease, &mut self.random);
        self.elector = Elector::new(config);
    }

    pub(crate) fn leads(&self, now: u64) -> bool {
        !self.gone && self.elector.leads(self.clocks.at(now))
    }

    /// The process is told of a state of the store.
    pub(crate) fn learns(&mut self, store: &Store, number: usize) {
        let Some(stored) = store.state(number) else {
            self.knows.state = Some(number);
            self.knows.transitions = 0;
            return;
        };
        if stored.fence < self.knows.fence {
            return;
        }
        let same_object =
            self.knows.state.and_then(|known| store.state(known)).map(|known| &known.incarnation)
                == Some(&stored.incarnation);
        if !same_object {
            self.knows.transitions = 0;
        }
        if let Content::Record(record) = &stored.content {
            self.knows.transitions = self.knows.transitions.max(record.transitions);
        }
        self.knows.fence = stored.fence;
        self.knows.state = Some(number);
    }

    /// The process sends this.
    pub(crate) fn sends(&mut self, record: &Record) {
        if acquires(record) {
            self.knows.sent.push((record.write, self.knows.fence));
        }
    }

    /// The highest fence that the process had seen when it sent the write that began this term.
    pub(crate) fn fence_before(&self, term: TermId) -> Option<Fence> {
        self.knows.sent.iter().find(|(write, _)| *write == term).and_then(|(_, fence)| *fence)
    }

    /// Whoever knows the present object, a later term than this and not this very content is not misled by it.
    pub(crate) fn sees_through(&self, store: &Store, content: &Content) -> bool {
        let known = self.knows.state.and_then(|known| store.state(known));
        let Some((known, current)) = known.zip(store.current()) else { return false };
        let past = match content {
            Content::Record(record) => record.transitions < self.knows.transitions,
            Content::Unknown(_) => true,
            Content::Fresh => self.knows.transitions > 0,
        };
        past && known.incarnation == current.incarnation && known.content != *content
    }
}

fn config(pod: PodId, name: &str, timing: Timing, longest_lease: Duration, random: &mut Random) -> Config {
    let nonce = Nonce((u128::from(random.next()) << 64) | u128::from(random.next()));
    let identity = Identity { pod: name.to_owned(), pod_uid: format!("uid-{pod}"), nonce };
    Config { identity, timing, longest_lease, fencing_offset: 0 }
}
