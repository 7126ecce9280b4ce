//! When the next renewal of a Lease is overdue: then its holder is silent, or the watch is deaf. A connection whose way was
//! lost may look open for ever to its own end (something on the way answers for the other one, or lost its translation of
//! addresses); what shows it is that a Lease which is renewed every few seconds is not.
//!
//! A watch that is overdue is opened again, on a new connection, from where it stopped: that costs the API server one
//! request, and no more than a few in all where the holder itself is silent, because each is given twice as long.

use conch_election::{Claim, Content, Record, Stored, WriteId};
use std::time::Duration;
use tokio::time::Instant;

/// The API server sends a bookmark each minute: a watch that is silent for longer than this is dead, whatever it watches.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(95);

/// What is known of the renewals that a watch tells of.
#[derive(Debug)]
pub(super) struct Rhythm {
    /// As the policy of this candidate has it; the holder's may be another.
    renew_interval: Duration,
    /// The last write of a holder, and when it was told.
    renewal: Option<(WriteId, Instant)>,
    /// When anything was told.
    heard: Instant,
    /// How long after that something else is overdue.
    patience: Duration,
}

impl Rhythm {
    pub(super) fn new(renew_interval: Duration) -> Self {
        Self { renew_interval, renewal: None, heard: Instant::now(), patience: SILENCE_MAX }
    }

    /// An answer begins anew: how long it was silent before says nothing of the holder.
    pub(super) fn answered(&mut self, stored: Option<&Stored>) {
        self.renewal = None;
        self.told(stored);
    }

    /// The watch told of this. Whoever renews more seldom than expected is expected to do it again.
    pub(super) fn told(&mut self, stored: Option<&Stored>) {
        self.alive();
        let Some(Content::Record(Record { write, claim: Claim::Held { .. }, .. })) =
            stored.map(|stored| &stored.content)
        else {
            self.renewal = None;
            self.patience = SILENCE_MAX;
            return;
        };
        let pause = match self.renewal {
            Some((known, _)) if known == *write => return,
            Some((_, told)) => told.elapsed(),
            None => Duration::ZERO,
        };
        self.renewal = Some((*write, self.heard));
        self.be_patient_for(pause.max(self.renew_interval));
    }

    /// The watch brought something, whatever it was.
    pub(super) fn alive(&mut self) {
        self.heard = Instant::now();
    }

    /// Nothing came in time, and a new watch is opened.
    pub(super) fn missed(&mut self) {
        self.alive();
        self.patience = (self.patience * 2).min(SILENCE_MAX);
    }

    /// How much longer the watch may be silent.
    pub(super) fn left(&self) -> Duration {
        self.patience.saturating_sub(self.heard.elapsed())
    }

    /// Half as long again, so that a renewal may be late; spread, because the followers of many elections wait alike when
    /// an API server is slow to write.
    fn be_patient_for(&mut self, pause: Duration) {
        self.patience = pause.mul_f64(1.5 + fastrand::f64() / 2.0).min(SILENCE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use conch_election::{Identity, Incarnation, Nonce, Version};
    use tokio::time::advance;

    const INTERVAL: Duration = Duration::from_secs(2);

    fn stored(sequence: u64, held: bool) -> Stored {
        let write = WriteId { nonce: Nonce(1), sequence };
        let holder = Identity { pod: "p".to_owned(), pod_uid: "u".to_owned(), nonce: Nonce(1) };
        let held_by = Claim::Held { holder, term: write, lease: Duration::from_secs(15), reacquired: false };
        let claim = if held { held_by } else { Claim::Released { term: write } };
        Stored {
            version: Version(sequence.to_string()),
            incarnation: Incarnation("u".to_owned()),
            fence: None,
            deleting: false,
            longest_lease: None,
            content: Content::Record(Record { write, transitions: 0, fencing_offset: 0, claim }),
        }
    }

    fn renewed(rhythm: &mut Rhythm, sequence: u64) {
        rhythm.told(Some(&stored(sequence, true)));
    }

    fn half_to_twice(rhythm: &Rhythm, pause: Duration) {
        let left = rhythm.left();
        assert!(left >= pause * 3 / 2 && left <= pause * 2, "{left:?} for {pause:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_held_lease_is_overdue_soon_after_its_renewal_was_due_and_another_one_is_not() {
        let mut rhythm = Rhythm::new(INTERVAL);
        assert_eq!(rhythm.left(), SILENCE_MAX);
        rhythm.answered(Some(&stored(1, true)));
        half_to_twice(&rhythm, INTERVAL);
        for sequence in 2..10 {
            advance(INTERVAL).await;
            assert!(!rhythm.left().is_zero(), "a renewal in time is never missed");
            renewed(&mut rhythm, sequence);
            half_to_twice(&rhythm, INTERVAL);
        }
        for other in [Some(stored(10, false)), None] {
            rhythm.told(other.as_ref());
            assert_eq!(rhythm.left(), SILENCE_MAX);
            renewed(&mut rhythm, 11);
            half_to_twice(&rhythm, INTERVAL);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_holder_costs_few_watches() {
        let mut rhythm = Rhythm::new(INTERVAL);
        renewed(&mut rhythm, 1);
        let (began, mut watches) = (Instant::now(), 0);
        while began.elapsed() < Duration::from_secs(15) {
            advance(rhythm.left()).await;
            rhythm.missed();
            watches += 1;
        }
        assert!(watches <= 3, "{watches} within a lease");
        for _ in 0..10 {
            advance(rhythm.left()).await;
            rhythm.missed();
        }
        assert_eq!(rhythm.left(), SILENCE_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_renews_more_seldom_is_overdue_later_and_one_that_was_late_once_is_not() {
        let mut rhythm = Rhythm::new(INTERVAL);
        let slow = INTERVAL * 5;
        renewed(&mut rhythm, 1);
        advance(slow).await;
        rhythm.missed();
        for sequence in 2..5 {
            renewed(&mut rhythm, sequence);
            half_to_twice(&rhythm, slow);
            advance(slow).await;
            assert!(!rhythm.left().is_zero());
        }
        renewed(&mut rhythm, 5);
        advance(INTERVAL).await;
        renewed(&mut rhythm, 6);
        half_to_twice(&rhythm, INTERVAL);
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_teaches_no_patience() {
        let mut rhythm = Rhythm::new(INTERVAL);
        renewed(&mut rhythm, 1);
        advance(Duration::from_secs(40)).await;
        rhythm.answered(Some(&stored(2, true)));
        half_to_twice(&rhythm, INTERVAL);
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_the_watch_brings_shows_that_it_lives_and_teaches_nothing_of_renewals() {
        let mut rhythm = Rhythm::new(INTERVAL);
        renewed(&mut rhythm, 1);
        advance(INTERVAL).await;
        renewed(&mut rhythm, 1);
        half_to_twice(&rhythm, INTERVAL);
        advance(INTERVAL).await;
        rhythm.alive();
        half_to_twice(&rhythm, INTERVAL);
    }
}
