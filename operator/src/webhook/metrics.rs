//! What was decided, and how fast.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use std::{fmt, time::Duration};

/// Which webhook was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Path {
    Stamp,
    Inject,
}

/// What became of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Outcome {
    /// The object was changed.
    Changed,
    /// There was nothing to change.
    Unchanged,
    /// The object must not be stored.
    Refused,
    /// A pod that asks for a sidecar starts without.
    Plain,
    /// No answer could be given.
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Admission {
    webhook: Path,
    outcome: Outcome,
    /// Why, in one word of a closed set; empty where nothing needs a reason.
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Timed {
    webhook: Path,
}

/// Counts of admissions by outcome and reason, and their durations.
#[derive(Clone, Debug)]
pub struct WebhookMetrics {
    admissions: Family<Admission, Counter>,
    durations: Family<Timed, Histogram, fn() -> Histogram>,
}

impl Default for WebhookMetrics {
    fn default() -> Self {
        // From 0.1 ms to 1.6 s.
        let histogram: fn() -> Histogram = || Histogram::new(exponential_buckets(0.000_1, 4.0, 8));
        Self { admissions: Family::default(), durations: Family::new_with_constructor(histogram) }
    }
}

impl WebhookMetrics {
    /// Makes the metrics known.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "conch_admissions",
            "Admission requests by webhook, outcome and reason",
            self.admissions.clone(),
        );
        registry.register_with_unit(
            "conch_admission_duration",
            "How long an admission request took",
            Unit::Seconds,
            self.durations.clone(),
        );
    }

    pub(super) fn count(&self, webhook: Path, outcome: Outcome, reason: &'static str, took: Duration) {
        self.admissions.get_or_create(&Admission { webhook, outcome, reason }).inc();
        self.durations.get_or_create(&Timed { webhook }).observe(took.as_secs_f64());
    }
}

impl Path {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Stamp => "stamp",
            Self::Inject => "inject",
        }
    }
}

impl Outcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
            Self::Refused => "refused",
            Self::Plain => "plain",
            Self::Failed => "failed",
        }
    }
}

impl EncodeLabelValue for Path {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        self.as_str().encode(encoder)
    }
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        self.as_str().encode(encoder)
    }
}
