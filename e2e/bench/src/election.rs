//! Elections under observation: one workload each, every way of asking with a history of its own.

use std::time::Duration;

use anyhow::{Context as _, Result};
use conch_e2e::checker::History;
use conch_e2e::{Candidate, Namespace, Probes, Tools};

use crate::contender::{Contender, REPLICAS, Shape, Timing};

/// How long anything may take that must happen: client-go's slowest fail-over, twice.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);

/// One election of a contender.
pub(crate) struct Election<'a> {
    pub(crate) contender: Contender,
    /// One for each of the contender's ways.
    pub(crate) probes: Vec<Probes<'a>>,
}

/// Deploys several elections into a namespace.
pub(crate) fn deploy<'a>(
    contender: Contender,
    namespace: &'a Namespace<'a>,
    timing: Timing,
    count: usize,
    shape: Shape,
) -> Result<Vec<Election<'a>>> {
    contender.prepare(namespace)?;
    let mut elections = Vec::new();
    for number in 1..=count {
        let name = format!("probe-{number}");
        let prepare = |_| Probes::prepare(namespace, &name);
        let probes = contender.ways().iter().map(prepare).collect::<conch_e2e::Result<Vec<_>>>()?;
        namespace.apply(contender.manifest(&probes, timing, shape))?;
        elections.push(Election { contender, probes });
    }
    Ok(elections)
}

/// Waits until each election has its leader and answering followers.
pub(crate) fn wait_complete(elections: &[Election<'_>]) -> Result<()> {
    elections.iter().try_for_each(|election| election.wait_complete(REPLICAS))
}

impl Election<'_> {
    /// Waits until each way has a leader and this many answering candidates.
    pub(crate) fn wait_complete(&self, replicas: usize) -> Result<()> {
        self.probes.iter().try_for_each(|probes| Ok(probes.wait_complete(replicas)?))
    }

    /// The pod that leads, as its first way says.
    pub(crate) fn leader(&self) -> Result<Candidate> {
        Ok(self.first().leader()?)
    }

    /// The probes of the first way.
    pub(crate) fn first(&self) -> &Probes<'_> {
        &self.probes[0]
    }

    /// What was written down, way by way.
    pub(crate) fn histories(&self) -> Result<Vec<History>> {
        self.probes.iter().map(|probes| Ok(probes.history()?)).collect()
    }

    /// Waits until every program of a pod has ended; returns when the last one did.
    pub(crate) fn wait_exit(&self, candidate: &Candidate) -> Result<u64> {
        let mut last = 0;
        for probes in &self.probes {
            last = last.max(probes.wait_exit(candidate, LIMIT)?);
        }
        Ok(last)
    }

    /// Waits until another pod than this one was told, in every way, that it leads; returns how long after `event`, way by
    /// way.
    pub(crate) fn wait_next_leader(&self, event: u64, old: &Candidate) -> Result<Vec<Duration>> {
        let old = pod(old);
        let next = |probes: &Probes<'_>| {
            Tools::wait_for("next leader", LIMIT, || {
                let next = probes.history()?.next_leader_after(event, &old);
                Ok(next.map(Duration::from_nanos).ok_or_else(|| "the old one, or none".to_owned()))
            })
        };
        let times = self.probes.iter().map(next).collect::<conch_e2e::Result<_>>();
        times.with_context(|| format!("{} of {}", self.first().reference(), self.contender.slug()))
    }
}

/// A candidate as the histories name it.
pub(crate) fn pod(candidate: &Candidate) -> String {
    format!("{}_{}", candidate.name, candidate.uid)
}
