//! `CoordinationPolicy`: how the workloads of a namespace that name it elect their leader.

use crate::{duration::DurationText, program::ProgramSpec, rules};
use k8s_openapi::apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::Condition};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// The highest `fencingOffset`: with any version of the API server added, a token keeps its 20 digits.
pub const FENCING_OFFSET_MAX: u64 = 9_000_000_000_000_000_000;

/// How workloads elect their leader. Every field has a default, so that `spec: {}` is a policy.
///
/// A policy's change reaches a pod when the pod is next replaced; `status.outdated` counts the rest.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "conch.rs",
    version = "v1alpha1",
    kind = "CoordinationPolicy",
    plural = "coordinationpolicies",
    namespaced,
    shortname = "cpol",
    category = "conch",
    status = "CoordinationPolicyStatus",
    derive = "PartialEq",
    doc = "How the workloads that name this policy, by the annotation conch.rs/policy, elect their leader.",
    validation = rules::policy_name(),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether the operator uses this policy"
    ),
    printcolumn(
        name = "Safe",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Safe\")].status",
        description = "Whether two leaders at once are excluded with this timing"
    ),
    printcolumn(
        name = "Elections",
        type_ = "integer",
        json_path = ".status.elections",
        description = "Elections that use this policy"
    ),
    printcolumn(
        name = "Injected",
        type_ = "integer",
        json_path = ".status.injected",
        description = "Pods with a sidecar by this policy"
    ),
    printcolumn(
        name = "Outdated",
        type_ = "integer",
        json_path = ".status.outdated",
        description = "Pods whose sidecar follows an older version of this policy"
    ),
    printcolumn(
        name = "Lease",
        type_ = "string",
        json_path = ".spec.timing.leaseDuration",
        description = "How long the others wait for a leader that is silent",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = rules::policy)]
pub struct CoordinationPolicySpec {
    /// What happens if two pods lead at once. It decides what is refused: with Corruption, the default, every timing that
    /// would not give the program time to stop.
    pub consequence: Consequence,
    /// The durations of an election.
    pub timing: TimingSpec,
    /// Where the elections are held.
    pub store: StoreSpec,
    /// What the sidecar asks of the program beside it.
    pub program: ProgramSpec,
    /// Whether a pod may start without its sidecar when the operator cannot be reached. A program without a sidecar gets no
    /// answer, which must mean to it that it does not lead.
    pub injection: InjectionMode,
    /// Names of elections that more than one workload may join. Any other election belongs to one workload alone.
    #[schemars(
        length(max = 64),
        inner(length(min = 1, max = 52), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub shared_elections: Vec<String>,
    /// Number that is added to each fencing token. Tokens come from the cluster's own counter, so raise this above the
    /// highest token ever given out after a restore of etcd from a backup, or a move to another cluster. It can only be
    /// raised.
    #[schemars(
        range(min = 0, max = FENCING_OFFSET_MAX),
        extend("format" = "int64"),
        transform = rules::fencing_offset
    )]
    pub fencing_offset: u64,
    /// The injected container.
    pub sidecar: SidecarSpec,
}

/// What happens if two pods lead at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Consequence {
    /// Data is damaged. No timing is accepted in which a program may still act for a term that is over.
    #[default]
    Corruption,
    /// Work is done twice, and no more.
    DuplicateWork,
}

/// The durations of an election: hours, minutes, seconds, milliseconds, such as `15s`, `1m30s` or `250ms`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = rules::timing)]
pub struct TimingSpec {
    /// How long the other candidates wait, from when they last saw a sign of the leader, before one of them takes over. In
    /// whole seconds, from 1s to 1h. Longer: the leader outlives longer failures of the API server. Shorter: a leader whose
    /// node died is replaced sooner.
    pub lease_duration: DurationText,
    /// How often the leader renews its term.
    pub renew_interval: DurationText,
    /// The longest time that the program needs from its last look at its deadline to the last effect of what it then did,
    /// e.g. the time-out of its slowest request. The leader's term ends this much sooner.
    pub stop_grace: DurationText,
    /// The longest time for which one answer is valid. A leader that is shut down without a word delays its successor by at
    /// most this and stopGrace.
    pub max_promise: DurationText,
}

/// Where elections are held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StoreSpec {
    /// The kind of store.
    pub r#type: StoreType,
}

/// The kinds of stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StoreType {
    /// A Lease of this cluster, in the workload's namespace.
    #[default]
    Kubernetes,
}

/// Whether a pod may start without its sidecar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum InjectionMode {
    /// No: while the operator cannot be reached, no new pod of the workload is created.
    #[default]
    Required,
    /// Yes. Such a pod is counted as missing in the election's status and never leads.
    Optional,
}

/// The injected container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SidecarSpec {
    /// Port of the API on the pod's loopback addresses. Metrics and health are served on the next one, on the pod's address.
    #[schemars(range(min = 1024, max = 65534), extend("format" = "int32"))]
    pub port: u16,
    /// What the container asks for and is limited to.
    pub resources: ResourcesSpec,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// Which log lines are written: a level, or a filter such as `info,conch_stores=debug`.
    #[schemars(length(min = 1, max = 256))]
    pub log: String,
}

/// What the injected container asks for and is limited to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = rules::resources)]
pub struct ResourcesSpec {
    /// What the scheduler sets aside. Whoever sets it replaces the whole default, cpu 5m and memory 16Mi.
    #[schemars(schema_with = "quantities")]
    pub requests: BTreeMap<String, Quantity>,
    /// What the container may use at most. Whoever sets it replaces the whole default, memory 32Mi. A cpu limit is needed
    /// where a `ResourceQuota` counts `limits.cpu`; it can make renewals late.
    #[schemars(schema_with = "quantities")]
    pub limits: BTreeMap<String, Quantity>,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What the operator says about a policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CoordinationPolicyStatus {
    /// The generation of the policy that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready: the operator uses the policy. Safe: two leaders at once are excluded with this timing. `UpToDate`: every pod
    /// runs by this generation.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Elections that use this policy.
    #[schemars(extend("format" = "int32"))]
    pub elections: u32,
    /// Pods with a sidecar by this policy.
    #[schemars(extend("format" = "int32"))]
    pub injected: u32,
    /// Those of them that were injected by an older generation of the policy, or with another image. They follow when they
    /// are next replaced.
    #[schemars(extend("format" = "int32"))]
    pub outdated: u32,
}

impl Default for TimingSpec {
    fn default() -> Self {
        Self {
            lease_duration: DurationText::from_secs(15),
            renew_interval: DurationText::from_secs(2),
            stop_grace: DurationText::from_secs(3),
            max_promise: DurationText::from_secs(5),
        }
    }
}

impl Default for SidecarSpec {
    fn default() -> Self {
        Self {
            port: crate::names::API_PORT,
            resources: ResourcesSpec::default(),
            log_format: LogFormat::default(),
            log: "info".to_owned(),
        }
    }
}

impl Default for ResourcesSpec {
    fn default() -> Self {
        let quantity = |name: &str, amount: &str| (name.to_owned(), Quantity(amount.to_owned()));
        Self {
            requests: BTreeMap::from([quantity("cpu", "5m"), quantity("memory", "16Mi")]),
            limits: BTreeMap::from([quantity("memory", "32Mi")]),
        }
    }
}

impl CoordinationPolicySpec {
    /// What `stopGrace` must be longer than, and is not, although two leaders at once would damage data: zero, or the time for
    /// which a program goes by an answer without a deadline. The CRD refuses such a policy; the operator asks again, because a
    /// policy may be older than the rule.
    pub fn lacks_stop_grace(&self) -> Option<Duration> {
        let kept = self.program.compatibility.answer_kept();
        let lacks = self.consequence == Consequence::Corruption && self.timing.stop_grace.get() <= kept;
        lacks.then_some(kept)
    }
}

/// The API server's own type is a string or an integer with no bound, whose comparison CEL's cost estimate refuses.
fn quantities(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 3,
        "additionalProperties": {
            "x-kubernetes-int-or-string": true,
            "maxLength": 32,
            "pattern": r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[mkMGTPE])?$",
        },
    })
}
