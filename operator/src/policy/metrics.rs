//! What the controller counts.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// From a millisecond to ten seconds.
const BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0, 10.0];

/// What the controller counts. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Passes by what they were about and how they ended.
    pub passes: Family<PassLabels, Counter>,
    /// How long a pass took, its writes included.
    pub pass_seconds: Histogram,
    /// Writes that were done.
    pub writes: Counter,
    /// From the event that a pod is being deleted until that stands on its Lease.
    pub mark_seconds: Histogram,
    /// Keys that wait for a pass.
    pub queue: Gauge,
    /// Elections that have a Lease.
    pub elections: Gauge,
    /// Those of them whose Lease names a holder.
    pub elections_led: Gauge,
    /// Does this operator lead: 1 or 0.
    pub leading: Gauge,
}

/// Labels of a pass.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PassLabels {
    /// What it was about.
    pub kind: PassKind,
    /// How it ended.
    pub outcome: PassOutcome,
}

/// What a pass is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum PassKind {
    /// An election.
    Election,
    /// A policy.
    Policy,
}

/// How a pass ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum PassOutcome {
    /// There was nothing to do.
    Unchanged,
    /// Everything was written.
    Changed,
    /// Something changed meanwhile; it is looked at again.
    Stale,
    /// A write failed.
    Failed,
}

impl Metrics {
    /// Registers all of them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            passes: Family::default(),
            pass_seconds: Histogram::new(BUCKETS),
            writes: Counter::default(),
            mark_seconds: Histogram::new(BUCKETS),
            queue: Gauge::default(),
            elections: Gauge::default(),
            elections_led: Gauge::default(),
            leading: Gauge::default(),
        };
        let registry = registry.sub_registry_with_prefix("conch_operator");
        registry.register("passes", "Passes over an election or a policy", metrics.passes.clone());
        registry.register("pass_duration_seconds", "How long a pass took", metrics.pass_seconds.clone());
        registry.register("writes", "Writes to the API server that were done", metrics.writes.clone());
        registry.register(
            "pod_deletion_mark_duration_seconds",
            "From seeing that a leader's pod is being deleted until its Lease says so",
            metrics.mark_seconds.clone(),
        );
        registry.register(
            "queue_length",
            "Elections and policies that wait for a pass",
            metrics.queue.clone(),
        );
        registry.register("elections", "Elections that have a Lease", metrics.elections.clone());
        registry.register(
            "elections_led",
            "Elections whose Lease names a holder",
            metrics.elections_led.clone(),
        );
        registry.register("leading", "Whether this operator is the one that writes", metrics.leading.clone());
        metrics
    }
}
