//! The answer as JSON: the same shape whether this pod leads or not.

use conch_election::{Answer, Reason};
use conch_stores::Fencing;
use jiff::Timestamp;
use serde::{Serialize, Serializer};
use std::fmt;

/// What every answer says of this sidecar.
pub struct About {
    /// `namespace/name`.
    pub election: String,
    /// Name of the pod.
    pub pod: String,
    /// UID of the pod.
    pub pod_uid: String,
    /// Of this machine: `deadlineBoottimeNs` has a meaning only where this is the same.
    pub boot_id: String,
    /// For people: which store.
    pub store: String,
    /// What the store promises of its fences at this moment.
    pub fencing: Box<dyn Fn() -> Fencing + Send + Sync>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    /// Does this pod lead?
    pub leader: bool,
    /// `namespace/name`.
    pub election: String,
    /// This pod.
    pub pod: String,
    /// Its UID.
    pub pod_uid: String,
    /// The pod that the record names, for people.
    pub holder: Option<String>,
    /// The term's fencing token, 20 digits; `null` if this pod does not lead.
    pub token: Option<String>,
    /// Milliseconds, counted from before the question was sent; 0 if this pod does not lead.
    pub valid_for_ms: u64,
    /// The same as a point on `CLOCK_BOOTTIME`; a string because it does not fit into a JavaScript number.
    pub deadline_boottime_ns: Option<String>,
    /// The machine whose `CLOCK_BOOTTIME` that is.
    pub boot_id: String,
    /// When the term began, on the wall clock, for people.
    pub since: Option<String>,
    /// `Strict` or `BestEffort`: may a token ever come twice?
    pub fencing: String,
    /// This pod is about to end; it may still lead.
    pub terminating: bool,
    /// Why the answer is what it is, from a closed list.
    #[serde(serialize_with = "word")]
    pub reason: Reason,
    /// The same as a sentence.
    pub message: &'static str,
}

impl View {
    /// The view of an answer that is given now. `since`: when the term began, if there is one.
    pub fn new(about: &About, answer: Answer, since: Option<Timestamp>, terminating: bool) -> Self {
        let Answer { promise, reason, holder } = answer;
        let About { election, pod, pod_uid, boot_id, store: _, fencing } = about;
        let valid_for_ms = promise.map_or(0, |promise| promise.valid_for.as_millis());
        Self {
            leader: promise.is_some(),
            election: election.clone(),
            pod: pod.clone(),
            pod_uid: pod_uid.clone(),
            holder,
            token: promise.map(|promise| promise.token.to_string()),
            valid_for_ms: u64::try_from(valid_for_ms).unwrap_or(u64::MAX),
            deadline_boottime_ns: promise.map(|promise| promise.deadline_boottime.as_nanos().to_string()),
            boot_id: boot_id.clone(),
            since: since.map(|since| since.to_string()),
            fencing: format!("{:?}", fencing()),
            terminating,
            reason,
            message: reason.sentence(),
        }
    }
}

/// A reason is written as it is named.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn word<S: Serializer>(reason: &Reason, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{reason:?}"))
}

impl fmt::Debug for About {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { election, pod, pod_uid, boot_id, store, fencing: _ } = self;
        formatter
            .debug_struct("About")
            .field("election", election)
            .field("pod", pod)
            .field("pod_uid", pod_uid)
            .field("boot_id", boot_id)
            .field("store", store)
            .finish_non_exhaustive()
    }
}
