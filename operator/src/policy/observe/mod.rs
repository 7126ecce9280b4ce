//! What is: slim copies of objects, kept by watches, and what one decision needs of them.

pub mod cache;
pub mod index;
pub mod longest;
pub mod memory;
pub mod objects;
pub mod readable;
#[cfg(test)]
mod tests;
pub mod view;
pub mod watch;
pub mod workload;

use super::ElectionKey;
use crate::inject::SidecarImage;
use jiff::Timestamp;
use longest::Longest;
use objects::{Election, Lease, Policy, Role, RoleBinding};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use workload::{Pod, Workload};

/// Everything that a decision about one election depends on.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The election.
    pub key: ElectionKey,
    /// The time, in whole seconds, for people to read. Nothing is decided by it.
    pub now: Timestamp,
    /// The image that is injected now.
    pub sidecar_image: SidecarImage,
    /// The workloads that ask for it, in no order.
    pub claims: Vec<Workload>,
    /// Workloads that ask for it no more and carry its stamp.
    pub left_over: Vec<Workload>,
    /// The policies that they name, as far as they exist.
    pub policies: BTreeMap<String, Policy>,
    /// The pods with its label in which something may still run.
    pub pods: Vec<Pod>,
    /// The Lease, if it is ours.
    pub lease: Option<Lease>,
    /// Its version.
    pub lease_version: Option<String>,
    /// The Role, if it is ours.
    pub role: Option<Role>,
    /// The `RoleBinding`, if it is ours.
    pub binding: Option<RoleBinding>,
    /// The Election, if it is ours.
    pub election: Option<Election>,
    /// Its version.
    pub election_version: Option<String>,
    /// Nothing is injected in its namespace: it is labelled so, or one of [`conch_crds::names::SYSTEM_NAMESPACES`].
    pub injection_disabled: bool,
    /// It is certain that no sidecar ever ran for it: see [`memory`].
    pub never_led: bool,
    /// Of which kinds an object of the needed name was found to be somebody else's, a moment ago.
    pub foreign: BTreeSet<ObjectKind>,
    /// The longest lease by which somebody may lead; `None`: nothing is known of any.
    pub longest_lease: Option<Longest>,
    /// How long it has been without workload, pod and renewal.
    pub abandoned_for: Option<Duration>,
    /// What was tried for want of a stamp, by the UID of the workload.
    pub touched: BTreeMap<String, Touches>,
}

/// How a workload was touched so that admission stamps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touches {
    /// How often, in vain.
    pub times: u32,
    /// How long ago the last time was.
    pub ago: Duration,
    /// What the API server said, if it refused the last one.
    pub refused: Option<String>,
}

/// Everything that the status of one policy depends on.
#[derive(Clone, Debug)]
pub struct ObservedPolicy {
    /// The policy.
    pub policy: Policy,
    /// The time, in whole seconds, for people to read.
    pub now: Timestamp,
    /// The image that is injected now.
    pub sidecar_image: SidecarImage,
    /// How many elections use it.
    pub elections: usize,
    /// The pods that carry its name.
    pub pods: Vec<Pod>,
}

/// The kinds of objects that the operator makes for an election, in the order in which they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKind {
    /// coordination.k8s.io/v1
    Lease,
    /// rbac.authorization.k8s.io/v1
    Role,
    /// rbac.authorization.k8s.io/v1
    RoleBinding,
    /// conch.rs/v1alpha1
    Election,
}

impl ObjectKind {
    /// As it is written on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lease => "Lease",
            Self::Role => "Role",
            Self::RoleBinding => "RoleBinding",
            Self::Election => "Election",
        }
    }
}
