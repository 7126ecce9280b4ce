//! A linearizable register with fences, and all the states that it ever had.

use conch_election::{
    Claim, Content, Fence, Incarnation, Record, Stored, TermId, Unknown, Version, WriteError, Written,
};
use std::time::Duration;

pub(crate) struct Store {
    fence: u128,
    incarnations: u32,
    meddlings: u32,
    /// What the operator stamps on the object.
    pub(crate) longest_lease: Option<Duration>,
    /// The last is the present one.
    states: Vec<Option<Stored>>,
}

impl Store {
    pub(crate) fn new() -> Self {
        Self { fence: 0, incarnations: 0, meddlings: 0, longest_lease: None, states: vec![None] }
    }

    /// The number of the present state.
    pub(crate) fn latest(&self) -> usize {
        self.states.len() - 1
    }

    pub(crate) fn state(&self, number: usize) -> Option<&Stored> {
        self.states[number].as_ref()
    }

    pub(crate) fn current(&self) -> Option<&Stored> {
        self.state(self.latest())
    }

    /// The term that stood in the latest state with this fence.
    pub(crate) fn term_at(&self, fence: Fence) -> Option<TermId> {
        let state = self.states.iter().rev().flatten().find(|stored| stored.fence == Some(fence))?;
        match &state.content {
            Content::Record(record) => record.term(),
            _ => None,
        }
    }

    fn put(&mut self, content: Content, longest_lease: Option<Duration>, deleting: bool) {
        self.fence += 1;
        if self.current().is_none() {
            self.incarnations += 1;
        }
        self.states.push(Some(Stored {
            version: Version(self.fence.to_string()),
            incarnation: Incarnation(self.incarnations.to_string()),
            fence: Some(Fence(self.fence)),
            deleting,
            longest_lease,
            content,
        }));
    }

    pub(crate) fn write(
        &mut self,
        record: &Record,
        expected: Option<&Version>,
    ) -> Result<Written, WriteError> {
        let present = self.current();
        if present.map(|stored| &stored.version) != expected {
            return Err(WriteError::Conflict);
        }
        let (longest, deleting) =
            present.map_or((None, false), |stored| (stored.longest_lease, stored.deleting));
        self.put(Content::Record(record.clone()), longest, deleting);
        let stored = self.current().cloned().unwrap();
        Ok(Written { version: stored.version, incarnation: stored.incarnation, fence: stored.fence })
    }

    pub(crate) fn mark_fresh(&mut self) {
        self.put(Content::Fresh, self.longest_lease, false);
    }

    /// The operator sees to it that its stamp is on the object. False: it was.
    pub(crate) fn stamp(&mut self) -> bool {
        let Some(stored) = self.current().filter(|stored| stored.longest_lease != self.longest_lease) else {
            return false;
        };
        let (content, deleting) = (stored.content.clone(), stored.deleting);
        self.put(content, self.longest_lease, deleting);
        true
    }

    pub(crate) fn delete(&mut self) {
        if self.current().is_some() {
            self.fence += 1;
            self.states.push(None);
        }
    }

    pub(crate) fn mark_deleting(&mut self) {
        if let Some(stored) = self.current().cloned() {
            self.put(stored.content, stored.longest_lease, true);
        }
    }

    pub(crate) fn touch(&mut self) {
        if let Some(stored) = self.current().cloned() {
            self.put(stored.content, stored.longest_lease, stored.deleting);
        }
    }

    /// By somebody who knows nothing of candidates. An empty holder is a record that was cleared.
    pub(crate) fn overwrite(&mut self, holder: &str) {
        self.meddlings += 1;
        let unknown = Unknown {
            holder: (!holder.is_empty()).then(|| holder.to_owned()),
            lease: Some(Duration::from_secs(1)),
            fingerprint: format!("{holder}{}", self.meddlings),
        };
        self.put(Content::Unknown(unknown), None, false);
    }

    pub(crate) fn put_back(&mut self, content: Content) {
        let longest = self.current().and_then(|stored| stored.longest_lease);
        self.put(content, longest, false);
    }

    /// Everything that happened since is forgotten: versions and fences come again.
    pub(crate) fn lose_history(&mut self, steps: usize) {
        let old = self.states[self.latest().saturating_sub(steps)].clone();
        if let Some(Fence(fence)) = old.as_ref().and_then(|stored| stored.fence) {
            self.fence = fence;
            self.states.push(old);
        }
    }
}

/// Says the record that somebody has just begun to hold it?
pub(crate) fn acquires(record: &Record) -> bool {
    matches!(record.claim, Claim::Held { term, .. } if term == record.write)
}
