//! The mark on a Lease that its holder's pod is being deleted: what makes the difference between a hand-over within
//! milliseconds of the program's exit and one that waits for every promise to run out. So it is written straight from the
//! event of a watch, past the queue; the pass that follows finds nothing left to do, or repairs what failed here.

use super::observe::{objects::Lease, workload::Pod};
use conch_crds::{PodDeletion, names};
use serde_json::{Value, json};

/// A mark to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Its name.
    pub lease: String,
    /// Its UID: a Lease that was made anew is not marked.
    pub lease_uid: String,
    /// What to say.
    pub deletion: PodDeletion,
}

impl Mark {
    /// Is there something to say about this pod on this Lease?
    pub fn decide(lease: &Lease, pod: &Pod) -> Option<Self> {
        Self::of(lease, pod, pod.deletion.as_ref()?.grace_seconds)
    }

    /// A pod that is gone before it was seen to end was deleted by force: whatever grace it had, it has none now, and SIGTERM
    /// to its sidecar says nothing of its program any more.
    pub fn withdraw(lease: &Lease, pod: &Pod) -> Option<Self> {
        Self::of(lease, pod, 0)
    }

    fn of(lease: &Lease, pod: &Pod, grace_seconds: u32) -> Option<Self> {
        let holder = lease.holder.as_ref()?;
        if pod.identity.uid.is_empty() || holder.pod_uid != pod.identity.uid {
            return None;
        }
        let mark = PodDeletion {
            pod_uid: pod.identity.uid.clone(),
            grace_seconds,
            sidecar_image: pod.sidecar.as_ref().map(|sidecar| sidecar.image.clone()).unwrap_or_default(),
        };
        (lease.pod_deletion.as_ref() != Some(&mark)).then(|| Self {
            namespace: lease.identity.namespace.clone(),
            lease: lease.identity.name.clone(),
            lease_uid: lease.identity.uid.clone(),
            deletion: mark,
        })
    }

    /// The merge patch. It touches the annotation alone, so that it fits whatever the sidecar wrote meanwhile.
    pub fn patch(&self) -> Result<Value, serde_json::Error> {
        let text = serde_json::to_string(&self.deletion)?;
        Ok(json!({"metadata": {"uid": self.lease_uid, "annotations": {names::POD_DELETION: text}}}))
    }
}
