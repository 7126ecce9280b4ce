//! Conch on a real cluster. Run by `make test`: `election`, `injection`, `lifecycle`, `policies` and `presence`, which have a
//! namespace for each test, side by side; the others one at a time, because they break what all of them share.

#![expect(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

mod candidates;
mod chart;
mod election;
mod footprint;
mod injection;
mod lifecycle;
mod operator;
mod policies;
mod presence;
#[path = "../shared/mod.rs"]
mod shared;
mod support;
