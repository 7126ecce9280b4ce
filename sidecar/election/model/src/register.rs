//! A linearizable register with fences.

use conch_election::{
    Claim, Content, Fence, Incarnation, Record, Stored, Unknown, Version, WriteError, Written,
};

/// What the store holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Register {
    /// Counts everything that was ever done to it.
    pub fence: u128,
    incarnations: u32,
    /// The record.
    pub stored: Option<Stored>,
}

impl Register {
    /// One that never had a candidate.
    pub fn fresh() -> Self {
        let mut register = Self { fence: 0, incarnations: 0, stored: None };
        register.put(Content::Fresh);
        register
    }

    /// Writes without asking.
    pub fn put(&mut self, content: Content) {
        self.fence += 1;
        if self.stored.is_none() {
            self.incarnations += 1;
        }
        self.stored = Some(Stored {
            version: Version(self.fence.to_string()),
            incarnation: Incarnation(self.incarnations.to_string()),
            fence: Some(Fence(self.fence)),
            deleting: false,
            longest_lease: None,
            content,
        });
    }

    /// Removes the record.
    pub fn delete(&mut self) {
        self.fence += 1;
        self.stored = None;
    }

    /// A compare-and-set.
    pub fn write(&mut self, record: &Record, expected: Option<&Version>) -> Result<Written, WriteError> {
        if self.stored.as_ref().map(|stored| &stored.version) != expected {
            return Err(WriteError::Conflict);
        }
        self.put(Content::Record(record.clone()));
        let Some(stored) = self.stored.clone() else { return Err(WriteError::Conflict) };
        Ok(Written { version: stored.version, incarnation: stored.incarnation, fence: stored.fence })
    }
}

/// A record in which somebody removed the holder.
pub(crate) fn cleared() -> Unknown {
    Unknown { holder: None, lease: None, fingerprint: String::new() }
}

/// Says the record that somebody has just begun to hold it?
pub(crate) fn acquires(record: &Record) -> bool {
    matches!(record.claim, Claim::Held { term, .. } if term == record.write)
}
