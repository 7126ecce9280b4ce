//! What must never happen, judged on the true time line. Times are microseconds.

use super::{
    node::PodId,
    scenario::{END, QUIET, SECOND},
    store::acquires,
};
use conch_election::{CLOCK_RATE_ERROR_PPM, Claim, Fence, Record, Token};
use std::time::Duration;

/// By then every message that was sent while there were faults has arrived.
pub(crate) const SETTLED: u64 = QUIET + SECOND;
/// For a request and its retry, and for the clocks with which candidates wait.
const EPSILON: u64 = 3 * SECOND;
/// A leader's program asks more often than this.
const ASKS: u64 = 2 * SECOND;

pub(crate) struct Checker {
    /// For each pod, until when its program may act, its stop grace included.
    acts_until: Vec<u64>,
    /// For each pod, before when nobody may have sent a write that takes the lead from it.
    stands_until: Vec<u64>,
    /// The highest token, and the pod and process to which it belongs.
    highest: Option<(Token, PodId, u32)>,
    /// After this somebody leads at all times.
    led_from: u64,
    last_promise: u64,
    /// The store went back: nothing is claimed any more but what a process itself can know.
    pub(crate) history_lost: bool,
    /// How many each pod had.
    pub(crate) terms: Vec<u64>,
    pub(crate) promises: u64,
    pub(crate) violation: Option<String>,
    /// Nothing else counts.
    only: Option<Kind>,
}

/// What must never happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Two may act at one time.
    Overlap,
    /// A token that does not rise, or belongs to two terms.
    Token,
    /// A take-over before its time.
    Early,
    /// No leader although nothing is wrong.
    Liveness,
    /// More requests than it takes.
    Budget,
    /// A store that is blamed and did nothing.
    History,
}

/// One right belief.
pub(crate) struct Belief {
    pub(crate) pod: PodId,
    pub(crate) process: u32,
    pub(crate) token: Token,
    /// From the answer to the deadline that it carried, and the program's stop grace.
    pub(crate) from: u64,
    pub(crate) until: u64,
}

impl Checker {
    /// `longest_lease`: of any pod of the run.
    pub(crate) fn new(longest_lease: Duration, only: Option<Kind>) -> Self {
        // A follower whose clocks are slewed to run slow by a tenth waits longer by a ninth.
        let wait = micros(longest_lease) * 10 / 9;
        Self {
            acts_until: Vec::new(),
            stands_until: Vec::new(),
            highest: None,
            led_from: SETTLED + wait + EPSILON,
            last_promise: 0,
            history_lost: false,
            terms: Vec::new(),
            promises: 0,
            violation: None,
            only,
        }
    }

    fn violated(&mut self, kind: Kind, violation: impl FnOnce() -> String) {
        if !self.history_lost && self.only.is_none_or(|only| only == kind) {
            self.violation.get_or_insert_with(|| format!("{kind:?}: {}", violation()));
        }
    }

    pub(crate) fn believes(&mut self, belief: &Belief) {
        let Belief { pod, process, token, from, until } = *belief;
        self.promises += 1;
        for other in 0..self.acts_until.len() {
            let other_until = self.acts_until[other];
            if other != pod && other_until > from {
                self.violated(Kind::Overlap, || {
                    format!("pod {pod} leads at {from} µs with token {token}, pod {other} may act until {other_until} µs")
                });
            }
        }
        match self.highest {
            Some((highest, ..)) if token < highest => {
                self.violated(Kind::Token, || format!("pod {pod} has {token} at {from} µs after {highest}"));
            }
            Some((highest, holder, of)) if token == highest && (holder, of) != (pod, process) => {
                self.violated(Kind::Token, || {
                    format!("pod {pod} has {token} at {from} µs as pod {holder} had")
                });
            }
            Some((highest, ..)) if token == highest => {}
            _ => {
                *slot(&mut self.terms, pod) += 1;
                self.highest = Some((token, pod, process));
            }
        }
        self.led_at(from);
        let entry = slot(&mut self.acts_until, pod);
        *entry = (*entry).max(until);
    }

    fn led_at(&mut self, now: u64) {
        let since = self.last_promise.max(self.led_from);
        if now > since + ASKS {
            self.violated(Kind::Liveness, || {
                format!("nobody led from {since} µs to {now} µs, and all faults were over")
            });
        }
        self.last_promise = now;
    }

    /// The program of a pod does nothing more from now on.
    pub(crate) fn stopped(&mut self, pod: PodId, now: u64) {
        let entry = slot(&mut self.acts_until, pod);
        *entry = (*entry).min(now);
    }

    /// A write took effect that was sent at `sent`.
    pub(crate) fn written(&mut self, pod: PodId, record: &Record, sent: u64, now: u64) {
        if acquires(record) {
            for other in 0..self.stands_until.len() {
                let until = self.stands_until[other];
                if other != pod && sent + 1 < until {
                    self.violated(Kind::Early, || {
                        format!("pod {pod} sent its take-over at {sent} µs, pod {other} had until {until} µs")
                    });
                }
            }
        }
        *slot(&mut self.stands_until, pod) = match record.claim {
            Claim::Held { lease, .. } => now + micros(lease) * 1_000_000 / (1_000_000 + CLOCK_RATE_ERROR_PPM),
            Claim::Released { .. } => 0,
            Claim::Vacant => slot(&mut self.stands_until, pod).to_owned(),
        };
    }

    /// A term began in a process that had seen this fence before it sent the acquiring write. This holds whatever the store
    /// forgot.
    pub(crate) fn began(&mut self, pod: PodId, token: Token, seen: Option<Fence>) {
        if seen.is_some_and(|Fence(fence)| token.0 <= fence) {
            self.violation
                .get_or_insert_with(|| format!("Token: pod {pod} has {token} and had seen {seen:?}"));
        }
    }

    /// Two electors hold themselves for the leader at one time, whether anybody asks or not.
    pub(crate) fn both_lead(&mut self, pod: PodId, other: PodId, now: u64) {
        self.violated(Kind::Overlap, || {
            format!("pods {pod} and {other} hold themselves for the leader at {now} µs")
        });
    }

    /// A process says that the store went back, and it did not, nor did it ever show an old state.
    pub(crate) fn lost_history(&mut self, pod: PodId, now: u64) {
        self.violated(Kind::History, || format!("pod {pod} says at {now} µs that the store lost history"));
    }

    /// So many requests of each pod after everything had settled. Whoever sent any is the leader, and it keeps its pace.
    pub(crate) fn requests(&mut self, of_pods: &[(PodId, u64, Duration)], window: u64) {
        let busy: Vec<_> = of_pods.iter().filter(|(_, requests, _)| *requests > 0).collect();
        if busy.len() > 1 {
            self.violated(Kind::Budget, || format!("more than the leader sends requests: {busy:?}"));
        }
        for (pod, requests, renew_interval) in of_pods {
            // Its clocks may be slewed to run fast by a tenth.
            if *requests > window * 11 / 10 / micros(*renew_interval) + 2 {
                self.violated(Kind::Budget, || format!("pod {pod} sent {requests} requests in {window} µs"));
            }
        }
    }

    pub(crate) fn finish(&mut self) {
        self.led_at(END);
    }
}

fn slot(of_pods: &mut Vec<u64>, pod: PodId) -> &mut u64 {
    if of_pods.len() <= pod {
        of_pods.resize(pod + 1, 0);
    }
    &mut of_pods[pod]
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use conch_election::{Identity, Nonce, WriteId};

    const LEASE: Duration = Duration::from_secs(10);

    fn violation(happen: impl FnOnce(&mut Checker)) -> Option<String> {
        let mut checker = Checker::new(LEASE, None);
        happen(&mut checker);
        checker.violation
    }

    fn belief(pod: PodId, token: u128, from: u64, until: u64) -> Belief {
        Belief { pod, process: 0, token: Token(token), from, until }
    }

    fn acquisition(pod: PodId) -> Record {
        let write = WriteId { nonce: Nonce(pod as u128), sequence: 1 };
        let holder = Identity { pod: String::new(), pod_uid: pod.to_string(), nonce: write.nonce };
        let claim = Claim::Held { holder, term: write, lease: LEASE, reacquired: false };
        Record { write, transitions: 1, fencing_offset: 0, claim }
    }

    #[test]
    fn an_overlap_is_caught() {
        let found = violation(|checker| {
            checker.believes(&belief(1, 1, 0, 10));
            checker.believes(&belief(2, 2, 9, 20));
        });
        assert!(found.unwrap().contains("may act until 10"));
    }

    #[test]
    fn a_repeated_and_a_falling_token_are_caught() {
        for second in [1, 2] {
            let found = violation(|checker| {
                checker.believes(&belief(1, 2, 0, 10));
                checker.believes(&belief(2, second, 11, 20));
            });
            assert!(found.unwrap().starts_with("Token"));
        }
        assert!(violation(|checker| checker.began(1, Token(4), Some(Fence(4)))).is_some());
    }

    #[test]
    fn an_early_take_over_is_caught_and_one_in_time_or_after_a_release_is_not() {
        let lease = micros(LEASE);
        let take_over = |sent: u64, released: bool| {
            violation(|checker| {
                checker.written(1, &acquisition(1), 0, 100);
                if released {
                    let claim = Claim::Released { term: acquisition(1).write };
                    checker.written(1, &Record { claim, ..acquisition(1) }, 150, 200);
                }
                checker.written(2, &acquisition(2), sent, sent + 100);
            })
        };
        assert!(take_over(lease - SECOND, false).unwrap().starts_with("Early"));
        assert_eq!(take_over(lease, false), None);
        assert_eq!(take_over(300, true), None);
    }

    #[test]
    fn a_time_without_a_leader_after_the_faults_is_caught() {
        assert!(violation(Checker::finish).unwrap().starts_with("Liveness"));
    }

    #[test]
    fn a_follower_that_asks_and_a_leader_that_hurries_are_caught() {
        let second = Duration::from_secs(1);
        for requests in [vec![(1, 20, second), (2, 1, second)], vec![(1, 25, second)]] {
            let found = violation(|checker| checker.requests(&requests, 20 * SECOND));
            assert!(found.unwrap().starts_with("Budget"));
        }
        assert_eq!(
            violation(|checker| checker.requests(&[(1, 21, second), (2, 0, second)], 20 * SECOND)),
            None
        );
    }

    #[test]
    fn terms_in_good_order_are_not_blamed() {
        let found = violation(|checker| {
            checker.believes(&belief(1, 1, 0, 10));
            checker.stopped(1, 5);
            checker.believes(&belief(2, 2, 6, 20));
        });
        assert_eq!(found, None);
    }
}
