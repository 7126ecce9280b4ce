//! What one process knows of the register, and how long it must wait before it may write itself into it.

use crate::{
    record::{Claim, Content, Incarnation, Record, Stored, TermId, Version, WriteId},
    time::{Moment, Span},
    timing::LEASE_MAX,
};
use std::time::Duration;

/// The last state of the register that this process saw.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Register {
    /// Nothing was read yet.
    Unseen,
    /// There is no record.
    Missing {
        /// When this was first seen.
        since: Moment,
    },
    /// There is one.
    Present(Box<Observation>),
}

/// A record, and since when this process knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Observation {
    pub(crate) stored: Stored,
    /// First sight of this content in this incarnation. Writes to other parts of the object don't move it.
    pub(crate) since: Moment,
}

/// The longest lease and the latest term that were ever seen: what a follower remembers of the register's past.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Memory {
    longest_lease: Duration,
    /// The highest in any record.
    fencing_offset: u64,
    latest_term: Option<(u32, TermId)>,
    /// A candidate's record was seen, in whatever incarnation.
    candidate_seen: bool,
    /// The record with which another incarnation of the register began, after candidates had been seen in an earlier one: it may
    /// come from a backup, and what it says of the end of a term may be long past.
    put_back: Option<WriteId>,
    holders: Holders,
}

/// In which pods the register was ever held, as far as this process saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
enum Holders {
    /// Nothing was seen yet.
    #[default]
    Unseen,
    /// In this one all the time.
    Pod(String),
    /// It was held by more than one, or by none.
    Others,
}

impl Register {
    /// The version to compare against when writing; `None`: create.
    pub(crate) fn version(&self) -> Option<&Version> {
        self.observation().map(|observation| &observation.stored.version)
    }

    pub(crate) fn observation(&self) -> Option<&Observation> {
        match self {
            Self::Present(observation) => Some(observation),
            Self::Unseen | Self::Missing { .. } => None,
        }
    }

    /// The record, where it is a candidate's.
    pub(crate) fn record(&self) -> Option<&Record> {
        match &self.observation()?.stored.content {
            Content::Record(record) => Some(record),
            Content::Fresh | Content::Unknown(_) => None,
        }
    }

    pub(crate) fn incarnation(&self) -> Option<&Incarnation> {
        self.observation().map(|observation| &observation.stored.incarnation)
    }

    pub(crate) fn holder_name(&self) -> Option<String> {
        self.observation()?.stored.content.holder_name().map(str::to_owned)
    }

    /// How many terms there were, as far as this process knows.
    pub(crate) fn transitions(&self, memory: &Memory) -> u32 {
        let seen = self.record().map(|record| record.transitions);
        let remembered = memory.latest_term.map(|(transitions, _)| transitions);
        seen.max(remembered).unwrap_or(0)
    }

    /// Takes note of what is stored now. Content that was seen before keeps its time.
    pub(crate) fn replace(&mut self, now: Moment, stored: Stored) {
        let since = match self {
            Self::Present(seen)
                if seen.stored.content == stored.content && seen.stored.incarnation == stored.incarnation =>
            {
                seen.since
            }
            _ => now,
        };
        *self = Self::Present(Box::new(Observation { stored, since }));
    }

    /// Takes note that there is no record. A record that was missing before keeps its time.
    pub(crate) fn remove(&mut self, now: Moment) {
        if !matches!(self, Self::Missing { .. }) {
            *self = Self::Missing { since: now };
        }
    }

    /// The span after which a candidate that has nothing to do with the record may take it. `None`: not by waiting; a missing
    /// record must first be made anew.
    ///
    /// Only two statements make a register free: `fresh`, by the operator, and `released`, signed by the last holder.
    /// Everything else (held, made anew, cleared, altered, put back) may hide a leader that knows nothing of it: wait as
    /// long as the longest lease that anybody may count with, from **our** first sight.
    pub(crate) fn wait(&self, memory: &Memory, configured: Duration) -> Option<Span> {
        let longest = configured.max(memory.longest_lease);
        match self {
            Self::Unseen | Self::Missing { .. } => None,
            Self::Present(observation) if observation.stored.deleting => None,
            Self::Present(observation) => {
                let length = match &observation.stored.content {
                    // Whoever saw a candidate knows better than a mark that says that there never was one.
                    Content::Fresh if !memory.candidate_seen => Duration::ZERO,
                    Content::Record(record) if memory.trusts_release(record) => Duration::ZERO,
                    Content::Fresh | Content::Record(_) | Content::Unknown(_) => longest,
                };
                Some(Span::new(observation.since, length))
            }
        }
    }
}

impl Memory {
    /// The highest that any record had.
    pub(crate) fn fencing_offset(&self) -> u64 {
        self.fencing_offset
    }

    /// Remembers what `stored` says of leases and terms. `incarnation` is the one known before.
    pub(crate) fn note(&mut self, stored: &Stored, incarnation: Option<&Incarnation>) {
        if incarnation != Some(&stored.incarnation) {
            self.latest_term = None;
            self.put_back = match &stored.content {
                Content::Record(record) if self.candidate_seen => Some(record.write),
                _ => None,
            };
        }
        match (&self.holders, stored.content.holder()) {
            (Holders::Unseen, Some(holder)) => self.holders = Holders::Pod(holder.pod_uid.clone()),
            (Holders::Pod(pod_uid), Some(holder)) if *pod_uid == holder.pod_uid => {}
            _ => self.holders = Holders::Others,
        }
        let mut longest = stored.longest_lease.unwrap_or_default();
        match &stored.content {
            Content::Record(record) => {
                self.candidate_seen = true;
                self.fencing_offset = self.fencing_offset.max(record.fencing_offset);
                if let Claim::Held { lease, .. } = record.claim {
                    longest = longest.max(lease);
                }
                if self.is_latest(record)
                    && let Some(term) = record.term()
                {
                    self.latest_term = Some((record.transitions, term));
                }
            }
            Content::Unknown(unknown) => longest = longest.max(unknown.lease.unwrap_or_default()),
            Content::Fresh => {}
        }
        // A record may ask for any time; more than the longest lease of any policy was not written by a candidate.
        self.longest_lease = self.longest_lease.max(longest.min(LEASE_MAX));
    }

    /// A new register has no past terms; how long others may count is still remembered.
    pub(crate) fn forget_terms(&mut self) {
        self.latest_term = None;
        self.holders = Holders::Others;
    }

    /// Was the register ever seen in another state than held by this pod?
    pub(crate) fn others_seen(&self, pod_uid: &str) -> bool {
        match &self.holders {
            Holders::Unseen => false,
            Holders::Pod(seen) => seen != pod_uid,
            Holders::Others => true,
        }
    }

    /// A release counts only for the last term: a record of an older one that somebody put back frees nothing.
    fn trusts_release(&self, record: &Record) -> bool {
        matches!(record.claim, Claim::Released { .. })
            && self.put_back != Some(record.write)
            && self.is_latest(record)
    }

    /// No later term was seen than that of this record, and none that is as late.
    pub(crate) fn is_latest(&self, record: &Record) -> bool {
        self.latest_term.is_none_or(|(transitions, _)| record.transitions >= transitions)
            && !self.contradicts(record)
    }

    /// The same number of terms, but another term: one of the two was put there by hand.
    fn contradicts(&self, record: &Record) -> bool {
        self.latest_term.is_some_and(|(transitions, term)| {
            record.transitions == transitions && record.term() != Some(term)
        })
    }
}
