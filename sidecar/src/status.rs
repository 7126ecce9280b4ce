//! What people are told of a sidecar: the answer, and why it is what it is.

use crate::{gate::Now, program::Program, view::View};
use conch_crds::program::Presence;
use conch_election::Moment;
use conch_stores::transition::Transition;
use jiff::Timestamp;
use serde::Serialize;
use std::time::Duration;

/// `GET /v1/status`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// What a program would be told.
    #[serde(flatten)]
    pub answer: View,
    /// The program's part.
    #[serde(flatten)]
    pub program: ProgramState,
    /// Which store, for people.
    pub store: String,
    /// Of this binary.
    pub version: &'static str,
    /// The last changes of who leads that this process saw, oldest first.
    pub transitions: Vec<Change>,
}

/// What is known of the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgramState {
    /// This pod is a candidate: its program has asked and is fit.
    pub candidate: bool,
    /// Why it is none, from the closed list of reasons.
    pub objection: Option<String>,
    /// What makes it one.
    pub presence: Presence,
    /// Its program passes what the policy asks of it.
    pub healthy: bool,
    /// Open `/v1/lead` streams.
    pub streams: usize,
    /// Milliseconds since the last heartbeat.
    pub heartbeat_age_ms: Option<u64>,
    /// The last result of the policy's check.
    pub check: Option<CheckResult>,
    /// For so many milliseconds somebody may still act on what was promised before this answer, stop grace included.
    pub promises_left_ms: u64,
}

/// A check of the program that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckResult {
    /// Did it pass?
    pub passed: bool,
    /// Milliseconds since it ended.
    pub age_ms: u64,
}

/// One change of who leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// On the wall clock.
    pub at: String,
    /// Who led before.
    pub from: Option<String>,
    /// Who leads since.
    pub to: Option<String>,
    /// Of the term of this pod that began or ended.
    pub token: Option<String>,
    /// Why, from a closed list.
    pub cause: &'static str,
}

impl Status {
    /// Joins the parts.
    pub fn new(
        answer: View,
        program: ProgramState,
        store: String,
        transitions: Vec<(Timestamp, Transition)>,
    ) -> Self {
        let transitions = transitions.into_iter().map(Change::from).collect();
        Self { answer, program, store, version: env!("CARGO_PKG_VERSION"), transitions }
    }
}

impl ProgramState {
    /// As it is now.
    pub fn new(program: &Program, now: Now) -> Self {
        let age_ms = |at: Moment| milliseconds(now.at.longest_since(at));
        Self {
            candidate: program.is_candidate(),
            objection: program.objection(now).map(|reason| format!("{reason:?}")),
            presence: program.presence(),
            healthy: program.is_fit(now.at),
            streams: program.streams(),
            heartbeat_age_ms: program.last_beat().map(age_ms),
            check: program.last_check().map(|(at, passed)| CheckResult { passed, age_ms: age_ms(at) }),
            promises_left_ms: milliseconds(program.promises_stand_for(now.at)),
        }
    }
}

impl From<(Timestamp, Transition)> for Change {
    fn from((at, Transition { from, to, token, cause }): (Timestamp, Transition)) -> Self {
        let token = token.map(|token| token.to_string());
        Self { at: at.to_string(), from, to, token, cause: cause.name() }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
