//! Why a request gave no result, what the election has to know of it, and what a person can do about it.

use super::{session::chain, table::TABLE};
use conch_election::{Failure, FailureKind};
use std::fmt;
use tokio_postgres::error::SqlState;

/// Why a request did not succeed.
#[derive(Debug)]
pub(super) enum Problem {
    /// No answer came in time.
    TimedOut,
    /// The connection ended.
    Closed,
    /// No connection, or no whole answer: anything but an answer of the server.
    Broken(Box<tokio_postgres::Error>),
    /// The server said no.
    Refused { code: SqlState, message: String },
    /// The server follows another one, and takes no writes.
    Standby,
    /// The server takes writes, but not in this session.
    ReadOnly,
    /// The server writes an older history than one that was seen already.
    OldTimeline { found: u32, seen: u32 },
    /// The table is not there.
    NoTable,
    /// The table is there, but something is missing that tells a row from one that was put back.
    NoTrigger,
    /// Certificates or the like.
    Tls(String),
    /// An answer that PostgreSQL does not give.
    Malformed(&'static str),
    /// One of these, at a server of several.
    At { server: String, problem: Box<Problem> },
    /// Each server has its own.
    Each(Vec<Problem>),
}

impl Problem {
    pub(super) fn of(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(answer) => {
                let message = match answer.detail() {
                    Some(detail) => format!("{} ({detail})", answer.message()),
                    None => answer.message().to_owned(),
                };
                Self::Refused { code: answer.code().clone(), message }
            }
            None => Self::Broken(Box::new(error)),
        }
    }

    pub(super) fn at(self, server: String) -> Self {
        Self::At { server, problem: Box::new(self) }
    }

    /// All servers failed. A frozen one or a standby among them is no reason to look at rights.
    pub(super) fn worst(mut problems: Vec<Self>) -> Self {
        match problems.len() {
            1 => problems.remove(0),
            _ => Self::Each(problems),
        }
    }

    /// The write was refused because somebody else's came first: it did not take effect.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == SqlState::T_R_SERIALIZATION_FAILURE)
    }

    /// What the election needs to know of it.
    pub(super) fn failure(&self) -> Failure {
        Failure { kind: self.kind(), retry_after: None }
    }

    fn kind(&self) -> FailureKind {
        match self {
            Self::TimedOut => FailureKind::Timeout,
            Self::Broken(error) if is_authentication(error) => FailureKind::Denied,
            Self::Broken(_) | Self::Closed | Self::Standby | Self::OldTimeline { .. } => {
                FailureKind::Unavailable
            }
            Self::Refused { code, .. } => kind_of(code),
            Self::ReadOnly => FailureKind::Denied,
            Self::NoTable | Self::NoTrigger | Self::Tls(_) | Self::Malformed(_) => FailureKind::Invalid,
            Self::At { problem, .. } => problem.kind(),
            // The one that is likeliest to go away decides.
            Self::Each(problems) => {
                let kinds: Vec<FailureKind> = problems.iter().map(Self::kind).collect();
                let order = [FailureKind::Unavailable, FailureKind::Timeout, FailureKind::Denied];
                order.into_iter().find(|kind| kinds.contains(kind)).unwrap_or(FailureKind::Invalid)
            }
        }
    }
}

/// Something before the server said no: a wrong method, a missing password.
fn is_authentication(error: &tokio_postgres::Error) -> bool {
    let message = chain(error);
    ["authentication", "password missing"].iter().any(|cause| message.contains(cause))
}

/// By class, see appendix A of PostgreSQL's manual.
fn kind_of(code: &SqlState) -> FailureKind {
    if [SqlState::QUERY_CANCELED, SqlState::LOCK_NOT_AVAILABLE].contains(code) {
        return FailureKind::Timeout;
    }
    if [SqlState::INSUFFICIENT_PRIVILEGE, SqlState::READ_ONLY_SQL_TRANSACTION].contains(code) {
        return FailureKind::Denied;
    }
    match code.code().get(..2) {
        Some("28") => FailureKind::Denied,
        // Connections, poolers, rollbacks, resources, operators, the system, internal errors.
        Some("08" | "40" | "53" | "57" | "58" | "XX") => FailureKind::Unavailable,
        _ => FailureKind::Invalid,
    }
}

/// What can be done about an answer of the server.
fn advice(code: &SqlState) -> &'static str {
    match code.code() {
        "42P01" | "42703" | "42883" | "3F000" => {
            "; create the table as docs/postgresql.md says, or give --postgres-create-table"
        }
        "42501" => {
            "; grant SELECT, INSERT and UPDATE on the table, and USAGE on its schema, as docs/postgresql.md says"
        }
        "25006" => {
            "; the session is read-only: name the primary, and a role without default_transaction_read_only"
        }
        "28P01" | "28000" => "; check user and password in the URL, and the server's pg_hba.conf",
        "3D000" => "; check the database in the URL",
        "53300" => {
            "; a sidecar needs two connections: raise max_connections or the role's limit, or use a pooler"
        }
        "55P03" => "; somebody holds a lock on the row or the table, e.g. an open transaction",
        _ => "",
    }
}

/// For people, with what to do.
impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => formatter.write_str("no answer in time"),
            Self::Closed => formatter.write_str("the connection ended"),
            Self::Broken(error) => formatter.write_str(&chain(error.as_ref())),
            Self::Refused { code, message } => write!(formatter, "{message} [{}]{}", code.code(), advice(code)),
            Self::Standby => formatter.write_str(
                "the server is a standby, which takes no writes; name the primary, or all servers, in the URL",
            ),
            Self::ReadOnly => formatter.write_str(
                "sessions of this role are read-only (default_transaction_read_only); elections have to write",
            ),
            Self::OldTimeline { found, seen } => write!(
                formatter,
                "the server is on timeline {found}, and one on timeline {seen} was seen: it is an old primary that still runs \
                 and must be stopped, or it was restored from a backup, and the sidecars must be restarted"
            ),
            Self::NoTable => write!(
                formatter,
                "the table {TABLE} is missing; create it as docs/postgresql.md says, or give --postgres-create-table"
            ),
            Self::NoTrigger => write!(
                formatter,
                "the table {TABLE} has no trigger conch_elections_incarnation; create it as docs/postgresql.md says"
            ),
            Self::Tls(reason) => formatter.write_str(reason),
            Self::Malformed(what) => write!(formatter, "{what}: this is not PostgreSQL 14 or later"),
            Self::At { server, problem } => write!(formatter, "{server}: {problem}"),
            Self::Each(problems) => {
                let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
                formatter.write_str(&all.join("; "))
            }
        }
    }
}
