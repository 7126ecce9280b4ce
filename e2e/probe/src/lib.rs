//! The program of the tests. It stands in a candidate's pod, asks its sidecar every 10 ms who leads, and writes down when
//! it asked and what it was told. All nodes of a test cluster are namespaces of one machine, so that `CLOCK_BOOTTIME` is
//! one clock for every probe and for the tests.

mod ask;
mod health;
mod line;
mod run;
mod time;

pub use ask::{Answer, AskError, Connection, Events, Form, Reply};
pub use health::serve_health;
pub use line::{Line, MalformedLine};
pub use run::{Options, Way, run};
pub use time::{Timing, time};

/// Nanoseconds of `CLOCK_BOOTTIME`.
pub fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    // The kernel counts both parts from zero up.
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
