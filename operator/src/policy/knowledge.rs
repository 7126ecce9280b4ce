//! What admission may know from the controller's copies.

use super::{
    ElectionKey,
    observe::{watch::SharedIndex, workload::workload_of},
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

impl Knowledge for Copies {
    fn policy(&self, namespace: &str, name: &str) -> Option<KnownPolicy> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).known_policy(namespace, name)
    }

    fn longest_lease(&self, namespace: &str, lease: &str) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).longest_lease(namespace, lease)
    }

    fn not_shared(&self, namespace: &str, election: &str, pod: &Value) -> Option<String> {
        let metadata: ObjectMeta = serde_json::from_value(pod.get("metadata")?.clone()).ok()?;
        let workload = workload_of(&metadata)?;
        let key = ElectionKey::new(namespace, election);
        let observed = self.0.lock().unwrap_or_else(PoisonError::into_inner).observe(&key, Instant::now());
        not_shared(&observed, &workload)
    }
}
