//! All copies together: what each change wakes, and what one decision sees.

use super::{
    Observed, ObservedPolicy,
    cache::{Cache, Change, Entry, Place},
    longest::Leases,
    memory::{self, Memory},
    objects::{Author, DisabledNamespace, Election, Lease, Policy, Role, RoleBinding},
    view::View,
    workload::{Pod, Workload, WorkloadKind},
};
use crate::{
    inject::SidecarImage,
    policy::{ElectionKey, Key, PolicyKey, mark::Mark, plan::leases_in_use},
    webhook::KnownPolicy,
};
use conch_crds::names;
use jiff::Timestamp;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Instant,
};

/// All copies.
#[derive(Debug)]
pub struct Index {
    pub(super) deployments: Cache<Workload>,
    pub(super) stateful_sets: Cache<Workload>,
    pub(super) daemon_sets: Cache<Workload>,
    pub(super) pods: Cache<Pod>,
    pub(super) leases: Cache<Lease>,
    pub(super) roles: Cache<Role>,
    pub(super) bindings: Cache<RoleBinding>,
    pub(super) elections: Cache<Election>,
    pub(super) policies: Cache<Policy>,
    pub(super) namespaces: Cache<DisabledNamespace>,
    memory: Memory,
    longest_leases: Leases,
    abandoned_since: HashMap<ElectionKey, Instant>,
    sidecar_image: SidecarImage,
}

/// What a change asks for.
#[derive(Debug, Default, PartialEq)]
pub struct Reaction {
    /// Passes to make.
    pub keys: BTreeSet<Key>,
    /// Leases to mark at once.
    pub marks: Vec<Mark>,
}

impl Index {
    /// Nothing is known yet. `sidecar_image` is what is injected now.
    pub fn new(sidecar_image: SidecarImage) -> Self {
        Self {
            deployments: Cache::default(),
            stateful_sets: Cache::default(),
            daemon_sets: Cache::default(),
            pods: Cache::default(),
            leases: Cache::default(),
            roles: Cache::default(),
            bindings: Cache::default(),
            elections: Cache::default(),
            policies: Cache::default(),
            namespaces: Cache::default(),
            memory: Memory::default(),
            longest_leases: Leases::default(),
            abandoned_since: HashMap::new(),
            sidecar_image,
        }
    }

    /// Was every kind listed once?
    pub fn is_synced(&self) -> bool {
        let Self {
            deployments,
            stateful_sets,
            daemon_sets,
            pods,
            leases,
            roles,
            bindings,
            elections,
            policies,
            namespaces,
            memory: _,
            longest_leases: _,
            abandoned_since: _,
            sidecar_image: _,
        } = self;
        [deployments, stateful_sets, daemon_sets].iter().all(|cache| cache.is_synced())
            && pods.is_synced()
            && leases.is_synced()
            && roles.is_synced()
            && bindings.is_synced()
            && elections.is_synced()
            && policies.is_synced()
            && namespaces.is_synced()
    }

    /// Everything that there is a pass for.
    pub fn keys(&self) -> BTreeSet<Key> {
        let workloads = [&self.deployments, &self.stateful_sets, &self.daemon_sets];
        let elections = workloads
            .into_iter()
            .flat_map(Cache::elections)
            .chain(self.pods.elections())
            .chain(self.leases.elections())
            .chain(self.elections.elections())
            .chain(self.roles.elections())
            .chain(self.bindings.elections());
        let policies = self.policies.iter().map(|policy| policy_key(policy.identity()));
        elections.map(election_key).chain(policies).collect()
    }

    /// A policy that can be read.
    pub fn known_policy(&self, namespace: &str, name: &str) -> Option<KnownPolicy> {
        let policy = &self.policies.get(namespace, name)?.view;
        let spec = policy.spec.as_ref().ok()?.clone();
        Some(KnownPolicy { generation: policy.generation.unwrap_or_default(), spec })
    }

    /// Is there a workload of this kind and name that is, or was, annotated?
    pub fn knows_workload(&self, namespace: &str, kind: WorkloadKind, name: &str) -> bool {
        let known = match kind {
            WorkloadKind::Deployment => &self.deployments,
            WorkloadKind::StatefulSet => &self.stateful_sets,
            WorkloadKind::DaemonSet => &self.daemon_sets,
        };
        known.get(namespace, name).is_some()
    }

    /// How many Leases there are, and how many of them are held.
    pub fn leases(&self) -> (i64, i64) {
        self.leases
            .iter()
            .fold((0, 0), |(all, held), lease| (all + 1, held + i64::from(lease.holder.is_some())))
    }

    /// What one election is.
    pub fn observe(&mut self, key: &ElectionKey, now: Instant) -> Observed {
        let (namespace, name) = (key.namespace.as_str(), key.name.as_str());
        let object = names::object_name(name);
        let workloads = self.claims(namespace, name).cloned();
        let (left_over, claims): (Vec<Workload>, Vec<Workload>) =
            workloads.partition(|workload| workload.left_over);
        let policies = claims
            .iter()
            .filter_map(|claim| self.policies.get(namespace, &claim.policy))
            .map(|entry| (entry.view.identity.name.clone(), entry.view.clone()))
            .collect();
        let living = |entry: &&Entry<Pod>| entry.view.is_living();
        let mut pods: Vec<Pod> =
            self.pods.of_election(namespace, name).filter(living).map(|entry| entry.view.clone()).collect();
        pods.sort_by(|one, other| one.identity.name.cmp(&other.identity.name));
        let lease = self.leases.get(namespace, &object);
        let never_led = self.memory.never_led(key)
            && lease.is_some_and(|lease| memory::may_be_fresh(lease, self.pods.of_election(namespace, name)));
        let election = self.elections.get(namespace, name);
        let mut observed = Observed {
            key: key.clone(),
            now: wall_clock(),
            sidecar_image: self.sidecar_image.clone(),
            policies,
            lease: lease.map(|entry| entry.view.clone()),
            lease_version: lease.map(|entry| entry.version.clone()),
            role: self.roles.get(namespace, &object).map(|entry| entry.view.clone()),
            binding: self.bindings.get(namespace, &object).map(|entry| entry.view.clone()),
            election: election.map(|entry| entry.view.clone()),
            election_version: election.map(|entry| entry.version.clone()),
            injection_disabled: self.namespaces.get("", namespace).is_some()
                || names::SYSTEM_NAMESPACES.contains(&namespace),
            never_led,
            claims,
            left_over,
            pods,
            foreign: BTreeSet::new(),
            longest_lease: None,
            abandoned_for: None,
            touched: BTreeMap::new(),
        };
        let written = [
            observed.lease.as_ref().and_then(|lease| lease.longest_lease),
            observed.election.as_ref().and_then(|election| election.longest_lease),
        ];
        let in_use = leases_in_use(&observed);
        observed.longest_lease = self.longest_leases.follow(key, &in_use, written.into_iter().flatten(), now);
        observed.abandoned_for =
            self.abandoned_since(&observed, now).map(|since| now.saturating_duration_since(since));
        observed
    }

    /// Since when there is no workload, no pod and no write; counted from when this process first saw it so.
    fn abandoned_since(&mut self, observed: &Observed, now: Instant) -> Option<Instant> {
        let key = &observed.key;
        if !observed.claims.is_empty() || !observed.left_over.is_empty() || !observed.pods.is_empty() {
            self.abandoned_since.remove(key);
            return None;
        }
        let nothing_left = observed.lease.is_none()
            && observed.role.is_none()
            && observed.binding.is_none()
            && observed.election.is_none();
        if nothing_left {
            self.abandoned_since.remove(key);
            return None;
        }
        let lease = self.leases.get(&key.namespace, &names::object_name(&key.name));
        let since = self.abandoned_since.entry(key.clone()).or_insert(now);
        if let Some(lease) = lease {
            *since = lease.touched.max(*since);
        }
        Some(*since)
    }

    /// What the status of one policy depends on; `None`: there is no such policy.
    pub fn observe_policy(&self, key: &PolicyKey) -> Option<ObservedPolicy> {
        let policy = self.policies.get(&key.namespace, &key.name)?.view.clone();
        let names_it = |workload: &&Workload| {
            workload.identity.namespace == key.namespace
                && workload.policy == key.name
                && !workload.deleting
                && !workload.left_over
        };
        let elections: BTreeSet<String> =
            self.workloads().filter(names_it).filter_map(|workload| workload.election_name().ok()).collect();
        let carries_it = |pod: &&Pod| {
            pod.identity.namespace == key.namespace
                && pod.policy.as_ref() == Some(&key.name)
                && pod.is_living()
        };
        Some(ObservedPolicy {
            policy,
            now: wall_clock(),
            sidecar_image: self.sidecar_image.clone(),
            elections: elections.len(),
            pods: self.pods.iter().filter(carries_it).cloned().collect(),
        })
    }

    fn claims(&self, namespace: &str, election: &str) -> impl Iterator<Item = &Workload> {
        [&self.deployments, &self.stateful_sets, &self.daemon_sets]
            .into_iter()
            .flat_map(move |cache| cache.of_election(namespace, election))
            .map(|entry| &entry.view)
    }

    fn workloads(&self) -> impl Iterator<Item = &Workload> {
        [&self.deployments, &self.stateful_sets, &self.daemon_sets].into_iter().flat_map(Cache::iter)
    }

    pub(super) fn on_workload(change: &Change<Workload>) -> Reaction {
        let mut reaction = wake(change);
        for workload in change.before.iter().chain(&change.after) {
            let policy = PolicyKey::new(&workload.identity.namespace, &workload.policy);
            reaction.keys.insert(Key::Policy(policy));
        }
        reaction
    }

    pub(super) fn on_pod(&mut self, change: &Change<Pod>) -> Reaction {
        let listed = change.listed && change.after.as_ref().is_some_and(|pod| pod.sidecar.is_some());
        if listed || vanished(change).is_some_and(|pod| pod.sidecar.is_some()) {
            self.note(change);
        }
        let mut reaction = wake(change);
        for pod in change.before.iter().chain(&change.after) {
            let policy = pod.policy.as_ref().map(|policy| PolicyKey::new(&pod.identity.namespace, policy));
            reaction.keys.extend(policy.map(Key::Policy));
        }
        reaction.marks.extend(
            vanished(change).and_then(|pod| Mark::withdraw(&self.lease_of(pod)?.view, pod)).or_else(|| {
                let pod = change.after.as_ref()?;
                Mark::decide(&self.lease_of(pod)?.view, pod)
            }),
        );
        reaction
    }

    fn lease_of(&self, pod: &Pod) -> Option<&Entry<Lease>> {
        self.leases.get(&pod.identity.namespace, &names::object_name(pod.election.as_ref()?))
    }

    pub(super) fn on_lease(&mut self, change: &Change<Lease>) -> Reaction {
        self.note_listed_or_gone(change);
        if change.before.iter().chain(&change.after).any(|lease| lease.author != Author::Nobody) {
            // Whoever wrote may lead, and go on leading when somebody clears the record.
            self.note(change);
        }
        let mut reaction = wake(change);
        if let Some(lease) = &change.after
            && let Some(holder) = &lease.holder
            && let Some(pod) = self.pods.get(&lease.identity.namespace, &holder.pod)
        {
            reaction.marks.extend(Mark::decide(lease, &pod.view));
        }
        reaction
    }

    pub(super) fn on_election(&mut self, change: &Change<Election>) -> Reaction {
        self.note_listed_or_gone(change);
        wake(change)
    }

    pub(super) fn on_policy(&mut self, change: &Change<Policy>) -> Reaction {
        let mut reaction = Reaction::default();
        let spec =
            |policy: &Option<Policy>| policy.as_ref().map(|policy| (policy.generation, policy.spec.clone()));
        let Some(policy) = change.after.as_ref().or(change.before.as_ref()) else {
            return reaction;
        };
        reaction.keys.insert(policy_key(&policy.identity));
        // The rest is our own status.
        if spec(&change.before) != spec(&change.after) {
            let named = self.workloads().filter(|workload| {
                workload.identity.namespace == policy.identity.namespace
                    && workload.policy == policy.identity.name
            });
            reaction.keys.extend(named.flat_map(election_keys));
        }
        reaction
    }

    pub(super) fn on_namespace(&mut self, change: &Change<DisabledNamespace>) -> Reaction {
        let namespace =
            change.after.as_ref().or(change.before.as_ref()).map(|namespace| &namespace.identity.name);
        let inside = self.workloads().filter(|workload| Some(&workload.identity.namespace) == namespace);
        Reaction { keys: inside.flat_map(election_keys).collect(), marks: Vec::new() }
    }

    fn note_listed_or_gone<T: View>(&mut self, change: &Change<T>) {
        let uid = |view: &Option<T>| view.as_ref().map(|view| view.identity().uid.clone());
        let another = change.before.is_some() && uid(&change.before) != uid(&change.after);
        if change.listed || another {
            self.note(change);
        }
    }

    fn note<T: View>(&mut self, change: &Change<T>) {
        for (namespace, name) in change.elections() {
            self.memory.note(ElectionKey { namespace, name });
        }
    }
}

/// The elections that took part or take part are looked at.
pub(super) fn wake<T: View>(change: &Change<T>) -> Reaction {
    Reaction { keys: change.elections().iter().map(election_key).collect(), marks: Vec::new() }
}

/// A pod that is gone and was not seen to end: it was deleted by force, or with its node, and its programs may run on.
fn vanished(change: &Change<Pod>) -> Option<&Pod> {
    let after = change.after.as_ref().map(|pod| &pod.identity.uid);
    change.before.as_ref().filter(|pod| pod.is_living() && after != Some(&pod.identity.uid))
}

fn election_key((namespace, name): &Place) -> Key {
    Key::Election(ElectionKey::new(namespace, name))
}

fn election_keys(view: &Workload) -> Vec<Key> {
    let namespace = &view.identity().namespace;
    view.elections().into_iter().map(|name| Key::Election(ElectionKey::new(namespace, name))).collect()
}

fn policy_key(identity: &super::view::Identity) -> Key {
    Key::Policy(PolicyKey::new(&identity.namespace, &identity.name))
}

/// Whole seconds, as the API server keeps them: what is written now compares equal to what is read later.
fn wall_clock() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}
