//! What stands in the register: who holds the term, and what only its last holder can say.

use std::{fmt, time::Duration};

/// A random number, drawn once by each process. Two processes never share one, not even two runs of one container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nonce(pub u128);

/// The name of one write: unique for ever, so that a write whose answer was lost can be recognised in what is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WriteId {
    /// Of the process that wrote.
    pub nonce: Nonce,
    /// Counts the writes of that process.
    pub sequence: u64,
}

/// A term is named by the write that acquired it.
pub type TermId = WriteId;

/// Who a candidate is. Never the pod name alone: a `StatefulSet` gives its successor the same one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Name of the pod; outside Kubernetes any name for people.
    pub pod: String,
    /// UID of the pod; outside Kubernetes any name that is unique to this program instance.
    pub pod_uid: String,
    /// Of this process.
    pub nonce: Nonce,
}

/// What a candidate writes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// Name of the write that made this record.
    pub write: WriteId,
    /// Counts the terms of this register, for people and to recognise a record that was put back.
    pub transitions: u32,
    /// Added to the fence to give the token of a term. Never less than in any record that its writer has seen: candidates
    /// may be configured with different ones while a rollout raises it.
    pub fencing_offset: u64,
    /// Held or released.
    pub claim: Claim,
}

/// The state of the register, as its last holder signed it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Claim {
    /// A candidate leads.
    Held {
        /// Who.
        holder: Identity,
        /// Since which write.
        term: TermId,
        /// D, as the holder counts it.
        lease: Duration,
        /// This term was taken at once from an earlier process of the same pod, less than one lease ago. The next process
        /// of that pod must wait, so that a sidecar that crashes for ever does not lead for ever.
        reacquired: bool,
    },
    /// The holder of this term stopped and says so.
    Released {
        /// The term that ended.
        term: TermId,
    },
    /// The record was missing and a candidate made it anew. It says nothing of the past and claims nothing: it only gives
    /// everybody a version to compare against. (A write that *creates* must never acquire: it could be late, and land after
    /// another candidate had created, led and lost the record to a deletion.)
    Vacant,
}

/// What was found in the register.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// A record that a candidate wrote, whole and unaltered.
    Record(Record),
    /// The operator states that no candidate ever ran for this election.
    Fresh,
    /// Anything else: cleared, overwritten, made by another tool, garbage.
    Unknown(Unknown),
}

/// A record that no candidate of ours wrote. Nothing in it is believed but the longest wait that it asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Unknown {
    /// The holder that it names, if any.
    pub holder: Option<String>,
    /// The lease duration that it names, if any.
    pub lease: Option<Duration>,
    /// Everything that a foreign holder changes when it renews, in any form: a follower's wait starts anew when this does.
    pub fingerprint: String,
}

/// A compare-and-set handle. Only equality has a meaning.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version(pub String);

/// The identity of the register's object (a Lease's `uid`): another one means that it was deleted and made again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Incarnation(pub String);

/// A number that the store raises with every write (a Lease's `resourceVersion`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence(pub u128);

/// The fencing token of a term: constant for the term, higher than every token of an earlier term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u128);

/// What one read of an existing register found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stored {
    /// For the next compare-and-set.
    pub version: Version,
    /// Which object this is.
    pub incarnation: Incarnation,
    /// The store's counter at the object's last write; `None` where the store has none.
    pub fence: Option<Fence>,
    /// The object is marked for deletion.
    pub deleting: bool,
    /// The longest lease of any living candidate, where the operator stamped one.
    pub longest_lease: Option<Duration>,
    /// The record itself.
    pub content: Content,
}

/// What a successful write returns.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Written {
    /// For the next compare-and-set.
    pub version: Version,
    /// Which object was written.
    pub incarnation: Incarnation,
    /// The store's counter after the write.
    pub fence: Option<Fence>,
}

impl Record {
    /// The term that this record speaks of, if any.
    pub fn term(&self) -> Option<TermId> {
        match self.claim {
            Claim::Held { term, .. } | Claim::Released { term } => Some(term),
            Claim::Vacant => None,
        }
    }

    /// For how long its holder may have promised anything, at most.
    pub(crate) fn lease(&self) -> Option<Duration> {
        match self.claim {
            Claim::Held { lease, .. } => Some(lease),
            Claim::Released { .. } | Claim::Vacant => None,
        }
    }
}

impl Content {
    /// The candidate that holds the record.
    pub(crate) fn holder(&self) -> Option<&Identity> {
        match self {
            Self::Record(Record { claim: Claim::Held { holder, .. }, .. }) => Some(holder),
            Self::Record(_) | Self::Fresh | Self::Unknown(_) => None,
        }
    }

    /// The holder that the record names, for people.
    pub fn holder_name(&self) -> Option<&str> {
        match self {
            Self::Record(Record { claim: Claim::Held { holder, .. }, .. }) => Some(&holder.pod),
            Self::Unknown(unknown) => unknown.holder.as_deref(),
            Self::Record(_) | Self::Fresh => None,
        }
    }
}

/// Hexadecimal, 32 digits.
impl fmt::Display for Nonce {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}

/// `<nonce>.<sequence>`.
impl fmt::Display for WriteId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.nonce, self.sequence)
    }
}

/// `<pod>_<pod uid>_<nonce>`: what stands in a Lease's `holderIdentity`.
impl fmt::Display for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}_{}_{}", self.pod, self.pod_uid, self.nonce)
    }
}

/// Decimal, at least 20 digits: the order of the strings is the order of the numbers.
impl fmt::Display for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:020}", self.0)
    }
}
