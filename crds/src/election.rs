//! `Election`: what people look at. Written by the operator only, one per election, owned by its workload.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many changes of the leader an election remembers.
pub const TRANSITIONS_MAX: usize = 10;

/// Empty: an election is made by the operator for a workload that names a policy.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(clippy::duplicated_attributes, reason = "the columns are nested lists of their own")]
#[kube(
    group = "conch.rs",
    version = "v1alpha1",
    kind = "Election",
    plural = "elections",
    namespaced,
    no_spec,
    shortname = "elec",
    category = "conch",
    status = "ElectionStatus",
    derive = "PartialEq",
    doc = "Who leads, since when, and who could. Written by the operator for each workload with the annotation conch.rs/policy.",
    printcolumn(
        name = "Leader",
        type_ = "string",
        json_path = ".status.holder",
        description = "The pod that leads"
    ),
    printcolumn(
        name = "Since",
        type_ = "date",
        json_path = ".status.since",
        description = "How long it has been leading"
    ),
    printcolumn(
        name = "Candidates",
        type_ = "integer",
        json_path = ".status.candidates",
        description = "Pods with a running sidecar"
    ),
    printcolumn(name = "Policy", type_ = "string", json_path = ".status.policy"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether a pod leads and nothing stands in the way of the next one"
    ),
    printcolumn(
        name = "Token",
        type_ = "string",
        json_path = ".status.token",
        description = "Fencing token of the running term",
        priority = 1
    ),
    printcolumn(
        name = "Missing",
        type_ = "integer",
        json_path = ".status.missing",
        description = "Pods without a sidecar",
        priority = 1
    ),
    printcolumn(
        name = "Outdated",
        type_ = "integer",
        json_path = ".status.outdated",
        description = "Pods injected by an older policy or with another image",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct ElectionSpec {}

/// What the operator says about an election.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ElectionStatus {
    /// The generation of the election that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Name of the pod that leads, as the Lease says; absent while none does. The pod itself learns it from its sidecar,
    /// which also knows until when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// When the running term began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Fencing token of the running term, 20 decimal digits: the order of the strings is the order of the numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Name of the policy, in the same namespace.
    pub policy: String,
    /// The workload that the election belongs to.
    pub workload: WorkloadReference,
    /// Name of the Lease, in the same namespace.
    pub lease_name: String,
    /// Pods with a running sidecar.
    #[schemars(extend("format" = "int32"))]
    pub candidates: u32,
    /// Pods of the stamped template without a sidecar: they never lead. Pods from before the annotation are not counted.
    #[schemars(extend("format" = "int32"))]
    pub missing: u32,
    /// Pods whose sidecar was injected by an older generation of the policy, or with another image.
    #[schemars(extend("format" = "int32"))]
    pub outdated: u32,
    /// The last ten changes of the leader, oldest first.
    #[schemars(length(max = TRANSITIONS_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    pub transitions: Vec<Transition>,
    /// Ready: a pod leads and nothing stands in the way of the next one. Injected: every pod of the workload has its
    /// sidecar. `UpToDate`: every sidecar is of the policy's generation and the operator's image.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A workload of the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadReference {
    /// Deployment, StatefulSet or DaemonSet.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// One change of the leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Transition {
    /// When the operator saw it.
    pub at: Time,
    /// Name of the pod that led before; absent if none did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Name of the pod that leads now; absent if none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Why, where the operator can tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<TransitionCause>,
    /// Fencing token of the term that began; absent if none did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// Why the leader changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TransitionCause {
    /// The election had no leader before.
    FirstLeader,
    /// The leader gave its term back: its program resigned, or had ended, or every promise to it had run out.
    Released,
    /// The leader gave its term back while its pod was being deleted.
    PodDeleted,
    /// The leader fell silent, and another pod took over after the lease.
    Expired,
    /// A new sidecar process of the same pod began a new term.
    SidecarRestarted,
}
