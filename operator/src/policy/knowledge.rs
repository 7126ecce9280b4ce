//! What admission may know from the controller's copies.

use super::{
    ElectionKey,
    observe::{
        Observed,
        watch::SharedIndex,
        workload::{Pod, WorkloadKind, workload_of},
    },
    plan::not_shared,
};
use crate::webhook::{Knowledge, KnownPolicy};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;
use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

/// The controller's copies, to be asked by admission.
#[derive(Clone)]
pub struct Copies(pub(super) SharedIndex);

impl Copies {
    fn observe(&self, namespace: &str, election: &str) -> Observed {
        let key = ElectionKey::new(namespace, election);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).observe(&key, Instant::now())
    }
}

/// The workload that this pod belongs to.
fn owner(pod: &Value) -> Option<(WorkloadKind, String)> {
    let metadata: ObjectMeta = serde_json::from_value(pod.get("metadata")?.clone()).ok()?;
    workload_of(&metadata)
}

impl Knowledge for Copies {
    fn policy(&self, namespace: &str, name: &str) -> Option<KnownPolicy> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).known_policy(namespace, name)
    }

    fn longest_lease(&self, namespace: &str, election: &str) -> Option<Duration> {
        self.observe(namespace, election).longest_lease.map(|longest| longest.lease)
    }

    fn is_announced(&self, namespace: &str, election: &str, lease: Duration) -> bool {
        let observed = self.observe(namespace, election);
        let stands = observed.lease.as_ref().and_then(|lease| lease.longest_lease);
        let will_stand = observed.longest_lease.map(|longest| longest.lease);
        let counts_with_less = |pod: &Pod| {
            let counted = pod.sidecar.as_ref().and_then(|sidecar| sidecar.lease);
            counted.is_some_and(|counted| counted < lease)
        };
        stands >= Some(lease) || will_stand < Some(lease) || !observed.pods.iter().any(counts_with_less)
    }

    fn knows_workload_of(&self, namespace: &str, pod: &Value) -> bool {
        let index = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        owner(pod).is_none_or(|(kind, name)| index.knows_workload(namespace, kind, &name))
    }

    fn not_shared(&self, namespace: &str, election: &str, pod: &Value) -> Option<String> {
        not_shared(&self.observe(namespace, election), &owner(pod)?)
    }
}
