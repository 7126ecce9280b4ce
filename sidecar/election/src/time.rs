//! Elapsed time, seen from both sides of a lease.
//!
//! No clock that a guest can read is right in every case: `CLOCK_BOOTTIME` and `CLOCK_MONOTONIC` are slewed by NTP,
//! `CLOCK_MONOTONIC_RAW` stands still while the machine is suspended, and a machine may be both. So the driver samples all
//! three: the raw clock counts the time awake, and the difference of the other two, slewed alike, is the time suspended. A
//! leader takes the longest time that follows from them, a follower the shortest.

use std::time::Duration;

/// ρ, in parts per million: the bound on the error of the rate of a raw hardware clock that the argument assumes
/// (0.1 %; a crystal is specified to 100 ppm or better).
pub const CLOCK_RATE_ERROR_PPM: u64 = 1_000;

const MILLION: u64 = 1_000_000;

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// One reading of this machine's clocks, in the order of the fields: each is read no earlier than the one before, so that
/// whatever interrupts the reading, the moment is that of the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Moment {
    /// `CLOCK_BOOTTIME`: goes on during suspend, may be slewed.
    pub boottime: Duration,
    /// `CLOCK_MONOTONIC`: as [`Self::boottime`], but stands still during suspend.
    pub monotonic: Duration,
    /// `CLOCK_MONOTONIC_RAW`: never slewed, stands still during suspend.
    pub monotonic_raw: Duration,
}

impl Moment {
    /// The moment at which all clocks of a machine that was never suspended show this.
    #[must_use]
    pub fn from_uptime(uptime: Duration) -> Self {
        Self { boottime: uptime, monotonic: uptime, monotonic_raw: uptime }
    }

    /// The longest time that can have passed since `earlier`. What a leader counts: the time awake by the raw clock and the
    /// time suspended, or what BOOTTIME says, if that is more.
    ///
    /// A clock that went back (a restored checkpoint) counts as no time on that clock; the others decide.
    #[must_use]
    pub fn longest_since(self, earlier: Self) -> Duration {
        let (boottime, raw) = self.since(earlier);
        let suspended = boottime.saturating_sub(self.monotonic.saturating_sub(earlier.monotonic));
        boottime.max(raw.saturating_add(suspended))
    }

    /// The shortest time that can have passed since `earlier`. What a follower counts.
    #[must_use]
    pub fn shortest_since(self, earlier: Self) -> Duration {
        let (boottime, raw) = self.since(earlier);
        boottime.min(raw)
    }

    fn since(self, earlier: Self) -> (Duration, Duration) {
        (
            self.boottime.saturating_sub(earlier.boottime),
            self.monotonic_raw.saturating_sub(earlier.monotonic_raw),
        )
    }
}

/// A span on the local clocks that begins at a [`Moment`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Span {
    pub(crate) from: Moment,
    pub(crate) length: Duration,
}

impl Span {
    pub(crate) fn new(from: Moment, length: Duration) -> Self {
        Self { from, length }
    }

    /// What is surely left of the span: zero as soon as it *may* be over. For one's own validity.
    pub(crate) fn surely_left(self, now: Moment) -> Duration {
        self.length.saturating_sub(now.longest_since(self.from))
    }

    /// What may be left of the span: zero only once it *must* be over. For what others may still believe.
    pub(crate) fn possibly_left(self, now: Moment) -> Duration {
        self.length.saturating_sub(now.shortest_since(self.from))
    }
}

/// `duration · (1 − ρ) / (1 + ρ)`, rounded down: what a holder whose clock may be slow can use of a lease that a
/// waiter whose clock may be fast measures.
pub(crate) fn scale_for_rate_error(duration: Duration) -> Duration {
    let nanos = duration.as_nanos() * u128::from(MILLION - CLOCK_RATE_ERROR_PPM)
        / u128::from(MILLION + CLOCK_RATE_ERROR_PPM);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// The shortest duration in whole seconds of which [`scale_for_rate_error`] leaves this much.
pub(crate) fn least_seconds_that_scale_to(scaled: Duration) -> Duration {
    let seconds = (scaled.as_nanos() * u128::from(MILLION + CLOCK_RATE_ERROR_PPM))
        .div_ceil(u128::from(MILLION - CLOCK_RATE_ERROR_PPM) * NANOS_PER_SECOND);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(boottime_ms: u64, monotonic_ms: u64, raw_ms: u64) -> Moment {
        let ms = Duration::from_millis;
        Moment { boottime: ms(boottime_ms), monotonic: ms(monotonic_ms), monotonic_raw: ms(raw_ms) }
    }

    #[test]
    fn a_leader_counts_the_longest_time_and_a_follower_the_shortest() {
        let earlier = moment(1_000, 1_000, 1_000);
        // Suspended for 9 s: only BOOTTIME went on.
        let suspended = moment(11_000, 2_000, 2_000);
        assert_eq!(suspended.longest_since(earlier), Duration::from_secs(10));
        assert_eq!(suspended.shortest_since(earlier), Duration::from_secs(1));
        // Slewed to run slow by a half: RAW is the longer one.
        let slewed = moment(6_000, 6_000, 11_000);
        assert_eq!(slewed.longest_since(earlier), Duration::from_secs(10));
        assert_eq!(slewed.shortest_since(earlier), Duration::from_secs(5));
        // Both: awake for 10 s of which the slewed clocks saw 9, then suspended for 6. No single clock saw the 16 s.
        let both = moment(16_000, 10_000, 11_000);
        assert_eq!(both.longest_since(earlier), Duration::from_secs(16));
    }

    #[test]
    fn a_clock_that_went_back_counts_as_no_time() {
        assert_eq!(moment(1, 1, 1).longest_since(moment(5_000, 5_000, 5_000)), Duration::ZERO);
        assert_eq!(moment(1, 1, 6_000).shortest_since(moment(5_000, 5_000, 5_000)), Duration::ZERO);
    }

    #[test]
    fn the_rate_error_costs_two_parts_in_a_thousand() {
        let scaled = scale_for_rate_error(Duration::from_secs(15));
        assert!(
            scaled > Duration::from_millis(14_970) && scaled < Duration::from_millis(14_971),
            "{scaled:?}"
        );
    }
}
