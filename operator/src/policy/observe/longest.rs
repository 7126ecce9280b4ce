//! How long somebody may still lead by a lease that is used no more.
//!
//! A follower that finds the Lease missing, or made anew, waits the longest lease that anybody may hold. When a policy's
//! lease is shortened, or the last pod with a long one is gone, a leader that is cut off may go on by the long one: so it
//! stands on the Lease for its own length after it was last seen in use, by the clock of this process.
//!
//! A process that starts finds what earlier ones wrote on Lease and Election, knows nothing of when that was last in use, and
//! counts from its first sight.

use crate::policy::ElectionKey;
use conch_election::LEASE_MAX;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

/// The copies of this process show a write of its own within this time; what is read after that was written by another.
const ECHO_MAX: Duration = Duration::from_secs(10);

/// The longest lease by which somebody may lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Longest {
    /// It.
    pub lease: Duration,
    /// How long it counts although it is used no more; `None`: it is in use.
    pub left: Option<Duration>,
}

/// The leases of all elections. Every replica of the operator follows them for itself, leading or not.
#[derive(Debug, Default)]
pub struct Leases(HashMap<ElectionKey, BTreeMap<Duration, Use>>);

/// Since when a lease is in this state.
#[derive(Clone, Copy, Debug)]
enum Use {
    Current,
    /// Somebody may still lead by it.
    Left(Instant),
    /// Nobody can, but its last trace may not have been removed yet.
    Over(Instant),
}

impl Leases {
    /// Takes in what was just observed.
    ///
    /// * `in_use`: leases by which pods lead or will lead.
    /// * `written`: what stands on Lease and Election.
    pub fn follow(
        &mut self,
        key: &ElectionKey,
        in_use: &BTreeSet<Duration>,
        written: impl Iterator<Item = Duration>,
        now: Instant,
    ) -> Option<Longest> {
        let mut uses = self.0.remove(key).unwrap_or_default();
        uses.retain(|_, state| !matches!(state, Use::Over(since) if age(*since, now) >= ECHO_MAX));
        for lease in written {
            uses.entry(lease.min(LEASE_MAX)).or_insert(Use::Left(now));
        }
        for (lease, state) in &mut uses {
            *state = match *state {
                Use::Current => Use::Left(now),
                Use::Left(since) if age(since, now) >= held_for(*lease) => Use::Over(now),
                other => other,
            };
        }
        uses.extend(in_use.iter().map(|lease| ((*lease).min(LEASE_MAX), Use::Current)));
        let longest = uses.iter().rev().find_map(|(lease, state)| match *state {
            Use::Current => Some(Longest { lease: *lease, left: None }),
            Use::Left(since) => {
                Some(Longest { lease: *lease, left: Some(held_for(*lease).saturating_sub(age(since, now))) })
            }
            Use::Over(_) => None,
        });
        if !uses.is_empty() {
            self.0.insert(key.clone(), uses);
        }
        longest
    }
}

/// An eighth more than the lease: a kernel may slew the clock of this process by a tenth.
fn held_for(lease: Duration) -> Duration {
    lease + lease / 8
}

fn age(since: Instant, now: Instant) -> Duration {
    now.saturating_duration_since(since)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(80);
    const SHORT: Duration = Duration::from_secs(8);

    struct Election {
        leases: Leases,
        start: Instant,
    }

    impl Election {
        fn new() -> Self {
            Self { leases: Leases::default(), start: Instant::now() }
        }

        fn at(
            &mut self,
            second: u64,
            in_use: &[Duration],
            written: &[Duration],
        ) -> Option<(u64, Option<u64>)> {
            let in_use = in_use.iter().copied().collect();
            let now = self.start + Duration::from_secs(second);
            let key = ElectionKey::new("shop", "payments");
            let longest = self.leases.follow(&key, &in_use, written.iter().copied(), now)?;
            Some((longest.lease.as_secs(), longest.left.map(|left| left.as_secs())))
        }
    }

    #[test]
    fn a_lease_counts_for_its_own_length_after_it_was_last_in_use() {
        let mut election = Election::new();
        assert_eq!(election.at(0, &[LONG, SHORT], &[]), Some((80, None)));
        // Nothing happened for long: it was in use until it was not.
        assert_eq!(election.at(1_000, &[SHORT], &[LONG]), Some((80, Some(90))));
        assert_eq!(election.at(1_089, &[SHORT], &[LONG]), Some((80, Some(1))));
        assert_eq!(election.at(1_090, &[SHORT], &[LONG]), Some((8, None)));
    }

    #[test]
    fn one_that_comes_into_use_again_is_counted_anew() {
        let mut election = Election::new();
        election.at(0, &[LONG], &[]);
        election.at(0, &[SHORT], &[LONG]);
        assert_eq!(election.at(50, &[LONG, SHORT], &[LONG]), Some((80, None)));
        assert_eq!(election.at(60, &[SHORT], &[LONG]), Some((80, Some(90))));
    }

    #[test]
    fn a_process_that_starts_counts_what_is_written_from_its_first_sight() {
        let mut election = Election::new();
        assert_eq!(election.at(0, &[SHORT], &[SHORT, LONG]), Some((80, Some(90))));
        assert_eq!(election.at(90, &[SHORT], &[SHORT, LONG]), Some((8, None)));
        // What is still written is our own, until the copies show otherwise.
        assert_eq!(election.at(99, &[SHORT], &[SHORT, LONG]), Some((8, None)));
        // Somebody else has written it since.
        assert_eq!(election.at(110, &[SHORT], &[SHORT, LONG]), Some((80, Some(90))));
    }

    #[test]
    fn no_lease_is_longer_than_any_policy_allows_and_nothing_is_kept_of_what_is_over() {
        let mut election = Election::new();
        let absurd = Duration::from_hours(2);
        assert_eq!(election.at(0, &[], &[absurd]), Some((3_600, Some(4_050))));
        assert_eq!(election.at(4_050, &[], &[]), None);
        assert_eq!(election.at(4_060, &[], &[]), None);
        assert!(election.leases.0.is_empty());
    }
}
