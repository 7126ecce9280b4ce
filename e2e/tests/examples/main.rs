//! The examples of `e2e/examples`: beside a sidecar that lies, and in pods of the real cluster, where the resource shows that
//! one pod works at a time. So it does for a program that knows nothing of leading, wrapped as `docs/wrapper.md` has it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper of a test may fail the test"
)]

mod languages;
mod ledger;
mod liar;
mod pods;
mod resource;
mod steps;
mod wrapped;

/// Says that a test could not run here, in the form that is counted.
fn skip(test: &str, why: &str) {
    println!("SKIPPED {test}: {why}");
}
