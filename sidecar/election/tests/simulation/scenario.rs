//! What one run consists of: pods, a network, and a list of faults. Made from a seed, as plain data, so that it can be
//! printed and shrunk.

use super::random::Random;
use conch_election::Timing;
use std::time::Duration;

/// Times are microseconds of true time.
pub(crate) const SECOND: u64 = 1_000_000;
pub(crate) const END: u64 = 120 * SECOND;
/// After this no fault happens any more, and somebody must lead again.
pub(crate) const QUIET: u64 = 75 * SECOND;

#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    /// Of the pods at the start, and of those that start after a rollout.
    pub(crate) timings: [Timing; 2],
    pub(crate) network: Network,
    /// The operator marked the record as one that never had a candidate.
    pub(crate) fresh: bool,
    pub(crate) pods: Vec<Program>,
    /// In the order of time.
    pub(crate) faults: Vec<(u64, Fault)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Network {
    /// How late a message is at most.
    pub(crate) delay_max: u64,
    pub(crate) lost_per_mille: u64,
    /// Requests that arrive twice, the second time up to two leases later.
    pub(crate) repeated_per_mille: u64,
    /// Reads and changes that show an older state.
    pub(crate) stale_per_mille: u64,
}

/// How a program learns whether it leads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Program {
    /// It asks, and counts from before it asked.
    Polls,
    /// It is told at each extension, and goes by the deadline on BOOTTIME.
    Streams,
}

/// Whom a fault hits: who leads at the time, or the pod with this number (modulo how many there are).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Who {
    Leader,
    Pod(usize),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// Nothing of the pod runs; its clocks go on.
    Pause(Who, u64),
    /// The machine sleeps: BOOTTIME alone goes on.
    Suspend(Who, u64),
    /// Neither requests nor answers nor changes come through.
    Cut(Who, u64),
    /// Requests come through, answers don't.
    LoseAnswers(Who, u64),
    /// Changes don't come through.
    Deafen(Who, u64),
    /// The store fails all requests, maybe after it performed them, and maybe asks to be left alone so long.
    StoreFails {
        length: u64,
        performs: bool,
        retry_after: u64,
    },
    Delete,
    /// Marked for deletion, and deleted later.
    MarkDeleting(u64),
    Clear,
    Overwrite,
    /// A write to a part of the object that says nothing of the election.
    Touch,
    /// Deleted, and made anew with no holder.
    Recreate,
    /// So many states back, where the argument claims safety.
    PutBack(usize),
    /// The store itself goes so many states back, versions and fences too.
    LoseHistory(usize),
    /// The sidecar dies and is started again beside the same program.
    RestartSidecar(Who),
    /// The pod dies as a whole, and another one starts; of the same name or not.
    ReplacePod(Who, bool),
    Resign(Who, Option<u64>),
    /// The program neither asks nor stops; whether its sidecar then gives the lead away is the last.
    Hang(Who, u64, bool),
    /// Somebody asks that the pod with this number leads.
    Transfer(usize),
    /// The program is another one than before, and asks for a term of its own.
    NewTerm(Who),
    /// The program exits and is started again; whether the sidecar has proof of it is the second.
    Crash(Who, u64, bool),
    /// The sidecar is told to end. The program goes on as long as it may, or stops with proof so much later; the pod dies
    /// at last, or only the sidecar does and is started again.
    Drain {
        who: Who,
        proof: Option<u64>,
        dies: u64,
        alone: bool,
    },
    /// From now on new pods have the second timing, and the old ones are replaced, one by one, so far apart. The operator
    /// may leave, if it lowers the lease: whoever is new was told of the longer one.
    Rollout {
        interval: u64,
        operator_leaves: bool,
    },
}

impl Scenario {
    pub(crate) fn from_seed(seed: u64) -> Self {
        let mut random = Random::new(seed, 0);
        let timings = [timing(&mut random), timing(&mut random)];
        let lease = u64::try_from(timings[0].lease().as_micros()).unwrap();
        let network = Network {
            delay_max: random.pick(&[0, 5_000, 200_000, 2 * SECOND, 2 * lease]),
            lost_per_mille: random.pick(&[0, 0, 20, 200]),
            repeated_per_mille: random.pick(&[0, 10, 50]),
            stale_per_mille: random.pick(&[0, 0, 10, 30]),
        };
        let fresh = random.per_mille(700);
        let pods =
            (0..random.between(2, 7)).map(|_| random.pick(&[Program::Polls, Program::Streams])).collect();
        let mut faults = Vec::new();
        let mut at = 0;
        for _ in 0..random.below(14) {
            // Faults that come together do what none of them does alone.
            at = if random.per_mille(600) { at + random.below(4 * SECOND) } else { random.below(QUIET) };
            let at = at.min(QUIET - 1);
            if random.per_mille(150) {
                // The leader does not hear of what is done next.
                faults.push((at, Fault::Cut(Who::Leader, random.between(5, 30) * SECOND)));
            }
            if random.per_mille(50) {
                // What the first process promised stands while the second is told to end.
                let drain = Fault::Drain { who: Who::Leader, proof: None, dies: 15 * SECOND, alone: false };
                faults.push((at, Fault::RestartSidecar(Who::Leader)));
                faults.push(((at + random.below(2 * SECOND)).min(QUIET - 1), drain));
            }
            faults.push((at, Fault::random(&mut random)));
        }
        if random.per_mille(150) {
            faults.extend(rollout(&mut random, timings));
        }
        if random.per_mille(30) {
            let back = usize::try_from(random.between(1, 30)).unwrap();
            faults.push((random.below(QUIET), Fault::LoseHistory(back)));
        }
        faults.sort_by_key(|(at, _)| *at);
        Self { seed, timings, network, fresh, pods, faults }
    }
}

fn timing(random: &mut Random) -> Timing {
    Timing::new(
        Duration::from_secs(random.between(6, 15)),
        Duration::from_millis(random.between(500, 2_000)),
        Duration::from_millis(random.below(4) * 500),
        Duration::from_millis(random.between(500, 10_000)),
    )
    .unwrap()
}

/// A rollout, and, at times, what makes it hard: a pod of the old timing hears of nothing until the record of the new
/// leader is gone.
fn rollout(random: &mut Random, timings: [Timing; 2]) -> Vec<(u64, Fault)> {
    let at = random.below(QUIET);
    let operator_leaves = timings[1].lease() < timings[0].lease() && random.per_mille(700);
    let interval = random.below(15 * SECOND);
    let mut faults = vec![(at, Fault::Rollout { interval, operator_leaves })];
    let gone = at + random.between(15, 30) * SECOND;
    if random.per_mille(500) && gone < QUIET {
        let last = Who::Pod(usize::try_from(random.below(16)).unwrap());
        faults.push((at, Fault::Cut(last, gone + SECOND - at)));
        faults.push((gone, Fault::Cut(Who::Leader, 20 * SECOND)));
        faults.push((gone, Fault::Delete));
    }
    faults
}

impl Fault {
    fn random(random: &mut Random) -> Self {
        let who = if random.per_mille(500) {
            Who::Leader
        } else {
            Who::Pod(usize::try_from(random.below(16)).unwrap())
        };
        let length = random.between(1, 30) * SECOND;
        let soon = random.below(3 * SECOND);
        let steps = usize::try_from(random.between(1, 12)).unwrap();
        let coin = random.per_mille(500);
        match random.below(29) {
            0 => Self::Pause(who, length),
            1 => Self::Suspend(who, length),
            2 | 3 => Self::Cut(who, length),
            4 => Self::LoseAnswers(who, length),
            5 => Self::Deafen(who, length),
            6 => Self::StoreFails { length: length / 2, performs: coin, retry_after: soon * random.below(2) },
            7 => Self::Delete,
            8 => Self::MarkDeleting(soon),
            9 => Self::Clear,
            10 => Self::Overwrite,
            11 => Self::Touch,
            12 => Self::Recreate,
            13 | 14 => Self::PutBack(steps),
            15..=17 => Self::RestartSidecar(who),
            18 => Self::ReplacePod(who, coin),
            19 | 20 => Self::Resign(who, coin.then_some(length)),
            21 => Self::Hang(who, length, coin),
            26 | 27 => Self::NewTerm(who),
            28 => Self::Transfer(steps),
            22 => Self::Crash(who, soon, coin),
            _ => Self::Drain {
                who,
                proof: coin.then_some(soon),
                dies: random.below(15 * SECOND),
                alone: random.per_mille(300),
            },
        }
    }
}
