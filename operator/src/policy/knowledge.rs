//! What admission may know from the controller's copies.

use super::observe::watch::SharedIndex;
use crate::webhook::{Knowledge, KnownPolicy};
use std::{sync::PoisonError, time::Duration};

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
}
