//! The API of Conch: the custom resources `CoordinationPolicy` and `Election`, and every name that crosses the wire.

pub mod conditions;
pub mod duration;
pub mod election;
pub mod events;
pub mod names;
pub mod policy;
pub mod program;
mod rules;
mod wire_enum;

pub use election::{Election, ElectionStatus};
pub use policy::{CoordinationPolicy, CoordinationPolicySpec, CoordinationPolicyStatus};

use serde::{Deserialize, Serialize};

/// What the operator writes to the Lease (annotation [`names::POD_DELETION`]) when the leader's pod is being deleted.
/// The sidecar takes it as a part of the proof that SIGTERM meant the end of the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodDeletion {
    /// UID of the pod that is being deleted.
    pub pod_uid: String,
    /// `deletionGracePeriodSeconds` of the pod.
    pub grace_seconds: u32,
    /// Image of the sidecar in the pod's spec. Where it differs from the one that was injected, the kubelet may be
    /// restarting the sidecar alone, and SIGTERM proves nothing.
    pub sidecar_image: String,
}
