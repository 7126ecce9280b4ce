//! What makes it certain that nobody ever led an election, so that its Lease may be marked `fresh` and the first leader
//! need not wait a whole lease.
//!
//! A program may believe that it leads only if its sidecar wrote the Lease less than one lease ago. So a Lease may be
//! called fresh if no sidecar wrote *any* Lease of that name in the last lease, whatever was deleted since. The operator
//! knows that from the order of events in its own watches, not from clocks:
//!
//! * A sidecar writes a Lease that it finds, or makes a missing one anew, with the operator's label, which claims nothing, and
//!   leads a whole lease later at the earliest. Either way the watch of Leases delivers it. Events of one watch come in the
//!   order of the writes: once it delivers the (still empty) Lease that the operator made, it has delivered every earlier
//!   Lease of that name since the watch began.
//! * Before the watch began: an election leaves an Election object behind. No garbage collector removes it; the operator
//!   does, and only when there has been no workload, no pod and no write for the longest lease in use. An election that is
//!   not in the first list of Elections, Leases and pods therefore has no leader from before.
//!
//! What is known instead is what **may** have led: [`Memory`] holds every election of which an object came with a list (it
//! may have existed for any time), of which a Lease or Election was deleted, or of which a pod with a sidecar vanished
//! without an end, as one does that is deleted by force. It only ever grows; forgetting would save a wait and could cost
//! safety. Every replica of the operator keeps its own from its own watches, leading or not.
//!
//! Two gaps are closed by [`may_be_fresh`] itself: a Lease that somebody wrote to is not fresh, and neither is one that came
//! later than pods which could have written one before it that somebody else had made, without the label.
//!
//! What remains is a person who deletes Lease, Role, `RoleBinding` and Election by hand, and by force the pod of a leader
//! that is cut off from the API server, all within one lease in which the operator also restarts.

use super::{
    cache::Entry,
    objects::{Author, Lease},
    workload::Pod,
};
use crate::policy::ElectionKey;
use std::{collections::HashSet, time::Duration};

/// The shortest time after which a sidecar leads that found its Lease missing: the shortest lease that a policy may ask for.
const FIRST_LEAD_MIN: Duration = Duration::from_secs(1);

/// The elections that may have been led before. See the module.
#[derive(Debug, Default)]
pub struct Memory {
    may_have_led: HashSet<ElectionKey>,
}

impl Memory {
    /// Something of this election existed for an unknown time, or was deleted.
    pub fn note(&mut self, key: ElectionKey) {
        self.may_have_led.insert(key);
    }

    /// Is it certain that nobody led this election before it had this Lease?
    pub fn never_led(&self, key: &ElectionKey) -> bool {
        !self.may_have_led.contains(key)
    }
}

/// Does nothing speak against calling this Lease fresh, given that nobody led before it was made?
pub fn may_be_fresh<'p>(lease: &Entry<Lease>, mut pods: impl Iterator<Item = &'p Entry<Pod>>) -> bool {
    let unwritten = lease.view.author == Author::Nobody && !lease.view.deleting;
    unwritten
        && !pods.any(|pod| {
            pod.view.sidecar.is_some()
                && lease.first_seen.saturating_duration_since(pod.first_seen) >= FIRST_LEAD_MIN
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::observe::view::ViewOf;
    use k8s_openapi::api::{coordination::v1::Lease as LeaseObject, core::v1::Pod as PodObject};
    use serde_json::{Value, json};
    use std::time::Instant;

    fn lease(value: Value, first_seen: Instant) -> Entry<Lease> {
        let view = Lease::of(serde_json::from_value::<LeaseObject>(value).unwrap()).unwrap();
        Entry { view, version: String::new(), first_seen, touched: first_seen }
    }

    fn pod(injected: bool, first_seen: Instant) -> Entry<Pod> {
        let containers = if injected { json!([{"name": "conch"}]) } else { json!([]) };
        let object = json!({"spec": {"containers": [], "initContainers": containers}});
        let view = Pod::of(serde_json::from_value::<PodObject>(object).unwrap()).unwrap();
        Entry { view, version: String::new(), first_seen, touched: first_seen }
    }

    #[test]
    fn a_lease_is_fresh_only_if_nobody_wrote_it_and_no_pod_could_have_made_one_before() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let empty = || lease(json!({}), at(2_000));
        let cases = [
            ("empty, no pods", empty(), vec![], true),
            ("pods came with it", empty(), vec![pod(true, at(1_500)), pod(true, at(3_000))], true),
            ("a pod was there before", empty(), vec![pod(true, at(1_000))], false),
            ("a pod without sidecar was there before", empty(), vec![pod(false, at(0))], true),
            ("held", lease(json!({"spec": {"holderIdentity": "p_u_n"}}), at(0)), vec![], false),
            ("cleared", lease(json!({"spec": {"holderIdentity": ""}}), at(0)), vec![], false),
            (
                "spec removed, record left",
                lease(json!({"metadata": {"annotations": {"conch.rs/record": "x"}}}), at(0)),
                vec![],
                false,
            ),
            (
                "being deleted",
                lease(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}), at(0)),
                vec![],
                false,
            ),
        ];
        for (name, lease, pods, fresh) in cases {
            assert_eq!(may_be_fresh(&lease, pods.iter()), fresh, "{name}");
        }
    }
}
