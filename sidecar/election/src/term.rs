//! A term of this process, and the writes that it has sent for it.

use crate::{
    record::{Content, Fence, Incarnation, Record, Stored, TermId, Token, Version, WriteId},
    time::{Moment, Span},
};
use std::time::Duration;

/// What this process is at the moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    /// Does not lead.
    Following,
    /// Leads, as long as the term's validity lasts.
    Leading(Term),
    /// Leads no more, but the record is still its own: to be released once every promise is over.
    Stopping(Term),
    /// Saw the store go back in time. For ever.
    HistoryLost,
}

/// A term of this process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Term {
    pub(crate) id: TermId,
    pub(crate) token: Token,
    pub(crate) transitions: u32,
    /// When the write was sent by which this process came to lead.
    pub(crate) acquired: Moment,
    /// When the write that began this term was sent: the acquiring one, unless the term follows one of the same process.
    pub(crate) began: Moment,
    /// V, counted from when the latest confirmed write was sent.
    pub(crate) validity: Span,
    /// The newest write that is known to have taken effect.
    pub(crate) latest_write: WriteId,
    /// The object that the term lives in.
    pub(crate) incarnation: Incarnation,
    /// Taken at once from an earlier process of this pod.
    pub(crate) reacquired: bool,
    /// The program asked for a term of its own.
    pub(crate) next_wanted: bool,
}

/// A write that was sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Attempt {
    pub(crate) purpose: Purpose,
    pub(crate) record: Record,
    pub(crate) expected: Option<Version>,
    /// From here its validity counts: before it left, because the store may have applied it at once.
    pub(crate) sent: Moment,
    /// The highest fence that was seen before; the write's own must be above it.
    pub(crate) fence_floor: Option<Fence>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    /// Make a missing record anew. Acquires nothing.
    Create,
    Acquire {
        previous: Option<String>,
        reacquired: bool,
    },
    Renew,
    /// Follow one's own term by a new one, with a token of its own. As good as a renewal to everybody else.
    Follow {
        ended: TermId,
    },
    Release,
}

/// The newest that was seen of the register: a store with fences, or one's own write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Newest {
    pub(crate) fence: Option<Fence>,
    pub(crate) own: Option<WriteId>,
}

/// The request that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum InFlight {
    /// With what had been seen before it was sent: what it shows cannot be older.
    Read(Newest),
    Write(Box<Attempt>),
}

impl Newest {
    pub(crate) fn is_newer_than(&self, stored: &Stored) -> bool {
        match (stored.fence, self.fence) {
            (Some(fence), Some(newest)) => fence < newest,
            // Without fences only one's own writes can be put in order.
            _ => match (&stored.content, self.own) {
                (Content::Record(Record { write, .. }), Some(own)) => {
                    write.nonce == own.nonce && write.sequence < own.sequence
                }
                _ => false,
            },
        }
    }
}

impl Term {
    /// Counts validity from the later of two confirmed writes.
    pub(crate) fn extend(&mut self, now: Moment, sent: Moment, validity: Duration) {
        let candidate = Span::new(sent, validity);
        if candidate.surely_left(now) > self.validity.surely_left(now) {
            self.validity = candidate;
        }
    }
}
