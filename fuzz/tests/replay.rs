//! Replays what the fuzzers found.

#![expect(clippy::unwrap_used, reason = "tests")]

use conch_fuzz::{TARGETS, corpus};
use std::panic::catch_unwind;

fn replay(target: &str) {
    let (_, check) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let inputs = corpus::read(target).unwrap();
    assert!(inputs.len() >= 50, "the corpus of {target} is too small to test anything: {}", inputs.len());
    for (line, input) in (1..).zip(&inputs) {
        let held = catch_unwind(|| check(input)).is_ok();
        assert!(held, "{}:{line}: {}", corpus::path(target).display(), input.escape_ascii());
    }
}

#[test]
fn no_lease_is_misread_or_cannot_be_written_over() {
    replay("lease");
}

#[test]
fn no_policy_or_annotation_makes_an_unsafe_timing_or_a_bad_name() {
    replay("policy");
}

#[test]
fn no_admission_request_is_patched_wrongly() {
    replay("admission");
}

#[test]
fn no_request_to_a_sidecar_that_never_led_gets_a_yes() {
    replay("requests");
}
