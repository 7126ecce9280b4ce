//! Policies: which can be used, and what their status says.

use super::{Plan, Write};
use crate::{
    inject::{self, Injected, PolicyUnusable, SidecarImage},
    policy::observe::{Observed, ObservedPolicy, objects::Policy, workload::Pod},
};
use conch_crds::{
    CoordinationPolicy, CoordinationPolicySpec, CoordinationPolicyStatus,
    conditions::{self, ConditionStatus, ConditionType, Finding, Reason},
    names,
};
use kube::api::ObjectMeta;
use std::{collections::BTreeMap, time::Duration};

/// The policies that the workloads of one election name.
#[derive(Debug)]
pub(super) struct Policies<'o> {
    known: &'o BTreeMap<String, Policy>,
    default_is_missing: bool,
}

/// Why a policy gives no sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unusable {
    /// [`Reason::PolicyNotFound`] or [`Reason::PolicyInvalid`].
    pub(super) reason: Reason,
    /// What to do about it.
    pub(super) sentence: String,
}

impl<'o> Policies<'o> {
    /// Those that are known.
    pub(super) fn of(observed: &'o Observed) -> Self {
        let asked =
            observed.claims.iter().any(|claim| claim.policy == names::DEFAULT_POLICY && !claim.deleting);
        Self {
            known: &observed.policies,
            default_is_missing: asked && !observed.policies.contains_key(names::DEFAULT_POLICY),
        }
    }

    /// Is the policy that needs no object named, and not there yet?
    pub(super) fn default_is_missing(&self) -> bool {
        self.default_is_missing
    }

    /// The policy as an object; the default one also before it is made.
    pub(super) fn object(&self, name: &str, namespace: &str) -> Result<CoordinationPolicy, Unusable> {
        if name == names::DEFAULT_POLICY && self.default_is_missing {
            return Ok(default_policy(namespace));
        }
        let Some(policy) = self.known.get(name) else {
            let sentence = format!(
                "CoordinationPolicy \"{name}\" does not exist in namespace \"{namespace}\": create it"
            );
            return Err(Unusable { reason: Reason::PolicyNotFound, sentence });
        };
        let spec = usable(policy).map_err(|sentence| Unusable { reason: Reason::PolicyInvalid, sentence })?;
        let mut object = CoordinationPolicy::new(name, spec.clone());
        object.metadata.namespace = Some(namespace.to_owned());
        object.metadata.generation = policy.generation;
        Ok(object)
    }

    /// Do workloads with this policy share this election?
    pub(super) fn shares(&self, policy: &str, election: &str) -> bool {
        let spec = self.known.get(policy).and_then(|policy| policy.spec.as_ref().ok());
        spec.is_some_and(|spec| spec.shared_elections.iter().any(|shared| shared == election))
    }

    /// The lease duration of a policy, as far as it has one.
    pub(super) fn lease(&self, name: &str) -> Option<Duration> {
        if name == names::DEFAULT_POLICY && self.default_is_missing {
            return Some(CoordinationPolicySpec::default().timing.lease_duration.get());
        }
        let spec = self.known.get(name)?.spec.as_ref().ok()?;
        Some(spec.timing.lease_duration.get())
    }

    /// Was this pod injected by something else than what would be injected now?
    pub(super) fn is_outdated(&self, pod: &Pod, image: &SidecarImage) -> bool {
        let Some(policy) = pod.policy.as_ref().and_then(|name| self.known.get(name)) else {
            return false;
        };
        is_outdated(pod, policy, image)
    }
}

/// The policy that needs no object.
pub(super) fn default_policy(namespace: &str) -> CoordinationPolicy {
    CoordinationPolicy {
        metadata: ObjectMeta {
            name: Some(names::DEFAULT_POLICY.to_owned()),
            namespace: Some(namespace.to_owned()),
            generation: None,
            ..ObjectMeta::default()
        },
        spec: CoordinationPolicySpec::default(),
        status: None,
    }
}

/// Decides about the status of one policy.
pub fn plan_policy(observed: &ObservedPolicy) -> Plan {
    let ObservedPolicy { policy, now, sidecar_image, elections, pods } = observed;
    let injected: Vec<&Pod> = pods.iter().filter(|pod| pod.sidecar.is_some()).collect();
    let outdated = injected.iter().filter(|pod| is_outdated(pod, policy, sidecar_image)).count();
    let findings = [ready(policy), safe(policy), up_to_date(injected.len(), outdated)];
    let status = CoordinationPolicyStatus {
        observed_generation: policy.generation,
        conditions: conditions::merge(&policy.status.conditions, &findings, policy.generation, *now),
        elections: count(*elections),
        injected: count(injected.len()),
        outdated: count(outdated),
    };
    let mut plan = Plan::default();
    if status != policy.status {
        plan.writes.push(Write::PolicyStatus { policy: policy.identity.clone(), status: Box::new(status) });
    }
    plan
}

/// How many pods are behind, as a condition.
pub(super) fn up_to_date(injected: usize, outdated: usize) -> Finding {
    let (status, reason, message) = match (injected, outdated) {
        (0, _) => (ConditionStatus::Unknown, Reason::NoPods, "No pod has a sidecar.".to_owned()),
        (_, 0) => (
            ConditionStatus::True,
            Reason::AllCurrent,
            "Every sidecar is as it would be injected now.".to_owned(),
        ),
        _ => (
            ConditionStatus::False,
            Reason::PodsOutdated,
            format!(
                "{outdated} of {injected} pods were injected by an older policy or with another image: they follow when they \
                 are next replaced, e.g. by kubectl rollout restart."
            ),
        ),
    };
    Finding { type_: ConditionType::UpToDate, status, reason, message }
}

/// A number for a status.
pub(super) fn count(number: usize) -> u32 {
    number.try_into().unwrap_or(u32::MAX)
}

fn is_outdated(pod: &Pod, policy: &Policy, image: &SidecarImage) -> bool {
    let now = Injected {
        policy: policy.identity.name.clone(),
        generation: policy.generation.unwrap_or(0),
        image: image.reference.clone(),
    };
    pod.sidecar.as_ref().is_some_and(|sidecar| sidecar.injected.as_ref() != Some(&now))
}

fn usable(policy: &Policy) -> Result<&CoordinationPolicySpec, String> {
    let spec = policy.spec.as_ref().map_err(Clone::clone)?;
    match inject::timing(spec) {
        Ok(_) => Ok(spec),
        Err(unusable) => Err(unusable.to_string()),
    }
}

fn ready(policy: &Policy) -> Finding {
    let type_ = ConditionType::Ready;
    match usable(policy) {
        Ok(_) => Finding {
            type_,
            status: ConditionStatus::True,
            reason: Reason::Accepted,
            message: "The policy can be used.".to_owned(),
        },
        Err(message) => {
            Finding { type_, status: ConditionStatus::False, reason: Reason::PolicyInvalid, message }
        }
    }
}

fn safe(policy: &Policy) -> Finding {
    let (status, reason, message) = match policy.spec.as_ref().map(inject::timing) {
        Ok(Ok(timing)) => (
            ConditionStatus::True,
            Reason::TimingSafe,
            format!(
                "A leader that hears nothing stops after {} at the latest; the next one starts {} after it last saw a sign of it.",
                text(timing.validity()),
                text(timing.lease())
            ),
        ),
        Ok(Err(unusable @ PolicyUnusable::Timing(_))) => {
            (ConditionStatus::False, Reason::TimingUnsafe, unusable.to_string())
        }
        Ok(Err(unusable @ PolicyUnusable::StopGraceNeeded(_))) => {
            (ConditionStatus::False, Reason::StopGraceNeeded, unusable.to_string())
        }
        Err(error) => (ConditionStatus::Unknown, Reason::PolicyInvalid, error.clone()),
    };
    Finding { type_: ConditionType::Safe, status, reason, message }
}

fn text(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
