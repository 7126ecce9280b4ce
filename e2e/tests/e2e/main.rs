//! Conch on a real cluster. Run by `make test`, one test at a time: they share the cluster, and some break it.

#![expect(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

mod chart;
mod election;
mod footprint;
mod injection;
mod operator;
mod policies;
#[path = "../shared/mod.rs"]
mod shared;
mod support;
