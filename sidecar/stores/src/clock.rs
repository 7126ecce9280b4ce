//! The one place that reads the clocks that elections count with.

use conch_election::Moment;
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::time::Duration;

/// This machine's clocks, now, in the order that [`Moment`] asks for.
pub fn now() -> Moment {
    Moment {
        boottime: since_start(clock_gettime(ClockId::Boottime)),
        monotonic: since_start(clock_gettime(ClockId::Monotonic)),
        monotonic_raw: since_start(clock_gettime(ClockId::MonotonicRaw)),
    }
}

/// Neither clock is ever before its start; if a kernel says so, that counts as its start.
fn since_start(time: Timespec) -> Duration {
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_clocks_go_on_by_what_was_slept() {
        let before = now();
        std::thread::sleep(Duration::from_millis(20));
        let after = now();
        assert!(after.shortest_since(before) >= Duration::from_millis(19));
        assert!(after.longest_since(before) < Duration::from_secs(10));
        assert!(before.boottime > Duration::ZERO && before.monotonic_raw > Duration::ZERO);
    }
}
