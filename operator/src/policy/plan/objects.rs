//! The objects of an election: what they should be, and the writes that make them so.

use super::{Object, Write, claims::Claims, policies::Policies};
use crate::policy::{
    mark::Mark,
    observe::{
        ObjectKind, Observed,
        objects::{Election, Role, RoleBinding},
    },
};
use conch_crds::{Election as ElectionObject, election::ElectionSpec, names};
use conch_election::LEASE_MAX;
use k8s_openapi::{
    api::{
        coordination::v1::Lease as LeaseObject,
        rbac::v1::{PolicyRule, Role as RoleObject, RoleBinding as RoleBindingObject, RoleRef, Subject},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::api::ObjectMeta;
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

const RBAC_GROUP: &str = "rbac.authorization.k8s.io";
/// What a sidecar may do with its Lease. It creates a missing one by PUT, which RBAC can limit to a name.
const VERBS: [&str; 4] = ["get", "update", "watch", "create"];

/// The writes that bring the objects of the election to what they should be; the Lease first, because the first leader
/// waits for it.
///
/// While no workload asks for the election any more but pods of it live on, nothing is made, and what is there is kept for
/// them.
pub(super) fn writes(observed: &Observed, claims: &Claims<'_>) -> Vec<Write> {
    let wanted = Wanted::of(observed, claims);
    let mut writes = Vec::new();
    let mut consider = |kind: ObjectKind, write: Option<Write>| {
        let creates = matches!(write, Some(Write::Create(_)));
        // A workload that misspells its election's name has at least a page that says so.
        let is_wanted = wanted.is_asked_for || kind == ObjectKind::Election && claims.all().next().is_some();
        if !observed.foreign.contains(&kind) && (is_wanted || !creates) {
            writes.extend(write);
        }
    };
    consider(ObjectKind::Lease, wanted.lease(observed));
    consider(ObjectKind::Role, wanted.role(observed.role.as_ref()));
    consider(ObjectKind::RoleBinding, wanted.binding(observed.binding.as_ref()));
    consider(ObjectKind::Election, wanted.election(observed.election.as_ref()));
    writes.extend(mark(observed));
    writes
}

/// The mark that the fast path writes, for what it missed.
fn mark(observed: &Observed) -> Option<Write> {
    let lease = observed.lease.as_ref()?;
    observed.pods.iter().find_map(|pod| Mark::decide(lease, pod)).map(Write::Mark)
}

/// The leases by which pods lead or will lead: of the policies of those that take part, of living pods, of the leader.
pub fn leases_in_use(observed: &Observed) -> BTreeSet<Duration> {
    let policies = Policies::of(observed);
    let claims = Claims::of(observed, &policies);
    let of_policies = claims.members.iter().filter_map(|claim| policies.lease(&claim.policy));
    let of_pods = observed.pods.iter().filter_map(|pod| pod.sidecar.as_ref()?.lease);
    let mut leases: BTreeSet<Duration> = of_policies.chain(of_pods).collect();
    // The record says it in whole seconds, rounded up: it counts where it says more than all others.
    let held = observed.lease.as_ref().and_then(|lease| lease.held_for);
    let others = leases.last().map_or(0, |longest| longest.as_millis().div_ceil(1_000));
    leases.extend(held.filter(|held| u128::from(held.as_secs()) > others));
    leases
}

/// How long somebody may still believe to lead an election that is abandoned. Nothing is known of the leases that were in
/// use if neither Lease nor Election says it: then as long as any policy allows.
pub(super) fn belief_left(observed: &Observed, abandoned_for: Duration) -> Duration {
    let stamped = [
        observed.lease.as_ref().and_then(|lease| lease.longest_lease),
        observed.election.as_ref().and_then(|election| election.longest_lease),
    ];
    let longest = stamped.into_iter().flatten().max().unwrap_or(LEASE_MAX);
    longest.saturating_sub(abandoned_for)
}

/// Removes an election that nobody can believe to lead. The Election goes last: it is the memory that there was one.
pub(super) fn deletions(observed: &Observed) -> Vec<Write> {
    let delete =
        |kind, identity: Option<_>| identity.map(|object| Write::Delete { kind, object, version: None });
    // A renewal that comes in between is somebody who leads.
    let lease = observed.lease.as_ref().map(|lease| Write::Delete {
        kind: ObjectKind::Lease,
        object: lease.identity.clone(),
        version: observed.lease_version.clone(),
    });
    [
        delete(ObjectKind::RoleBinding, observed.binding.as_ref().map(|object| object.identity.clone())),
        delete(ObjectKind::Role, observed.role.as_ref().map(|object| object.identity.clone())),
        lease,
        delete(ObjectKind::Election, observed.election.as_ref().map(|object| object.identity.clone())),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What the objects should be.
struct Wanted<'o> {
    namespace: &'o str,
    election: &'o str,
    object_name: String,
    is_asked_for: bool,
    owners: Vec<OwnerReference>,
    longest_lease: Option<Duration>,
    service_accounts: BTreeSet<String>,
}

impl<'o> Wanted<'o> {
    fn of(observed: &'o Observed, claims: &Claims<'_>) -> Self {
        let pods = || observed.pods.iter().filter(|pod| claims.includes(pod));
        let of_templates = claims.members.iter().map(|claim| claim.service_account());
        Self {
            namespace: &observed.key.namespace,
            election: &observed.key.name,
            object_name: names::object_name(&observed.key.name),
            is_asked_for: !claims.members.is_empty(),
            owners: claims.members.iter().map(|claim| owner(claim)).collect(),
            longest_lease: observed.longest_lease.map(|longest| longest.lease),
            service_accounts: of_templates.chain(pods().map(|pod| pod.service_account.clone())).collect(),
        }
    }

    fn lease(&self, observed: &Observed) -> Option<Write> {
        let Some(lease) = &observed.lease else {
            let mut metadata = self.metadata();
            metadata.owner_references = self.owner_references();
            metadata.annotations = self.longest_lease.map(longest_annotation);
            return Some(Write::Create(Object::Lease(Box::new(LeaseObject { metadata, spec: None }))));
        };
        let mut metadata = Map::new();
        let mut annotations = Map::new();
        if let Some(longest) = self.longest_lease.filter(|longest| lease.longest_lease != Some(*longest)) {
            annotations.insert(names::LONGEST_LEASE.to_owned(), json!(longest.as_millis().to_string()));
        }
        if observed.never_led && self.is_asked_for && !lease.fresh {
            annotations.insert(names::FRESH.to_owned(), json!(lease.identity.uid));
            // Nobody may have written anything since this was seen to be certain.
            metadata.insert("resourceVersion".to_owned(), json!(observed.lease_version));
        }
        if !annotations.is_empty() {
            metadata.insert("annotations".to_owned(), Value::Object(annotations));
        }
        if let Some(owners) = self.owners_to_add(&lease.owners) {
            metadata.insert("ownerReferences".to_owned(), json!(owners));
        }
        if metadata.is_empty() {
            return None;
        }
        metadata.insert("uid".to_owned(), json!(lease.identity.uid));
        Some(Write::PatchLease { lease: lease.identity.clone(), patch: json!({"metadata": metadata}) })
    }

    /// The whole list with what is missing; `None`: nothing is.
    fn owners_to_add(&self, present: &[OwnerReference]) -> Option<Vec<OwnerReference>> {
        let missing: Vec<_> = self
            .owners
            .iter()
            .filter(|owner| !present.iter().any(|other| other.uid == owner.uid))
            .cloned()
            .collect();
        (!missing.is_empty()).then(|| present.iter().cloned().chain(missing).collect())
    }

    fn role(&self, present: Option<&Role>) -> Option<Write> {
        let rules = vec![PolicyRule {
            api_groups: Some(vec!["coordination.k8s.io".to_owned()]),
            resources: Some(vec!["leases".to_owned()]),
            resource_names: Some(vec![self.object_name.clone()]),
            verbs: VERBS.map(str::to_owned).to_vec(),
            ..PolicyRule::default()
        }];
        let object = |rules| {
            Object::Role(Box::new(RoleObject {
                metadata: ObjectMeta { owner_references: self.owner_references(), ..self.metadata() },
                rules: Some(rules),
            }))
        };
        let Some(role) = present else {
            return Some(Write::Create(object(rules)));
        };
        let as_it_should = role.rules == rules
            && self.is_labelled(role.election.as_deref())
            && self.has_owners(&role.owners);
        (!as_it_should).then(|| Write::Apply { object: object(rules), uid: role.identity.uid.clone() })
    }

    fn binding(&self, present: Option<&RoleBinding>) -> Option<Write> {
        let role_ref = RoleRef {
            api_group: RBAC_GROUP.to_owned(),
            kind: "Role".to_owned(),
            name: self.object_name.clone(),
        };
        let subjects: Vec<Subject> = self.service_accounts.iter().map(|name| self.subject(name)).collect();
        let object = || {
            Object::RoleBinding(Box::new(RoleBindingObject {
                metadata: ObjectMeta { owner_references: self.owner_references(), ..self.metadata() },
                role_ref: role_ref.clone(),
                subjects: Some(subjects.clone()),
            }))
        };
        let Some(binding) = present else {
            return Some(Write::Create(object()));
        };
        if binding.role != role_ref {
            // It cannot be changed; the next pass makes a new one.
            return Some(Write::Delete {
                kind: ObjectKind::RoleBinding,
                object: binding.identity.clone(),
                version: None,
            });
        }
        let as_it_should = binding.subjects == subjects
            && self.is_labelled(binding.election.as_deref())
            && self.has_owners(&binding.owners);
        (!as_it_should).then(|| Write::Apply { object: object(), uid: binding.identity.uid.clone() })
    }

    /// It has no owner, so that no garbage collector removes it: see [`crate::policy::observe::memory`]. It repeats the longest
    /// lease for the time when the Lease is gone.
    fn election(&self, present: Option<&Election>) -> Option<Write> {
        let longest = self.longest_lease.or(present.and_then(|election| election.longest_lease));
        let mut object = ElectionObject::new(self.election, ElectionSpec {});
        object.metadata = ObjectMeta {
            name: Some(self.election.to_owned()),
            annotations: longest.map(longest_annotation),
            ..self.metadata()
        };
        let object = Object::Election(Box::new(object));
        match present {
            None => Some(Write::Create(object)),
            Some(election) if election.longest_lease != longest || !election.managed => {
                Some(Write::Apply { object, uid: election.identity.uid.clone() })
            }
            Some(_) => None,
        }
    }

    fn subject(&self, service_account: &str) -> Subject {
        Subject {
            kind: "ServiceAccount".to_owned(),
            name: service_account.to_owned(),
            namespace: Some(self.namespace.to_owned()),
            api_group: None,
        }
    }

    fn metadata(&self) -> ObjectMeta {
        ObjectMeta {
            name: Some(self.object_name.clone()),
            namespace: Some(self.namespace.to_owned()),
            labels: Some(BTreeMap::from([
                (names::MANAGED.to_owned(), names::MANAGED_VALUE.to_owned()),
                (names::ELECTION_LABEL.to_owned(), self.election.to_owned()),
            ])),
            ..ObjectMeta::default()
        }
    }

    fn owner_references(&self) -> Option<Vec<OwnerReference>> {
        (!self.owners.is_empty()).then(|| self.owners.clone())
    }

    fn is_labelled(&self, election: Option<&str>) -> bool {
        election == Some(self.election)
    }

    fn has_owners(&self, present: &[OwnerReference]) -> bool {
        self.owners_to_add(present).is_none()
    }
}

fn longest_annotation(longest: Duration) -> BTreeMap<String, String> {
    BTreeMap::from([(names::LONGEST_LEASE.to_owned(), longest.as_millis().to_string())])
}

/// Not as its controller: a Lease is no part of what a Deployment scales.
fn owner(workload: &crate::policy::observe::workload::Workload) -> OwnerReference {
    OwnerReference {
        api_version: "apps/v1".to_owned(),
        kind: workload.kind.as_str().to_owned(),
        name: workload.identity.name.clone(),
        uid: workload.identity.uid.clone(),
        controller: None,
        block_owner_deletion: None,
    }
}
