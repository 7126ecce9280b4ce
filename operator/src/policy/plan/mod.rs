//! What should be written about one election or policy: pure, and nothing at all where everything is as it should be.

mod claims;
mod notices;
mod objects;
mod policies;
mod status;
#[cfg(test)]
mod tests;

pub use notices::Notice;
pub use objects::leases_in_use;
pub use policies::plan_policy;

use super::{
    mark::Mark,
    observe::{ObjectKind, Observed, view::Identity, workload::WorkloadKind},
};
use claims::Claims;
use conch_crds::{CoordinationPolicy, CoordinationPolicyStatus, Election, ElectionStatus};
use k8s_openapi::api::{
    coordination::v1::Lease,
    rbac::v1::{Role, RoleBinding},
};
use policies::Policies;
use serde_json::Value;
use std::time::Duration;

/// How soon to look again whether a name that was taken is free.
pub const RETRY: Duration = Duration::from_secs(30);

/// How soon to touch a workload again that was not stamped: doubled with each time,
const TOUCH_RETRY_MIN: Duration = Duration::from_secs(1);
/// up to this.
pub const TOUCH_RETRY_MAX: Duration = Duration::from_secs(30);

/// What to do, in this order.
#[derive(Debug, Default)]
pub struct Plan {
    /// What to write. A pass that stops after any of them leaves something from which the next one goes on.
    pub writes: Vec<Write>,
    /// What to tell people once all is written.
    pub notices: Vec<Notice>,
    /// When to look again although nothing changed.
    pub next: Option<Duration>,
}

/// One write.
#[derive(Debug)]
pub enum Write {
    /// Makes the policy that needs no object visible.
    CreatePolicy {
        /// It.
        policy: Box<CoordinationPolicy>,
        /// What to tell people if it was not there yet.
        notice: Option<Notice>,
    },
    /// Makes an object that was not there. If it is there by now, that is no failure.
    Create(Object),
    /// Server-side apply to the object with this UID and no other.
    Apply {
        /// What is to be so.
        object: Object,
        /// Of what is there.
        uid: String,
    },
    /// Merge patch of a Lease's metadata: server-side apply would own, and so remove, what the sidecar has to keep.
    PatchLease {
        /// Which one.
        lease: Identity,
        /// The patch; it holds the UID.
        patch: Value,
    },
    /// See [`Mark`].
    Mark(Mark),
    /// A write without content that lets admission stamp the workload, or take its stamp off.
    Touch {
        /// Of which kind.
        kind: WorkloadKind,
        /// Which one.
        workload: Identity,
        /// What to tell people if admission did it.
        notice: Notice,
    },
    /// Writes an election's status.
    ElectionStatus {
        /// Which one.
        election: Identity,
        /// The whole status.
        status: Box<ElectionStatus>,
    },
    /// Writes a policy's status.
    PolicyStatus {
        /// Which one.
        policy: Identity,
        /// The whole status.
        status: Box<CoordinationPolicyStatus>,
    },
    /// Deletes the object with this UID and no other.
    Delete {
        /// Of which kind.
        kind: ObjectKind,
        /// Which one.
        object: Identity,
        /// Only if it is still at this version.
        version: Option<String>,
    },
}

/// An object that the operator makes.
#[derive(Clone, Debug)]
pub enum Object {
    /// The Lease of an election.
    Lease(Box<Lease>),
    /// The Role for it.
    Role(Box<Role>),
    /// To whom the Role is given.
    RoleBinding(Box<RoleBinding>),
    /// The page that people look at.
    Election(Box<Election>),
}

/// Decides about one election.
pub fn plan(observed: &Observed) -> Plan {
    let policies = Policies::of(observed);
    let claims = Claims::of(observed, &policies);
    let mut plan = Plan::default();
    if let Some(abandoned_for) = observed.abandoned_for {
        let wait = objects::belief_left(observed, abandoned_for);
        if wait.is_zero() {
            plan.writes = objects::deletions(observed);
            return plan;
        }
        plan.next = Some(wait);
    }
    plan.create_default_policy(observed, &policies, &claims);
    plan.writes.extend(objects::writes(observed, &claims));
    if let Some(left) = observed.longest_lease.and_then(|longest| longest.left) {
        plan.look_again(left);
    }
    // Before there is an Election there is nowhere to remember what was said.
    if let Some(election) = &observed.election {
        let verdict = status::judge(observed, &policies, &claims);
        plan.notices.extend(notices::notices(observed, &claims, &verdict, &election.status));
        if election.status != verdict.status {
            let election = election.identity.clone();
            plan.writes.push(Write::ElectionStatus { election, status: Box::new(verdict.status) });
        }
    }
    // Last: whatever comes of it, everything else is done.
    plan.touch(observed, &claims);
    if !observed.foreign.is_empty() {
        plan.look_again(RETRY);
    }
    plan
}

/// Why pods of this workload must not join the election: it belongs to another one, and is not shared.
pub fn not_shared(observed: &Observed, (kind, name): &(WorkloadKind, String)) -> Option<String> {
    let policies = Policies::of(observed);
    let claims = Claims::of(observed, &policies);
    let refused = claims.refused.iter().find(|claim| claim.kind == *kind && claim.identity.name == *name)?;
    Some(status::not_shared_sentence(refused, claims.keeper()?, &observed.key.name))
}

impl Plan {
    fn create_default_policy(&mut self, observed: &Observed, policies: &Policies<'_>, claims: &Claims<'_>) {
        if !policies.default_is_missing() {
            return;
        }
        let workload = claims.all().find(|claim| claim.policy == conch_crds::names::DEFAULT_POLICY);
        let policy = Box::new(policies::default_policy(&observed.key.namespace));
        self.writes.push(Write::CreatePolicy { policy, notice: workload.map(notices::policy_created) });
    }

    /// Lets admission stamp what was annotated while the webhook was away, and take the stamp off what lost its annotation
    /// then. A touch changes nothing by itself, so nobody's write is fought; what a webhook that is still away leaves as it is
    /// is touched again later.
    fn touch(&mut self, observed: &Observed, claims: &Claims<'_>) {
        if observed.injection_disabled {
            return;
        }
        let left_over = observed.left_over.iter().filter(|workload| !workload.deleting);
        for workload in claims.unstamped().chain(left_over) {
            let touches = observed.touched.get(&workload.identity.uid);
            let times = touches.map_or(0, |touches| touches.times);
            let left =
                touches.map_or(Duration::ZERO, |touches| touch_retry(times).saturating_sub(touches.ago));
            if left.is_zero() {
                let (kind, identity) = (workload.kind, workload.identity.clone());
                self.writes.push(Write::Touch {
                    kind,
                    workload: identity,
                    notice: notices::touched(workload),
                });
            }
            self.look_again(if left.is_zero() { touch_retry(times + 1) } else { left });
        }
    }

    fn look_again(&mut self, after: Duration) {
        self.next = Some(self.next.map_or(after, |next| next.min(after)));
    }
}

/// How long to wait after so many touches in vain.
fn touch_retry(times: u32) -> Duration {
    let doubled = TOUCH_RETRY_MIN.saturating_mul(2_u32.saturating_pow(times.saturating_sub(1)));
    doubled.min(TOUCH_RETRY_MAX)
}
