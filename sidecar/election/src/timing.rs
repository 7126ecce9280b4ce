//! The four durations of an election, as a type that cannot hold an unsafe combination.

use crate::time::{least_seconds_that_scale_to, scale_for_rate_error};
use std::{fmt, time::Duration};

/// Shortest time that one attempt to renew may be given; three of them must fit between a renewal that was due and the
/// end of validity, or one slow answer would end the term.
pub const ATTEMPT_MIN: Duration = Duration::from_millis(250);

/// Longest time that one attempt may take. More would only hide a dead connection.
pub const ATTEMPT_MAX: Duration = Duration::from_secs(5);

/// How many attempts must fit into what is left after a renewal interval.
pub const ATTEMPTS: u32 = 3;

/// The longest lease that is accepted; an hour without a leader is past any use, and it keeps arithmetic far from
/// overflow.
pub const LEASE_MAX: Duration = Duration::from_hours(1);

/// A combination of durations for which the argument in ARCHITECTURE.md holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timing {
    lease: Duration,
    renew_interval: Duration,
    stop_grace: Duration,
    max_promise: Duration,
}

/// Why four durations are no [`Timing`]; each variant names the number to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnsafeTiming {
    /// The lease is shorter than a second, longer than [`LEASE_MAX`], or no whole number of seconds.
    Lease(Duration),
    /// The renewal interval is zero.
    RenewInterval,
    /// The longest promise is zero.
    MaxPromise,
    /// `lease · (1−ρ)/(1+ρ) − stop_grace` leaves no room for a renewal interval and three attempts.
    NoRoom {
        /// The lease that was asked for.
        lease: Duration,
        /// The shortest lease, in whole seconds, that has room.
        lease_min: Duration,
    },
}

impl Timing {
    /// Builds a timing, or says which number to change.
    ///
    /// * `lease`: D, how long a follower waits after it first saw the holder's latest write; whole seconds, because a
    ///   Kubernetes Lease holds no fractions.
    /// * `renew_interval`: R, from one renewal to the next.
    /// * `stop_grace`: σ, the longest time from a program's last check of its deadline to its last effect.
    /// * `max_promise`: the longest validity that one answer may carry.
    pub fn new(
        lease: Duration,
        renew_interval: Duration,
        stop_grace: Duration,
        max_promise: Duration,
    ) -> Result<Self, UnsafeTiming> {
        if lease < Duration::from_secs(1) || lease > LEASE_MAX || lease.subsec_nanos() != 0 {
            return Err(UnsafeTiming::Lease(lease));
        }
        if renew_interval.is_zero() {
            return Err(UnsafeTiming::RenewInterval);
        }
        if max_promise.is_zero() {
            return Err(UnsafeTiming::MaxPromise);
        }
        let needed = renew_interval.saturating_add(ATTEMPT_MIN * ATTEMPTS).saturating_add(stop_grace);
        if scale_for_rate_error(lease) < needed {
            return Err(UnsafeTiming::NoRoom { lease, lease_min: least_seconds_that_scale_to(needed) });
        }
        Ok(Self { lease, renew_interval, stop_grace, max_promise })
    }

    /// D: the lease duration that goes into the record.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// R: from one renewal to the next.
    pub fn renew_interval(&self) -> Duration {
        self.renew_interval
    }

    /// σ: from a program's last check to its last effect.
    pub fn stop_grace(&self) -> Duration {
        self.stop_grace
    }

    /// The longest validity that one answer may carry.
    pub fn max_promise(&self) -> Duration {
        self.max_promise
    }

    /// V = D·(1−ρ)/(1+ρ) − σ: how long a leader may lead, counted from when its last successful write was **sent**.
    pub fn validity(&self) -> Duration {
        scale_for_rate_error(self.lease).saturating_sub(self.stop_grace)
    }

    /// A ≤ (V − R)/3: how long one request may take before it is given up and its connection with it.
    pub fn attempt_timeout(&self) -> Duration {
        (self.validity().saturating_sub(self.renew_interval) / ATTEMPTS).min(ATTEMPT_MAX)
    }

    /// How long to wait after a failed attempt before the next one, where the store did not ask for more.
    pub fn retry_delay(&self) -> Duration {
        (self.renew_interval / 4).clamp(Duration::from_millis(50), Duration::from_secs(1))
    }
}

impl fmt::Display for UnsafeTiming {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lease(lease) => write!(
                formatter,
                "leaseDuration is {lease:?}: it must be a whole number of seconds from 1s to {LEASE_MAX:?}"
            ),
            Self::RenewInterval => formatter.write_str("renewInterval must be longer than 0s"),
            Self::MaxPromise => formatter.write_str("maxPromise must be longer than 0s"),
            Self::NoRoom { lease, lease_min } => write!(
                formatter,
                "leaseDuration is {lease:?}: with this renewInterval and stopGrace it must be at least {lease_min:?}, \
                 or renewInterval or stopGrace must be shorter"
            ),
        }
    }
}

impl std::error::Error for UnsafeTiming {}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(lease_ms: u64, renew_ms: u64, grace_ms: u64) -> Result<Timing, UnsafeTiming> {
        let ms = Duration::from_millis;
        Timing::new(ms(lease_ms), ms(renew_ms), ms(grace_ms), ms(5_000))
    }

    #[test]
    fn the_default_leaves_twelve_seconds_and_three_attempts() {
        let timing = timing(15_000, 2_000, 3_000).unwrap();
        assert!(
            timing.validity() > Duration::from_millis(11_970)
                && timing.validity() < Duration::from_millis(11_971)
        );
        assert!(timing.renew_interval() + timing.attempt_timeout() * ATTEMPTS <= timing.validity());
    }

    #[test]
    fn an_unsafe_combination_cannot_be_built_and_says_what_to_change() {
        let error = timing(6_000, 2_000, 5_000).unwrap_err();
        assert_eq!(
            error,
            UnsafeTiming::NoRoom { lease: Duration::from_secs(6), lease_min: Duration::from_secs(8) }
        );
        assert!(error.to_string().contains("at least 8s"), "{error}");
        assert!(timing(8_000, 2_000, 5_000).is_ok());
        assert_eq!(timing(1_500, 100, 0).unwrap_err(), UnsafeTiming::Lease(Duration::from_millis(1_500)));
        assert_eq!(timing(500, 100, 0).unwrap_err(), UnsafeTiming::Lease(Duration::from_millis(500)));
        assert_eq!(timing(15_000, 0, 0).unwrap_err(), UnsafeTiming::RenewInterval);
    }

    #[test]
    fn the_lease_that_is_advised_is_the_shortest_that_has_room_and_known_at_once() {
        for grace_ms in (0..3_500_000).step_by(9_973) {
            let Err(UnsafeTiming::NoRoom { lease_min, .. }) = timing(1_000, 500, grace_ms) else {
                panic!("{grace_ms}")
            };
            let advised = u64::try_from(lease_min.as_millis()).unwrap();
            assert!(timing(advised, 500, grace_ms).is_ok(), "{lease_min:?}");
            assert!(timing(advised - 1_000, 500, grace_ms).is_err(), "{lease_min:?}");
        }
        // As a sidecar may be told by its environment, in milliseconds.
        let endless = timing(15_000, u64::MAX, u64::MAX).unwrap_err();
        assert!(matches!(endless, UnsafeTiming::NoRoom { .. }), "{endless}");
    }

    #[test]
    fn validity_plus_grace_never_reaches_the_lease() {
        for lease_s in 1..=60_u64 {
            for grace_ms in (0..lease_s * 1_000).step_by(250) {
                let Ok(timing) = timing(lease_s * 1_000, 100, grace_ms) else {
                    continue;
                };
                assert!(timing.validity() + timing.stop_grace() < timing.lease());
            }
        }
    }
}
