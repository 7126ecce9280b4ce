//! The operator's own objects, and policies.

use super::view::{Identity, View, ViewOf, annotation, label};
use conch_crds::{
    CoordinationPolicy, CoordinationPolicySpec, CoordinationPolicyStatus, Election as ElectionObject,
    ElectionStatus, PodDeletion, election::TransitionCause, names,
};
use conch_stores::kubernetes::held_lease;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease as LeaseObject, LeaseSpec},
        core::v1::Namespace as NamespaceObject,
        rbac::v1::{PolicyRule, Role as RoleObject, RoleBinding as RoleBindingObject, RoleRef, Subject},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::core::{PartialObjectMeta, error_boundary::InvalidObject};
use std::time::Duration;

/// The Lease of an election: everything but what changes with each renewal.
#[derive(Clone, Debug, PartialEq)]
pub struct Lease {
    /// Which object.
    pub identity: Identity,
    /// Who owns it.
    pub owners: Vec<OwnerReference>,
    /// Is it marked for deletion?
    pub deleting: bool,
    /// Who has written what stands in it.
    pub author: Author,
    /// [`names::FRESH`] is set, for this very object.
    pub fresh: bool,
    /// [`names::LONGEST_LEASE`].
    pub longest_lease: Option<Duration>,
    /// [`names::POD_DELETION`].
    pub pod_deletion: Option<PodDeletion>,
    /// [`names::TOKEN`].
    pub token: Option<String>,
    /// Who holds it.
    pub holder: Option<Holder>,
    /// For how long, as the sidecar wrote that holds or held it, rounded up to seconds. What anybody else writes to
    /// `leaseDurationSeconds` is nobody's lease.
    pub held_for: Option<Duration>,
    /// When the running term began, for people.
    pub since: Option<Timestamp>,
    /// How it came to what it says now, as far as it was watched. Filled in by [`View::follow`].
    pub cause: Option<TransitionCause>,
}

/// Who has written what stands in a Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// Nobody: neither spec nor [`names::RECORD`] say anything.
    Nobody,
    /// A sidecar: there is a [`names::RECORD`].
    Sidecar,
    /// Something else.
    Stranger,
}

/// A holder as the Lease names it: `<pod>_<pod uid>_<nonce>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The whole text.
    pub identity: String,
    /// Name of the pod; the whole text where it has another form.
    pub pod: String,
    /// UID of the pod; empty where the text has another form.
    pub pod_uid: String,
}

/// A Role of an election.
#[derive(Clone, Debug, PartialEq)]
pub struct Role {
    /// Which object.
    pub identity: Identity,
    /// The election that its label names.
    pub election: Option<String>,
    /// Who owns it.
    pub owners: Vec<OwnerReference>,
    /// What it allows.
    pub rules: Vec<PolicyRule>,
}

/// A `RoleBinding` of an election.
#[derive(Clone, Debug, PartialEq)]
pub struct RoleBinding {
    /// Which object.
    pub identity: Identity,
    /// The election that its label names.
    pub election: Option<String>,
    /// Who owns it.
    pub owners: Vec<OwnerReference>,
    /// What it binds.
    pub role: RoleRef,
    /// To whom.
    pub subjects: Vec<Subject>,
}

/// An Election.
#[derive(Clone, Debug, PartialEq)]
pub struct Election {
    /// Which object.
    pub identity: Identity,
    /// Its generation.
    pub generation: Option<i64>,
    /// Does it carry [`names::MANAGED`]?
    pub managed: bool,
    /// [`names::LONGEST_LEASE`], remembered here for the time when the Lease is gone.
    pub longest_lease: Option<Duration>,
    /// What was last written about it.
    pub status: ElectionStatus,
}

/// A policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Which object.
    pub identity: Identity,
    /// Its generation.
    pub generation: Option<i64>,
    /// What it asks for. `Err`: why it cannot be read; the schema should have refused it.
    pub spec: Result<CoordinationPolicySpec, String>,
    /// What was last written about it.
    pub status: CoordinationPolicyStatus,
}

/// A namespace in which nothing is injected.
#[derive(Clone, Debug, PartialEq)]
pub struct DisabledNamespace {
    /// Which object.
    pub identity: Identity,
}

impl Lease {
    fn cause_after(&self, before: &Self) -> Option<TransitionCause> {
        match (&before.holder, &self.holder) {
            (Some(old), Some(new)) if old.identity == new.identity => before.cause,
            (Some(old), Some(new)) if !old.pod_uid.is_empty() && old.pod_uid == new.pod_uid => {
                Some(TransitionCause::SidecarRestarted)
            }
            (Some(_), Some(_)) => Some(TransitionCause::Expired),
            (None, None) => before.cause,
            (None, Some(_)) if before.author == Author::Sidecar => before.cause,
            (None, Some(_)) => before.fresh.then_some(TransitionCause::FirstLeader),
            // Cleared by something that is no sidecar: nobody knows why.
            (Some(_), None) if self.author != Author::Sidecar => None,
            (Some(old), None) => {
                let deleted = before
                    .pod_deletion
                    .iter()
                    .chain(&self.pod_deletion)
                    .any(|mark| mark.pod_uid == old.pod_uid);
                Some(if deleted { TransitionCause::PodDeleted } else { TransitionCause::Released })
            }
        }
    }
}

impl Holder {
    /// Read from the right: neither a nonce nor a UID holds a `_`.
    pub fn parse(identity: &str) -> Self {
        let mut parts = identity.rsplitn(3, '_');
        let (_nonce, pod_uid, pod) = (parts.next(), parts.next(), parts.next());
        Self {
            identity: identity.to_owned(),
            pod: pod.unwrap_or(identity).to_owned(),
            pod_uid: pod.and(pod_uid).unwrap_or_default().to_owned(),
        }
    }
}

impl ViewOf<LeaseObject> for Lease {
    fn of(object: LeaseObject) -> Option<Self> {
        let metadata = &object.metadata;
        let spec = object.spec.unwrap_or_default();
        let author = match annotation(metadata, names::RECORD) {
            Some(_) => Author::Sidecar,
            None if spec == LeaseSpec::default() => Author::Nobody,
            None => Author::Stranger,
        };
        let holder = spec.holder_identity.filter(|holder| !holder.is_empty());
        Some(Self {
            identity: Identity::of(metadata),
            owners: owners(metadata),
            deleting: metadata.deletion_timestamp.is_some(),
            held_for: annotation(metadata, names::RECORD).and_then(|note| held_lease(&note)),
            author,
            fresh: annotation(metadata, names::FRESH).is_some_and(|of| metadata.uid == Some(of)),
            longest_lease: longest_lease(metadata),
            pod_deletion: annotation(metadata, names::POD_DELETION)
                .and_then(|text| serde_json::from_str(&text).ok()),
            token: annotation(metadata, names::TOKEN),
            holder: holder.map(|holder| Holder::parse(&holder)),
            since: spec.acquire_time.map(|time| time.0),
            cause: None,
        })
    }
}

impl View for Lease {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn elections(&self) -> Vec<String> {
        self.identity.name.strip_prefix(names::OBJECT_PREFIX).map(str::to_owned).into_iter().collect()
    }

    /// Finds out how the holder changed.
    fn follow(mut self, before: Option<&Self>) -> Self {
        self.cause = before
            .filter(|before| before.identity == self.identity)
            .and_then(|before| self.cause_after(before));
        self
    }
}

impl ViewOf<RoleObject> for Role {
    fn of(object: RoleObject) -> Option<Self> {
        Some(Self {
            identity: Identity::of(&object.metadata),
            election: label(&object.metadata, names::ELECTION_LABEL),
            owners: owners(&object.metadata),
            rules: object.rules.unwrap_or_default(),
        })
    }
}

impl View for Role {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn elections(&self) -> Vec<String> {
        self.identity.name.strip_prefix(names::OBJECT_PREFIX).map(str::to_owned).into_iter().collect()
    }
}

impl ViewOf<RoleBindingObject> for RoleBinding {
    fn of(object: RoleBindingObject) -> Option<Self> {
        Some(Self {
            identity: Identity::of(&object.metadata),
            election: label(&object.metadata, names::ELECTION_LABEL),
            owners: owners(&object.metadata),
            role: object.role_ref,
            subjects: object.subjects.unwrap_or_default(),
        })
    }
}

impl View for RoleBinding {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn elections(&self) -> Vec<String> {
        self.identity.name.strip_prefix(names::OBJECT_PREFIX).map(str::to_owned).into_iter().collect()
    }
}

impl Election {
    fn from_parts(metadata: &ObjectMeta, status: Option<ElectionStatus>) -> Self {
        Self {
            identity: Identity::of(metadata),
            generation: metadata.generation,
            managed: is_managed(metadata),
            longest_lease: longest_lease(metadata),
            status: status.unwrap_or_default(),
        }
    }
}

impl ViewOf<ElectionObject> for Election {
    fn of(object: ElectionObject) -> Option<Self> {
        Some(Self::from_parts(&object.metadata, object.status))
    }

    /// A status that cannot be read counts as none and is written anew.
    fn of_unreadable(object: InvalidObject) -> Option<Self> {
        Some(Self::from_parts(&object.metadata, None))
    }
}

impl View for Election {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn elections(&self) -> Vec<String> {
        vec![self.identity.name.clone()]
    }
}

impl ViewOf<CoordinationPolicy> for Policy {
    fn of(object: CoordinationPolicy) -> Option<Self> {
        Some(Self {
            identity: Identity::of(&object.metadata),
            generation: object.metadata.generation,
            spec: Ok(object.spec),
            status: object.status.unwrap_or_default(),
        })
    }

    fn of_unreadable(object: InvalidObject) -> Option<Self> {
        Some(Self {
            identity: Identity::of(&object.metadata),
            generation: object.metadata.generation,
            spec: Err(object.error),
            status: CoordinationPolicyStatus::default(),
        })
    }
}

impl View for Policy {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn elections(&self) -> Vec<String> {
        Vec::new()
    }
}

impl ViewOf<PartialObjectMeta<NamespaceObject>> for DisabledNamespace {
    fn of(object: PartialObjectMeta<NamespaceObject>) -> Option<Self> {
        Some(Self { identity: Identity::of(&object.metadata) })
    }
}

impl View for DisabledNamespace {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn elections(&self) -> Vec<String> {
        Vec::new()
    }
}

fn is_managed(metadata: &ObjectMeta) -> bool {
    label(metadata, names::MANAGED).as_deref() == Some(names::MANAGED_VALUE)
}

fn owners(metadata: &ObjectMeta) -> Vec<OwnerReference> {
    metadata.owner_references.clone().unwrap_or_default()
}

fn longest_lease(metadata: &ObjectMeta) -> Option<Duration> {
    annotation(metadata, names::LONGEST_LEASE)?.parse().ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::observe::readable::Readable;
    use serde_json::{Value, json};

    fn lease(annotations: &Value, spec: &Value) -> Lease {
        let object =
            json!({"metadata": {"name": "conch-e", "uid": "u", "annotations": annotations}, "spec": spec});
        Lease::of(serde_json::from_value::<LeaseObject>(object).unwrap()).unwrap()
    }

    fn held(holder: &str) -> Lease {
        lease(&json!({"conch.rs/record": "{}"}), &json!({"holderIdentity": holder}))
    }

    fn released() -> Lease {
        lease(&json!({"conch.rs/record": "{}"}), &json!({"holderIdentity": ""}))
    }

    fn marked(mut lease: Lease, uid: &str) -> Lease {
        lease.pod_deletion =
            Some(PodDeletion { pod_uid: uid.into(), grace_seconds: 30, sidecar_image: String::new() });
        lease
    }

    fn last_cause(versions: Vec<Lease>) -> Option<TransitionCause> {
        versions
            .into_iter()
            .fold(None, |before: Option<Lease>, next| Some(next.follow(before.as_ref())))
            .unwrap()
            .cause
    }

    #[test]
    fn a_renewal_changes_nothing_that_matters() {
        let at = |second: u32, sequence: u32| {
            lease(
                &json!({"conch.rs/record": format!("{{\"write\":\"n.{sequence}\"}}")}),
                &json!({"holderIdentity": "p_u_n", "renewTime": format!("2026-01-01T00:00:{second:02}.000000Z")}),
            )
        };
        assert_eq!(at(1, 1), at(3, 2));
    }

    #[test]
    fn why_the_holder_changed_is_read_from_two_versions_in_a_row() {
        let fresh = || lease(&json!({"conch.rs/fresh": "u"}), &json!({}));
        let put_back = || lease(&json!({"conch.rs/fresh": "another"}), &json!({}));
        let unknown = || lease(&json!({}), &json!({}));
        let cleared = || lease(&json!({}), &json!({"holderIdentity": ""}));
        let cases = [
            ("first", vec![fresh(), held("a_1_x")], Some(TransitionCause::FirstLeader)),
            ("no fresh mark", vec![unknown(), held("a_1_x")], None),
            ("the mark of another Lease", vec![put_back(), held("a_1_x")], None),
            ("released", vec![held("a_1_x"), released()], Some(TransitionCause::Released)),
            (
                "taken after a release",
                vec![held("a_1_x"), released(), held("b_2_y")],
                Some(TransitionCause::Released),
            ),
            ("deleted", vec![marked(held("a_1_x"), "1"), released()], Some(TransitionCause::PodDeleted)),
            (
                "another pod deleted",
                vec![marked(held("a_1_x"), "9"), released()],
                Some(TransitionCause::Released),
            ),
            ("expired", vec![held("a_1_x"), held("b_2_y")], Some(TransitionCause::Expired)),
            ("restarted", vec![held("a_1_x"), held("a_1_y")], Some(TransitionCause::SidecarRestarted)),
            (
                "same pod name, another pod",
                vec![held("a_1_x"), held("a_2_y")],
                Some(TransitionCause::Expired),
            ),
            ("cleared by hand", vec![held("a_1_x"), cleared()], None),
            ("renewed", vec![held("a_1_x"), held("b_2_y"), held("b_2_y")], Some(TransitionCause::Expired)),
            ("only one version seen", vec![held("a_1_x")], None),
        ];
        for (name, versions, cause) in cases {
            assert_eq!(last_cause(versions), cause, "{name}");
        }
    }

    #[test]
    fn a_holder_of_another_form_is_shown_as_it_is_and_belongs_to_no_pod() {
        assert_eq!(Holder::parse("pod-1_uid_nonce").pod_uid, "uid");
        let foreign = Holder::parse("somebody_else");
        assert_eq!((foreign.pod.as_str(), foreign.pod_uid.as_str()), ("somebody_else", ""));
    }

    #[test]
    fn a_policy_that_cannot_be_read_is_remembered_with_the_reason() {
        let object = json!({"apiVersion": "conch.rs/v1alpha1", "kind": "CoordinationPolicy",
            "metadata": {"name": "p"}, "spec": {"timing": {"leaseDuration": "soon"}}});
        let view =
            Policy::of(serde_json::from_value::<Readable<CoordinationPolicy>>(object).unwrap()).unwrap();
        assert!(view.spec.unwrap_err().contains("soon"));
        assert_eq!(view.identity.name, "p");
    }
}
