//! Which of the workloads that ask for an election take part in it.

use super::policies::Policies;
use crate::policy::observe::{
    Observed,
    workload::{Pod, Workload},
};
use conch_crds::names::ELECTION;

/// The workloads that ask for an election, each in one place.
#[derive(Debug, Default)]
pub(super) struct Claims<'o> {
    /// Those that take part; the first one, the oldest, keeps the election.
    pub(super) members: Vec<&'o Workload>,
    /// Those that came later to an election that is not shared.
    pub(super) refused: Vec<&'o Workload>,
    /// Those whose annotation is no name: they take part in nothing.
    pub(super) misnamed: Vec<&'o Workload>,
}

impl<'o> Claims<'o> {
    /// Sorts them out. An election belongs to the oldest workload that asks for it; others take part only where its policy
    /// and theirs both share the election.
    pub(super) fn of(observed: &'o Observed, policies: &Policies<'_>) -> Self {
        let (mut named, misnamed): (Vec<_>, Vec<_>) = observed
            .claims
            .iter()
            .filter(|claim| !claim.deleting)
            .partition(|claim| claim.election_name().is_ok());
        named.sort_by_key(|claim| (claim.created, claim.kind, &claim.identity.name));
        let mut claims = Self { misnamed, ..Self::default() };
        let shares = |claim: &Workload| policies.shares(&claim.policy, &observed.key.name);
        for claim in named {
            let takes_part = claims.members.first().is_none_or(|keeper| shares(keeper) && shares(claim));
            if takes_part {
                claims.members.push(claim);
            } else {
                claims.refused.push(claim);
            }
        }
        claims
    }

    /// The workload that the election belongs to.
    pub(super) fn keeper(&self) -> Option<&'o Workload> {
        self.members.first().copied()
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &'o Workload> {
        self.members.iter().chain(&self.refused).chain(&self.misnamed).copied()
    }

    /// Does this pod belong to a workload that takes part? Pods of nobody that is known here do.
    pub(super) fn includes(&self, pod: &Pod) -> bool {
        !self.refused.iter().any(|workload| {
            pod.workload
                .as_ref()
                .is_some_and(|(kind, name)| *kind == workload.kind && *name == workload.identity.name)
        })
    }

    /// Those with a valid name whose template does not say so.
    pub(super) fn unstamped(&self) -> impl Iterator<Item = &'o Workload> {
        self.members.iter().chain(&self.refused).copied().filter(|workload| !workload.is_stamped())
    }
}

/// What a misnamed workload is told.
pub(super) fn misnamed_sentence(workload: &Workload) -> String {
    let error = conch_crds::names::election_name(workload.election.as_deref(), &workload.identity.name);
    format!("annotation {ELECTION}: {}", error.err().map(|error| error.to_string()).unwrap_or_default())
}
