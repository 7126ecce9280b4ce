//! Workloads that ask for an election, and their pods.

use super::view::{Identity, View, ViewOf, annotation, label};
use crate::inject::{self, Injected};
use conch_crds::names::{self, sidecar_env};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, StatefulSet},
        core::v1::{Container, Pod as PodObject, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use std::{fmt, time::Duration};

/// The kinds of workloads that can be annotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WorkloadKind {
    /// apps/v1 Deployment.
    Deployment,
    /// apps/v1 `StatefulSet`.
    StatefulSet,
    /// apps/v1 `DaemonSet`.
    DaemonSet,
}

/// A workload with the annotation [`names::POLICY`], or with the stamp that such a one left.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Which object.
    pub identity: Identity,
    /// Of which kind.
    pub kind: WorkloadKind,
    /// When it was made; the oldest one keeps an election that several ask for.
    pub created: Option<Timestamp>,
    /// Is it marked for deletion?
    pub deleting: bool,
    /// The annotation was removed while the webhook was away: it asks for nothing any more, and its template is still
    /// stamped.
    pub left_over: bool,
    /// The policy that it names, or that its stamp does.
    pub policy: String,
    /// The election that it names, if it does, or that its stamp does.
    pub election: Option<String>,
    /// What admission has stamped on its template.
    pub stamp: Stamp,
    /// The template of its pods.
    pub template: PodTemplateSpec,
}

/// The three labels of a pod template from which the admission of its pods works.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// [`names::POLICY`]
    pub policy: Option<String>,
    /// [`names::ELECTION`]
    pub election: Option<String>,
    /// [`names::INJECTION`]
    pub injection: Option<String>,
}

/// A pod with the label [`names::POLICY`].
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// Which object.
    pub identity: Identity,
    /// The policy in its labels.
    pub policy: Option<String>,
    /// The election in its labels.
    pub election: Option<String>,
    /// Kind and name of what made it, a Deployment in place of its `ReplicaSet`.
    pub workload: Option<(WorkloadKind, String)>,
    /// Its service account.
    pub service_account: String,
    /// Present once it is being deleted.
    pub deletion: Option<Deletion>,
    /// Has it come to its end? Then nothing in it runs, or ever will.
    pub finished: bool,
    /// Its sidecar, if it was injected.
    pub sidecar: Option<Sidecar>,
}

/// How a pod is being deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// How long it has from then on.
    pub grace_seconds: u32,
}

/// The injected container of a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Sidecar {
    /// The image in the pod's spec.
    pub image: String,
    /// The lease duration that it was given.
    pub lease: Option<Duration>,
    /// What it was built from; `None`: its annotation cannot be read.
    pub injected: Option<Injected>,
    /// Does it run?
    pub running: bool,
}

impl Workload {
    fn from_parts(
        kind: WorkloadKind,
        metadata: &ObjectMeta,
        template: impl FnOnce() -> Option<PodTemplateSpec>,
    ) -> Option<Self> {
        let asked = annotation(metadata, names::POLICY).filter(|name| !name.is_empty());
        let is_stamped = |template: &PodTemplateSpec| Stamp::of(template).policy.is_some();
        let template = template().filter(|template| asked.is_some() || is_stamped(template))?;
        let stamp = Stamp::of(&template);
        let left_over = asked.is_none();
        if left_over && !is_left_by_admission(metadata, &template) {
            return None;
        }
        let election = if left_over { stamp.election.clone() } else { annotation(metadata, names::ELECTION) };
        Some(Self {
            identity: Identity::of(metadata),
            kind,
            created: metadata.creation_timestamp.as_ref().map(|time| time.0),
            deleting: metadata.deletion_timestamp.is_some(),
            left_over,
            policy: asked.or_else(|| stamp.policy.clone())?,
            election,
            stamp,
            template,
        })
    }

    /// The election that it asks for. `Err`: what the annotation says is no name, and this is the name that the election
    /// would have without it.
    pub fn election_name(&self) -> Result<String, String> {
        names::election_name(self.election.as_deref(), &self.identity.name)
            .map_err(|_| names::fit_name(&self.identity.name))
    }

    /// Does its template say what its annotations say? Whether a sidecar is required is not compared: admission keeps the
    /// word with which pods were made until they are replaced for another reason.
    pub fn is_stamped(&self) -> bool {
        !self.left_over
            && self.stamp.policy.as_ref() == Some(&self.policy)
            && self.stamp.election == self.election_name().ok()
            && self.stamp.injection.is_some()
    }

    /// The service account of its future pods.
    pub fn service_account(&self) -> String {
        let spec = self.template.spec.as_ref();
        service_account(spec.and_then(|spec| spec.service_account_name.as_deref()))
    }
}

impl View for Workload {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn elections(&self) -> Vec<String> {
        vec![self.election_name().unwrap_or_else(|fallback| fallback)]
    }
}

impl ViewOf<Deployment> for Workload {
    fn of(object: Deployment) -> Option<Self> {
        Self::from_parts(WorkloadKind::Deployment, &object.metadata, || Some(object.spec?.template))
    }
}

impl ViewOf<StatefulSet> for Workload {
    fn of(object: StatefulSet) -> Option<Self> {
        Self::from_parts(WorkloadKind::StatefulSet, &object.metadata, || Some(object.spec?.template))
    }
}

impl ViewOf<DaemonSet> for Workload {
    fn of(object: DaemonSet) -> Option<Self> {
        Self::from_parts(WorkloadKind::DaemonSet, &object.metadata, || Some(object.spec?.template))
    }
}

impl WorkloadKind {
    /// As it is written on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
        }
    }
}

impl fmt::Display for WorkloadKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl Stamp {
    fn of(template: &PodTemplateSpec) -> Self {
        let Some(metadata) = &template.metadata else {
            return Self::default();
        };
        Self {
            policy: label(metadata, names::POLICY),
            election: label(metadata, names::ELECTION),
            injection: label(metadata, names::INJECTION),
        }
    }
}

impl Pod {
    /// May something in it still run?
    pub fn is_living(&self) -> bool {
        !self.finished
    }
}

impl ViewOf<PodObject> for Pod {
    fn of(object: PodObject) -> Option<Self> {
        let metadata = &object.metadata;
        let phase = object.status.as_ref().and_then(|status| status.phase.as_deref());
        let spec = object.spec.as_ref();
        Some(Self {
            identity: Identity::of(metadata),
            policy: label(metadata, names::POLICY),
            election: label(metadata, names::ELECTION),
            workload: workload_of(metadata),
            service_account: service_account(spec.and_then(|spec| spec.service_account_name.as_deref())),
            deletion: metadata.deletion_timestamp.as_ref().map(|_| Deletion {
                grace_seconds: metadata
                    .deletion_grace_period_seconds
                    .and_then(|seconds| seconds.try_into().ok())
                    .unwrap_or_default(),
            }),
            finished: matches!(phase, Some("Succeeded" | "Failed")),
            sidecar: sidecar(&object),
        })
    }
}

impl View for Pod {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn elections(&self) -> Vec<String> {
        self.election.iter().cloned().collect()
    }
}

fn sidecar(pod: &PodObject) -> Option<Sidecar> {
    let containers = pod.spec.as_ref()?.init_containers.as_ref()?;
    let container = containers.iter().find(|container| container.name == names::SIDECAR_CONTAINER)?;
    let statuses = pod.status.as_ref().and_then(|status| status.init_container_statuses.as_ref());
    let running = statuses.into_iter().flatten().any(|status| {
        status.name == names::SIDECAR_CONTAINER
            && status.state.as_ref().is_some_and(|state| state.running.is_some())
    });
    Some(Sidecar {
        image: container.image.clone().unwrap_or_default(),
        lease: environment(container, sidecar_env::LEASE_DURATION)
            .and_then(|milliseconds| milliseconds.parse().ok())
            .map(Duration::from_millis),
        injected: annotation(&pod.metadata, names::INJECTED).and_then(|text| text.parse().ok()),
        running,
    })
}

fn is_left_by_admission(metadata: &ObjectMeta, template: &PodTemplateSpec) -> bool {
    let managers = metadata.managed_fields.iter().flatten().filter_map(|entry| entry.fields_v1.as_ref());
    serde_json::to_value(template).is_ok_and(|template| {
        inject::Stamp::is_left_by_admission(&template, managers.map(|fields| &fields.0))
    })
}

fn environment<'c>(container: &'c Container, name: &str) -> Option<&'c str> {
    container.env.as_ref()?.iter().find(|variable| variable.name == name)?.value.as_deref()
}

fn service_account(name: Option<&str>) -> String {
    name.filter(|name| !name.is_empty()).unwrap_or("default").to_owned()
}

/// Kind and name of the workload that a pod belongs to. A Deployment's pods belong to a `ReplicaSet` that is named after it and the pod's own hash label.
pub fn workload_of(metadata: &ObjectMeta) -> Option<(WorkloadKind, String)> {
    let owner = metadata.owner_references.as_ref()?.iter().find(|owner| owner.controller == Some(true))?;
    match owner.kind.as_str() {
        "ReplicaSet" => {
            let hash = label(metadata, "pod-template-hash")?;
            let name = owner.name.strip_suffix(&format!("-{hash}"))?;
            Some((WorkloadKind::Deployment, name.to_owned()))
        }
        "StatefulSet" => Some((WorkloadKind::StatefulSet, owner.name.clone())),
        "DaemonSet" => Some((WorkloadKind::DaemonSet, owner.name.clone())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(value: Value) -> Pod {
        Pod::of(serde_json::from_value::<PodObject>(value).unwrap()).unwrap()
    }

    #[test]
    fn a_pod_of_a_replica_set_belongs_to_its_deployment_even_if_the_name_ends_in_hyphens_and_digits() {
        let view = pod(json!({"metadata": {"name": "a-b-1-5d4f-x", "labels": {"pod-template-hash": "5d4f"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "a-b-1-5d4f", "uid": "r",
                "controller": true}]}}));
        assert_eq!(view.workload, Some((WorkloadKind::Deployment, "a-b-1".to_owned())));
    }

    #[test]
    fn a_sidecar_is_read_from_spec_status_and_annotation() {
        let view = pod(json!({
            "metadata": {"name": "p", "annotations": {"conch.rs/injected": "default@3/image:1"},
                "labels": {"conch.rs/election": "e"}, "deletionTimestamp": "2026-01-01T00:00:00Z",
                "deletionGracePeriodSeconds": 30},
            "spec": {"containers": [], "initContainers": [{"name": "conch", "image": "image:1",
                "env": [{"name": "CONCH_LEASE_DURATION_MS", "value": "15000"}]}]},
            "status": {"phase": "Running", "initContainerStatuses": [{"name": "conch", "image": "", "imageID": "",
                "ready": true, "restartCount": 0, "state": {"running": {}}}]},
        }));
        assert_eq!(
            view.sidecar,
            Some(Sidecar {
                image: "image:1".to_owned(),
                lease: Some(Duration::from_secs(15)),
                injected: Some(Injected {
                    policy: "default".to_owned(),
                    generation: 3,
                    image: "image:1".to_owned(),
                }),
                running: true,
            })
        );
        assert_eq!(view.deletion, Some(Deletion { grace_seconds: 30 }));
        assert_eq!(view.service_account, "default");
        assert!(view.is_living());
    }

    #[test]
    fn a_workload_without_the_annotation_is_not_remembered() {
        let plain: Deployment = serde_json::from_value(
            json!({"metadata": {"name": "d"}, "spec": {"selector": {}, "template": {}}}),
        )
        .unwrap();
        assert!(Workload::of(plain).is_none());
    }

    #[test]
    fn a_stamp_without_annotation_is_left_over_unless_a_person_wrote_it() {
        let view = |managers: Value| {
            let labels =
                json!({names::POLICY: "default", names::ELECTION_LABEL: "e", names::INJECTION: "Required"});
            let object = json!({"metadata": {"name": "d", "managedFields": managers},
                "spec": {"selector": {}, "template": {"metadata": {"labels": labels}}}});
            Workload::of(serde_json::from_value::<Deployment>(object).unwrap())
        };
        let owns = |labels: Value| {
            json!([{"manager": "kubectl", "operation": "Update", "fieldsType": "FieldsV1",
            "fieldsV1": {"f:spec": {"f:template": {"f:metadata": {"f:labels": labels}}}}}])
        };
        let left_over = view(owns(json!({"f:app": {}}))).unwrap();
        assert!(left_over.left_over && !left_over.is_stamped());
        assert_eq!(left_over.elections(), ["e"]);
        assert!(view(owns(json!({"f:conch.rs/policy": {}}))).is_none());
        assert!(view(json!([])).is_none(), "nothing is known of who wrote it");
    }

    #[test]
    fn a_heartbeat_in_the_status_of_a_workload_changes_nothing_that_matters() {
        let before = json!({"metadata": {"name": "d", "annotations": {"conch.rs/policy": "default"}},
            "spec": {"selector": {}, "template": {}}});
        let mut after = before.clone();
        after["status"] = json!({"replicas": 3});
        after["metadata"]["resourceVersion"] = json!("7");
        let view = |value: Value| {
            let deployment: Deployment = serde_json::from_value(value).unwrap();
            Workload::of(deployment).unwrap()
        };
        assert_eq!(view(before), view(after));
    }
}
