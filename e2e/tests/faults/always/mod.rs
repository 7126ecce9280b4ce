//! The scenarios that run in `make test` too: the main ways to lose a leader, and those in which others failed.

mod death;
mod isolation;
mod record;
mod silence;
