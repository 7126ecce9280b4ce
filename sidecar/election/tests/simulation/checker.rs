//! What must never happen, judged on the true time line.

use conch_election::Token;
use std::collections::HashMap;

/// A pod, whatever process runs in it.
pub(crate) type PodId = u32;

/// One election's right beliefs so far. Times are microseconds of true time.
#[derive(Default)]
pub(crate) struct Checker {
    /// Until when the program of a pod may act, its stop grace included.
    acts_until: HashMap<PodId, u64>,
    highest: Option<(Token, PodId)>,
    pub(crate) terms: u64,
    pub(crate) promises: u64,
    pub(crate) last_promise: u64,
    pub(crate) violation: Option<String>,
}

impl Checker {
    /// A program asked at `asked` and may act until `until` (deadline on its own clock, plus its stop grace).
    pub(crate) fn promised(&mut self, pod: PodId, token: Token, asked: u64, until: u64) {
        self.promises += 1;
        self.last_promise = self.last_promise.max(asked);
        for (other, other_until) in &self.acts_until {
            if *other != pod && *other_until > asked {
                self.violation.get_or_insert(format!(
                    "pod {pod} leads at {asked} µs with token {token}, pod {other} may act until {other_until} µs"
                ));
            }
        }
        match self.highest {
            Some((highest, holder)) if token < highest || (token == highest && holder != pod) => {
                self.violation.get_or_insert(format!(
                    "pod {pod} got token {token} at {asked} µs after pod {holder} had {highest}"
                ));
            }
            Some((highest, _)) if token == highest => {}
            _ => {
                self.terms += 1;
                self.highest = Some((token, pod));
            }
        }
        let entry = self.acts_until.entry(pod).or_default();
        *entry = (*entry).max(until);
    }

    /// The program of a pod does nothing more from now on.
    pub(crate) fn stopped(&mut self, pod: PodId, now: u64) {
        if let Some(until) = self.acts_until.get_mut(&pod) {
            *until = (*until).min(now);
        }
    }
}

#[test]
fn an_overlap_a_repeated_and_a_falling_token_are_caught() {
    let mut overlap = Checker::default();
    overlap.promised(1, Token(1), 0, 10);
    overlap.promised(2, Token(2), 9, 20);
    assert!(overlap.violation.unwrap().contains("may act until 10"));

    let mut falling = Checker::default();
    falling.promised(1, Token(2), 0, 10);
    falling.promised(2, Token(1), 11, 20);
    assert!(falling.violation.is_some());

    let mut repeated = Checker::default();
    repeated.promised(1, Token(2), 0, 10);
    repeated.promised(2, Token(2), 11, 20);
    assert!(repeated.violation.is_some());

    let mut clean = Checker::default();
    clean.promised(1, Token(1), 0, 10);
    clean.stopped(1, 5);
    clean.promised(2, Token(2), 6, 20);
    assert_eq!(clean.violation, None);
}
