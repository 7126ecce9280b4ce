//! What is counted, for Prometheus.

use conch_election::{Event, FailureKind, WriteError};
use conch_stores::{driver::Request, transition::Cause};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        MetricType,
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
        info::Info,
    },
    registry::{Registry, Unit},
};
use std::fmt;

/// Seconds, from one round trip in a quiet cluster to the longest attempt.
const LATENCY_BUCKETS: [f64; 10] = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 5.0];
/// Seconds of validity that were left when a renewal was confirmed; the low end is what an alert looks at.
const MARGIN_BUCKETS: [f64; 10] = [0.25, 0.5, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 15.0, 30.0];

// The closed lists of labels.
const REQUESTS: [&str; 3] = ["Read", "Write", "Watch"];
const OUTCOMES: [&str; 6] = ["Ok", "Conflict", "Timeout", "Unavailable", "Denied", "Invalid"];
const ANSWERING: [&str; 5] = ["leader", "status", "resign", "heartbeat", "term"];
const STREAMS: [&str; 2] = ["lead", "watch"];

/// The counters of this process. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    transitions: Family<TransitionLabels, Counter>,
    renewal_duration: Histogram,
    renewal_margin: Histogram,
    requests: Family<RequestLabels, Counter>,
    answers: Family<AnswerLabels, Counter>,
    refusals: Family<RefusalLabels, Counter>,
    streams: Family<StreamLabels, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TransitionLabels {
    cause: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    request: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabels {
    endpoint: &'static str,
    leader: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StreamLabels {
    endpoint: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

impl Metrics {
    /// Counters that `registry` shows.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            transitions: Family::default(),
            renewal_duration: Histogram::new(LATENCY_BUCKETS),
            renewal_margin: Histogram::new(MARGIN_BUCKETS),
            requests: Family::default(),
            answers: Family::default(),
            refusals: Family::default(),
            streams: Family::default(),
        };
        let Self { transitions, renewal_duration, renewal_margin, requests, answers, refusals, streams } =
            metrics.clone();
        metrics.show_nothing_yet();
        let conch = registry.sub_registry_with_prefix("conch");
        conch.register("build", "What runs", Info::new(Build { version: env!("CARGO_PKG_VERSION") }));
        conch.register("transitions", "Changes of who leads, as this pod saw them, by cause", transitions);
        let help = "From sending a renewal to its confirmation";
        conch.register_with_unit("renewal_duration", help, Unit::Seconds, renewal_duration);
        let help = "Validity that was left when a renewal was confirmed";
        conch.register_with_unit("renewal_margin", help, Unit::Seconds, renewal_margin);
        conch.register("store_requests", "Requests to the store that ended", requests);
        conch.register("answers", "Answers to the program, events of streams included", answers);
        conch.register("refusals", "Requests of programs that were refused, by reason", refusals);
        conch.register("streams", "Open streams", streams);
        metrics
    }

    /// What has not happened yet is 0, not absent: an alert on its rise would miss the first time.
    fn show_nothing_yet(&self) {
        for cause in Cause::ALL {
            let _ = self.transitions.get_or_create(&TransitionLabels { cause: cause.name() });
        }
        for request in REQUESTS {
            for outcome in OUTCOMES {
                let _ = self.requests.get_or_create(&RequestLabels { request, outcome });
            }
        }
        for endpoint in ANSWERING.into_iter().chain(STREAMS) {
            for leader in ["true", "false"] {
                let _ = self.answers.get_or_create(&AnswerLabels { endpoint, leader });
            }
        }
        for endpoint in STREAMS {
            let _ = self.streams.get_or_create(&StreamLabels { endpoint });
        }
    }

    /// Counts what happened in the election.
    pub fn event(&self, event: &Event) {
        if let Event::Renewed { latency, margin } = event {
            self.renewal_duration.observe(latency.as_secs_f64());
            self.renewal_margin.observe(margin.as_secs_f64());
        }
    }

    /// Counts a change of who leads.
    pub fn transition(&self, cause: Cause) {
        self.transitions.get_or_create(&TransitionLabels { cause: cause.name() }).inc();
    }

    /// Counts a request to the store.
    pub fn request_ended(&self, request: Request, result: Result<(), WriteError>) {
        let request = match request {
            Request::Read => "Read",
            Request::Write => "Write",
            Request::Watch => "Watch",
        };
        let outcome = match result {
            Ok(()) => "Ok",
            Err(WriteError::Conflict) => "Conflict",
            Err(WriteError::Failed(failure)) => match failure.kind {
                FailureKind::Timeout => "Timeout",
                FailureKind::Unavailable => "Unavailable",
                FailureKind::Denied => "Denied",
                FailureKind::Invalid => "Invalid",
            },
        };
        self.requests.get_or_create(&RequestLabels { request, outcome }).inc();
    }

    /// Counts an answer.
    pub fn answered(&self, endpoint: &'static str, leader: bool) {
        let leader = if leader { "true" } else { "false" };
        self.answers.get_or_create(&AnswerLabels { endpoint, leader }).inc();
    }

    /// Shows refusals for each of these reasons, of which there was none yet.
    pub fn expect_refusals(&self, reasons: &[&'static str]) {
        for reason in reasons {
            let _ = self.refusals.get_or_create(&RefusalLabels { reason });
        }
    }

    /// Counts a refusal. `reason` is from the closed list of the API.
    pub fn refused(&self, reason: &'static str) {
        self.refusals.get_or_create(&RefusalLabels { reason }).inc();
    }

    /// How many streams of this endpoint are open.
    pub fn streams(&self, endpoint: &'static str) -> Gauge {
        self.streams.get_or_create(&StreamLabels { endpoint }).clone()
    }
}

/// `leader_election_master_status`, the name under which client-go shows the same: computed when it is scraped, so that it
/// is never a flag that somebody forgot to clear.
pub struct LeaderStatus<Leads> {
    /// The election, `namespace/name`.
    pub election: String,
    /// Does this pod lead now?
    pub leads: Leads,
}

impl<Leads: Fn() -> bool + Send + Sync + 'static> Collector for LeaderStatus<Leads> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Whether this pod leads (1) or not (0)";
        let mut metric =
            encoder.encode_descriptor("leader_election_master_status", help, None, MetricType::Gauge)?;
        let labels = [("name", self.election.as_str())];
        ConstGauge::new(i64::from((self.leads)())).encode(metric.encode_family(&labels)?)
    }
}

impl<Leads> fmt::Debug for LeaderStatus<Leads> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LeaderStatus").field("election", &self.election).finish_non_exhaustive()
    }
}
