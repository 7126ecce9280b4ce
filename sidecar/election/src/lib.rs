//! The election: one pure state machine over a compare-and-set register.
//!
//! The elector never reads a clock, never waits and never talks to a store. Its owner, the driver,
//!
//! 1. feeds it [`Input`]s with [`Elector::handle`],
//! 2. performs the [`Action`] that [`Elector::poll_action`] returns, one at a time,
//! 3. calls again no later than [`Elector::poll_timeout`] says; a spurious call does nothing and is safe,
//! 4. asks [`Elector::answer`] whenever the program asks: the answer is computed then, from the clocks, never kept.
//!
//! Every call takes the [`Moment`] at which it happens. ARCHITECTURE.md holds the argument why no two programs can rightly
//! believe at one time that they lead; each rule of it is a test in `tests/`.

mod answer;
mod elector;
mod ending;
mod io;
mod observe;
mod record;
mod register;
mod term;
mod time;
mod timing;

pub use elector::{Config, Elector};
pub use io::{
    Action, Answer, EndCause, Event, Failure, FailureKind, Input, NotCurrent, Promise, Reason, WriteError,
};
pub use record::{
    Claim, Content, Fence, Identity, Incarnation, Nonce, Record, Stored, TermId, Token, Unknown, Version,
    WriteId, Written,
};
pub use time::{CLOCK_RATE_ERROR_PPM, Moment};
pub use timing::{ATTEMPT_MAX, ATTEMPT_MIN, ATTEMPTS, LEASE_MAX, Timing, UnsafeTiming};
