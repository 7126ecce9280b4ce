//! What is published as Events.

use super::{
    claims::{Claims, misnamed_sentence},
    status::{Verdict, not_shared_sentence},
};
use crate::policy::observe::{
    Observed,
    view::Identity,
    workload::{Workload, WorkloadKind},
};
use conch_crds::{
    ElectionStatus,
    conditions::{ConditionStatus, ConditionType, Reason},
    election::Transition,
    events::EventReason,
    names,
};

/// An Event to publish on a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Why.
    pub reason: EventReason,
    /// Kind of the workload.
    pub kind: WorkloadKind,
    /// The workload.
    pub workload: Identity,
    /// The pod that it speaks of.
    pub pod: Option<Identity>,
    /// For people.
    pub note: String,
}

/// What changed since the status that was last written, which is the memory of what was said.
pub(super) fn notices(
    observed: &Observed,
    claims: &Claims<'_>,
    verdict: &Verdict,
    before: &ElectionStatus,
) -> Vec<Notice> {
    let keeper = claims.keeper();
    let leader =
        verdict.transition.as_ref().zip(keeper).map(|(change, keeper)| leader(observed, keeper, change));
    let mut notices: Vec<Notice> = leader.into_iter().collect();
    let is_news = |type_: ConditionType, reason: Reason, message: &str| {
        !before.conditions.iter().any(|condition| {
            condition.type_ == type_.as_str()
                && condition.reason == reason.as_str()
                && condition.message == message
        })
    };
    let ready = &verdict.ready;
    if ready.status == ConditionStatus::False && is_news(ConditionType::Ready, ready.reason, &ready.message) {
        notices.extend(obstacle(observed, claims, ready.reason, &ready.message));
    }
    let injected = &verdict.injected;
    if let Some(keeper) = keeper
        && let Some(reason) = without_sidecar(injected.reason, verdict.is_sidecar_required)
        && is_news(ConditionType::Injected, injected.reason, &injected.message)
    {
        notices.push(notice(reason, keeper, injected.message.clone()));
    }
    notices
}

/// The policy that needs no object was made for this workload.
pub(super) fn policy_created(workload: &Workload) -> Notice {
    let note =
        format!("CoordinationPolicy \"{}\" was made with every field at its default", names::DEFAULT_POLICY);
    notice(EventReason::PolicyCreated, workload, note)
}

/// Admission put the stamp late, or took it off late.
pub(super) fn touched(workload: &Workload) -> Notice {
    if workload.left_over {
        let note = format!(
            "the stamp of policy \"{}\" was taken off the pod template, as the annotation {} had been before; its pods are \
             replaced by ones without a sidecar",
            workload.policy,
            names::POLICY
        );
        return notice(EventReason::StampRemoved, workload, note);
    }
    let note = format!(
        "the pod template was stamped with policy \"{}\"; its pods are replaced by ones with a sidecar",
        workload.policy
    );
    notice(EventReason::Stamped, workload, note)
}

/// What happens to pods that get no sidecar for this reason; `None`: they do, or there are none.
fn without_sidecar(reason: Reason, is_required: bool) -> Option<EventReason> {
    match reason {
        Reason::InjectionDisabled | Reason::SidecarMissing => Some(EventReason::InjectionSkipped),
        Reason::HostNetwork
        | Reason::PortTaken
        | Reason::ContainerNameTaken
        | Reason::VolumeNameTaken
        | Reason::NotLinux => {
            Some(if is_required { EventReason::InjectionRefused } else { EventReason::InjectionSkipped })
        }
        _ => None,
    }
}

fn leader(observed: &Observed, keeper: &Workload, change: &Transition) -> Notice {
    let cause = change.cause.map(|cause| format!(" ({cause:?})")).unwrap_or_default();
    let election = &observed.key.name;
    let (reason, pod, note) = match (&change.to, &change.from) {
        (Some(to), Some(from)) if to != from => {
            (EventReason::LeaderElected, to, format!("{to} leads election {election} after {from}{cause}"))
        }
        (Some(to), _) => (EventReason::LeaderElected, to, format!("{to} leads election {election}{cause}")),
        (None, from) => {
            let from = from.as_ref().unwrap_or(election);
            (EventReason::LeadershipLost, from, format!("{from} leads election {election} no more{cause}"))
        }
    };
    let pod = observed.pods.iter().find(|known| known.identity.name == *pod).map(|pod| pod.identity.clone());
    Notice { pod, ..notice(reason, keeper, note) }
}

fn obstacle(observed: &Observed, claims: &Claims<'_>, reason: Reason, message: &str) -> Vec<Notice> {
    let to_keeper = |reason| {
        claims.keeper().map(|keeper| notice(reason, keeper, message.to_owned())).into_iter().collect()
    };
    match reason {
        Reason::PolicyNotFound => to_keeper(EventReason::PolicyNotFound),
        Reason::PolicyInvalid => to_keeper(EventReason::PolicyInvalid),
        Reason::NotOurs => to_keeper(EventReason::NotOurs),
        Reason::NotShared => {
            let told = |keeper: &Workload| {
                let sentence = |refused: &Workload| not_shared_sentence(refused, keeper, &observed.key.name);
                let notices = claims.refused.iter();
                notices
                    .map(|refused| notice(EventReason::ElectionNotShared, refused, sentence(refused)))
                    .collect()
            };
            claims.keeper().map(told).unwrap_or_default()
        }
        Reason::ElectionNameInvalid => {
            let misnamed = claims.misnamed.iter();
            misnamed
                .map(|workload| {
                    notice(EventReason::ElectionNameInvalid, workload, misnamed_sentence(workload))
                })
                .collect()
        }
        _ => Vec::new(),
    }
}

fn notice(reason: EventReason, workload: &Workload, note: String) -> Notice {
    Notice { reason, kind: workload.kind, workload: workload.identity.clone(), pod: None, note }
}
