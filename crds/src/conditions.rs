//! The conditions in the status of policies and elections: their types, their reasons, and how they change.

use crate::wire_enum::wire_enum;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

wire_enum! {
    /// What a condition speaks of.
    ConditionType {
        /// Of a policy: the operator uses it. Of an election: a pod leads, and nothing stands in the way of the next one.
        Ready,
        /// Of a policy: two leaders at once are excluded with its timing.
        Safe,
        /// Of an election: every pod of the workload has its sidecar.
        Injected,
        /// Of both: every sidecar is of the policy's generation and the operator's image.
        UpToDate,
    }
}

wire_enum! {
    /// Why a condition has its status.
    Reason {
        /// Ready, of a policy: valid and in use, or ready for it.
        Accepted,
        /// Ready, of an election: a pod leads.
        Led,
        /// Not ready: no pod leads, although there are candidates.
        NoLeader,
        /// Not ready: no pod runs a sidecar whose program has asked.
        NoCandidates,
        /// Not ready: the workload names a policy that does not exist in its namespace.
        PolicyNotFound,
        /// Not ready: the policy exists but cannot be used; its own conditions say why.
        PolicyInvalid,
        /// Not ready: another workload holds the election, and the policy does not share it.
        NotShared,
        /// Not ready: a Lease, Role, `RoleBinding` or Election of the needed name exists and belongs to something else.
        NotOurs,
        /// Not ready: the workload's election annotation is no valid name.
        ElectionNameInvalid,

        /// Safe: every check of the timing holds.
        TimingSafe,
        /// Not safe: the message names the number to change.
        TimingUnsafe,
        /// Not safe: stopGrace is zero, or shorter than answers are kept, although two leaders at once would damage data.
        StopGraceNeeded,

        /// Injected: every pod has its sidecar.
        AllInjected,
        /// Not known: the workload has no pods.
        NoPods,
        /// Not injected: the pod template carries no stamp yet.
        NotStamped,
        /// Not injected: pods were made before the workload was annotated, or while the operator could not be reached.
        SidecarMissing,
        /// Not injected: the namespace is labelled `conch.rs/injection=disabled`.
        InjectionDisabled,
        /// Not injected: pods on the host's network would share the sidecar's port with the whole node.
        HostNetwork,
        /// Not injected: a container of the pod declares one of the sidecar's ports.
        PortTaken,
        /// Not injected: the pod has a container of the sidecar's name that is not ours.
        ContainerNameTaken,
        /// Not injected: the pod has a volume of our volume's name that is not ours.
        VolumeNameTaken,
        /// Not injected: the pod asks for another operating system than Linux.
        NotLinux,

        /// Up to date: no pod is behind.
        AllCurrent,
        /// Not up to date: pods follow when they are next replaced.
        PodsOutdated,
    }
}

/// The status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It cannot be told.
    Unknown,
}

/// What one pass of the operator found: a condition without its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it speaks of.
    pub type_: ConditionType,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// Why.
    pub reason: Reason,
    /// For people: what was found and what to do about it.
    pub message: String,
}

impl ConditionStatus {
    /// As it is written on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// The conditions that say what was found at `now` about an object of this `generation`. A condition that stood in
/// `before` with the same status keeps its time of transition; what was not found any more is gone.
pub fn merge(
    before: &[Condition],
    findings: &[Finding],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    findings.iter().map(|finding| condition(before, finding, generation, now)).collect()
}

fn condition(before: &[Condition], finding: &Finding, generation: Option<i64>, now: Timestamp) -> Condition {
    let unchanged = before
        .iter()
        .find(|old| old.type_ == finding.type_.as_str() && old.status == finding.status.as_str());
    Condition {
        type_: finding.type_.as_str().to_owned(),
        status: finding.status.as_str().to_owned(),
        reason: finding.reason.as_str().to_owned(),
        message: finding.message.clone(),
        observed_generation: generation,
        last_transition_time: unchanged.map_or(Time(now), |old| old.last_transition_time.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(status: ConditionStatus, reason: Reason) -> Finding {
        Finding { type_: ConditionType::Ready, status, reason, message: reason.to_string() }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_time_of_transition_changes_with_the_status_alone() {
        let first = merge(&[], &[finding(ConditionStatus::False, Reason::NoLeader)], Some(1), at(10));
        assert_eq!(first[0].last_transition_time.0, at(10));

        let other_reason =
            merge(&first, &[finding(ConditionStatus::False, Reason::NotShared)], Some(2), at(20));
        assert_eq!(other_reason[0].last_transition_time.0, at(10));
        assert_eq!(other_reason[0].reason, "NotShared");
        assert_eq!(other_reason[0].observed_generation, Some(2));

        let other_status =
            merge(&other_reason, &[finding(ConditionStatus::True, Reason::Led)], Some(2), at(30));
        assert_eq!(other_status[0].last_transition_time.0, at(30));
    }

    #[test]
    fn nothing_new_found_is_nothing_changed() {
        let findings = [finding(ConditionStatus::True, Reason::Led)];
        let before = merge(&[], &findings, Some(1), at(10));
        assert_eq!(merge(&before, &findings, Some(1), at(20)), before);
    }

    #[test]
    fn a_condition_that_is_not_found_any_more_is_gone() {
        let before = merge(&[], &[finding(ConditionStatus::True, Reason::Led)], None, at(10));
        assert!(merge(&before, &[], None, at(20)).is_empty());
    }

    #[test]
    fn every_type_and_reason_is_what_the_api_server_takes_for_one() {
        let words = ConditionType::ALL
            .iter()
            .map(|word| word.as_str())
            .chain(Reason::ALL.iter().map(|word| word.as_str()));
        for word in words {
            assert!(
                word.len() <= 128 && word.starts_with(|first: char| first.is_ascii_uppercase()),
                "{word}"
            );
            assert!(word.chars().all(|symbol| symbol.is_ascii_alphanumeric()), "{word}");
        }
    }
}
