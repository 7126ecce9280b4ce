//! Each safety rule of ARCHITECTURE.md as a test that fails without it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper of a test may fail the test"
)]

mod acquire;
mod fencing;
mod hand_over;
mod next_term;
mod promises;
mod reasons;
mod settle;
mod stop;
mod validity;
mod words;
mod world;
