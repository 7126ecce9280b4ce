//! What the page of an election says.

use super::{
    claims::{Claims, misnamed_sentence},
    policies::{Policies, Unusable, count, up_to_date},
};
use crate::{
    inject::{self, Decision, RefusalReason},
    policy::observe::{
        Observed,
        workload::{Pod, Workload},
    },
};
use conch_crds::{
    ElectionStatus,
    conditions::{self, ConditionStatus, ConditionType, Finding, Reason},
    election::{TRANSITIONS_MAX, Transition, TransitionCause, WorkloadReference},
    names,
    policy::InjectionMode,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

/// The status, and what in it is worth an Event.
pub(super) struct Verdict {
    /// The whole status.
    pub(super) status: ElectionStatus,
    /// The leader changed.
    pub(super) transition: Option<Transition>,
    /// What stands in the way of an election.
    pub(super) ready: Finding,
    /// What stands in the way of its sidecars.
    pub(super) injected: Finding,
    /// Is a pod that cannot have its sidecar refused?
    pub(super) is_sidecar_required: bool,
}

/// Decides about the status of an election.
pub(super) fn judge(observed: &Observed, policies: &Policies<'_>, claims: &Claims<'_>) -> Verdict {
    let before = observed.election.as_ref().map(|election| election.status.clone()).unwrap_or_default();
    let generation = observed.election.as_ref().and_then(|election| election.generation);
    let pods: Vec<&Pod> = observed.pods.iter().filter(|pod| claims.includes(pod)).collect();
    let with_sidecar = pods.iter().filter(|pod| pod.sidecar.is_some()).count();
    let candidates =
        pods.iter().filter(|pod| pod.sidecar.as_ref().is_some_and(|sidecar| sidecar.running)).count();
    let outdated = pods.iter().filter(|pod| policies.is_outdated(pod, &observed.sidecar_image)).count();
    let missing = pods.len() - with_sidecar;

    let ready = ready(observed, policies, claims, candidates);
    let injected = injected(observed, policies, claims, missing);
    let up_to_date = up_to_date(with_sidecar, outdated);
    let keeper = claims.keeper().or_else(|| claims.all().next());
    let mut status = ElectionStatus {
        observed_generation: generation,
        holder: None,
        since: None,
        token: None,
        policy: keeper.map_or(before.policy.clone(), |keeper| keeper.policy.clone()),
        workload: keeper.map_or(before.workload.clone(), reference),
        lease_name: names::object_name(&observed.key.name),
        candidates: count(candidates),
        missing: count(missing),
        outdated: count(outdated),
        transitions: before.transitions.clone(),
        conditions: conditions::merge(
            &before.conditions,
            &[ready.clone(), injected.clone(), up_to_date],
            generation,
            observed.now,
        ),
    };
    let transition = follow_leader(observed, &before, &mut status);
    let policy =
        claims.keeper().and_then(|keeper| policies.object(&keeper.policy, &observed.key.namespace).ok());
    let is_sidecar_required = policy.is_none_or(|policy| policy.spec.injection == InjectionMode::Required);
    Verdict { status, transition, ready, injected, is_sidecar_required }
}

/// Fills in who leads, and remembers the change if there was one.
fn follow_leader(
    observed: &Observed,
    before: &ElectionStatus,
    status: &mut ElectionStatus,
) -> Option<Transition> {
    if let Some(lease) = &observed.lease
        && let Some(holder) = &lease.holder
    {
        status.holder = Some(holder.pod.clone());
        status.since = lease.since.map(|since| Time(whole_seconds(since)));
        status.token.clone_from(&lease.token);
    }
    // A term has its token only from the first renewal on.
    let other_token = matches!((&before.token, &status.token), (Some(old), Some(new)) if old != new);
    if before.holder == status.holder && before.since == status.since && !other_token {
        if let Some(last) = status.transitions.last_mut()
            && last.token.is_none()
            && last.to == status.holder
        {
            last.token.clone_from(&status.token);
        }
        return None;
    }
    let is_first = before.transitions.is_empty() && before.holder.is_none();
    let cause = observed.lease.as_ref().and_then(|lease| lease.cause);
    let transition = Transition {
        at: Time(observed.now),
        from: before.holder.clone(),
        to: status.holder.clone(),
        cause: if is_first { Some(TransitionCause::FirstLeader) } else { cause },
        token: status.token.clone(),
    };
    status.transitions.push(transition.clone());
    let surplus = status.transitions.len().saturating_sub(TRANSITIONS_MAX);
    status.transitions.drain(..surplus);
    Some(transition)
}

fn ready(observed: &Observed, policies: &Policies<'_>, claims: &Claims<'_>, candidates: usize) -> Finding {
    let finding = |status, reason, message| Finding { type_: ConditionType::Ready, status, reason, message };
    if let Some((reason, message)) = obstacle(observed, policies, claims) {
        return finding(ConditionStatus::False, reason, message);
    }
    match observed.lease.as_ref().and_then(|lease| lease.holder.as_ref()) {
        Some(holder) => finding(ConditionStatus::True, Reason::Led, format!("Pod {} leads.", holder.pod)),
        None if candidates == 0 => finding(
            ConditionStatus::False,
            Reason::NoCandidates,
            "No pod runs a sidecar; see the condition Injected.".to_owned(),
        ),
        None => finding(
            ConditionStatus::False,
            Reason::NoLeader,
            format!(
                "None of {candidates} candidates leads: their programs may not have asked yet, or a lease must pass first."
            ),
        ),
    }
}

/// What a person has to clear away, the worst first.
fn obstacle(observed: &Observed, policies: &Policies<'_>, claims: &Claims<'_>) -> Option<(Reason, String)> {
    let Some(keeper) = claims.keeper() else {
        return Some(match claims.misnamed.first() {
            Some(workload) => {
                (Reason::ElectionNameInvalid, format!("{}: {}", title(workload), misnamed_sentence(workload)))
            }
            None => (Reason::NoCandidates, "No workload asks for this election any more.".to_owned()),
        });
    };
    if let Some(kind) = observed.foreign.first() {
        let name = names::object_name(&observed.key.name);
        let message = format!(
            "{} {name} exists and was not made by Conch: rename or delete it, or name another election in the annotation {}",
            kind.as_str(),
            names::ELECTION
        );
        return Some((Reason::NotOurs, message));
    }
    if let Err(Unusable { reason, sentence }) = policies.object(&keeper.policy, &observed.key.namespace) {
        return Some((reason, sentence));
    }
    claims
        .refused
        .first()
        .map(|refused| (Reason::NotShared, not_shared_sentence(refused, keeper, &observed.key.name)))
}

/// What a workload that came too late is told.
pub(super) fn not_shared_sentence(refused: &Workload, keeper: &Workload, election: &str) -> String {
    format!(
        "{} asks for the election of {}: give it another name by the annotation {}, or list \"{election}\" in the \
         sharedElections of both policies",
        title(refused),
        title(keeper),
        names::ELECTION
    )
}

fn injected(observed: &Observed, policies: &Policies<'_>, claims: &Claims<'_>, missing: usize) -> Finding {
    let finding =
        |status, reason, message| Finding { type_: ConditionType::Injected, status, reason, message };
    if observed.injection_disabled {
        let namespace = observed.key.namespace.as_str();
        let message = if names::SYSTEM_NAMESPACES.contains(&namespace) {
            format!(
                "Nothing is injected in namespace {namespace}, which belongs to the cluster itself: run the workload in another one."
            )
        } else {
            format!("Namespace {namespace} is labelled {}=disabled: take the label off.", names::INJECTION)
        };
        return finding(ConditionStatus::False, Reason::InjectionDisabled, message);
    }
    let refusal = claims.members.iter().find_map(|member| template_refusal(observed, policies, member));
    if let Some((reason, sentence)) = refusal {
        return finding(ConditionStatus::False, reason, sentence);
    }
    if let Some(workload) = claims.unstamped().next() {
        let refused =
            observed.touched.get(&workload.identity.uid).and_then(|touches| touches.refused.as_ref());
        let message = match refused {
            None => format!(
                "The pod template of {} carries no stamp yet: is the webhook of the operator reachable?",
                title(workload)
            ),
            Some(refused) => format!(
                "The pod template of {} carries no stamp, and the API server refuses the operator's attempt to get one: {refused}. \
                 Another webhook may change the pod template in the same request. Write the workload yourself, for instance its \
                 annotation {} once more.",
                title(workload),
                names::POLICY
            ),
        };
        return finding(ConditionStatus::False, Reason::NotStamped, message);
    }
    if missing > 0 {
        let message = format!(
            "{missing} of {} pods have no sidecar, because nobody injected it when they were made: was the operator away? Replace them.",
            observed.pods.len()
        );
        return finding(ConditionStatus::False, Reason::SidecarMissing, message);
    }
    if observed.pods.is_empty() {
        return finding(ConditionStatus::Unknown, Reason::NoPods, "There are no pods.".to_owned());
    }
    finding(
        ConditionStatus::True,
        Reason::AllInjected,
        "Every pod of the stamped template has its sidecar.".to_owned(),
    )
}

/// Why no pod of this template can have its sidecar, by the same decision that admission makes.
fn template_refusal(
    observed: &Observed,
    policies: &Policies<'_>,
    workload: &Workload,
) -> Option<(Reason, String)> {
    let namespace = &observed.key.namespace;
    let policy = policies.object(&workload.policy, namespace).ok()?;
    let mut template = serde_json::to_value(&workload.template).ok()?;
    stamp(&mut template, workload, &observed.key.name);
    match inject::decide(&template, namespace, Some((&policy).into()), &observed.sidecar_image) {
        Decision::Refuse(refusal) if refusal.reason != RefusalReason::NotStamped => {
            Some((refusal.reason.condition(), refusal.sentence))
        }
        _ => None,
    }
}

/// The labels that admission will put.
fn stamp(template: &mut Value, workload: &Workload, election: &str) {
    let Some(template) = template.as_object_mut() else { return };
    let metadata = template.entry("metadata").or_insert_with(|| json!({}));
    let Some(metadata) = metadata.as_object_mut() else { return };
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    if let Some(labels) = labels.as_object_mut() {
        labels.insert(names::POLICY.to_owned(), json!(workload.policy));
        labels.insert(names::ELECTION_LABEL.to_owned(), json!(election));
    }
}

fn title(workload: &Workload) -> String {
    format!("{} {}", workload.kind, workload.identity.name)
}

fn reference(workload: &Workload) -> WorkloadReference {
    WorkloadReference { kind: workload.kind.as_str().to_owned(), name: workload.identity.name.clone() }
}

/// As a status keeps it: what is written now compares equal to what is read later.
fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
