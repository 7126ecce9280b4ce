//! What goes into the elector and what comes out of it.

use crate::record::{Record, Stored, Token, Version, Written};
use std::{fmt, time::Duration};

/// Something happened outside. Fed to [`crate::Elector::handle`] with the moment at which it was noticed; for the
/// result of a request that is after its response arrived.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time went on: [`crate::Elector::poll_timeout`] is over. May be given at any time.
    Tick,
    /// [`Action::Read`] came to an end. `None`: there is no record.
    Read(Result<Option<Stored>, Failure>),
    /// [`Action::Write`] came to an end.
    Written(Result<Written, WriteError>),
    /// The store told of a change, whole. `None`: the record was deleted.
    Changed(Option<Stored>),
    /// Whether this candidate wants to lead: its program has asked and is healthy. `false` only stops renewals and
    /// acquisitions; it ends no term.
    Willing(bool),
    /// It is proven that the program does nothing more with what it was promised: it closed its stream, or it has exited.
    ProgramStopped,
    /// The program is not fit to lead, and nobody knows what it does with what it was promised: it hangs, or fails its check.
    /// Answers turn to no at once, and the release waits until every promise is over.
    GiveAway,
    /// Somebody asked that another candidate leads. If this one does, it gives the lead away as with [`Input::GiveAway`]; in any
    /// case it leaves it to others for one lease, so that the one that is wanted can take it.
    StandBack,
    /// This process was told to end. Answers turn to no at once; see [`crate::Elector::is_done`].
    Terminate,
}

/// Why a request gave no result. Whether a write took effect is then unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Failure {
    /// What kind of failure.
    pub kind: FailureKind,
    /// How long the store asks to be left alone. The elector caps it by what is left of its own validity.
    pub retry_after: Option<Duration>,
}

/// Kinds of failure that are told apart because people do different things about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// No answer within the time that the action allowed.
    Timeout,
    /// No connection, or it broke, or the store answered that it cannot serve now.
    Unavailable,
    /// The store refuses this client: missing rights, an expired credential.
    Denied,
    /// The store refuses the content, or answered with something that cannot be understood.
    Invalid,
}

/// Why a write did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WriteError {
    /// The register is not at the expected version.
    Conflict,
    /// See [`Failure`].
    Failed(Failure),
}

/// A request to the store. At most one is in flight; each ends with exactly one [`Input::Read`] or [`Input::Written`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Read the register, past every cache.
    Read {
        /// Give up, and drop the connection, after this time: then the input is [`FailureKind::Timeout`].
        timeout: Duration,
    },
    /// Write the record if the register is still at the expected version.
    Write {
        /// What to write.
        record: Box<Record>,
        /// `None`: create, and fail with a conflict if a record exists.
        expected: Option<Version>,
        /// The token of the running term as far as it is known, for people who look at the record.
        token: Option<Token>,
        /// As for a read.
        timeout: Duration,
    },
}

/// Something worth a log line or a metric. Drained with [`crate::Elector::poll_event`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// This process leads.
    TermBegan {
        /// The term's fencing token.
        token: Token,
        /// Who held the record before, for people.
        previous: Option<String>,
        /// Taken at once from an earlier process of the same pod.
        reacquired: bool,
    },
    /// This process leads no more.
    TermEnded {
        /// Of the term that ended.
        token: Token,
        /// Why.
        cause: EndCause,
    },
    /// A renewal was confirmed.
    Renewed {
        /// From sending to confirmation.
        latency: Duration,
        /// What was left of the validity when it came.
        margin: Duration,
    },
    /// The record names another holder than before.
    HolderChanged {
        /// Before.
        from: Option<String>,
        /// Now.
        to: Option<String>,
    },
    /// The record was released by us.
    Released {
        /// Of the term that was released.
        token: Token,
    },
    /// A request failed.
    RequestFailed(FailureKind),
    /// The store lost history: a write came back with a fence that is not above one seen before.
    HistoryLost,
}

/// Why a term ended. A closed list; the names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndCause {
    /// No renewal was confirmed in time.
    Expired,
    /// Somebody else stands in the record.
    OtherHolder,
    /// The record is gone.
    RecordDeleted,
    /// The record is marked for deletion.
    RecordDeleting,
    /// The record was cleared, overwritten, put back or made anew.
    RecordReplaced,
    /// The program resigned or closed its stream.
    Resigned,
    /// The program was found unfit to lead.
    Unhealthy,
    /// Somebody asked that another candidate leads.
    Transferred,
    /// A new term of the same process follows it, because its program is another one.
    NewTerm,
    /// The process was told to end.
    Terminated,
    /// The store lost history.
    HistoryLost,
}

/// Why the answer is what it is. A closed list; the names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// This pod leads.
    Leading,
    /// The store has not answered yet since this process started.
    NotContacted,
    /// The program has not asked to lead.
    NotAsked,
    /// The program holds no stream, and has to.
    StreamMissing,
    /// The program has sent no heartbeat in time.
    HeartbeatMissing,
    /// The program does not pass its health check.
    Unhealthy,
    /// Another candidate holds the lease.
    OtherLeads,
    /// The record is missing or was altered by something that is no candidate: a whole lease must pass first.
    RecordUnknown,
    /// The way is free; a request to acquire is under way or about to be sent.
    Acquiring,
    /// The store does not answer.
    StoreUnavailable,
    /// The store refuses this client.
    StoreDenied,
    /// The store answers with something that cannot be used.
    StoreInvalid,
    /// This pod gave the lead away a moment ago, or another one was asked for.
    CoolingDown,
    /// The process was told to end.
    Terminating,
    /// The store lost history; a person must raise the fencing offset.
    HistoryLost,
}

/// The answer to "do I lead?", computed when asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Answer {
    /// Present exactly if this pod leads.
    pub promise: Option<Promise>,
    /// Why.
    pub reason: Reason,
    /// Who the record names, for people: a pod name, or a foreign holder's string.
    pub holder: Option<String>,
}

/// What a program may rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Promise {
    /// The term's fencing token.
    pub token: Token,
    /// How long, on the program's own clock and counted from **before it asked**, the program may act as the leader.
    pub valid_for: Duration,
    /// The same as a point on `CLOCK_BOOTTIME`, which all containers of a pod share.
    pub deadline_boottime: Duration,
}

/// A program resigned a term that is not the current one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NotCurrent {
    /// The token of the running term, if this pod leads.
    pub current: Option<Token>,
}

impl Reason {
    /// A sentence for people.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Leading => "This pod leads.",
            Self::NotContacted => "The store has not answered yet since the sidecar started.",
            Self::NotAsked => "This pod is no candidate: its program has not asked to lead.",
            Self::StreamMissing => {
                "This pod is no candidate: its policy says presence: Stream, and its program does not hold GET /v1/lead."
            }
            Self::HeartbeatMissing => {
                "This pod is no candidate: its policy says presence: Heartbeat, and its program has not sent \
                 POST /v1/heartbeat in time."
            }
            Self::Unhealthy => {
                "This pod is no candidate: its program does not pass the policy's health check."
            }
            Self::OtherLeads => "Another pod holds the lease.",
            Self::RecordUnknown => {
                "The record is missing or was altered from outside; a whole lease must pass before anybody may lead."
            }
            Self::Acquiring => "Nobody leads; this pod is trying to.",
            Self::StoreUnavailable => "The store does not answer.",
            Self::StoreDenied => "The store refuses this pod: check its Role, RoleBinding and token.",
            Self::StoreInvalid => {
                "The store answers with something that cannot be used; see the sidecar's log."
            }
            Self::CoolingDown => {
                "This pod leaves the lead to others for a while: it gave it away, or another pod was asked for."
            }
            Self::Terminating => "This pod is shutting down.",
            Self::HistoryLost => {
                "The store lost history: tokens would repeat. Raise the policy's fencingOffset above the last token and \
                 restart the pods."
            }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self.kind {
            FailureKind::Timeout => "no answer in time",
            FailureKind::Unavailable => "the store cannot be reached or cannot serve",
            FailureKind::Denied => "the store refuses this client",
            FailureKind::Invalid => "the store's answer cannot be used",
        })
    }
}

impl std::error::Error for Failure {}

impl fmt::Display for NotCurrent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.current {
            Some(token) => write!(formatter, "the running term has token {token}"),
            None => formatter.write_str("this pod does not lead"),
        }
    }
}

impl std::error::Error for NotCurrent {}
