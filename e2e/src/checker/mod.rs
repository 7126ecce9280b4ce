//! Judges what the probes wrote down. Pure: histories in, a verdict out.
//!
//! A program *rightly believes* that it leads from before it asked until the deadline that the answer carried, as long as
//! the program lives. Two pods' programs must never do so at one time, whatever was deleted, killed or cut off; tokens
//! must rise from term to term; and after a fault somebody must lead again soon.

mod interval;
#[cfg(test)]
mod tests;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};

use conch_probe::Line;

use interval::{Interval, merge};
pub use verdict::{TokenFault, Verdict};

/// What one run of a probe's program wrote. A container that is restarted makes a new run in the same pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Name and UID of the pod.
    pub pod: String,
    /// Its lines, in order.
    pub lines: Vec<Line>,
    /// When the program was proven to be dead, in nanoseconds of `CLOCK_BOOTTIME`, where something else than its last line
    /// says so.
    pub died: Option<u64>,
}

/// Everything that the probes of one election wrote down.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// All runs of all pods.
    pub runs: Vec<Run>,
}

/// One answer "you lead".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Belief<'a> {
    pod: &'a str,
    asked: u64,
    answered: u64,
    /// The end of the belief: the deadline, or the program's death before it.
    until: u64,
    token: u128,
}

impl Run {
    /// When the program began; 0 if its first line was lost.
    fn began(&self) -> u64 {
        let starts = self.lines.iter().filter_map(|line| match line {
            Line::Start { at } => Some(*at),
            _ => None,
        });
        starts.min().unwrap_or(0)
    }

    /// When the program ended, if it is known.
    pub fn ended(&self) -> Option<u64> {
        let exits = self.lines.iter().filter_map(|line| match line {
            Line::Exit { at } => Some(*at),
            _ => None,
        });
        exits.chain(self.died).min()
    }

    fn beliefs(&self) -> impl Iterator<Item = Belief<'_>> {
        let mut ended = self.ended().unwrap_or(u64::MAX);
        // From the last line to the first: what the program gave up, it gave up for all that it was told before.
        self.lines.iter().rev().filter_map(move |line| match line {
            Line::Yes { asked, answered, deadline, token } => Some(Belief {
                pod: &self.pod,
                asked: *asked,
                answered: *answered,
                until: (*deadline).min(ended),
                token: *token,
            }),
            Line::Resigned { at } => {
                ended = ended.min(*at);
                None
            }
            _ => None,
        })
    }
}

impl History {
    /// The verdict over the whole history.
    pub fn judge(&self) -> Verdict {
        let beliefs = self.beliefs();
        let by_pod: Vec<Vec<Interval>> = by_pod(&beliefs).into_values().collect();
        Verdict {
            overlap: interval::overlap(&by_pod),
            longest_gap: longest_gap(&beliefs),
            token_fault: token_fault(&beliefs),
            terms: terms(&beliefs),
            count: self.count(),
        }
    }

    /// From `event` to the first answer of a term that began after it.
    pub fn next_term_after(&self, event: u64) -> Option<u64> {
        let beliefs = self.beliefs();
        let before =
            beliefs.iter().filter(|belief| belief.answered <= event).map(|belief| belief.token).max();
        let next = |belief: &&Belief<'_>| belief.answered > event && Some(belief.token) > before;
        beliefs.iter().filter(next).map(|belief| belief.answered - event).min()
    }

    /// From `event` to the next answer "you lead" of any term.
    pub fn next_answer_after(&self, event: u64) -> Option<u64> {
        self.beliefs()
            .iter()
            .filter(|belief| belief.asked >= event)
            .map(|belief| belief.answered - event)
            .min()
    }

    /// From `event` to the first answer that another pod than this one leads, asked for after it. For sidecars that have no
    /// tokens, too.
    pub fn next_leader_after(&self, event: u64, pod: &str) -> Option<u64> {
        let beliefs = self.beliefs();
        let next = beliefs.iter().filter(|belief| belief.asked >= event && belief.pod != pod);
        next.map(|belief| belief.answered - event).min()
    }

    /// When each pod's program rightly believed that it leads, within a span of time; in order, without the answers' seams.
    pub fn beliefs_between(&self, from: u64, until: u64) -> BTreeMap<&str, Vec<(u64, u64)>> {
        let by_pod = by_pod(&self.beliefs()).into_iter().map(|(pod, intervals)| {
            let clipped = intervals.iter().map(|belief| (belief.from.max(from), belief.until.min(until)));
            (pod, clipped.filter(|(from, until)| from < until).collect())
        });
        by_pod.collect()
    }

    /// For how long the programs of at least two pods rightly believed that they lead, within a span of time.
    pub fn overlap_between(&self, from: u64, until: u64) -> u64 {
        let sets = self
            .beliefs_between(from, until)
            .into_values()
            .map(|beliefs| beliefs.into_iter().map(|(from, until)| Interval { from, until }).collect());
        interval::overlap(&sets.collect::<Vec<Vec<_>>>())
    }

    /// Takes note that the program that ran in a pod at this time was seen dead.
    pub fn note_death(&mut self, pod: &str, at: u64) {
        let runs = self.runs.iter_mut().filter(|run| run.pod == pod && run.began() <= at);
        if let Some(run) = runs.max_by_key(|run| run.began()) {
            run.died = Some(at);
        }
    }

    /// When the program of a pod ended for the last time, if it did.
    pub fn ended(&self, pod: &str) -> Option<u64> {
        self.runs.iter().filter(|run| run.pod == pod).filter_map(Run::ended).max()
    }

    /// How many pods were answered since a time.
    pub fn answering_since(&self, since: u64) -> usize {
        let answered = |line: &Line| match line {
            Line::Yes { asked, .. } | Line::No { asked, .. } => *asked >= since,
            _ => false,
        };
        let runs = self.runs.iter().filter(|run| run.lines.iter().rev().any(answered));
        runs.map(|run| run.pod.as_str()).collect::<BTreeSet<_>>().len()
    }

    /// The pod that was last told that it leads, and the term's token.
    pub fn leader(&self) -> Option<(&str, u128)> {
        self.beliefs().last().map(|belief| (belief.pod, belief.token))
    }

    /// Ordered by the time at which they were asked for.
    fn beliefs(&self) -> Vec<Belief<'_>> {
        let mut beliefs: Vec<_> = self.runs.iter().flat_map(Run::beliefs).collect();
        beliefs.sort_by_key(|belief| (belief.asked, belief.token));
        beliefs
    }

    fn count(&self) -> verdict::Count {
        let mut count = verdict::Count::default();
        for line in self.runs.iter().flat_map(|run| &run.lines) {
            match line {
                Line::Yes { .. } => count.yes += 1,
                Line::No { .. } => count.no += 1,
                Line::None { .. } => count.unanswered += 1,
                Line::Bad { .. } => count.bad += 1,
                Line::Start { .. } | Line::Exit { .. } | Line::Resigned { .. } => {}
            }
        }
        count
    }
}

/// When each pod believed, merged.
fn by_pod<'a>(beliefs: &[Belief<'a>]) -> BTreeMap<&'a str, Vec<Interval>> {
    let mut by_pod: BTreeMap<&str, Vec<Interval>> = BTreeMap::new();
    for belief in beliefs {
        by_pod.entry(belief.pod).or_default().push(Interval { from: belief.asked, until: belief.until });
    }
    by_pod.into_iter().map(|(pod, intervals)| (pod, merge(intervals))).collect()
}

/// The longest time, between the first and the last answer, in which nobody rightly believed to lead. A leader counts
/// from its answer, not from its question: before that it did not know.
fn longest_gap(beliefs: &[Belief<'_>]) -> u64 {
    let mut longest = 0;
    let mut covered = beliefs.iter().map(|belief| belief.answered).min().unwrap_or(0);
    let mut known: Vec<_> = beliefs.iter().map(|belief| (belief.answered, belief.until)).collect();
    known.sort_unstable();
    for (answered, until) in known {
        longest = longest.max(answered.saturating_sub(covered));
        covered = covered.max(until);
    }
    longest
}

/// The first breach of: tokens never fall over time, and each belongs to one pod.
fn token_fault(beliefs: &[Belief<'_>]) -> Option<TokenFault> {
    let mut owners: BTreeMap<u128, &str> = BTreeMap::new();
    for belief in beliefs {
        if let Some((highest, _)) = owners.last_key_value()
            && belief.token < *highest
        {
            return Some(TokenFault::Fell { from: *highest, to: belief.token, pod: belief.pod.to_owned() });
        }
        let owner = *owners.entry(belief.token).or_insert(belief.pod);
        if owner != belief.pod {
            let pods = [owner.to_owned(), belief.pod.to_owned()];
            return Some(TokenFault::Shared { token: belief.token, pods });
        }
    }
    None
}

fn terms(beliefs: &[Belief<'_>]) -> usize {
    let mut tokens: Vec<_> = beliefs.iter().map(|belief| belief.token).collect();
    tokens.sort_unstable();
    tokens.dedup();
    tokens.len()
}
