//! A linearizable register with fences, and the hands that meddle with it.

use crate::random::Random;
use conch_election::{Content, Fence, Incarnation, Record, Stored, Unknown, Version, WriteError, Written};
use std::time::Duration;

#[derive(Default)]
pub(crate) struct Store {
    fence: u128,
    incarnations: u32,
    meddlings: u32,
    pub(crate) stored: Option<Stored>,
    /// Earlier states, for reads and watches that lag and for hands that put an old state back.
    history: Vec<Option<Stored>>,
}

impl Store {
    pub(crate) fn put(&mut self, content: Content) {
        self.fence += 1;
        if self.stored.is_none() {
            self.incarnations += 1;
        }
        self.history.push(self.stored.clone());
        self.stored = Some(Stored {
            version: Version(self.fence.to_string()),
            incarnation: Incarnation(self.incarnations.to_string()),
            fence: Some(Fence(self.fence)),
            deleting: false,
            longest_lease: None,
            content,
        });
    }

    pub(crate) fn write(
        &mut self,
        record: &Record,
        expected: Option<&Version>,
    ) -> Result<Written, WriteError> {
        if self.stored.as_ref().map(|stored| &stored.version) != expected {
            return Err(WriteError::Conflict);
        }
        self.put(Content::Record(record.clone()));
        let stored = self.stored.clone().unwrap();
        Ok(Written { version: stored.version, incarnation: stored.incarnation, fence: stored.fence })
    }

    /// A state that was true a little earlier, as a cache that lags tells it.
    pub(crate) fn lagging(&self, random: &mut Random) -> Option<Stored> {
        let back = usize::try_from(random.below(4)).unwrap();
        let index = self.history.len().checked_sub(back + 1);
        index.map_or_else(|| self.stored.clone(), |index| self.history[index].clone())
    }

    /// Somebody with rights does something unwise. Never forges a live candidate's statement.
    pub(crate) fn meddle(&mut self, random: &mut Random) -> &'static str {
        self.meddlings += 1;
        let foreign = |holder: &str, number: u32| {
            Content::Unknown(Unknown {
                holder: (!holder.is_empty()).then(|| holder.to_owned()),
                lease: Some(Duration::from_secs(1)),
                fingerprint: format!("{holder}{number}"),
            })
        };
        match (random.below(5), self.stored.clone()) {
            (0, Some(_)) => {
                self.history.push(self.stored.take());
                self.fence += 1;
                "deleted"
            }
            (1, _) => {
                self.put(foreign("", self.meddlings));
                "cleared"
            }
            (2, _) => {
                self.put(foreign("somebody", self.meddlings));
                "overwritten"
            }
            (3, Some(stored)) => {
                self.put(stored.content);
                "touched"
            }
            (_, Some(_)) => {
                self.history.push(self.stored.take());
                self.fence += 1;
                self.put(foreign("", self.meddlings));
                "made anew"
            }
            (_, None) => "left alone",
        }
    }
}
