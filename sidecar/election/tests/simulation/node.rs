//! A pod: one elector at a time, its clocks, and a program that asks.

use crate::{checker::PodId, random::Random};
use conch_election::{Config, Elector, Identity, Input, Moment, Nonce, Timing};
use std::time::Duration;

const MILLION: u64 = 1_000_000;

/// The clocks of one machine: rates in parts per million of true time.
#[derive(Clone)]
pub(crate) struct Clocks {
    raw_rate: u64,
    /// Of BOOTTIME and MONOTONIC, which are slewed alike.
    boottime_rate: u64,
    /// The rate of the clock with which the program counts.
    pub(crate) program_rate: u64,
    offset: u64,
    /// When the machine was suspended and for how long, in microseconds: only BOOTTIME counts that.
    suspended: Vec<(u64, u64)>,
}

impl Clocks {
    fn new(random: &mut Random) -> Self {
        Self {
            raw_rate: random.between(MILLION - 1_000, MILLION + 1_000),
            boottime_rate: random.between(MILLION - 100_000, MILLION + 100_000),
            program_rate: random.between(MILLION - 100_000, MILLION + 100_000),
            offset: random.below(1_000_000 * MILLION),
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
}

/// One pod, alive or not.
pub(crate) struct Node {
    pub(crate) pod: PodId,
    pub(crate) elector: Elector,
    pub(crate) clocks: Clocks,
    /// Counts processes of this pod: messages to an earlier one are lost.
    pub(crate) process: u32,
    /// Counts requests: an answer to one that timed out is lost.
    pub(crate) request: u64,
    /// The next wake-up that counts.
    pub(crate) wake: u64,
    pub(crate) frozen_until: u64,
    pub(crate) cut_until: u64,
    pub(crate) program_asks: bool,
    pub(crate) gone: bool,
}

impl Node {
    pub(crate) fn new(pod: PodId, timing: Timing, random: &mut Random) -> Self {
        Self {
            pod,
            elector: Self::elector(pod, timing, random),
            clocks: Clocks::new(random),
            process: 0,
            request: 0,
            wake: 0,
            frozen_until: 0,
            cut_until: 0,
            program_asks: true,
            gone: false,
        }
    }

    fn elector(pod: PodId, timing: Timing, random: &mut Random) -> Elector {
        let nonce = Nonce((u128::from(random.next()) << 64) | u128::from(random.next()));
        let identity = Identity { pod: format!("pod-{}", pod % 3), pod_uid: format!("uid-{pod}"), nonce };
        Elector::new(Config { identity, timing, longest_lease: timing.lease(), fencing_offset: 0 })
    }

    /// The sidecar died and is started again beside the same program.
    pub(crate) fn restart_sidecar(&mut self, now: u64, timing: Timing, random: &mut Random) {
        self.process += 1;
        self.request += 1;
        self.elector = Self::elector(self.pod, timing, random);
        self.elector.handle(self.clocks.at(now), Input::Willing(self.program_asks));
    }

    /// The machine sleeps; nothing of it runs, and BOOTTIME alone counts.
    pub(crate) fn suspend(&mut self, now: u64, length: u64) {
        if self.frozen_until <= now {
            self.frozen_until = now + length;
            self.clocks.suspended.push((now, length));
        }
    }
}
