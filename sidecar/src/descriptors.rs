//! How many connections the process may accept, so that clients never take the file descriptors that it needs itself.
//!
//! Whoever runs out of descriptors can open no connection to the store: a renewal that needs a new one fails, and the lead is
//! lost. So the caps follow from `RLIMIT_NOFILE`, once, at the start.

use rustix::process::{Resource, getrlimit};

/// Descriptors that no client can take: standard streams, the runtime's own (7), listeners (3) and a connection that each of
/// them is about to refuse (3), the instance's lock, the check's connection, the guard's channel (4); to the API server the
/// request, the watch, one of each that is being given up, and what a resolver and a token that is read again need (10).
/// Half as many again.
pub const RESERVED: usize = 48;

/// What each listener accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Of each listener of the API.
    pub api: usize,
    /// Of the one for metrics and health.
    pub metrics: usize,
}

/// `RLIMIT_NOFILE` is too low.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the limit of open files is {limit}, and {needed} are needed so that clients never take those of the election: raise \
     it (ulimit -n, LimitNOFILE=, or the container runtime's default)"
)]
pub struct TooFewDescriptors {
    limit: usize,
    needed: usize,
}

impl Caps {
    /// The largest caps, up to `most`, that leave [`RESERVED`] descriptors of this process's limit. Fails if the API's would
    /// be below `least`.
    pub fn of_this_process(most: Self, least: usize, listeners: usize) -> Result<Self, TooFewDescriptors> {
        let limit = getrlimit(Resource::Nofile)
            .current
            .map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        Self::within(limit, most, least, listeners)
    }

    fn within(limit: usize, most: Self, least: usize, listeners: usize) -> Result<Self, TooFewDescriptors> {
        let api = limit.saturating_sub(RESERVED + most.metrics) / listeners.max(1);
        if api < least {
            return Err(TooFewDescriptors { limit, needed: RESERVED + most.metrics + least * listeners });
        }
        Ok(Self { api: api.min(most.api), ..most })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Caps = Caps { api: 256, metrics: 16 };

    #[test]
    fn all_that_is_accepted_and_the_reserve_fit_into_the_limit() {
        for limit in 0..2_000 {
            match Caps::within(limit, MOST, 80, 2) {
                Ok(caps) => {
                    assert!(caps.api * 2 + caps.metrics + RESERVED <= limit, "{limit}: {caps:?}");
                    assert!((80..=256).contains(&caps.api), "{limit}: {caps:?}");
                }
                Err(error) => {
                    assert!(limit < error.needed, "{error}");
                    assert!(Caps::within(error.needed, MOST, 80, 2).is_ok(), "{error}");
                }
            }
        }
        assert_eq!(Caps::within(usize::MAX, MOST, 80, 2), Ok(MOST));
        assert_eq!(Caps::within(1_024, MOST, 80, 2), Ok(MOST), "the usual limit costs nothing");
    }

    #[test]
    fn one_listener_may_have_what_two_would_share() {
        assert_eq!(Caps::within(224, MOST, 80, 2).map(|caps| caps.api), Ok(80));
        assert_eq!(Caps::within(224, MOST, 80, 1).map(|caps| caps.api), Ok(160));
    }
}
