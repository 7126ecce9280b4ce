//! A namespace in memory: what is planned is done, and observed again.

use super::super::{Object, Plan, Write, leases_in_use, plan};
use crate::{
    inject::{PullPolicy, SidecarImage},
    policy::{
        ElectionKey,
        observe::{
            ObjectKind, Observed, Touches,
            longest::Leases,
            objects::{Election, Lease, Policy, Role, RoleBinding},
            readable::Readable,
            view::ViewOf,
            workload::{Pod, Workload},
        },
    },
};
use conch_crds::{CoordinationPolicy, Election as ElectionObject, names};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    coordination::v1::Lease as LeaseObject,
    core::v1::Pod as PodObject,
    rbac::v1::{Role as RoleObject, RoleBinding as RoleBindingObject},
};
use kube::ResourceExt;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

pub(super) const IMAGE: &str = "registry.example/conch-sidecar:2";

/// The election `payments` of namespace `shop`.
pub(super) struct World {
    pub(super) now: i64,
    pub(super) claims: Vec<Workload>,
    pub(super) left_over: Vec<Workload>,
    pub(super) policies: BTreeMap<String, Policy>,
    pub(super) pods: Vec<Pod>,
    pub(super) lease: Option<LeaseObject>,
    pub(super) role: Option<RoleObject>,
    pub(super) binding: Option<RoleBindingObject>,
    pub(super) election: Option<ElectionObject>,
    pub(super) injection_disabled: bool,
    pub(super) never_led: bool,
    pub(super) foreign: BTreeSet<ObjectKind>,
    pub(super) abandoned_for: Option<Duration>,
    pub(super) touched: BTreeMap<String, Touches>,
    /// The Lease as it was observed last.
    seen: Option<Lease>,
    pub(super) leases: Leases,
    /// By the clock of the operator.
    pub(super) instant: Instant,
    uids: u32,
}

impl World {
    /// With these workloads.
    pub(super) fn new(claims: Vec<Workload>) -> Self {
        Self {
            now: 1_000,
            claims,
            left_over: Vec::new(),
            policies: BTreeMap::new(),
            pods: Vec::new(),
            lease: None,
            role: None,
            binding: None,
            election: None,
            injection_disabled: false,
            never_led: false,
            foreign: BTreeSet::new(),
            abandoned_for: None,
            touched: BTreeMap::new(),
            seen: None,
            leases: Leases::default(),
            instant: Instant::now(),
            uids: 0,
        }
    }

    /// With one workload, and settled.
    pub(super) fn settled() -> Self {
        let mut world = Self::new(vec![deployment("payments", &json!({}))]);
        world.settle();
        world
    }

    pub(super) fn observe(&mut self) -> Observed {
        let lease = self.lease.clone().and_then(Lease::of);
        let lease = lease.map(|lease| crate::policy::observe::view::View::follow(lease, self.seen.as_ref()));
        self.seen.clone_from(&lease);
        let mut observed = Observed {
            key: ElectionKey::new("shop", "payments"),
            now: Timestamp::from_second(self.now).unwrap(),
            sidecar_image: SidecarImage { reference: IMAGE.to_owned(), pull_policy: PullPolicy::Always },
            claims: self.claims.clone(),
            left_over: self.left_over.clone(),
            policies: self.policies.clone(),
            pods: self.pods.clone(),
            election_version: None,
            lease_version: lease.is_some().then(|| "7".to_owned()),
            lease,
            role: self.role.clone().and_then(Role::of),
            binding: self.binding.clone().and_then(RoleBinding::of),
            election: self.election.clone().and_then(Election::of),
            injection_disabled: self.injection_disabled,
            never_led: self.never_led,
            foreign: self.foreign.clone(),
            longest_lease: None,
            abandoned_for: self.abandoned_for,
            touched: self.touched.clone(),
        };
        let written = [
            observed.lease.as_ref().and_then(|lease| lease.longest_lease),
            observed.election.as_ref().and_then(|election| election.longest_lease),
        ];
        let (key, in_use) = (&observed.key, leases_in_use(&observed));
        observed.longest_lease =
            self.leases.follow(key, &in_use, written.into_iter().flatten(), self.instant);
        observed
    }

    pub(super) fn plan(&mut self) -> Plan {
        plan(&self.observe())
    }

    /// Passes until there is nothing to write; all that was planned on the way.
    pub(super) fn settle(&mut self) -> Vec<Plan> {
        let mut plans = Vec::new();
        for _ in 0..10 {
            let plan = self.plan();
            if plan.writes.is_empty() {
                return plans;
            }
            for write in &plan.writes {
                self.perform(write);
            }
            plans.push(plan);
        }
        panic!("the plan is never done: {plans:#?}");
    }

    /// What the API server would make of a write.
    pub(super) fn perform(&mut self, write: &Write) {
        match write {
            Write::CreatePolicy { policy: made, .. } => {
                let made = policy(&json!({"metadata": {"name": made.name_any()}, "spec": made.spec}));
                self.policies.insert(made.identity.name.clone(), made);
            }
            Write::Create(object) | Write::Apply { object, .. } => self.put(object.clone()),
            Write::PatchLease { patch, .. } => self.patch_lease(patch),
            Write::Mark(mark) => self.patch_lease(&mark.patch().unwrap()),
            Write::Touch { workload, .. } => {
                self.touched
                    .insert(workload.uid.clone(), Touches { times: 1, ago: Duration::ZERO, refused: None });
                for claim in &mut self.claims {
                    if claim.identity.uid == workload.uid {
                        claim.stamp.policy = Some(claim.policy.clone());
                        claim.stamp.election = claim.election_name().ok();
                        claim.stamp.injection = Some("Required".to_owned());
                    }
                }
            }
            Write::ElectionStatus { status, .. } => {
                self.election.as_mut().unwrap().status = Some(round_trip(&**status));
            }
            Write::PolicyStatus { policy, status } => {
                self.policies.get_mut(&policy.name).unwrap().status = round_trip(&**status);
            }
            Write::Delete { kind, .. } => match kind {
                ObjectKind::Lease => self.lease = None,
                ObjectKind::Role => self.role = None,
                ObjectKind::RoleBinding => self.binding = None,
                ObjectKind::Election => self.election = None,
            },
        }
    }

    fn put(&mut self, object: Object) {
        self.uids += 1;
        let uid = Some(format!("uid-{}", self.uids));
        match object {
            Object::Lease(mut object) => {
                object.metadata.uid = uid;
                self.lease = Some(*object);
            }
            Object::Role(mut object) => {
                object.metadata.uid = uid;
                self.role = Some(*object);
            }
            Object::RoleBinding(mut object) => {
                object.metadata.uid = uid;
                self.binding = Some(*object);
            }
            Object::Election(mut object) => {
                object.metadata.uid = uid;
                object.metadata.generation = Some(1);
                object.status = self.election.take().and_then(|election| election.status);
                self.election = Some(*object);
            }
        }
    }

    pub(super) fn patch_lease(&mut self, patch: &Value) {
        let mut lease = serde_json::to_value(self.lease.take().unwrap()).unwrap();
        json_patch::merge(&mut lease, patch);
        self.lease = Some(serde_json::from_value(lease).unwrap());
    }

    /// A sidecar takes the lead.
    pub(super) fn hold(&mut self, holder: &str, token: Option<&str>) {
        self.patch_lease(&json!({
            "metadata": {"annotations": {names::RECORD: "held", names::TOKEN: token, names::FRESH: null}},
            "spec": {"holderIdentity": holder, "acquireTime": micro_time(self.now)},
        }));
    }

    /// The same, with the whole record of a sidecar that leads by a lease of this length.
    pub(super) fn hold_for(&mut self, holder: &str, seconds: u64) {
        self.hold(holder, None);
        let nonce = "0".repeat(31) + "a";
        let held = json!({"holder": format!("p_u_{nonce}"), "term": format!("{nonce}.1"), "leaseSeconds": seconds,
            "reacquired": false});
        let record =
            json!({"form": 2, "write": format!("{nonce}.1"), "transitions": 1, "claim": {"held": held}})
                .to_string();
        self.patch_lease(&json!({"metadata": {"annotations": {names::RECORD: record}},
            "spec": {"leaseDurationSeconds": seconds}}));
    }

    /// A sidecar gives it up.
    pub(super) fn release(&mut self) {
        self.patch_lease(&json!({"metadata": {"annotations": {names::RECORD: "released"}},
            "spec": {"holderIdentity": ""}}));
    }

    pub(super) fn condition(&self, type_: &str) -> (String, String) {
        let status = self.election.as_ref().unwrap().status.as_ref().unwrap();
        let found = status.conditions.iter().find(|condition| condition.type_ == type_).unwrap();
        (found.reason.clone(), found.message.clone())
    }
}

fn micro_time(second: i64) -> String {
    format!("{:.6}", Timestamp::from_second(second).unwrap())
}

fn round_trip<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    serde_json::from_value(serde_json::to_value(value).unwrap()).unwrap()
}

/// A stamped Deployment, changed by a merge patch.
pub(super) fn deployment(name: &str, patch: &Value) -> Workload {
    let mut object = workload(name);
    json_patch::merge(&mut object, patch);
    Workload::of(serde_json::from_value::<Deployment>(object).unwrap()).unwrap()
}

/// The same as a `StatefulSet`.
pub(super) fn stateful_set(name: &str, patch: &Value) -> Workload {
    let mut object = workload(name);
    json_patch::merge(&mut object, patch);
    Workload::of(serde_json::from_value::<StatefulSet>(object).unwrap()).unwrap()
}

fn workload(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-of-{name}"),
            "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {names::POLICY: "default"}},
        "spec": {"selector": {}, "template": {
            "metadata": {"labels": {
                names::POLICY: "default", names::ELECTION_LABEL: "payments", names::INJECTION: "Required"}},
            "spec": {"containers": [{"name": "app"}]}}},
    })
}

/// A policy that was read.
pub(super) fn policy(object: &Value) -> Policy {
    let mut base = json!({"apiVersion": "conch.rs/v1alpha1", "kind": "CoordinationPolicy",
        "metadata": {"namespace": "shop", "uid": "p", "generation": 1}, "spec": {}});
    json_patch::merge(&mut base, object);
    let object: Readable<CoordinationPolicy> = serde_json::from_value(base).unwrap();
    Policy::of(object).unwrap()
}

/// An injected, running pod, changed by a merge patch.
pub(super) fn pod(name: &str, patch: &Value) -> Pod {
    let mut object = json!({
        "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-of-{name}"),
            "labels": {names::POLICY: "default", names::ELECTION_LABEL: "payments"},
            "annotations": {names::INJECTED: format!("default@1/{IMAGE}")}},
        "spec": {"containers": [], "initContainers": [{"name": "conch", "image": IMAGE,
            "env": [{"name": "CONCH_LEASE_DURATION_MS", "value": "15000"}]}]},
        "status": {"phase": "Running", "initContainerStatuses": [
            {"name": "conch", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}}]},
    });
    json_patch::merge(&mut object, patch);
    Pod::of(serde_json::from_value::<PodObject>(object).unwrap()).unwrap()
}
