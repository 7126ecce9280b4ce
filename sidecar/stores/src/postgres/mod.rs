//! A row of a PostgreSQL table as the register of an election.
//!
//! * A write is one UPDATE that names the row's place and the transaction that wrote it last (`xmin`), so the database itself
//!   refuses a stale writer. A missing row is made by an INSERT that claims nothing.
//! * The fence is made of the server's timeline and of the writing transaction's id. No object holds it, so no deletion, of
//!   the row or of the table, sets it back; and it rises through a failover that lost the last writes, because each
//!   promotion begins another timeline.
//! * A row names the timeline in which it was written. After a failover it is unknown, also to a process that sees nothing
//!   else: what a standby was promoted with may be older than the last leader, so everybody waits for a whole lease.
//! * A standby is never read, and never a server on an older timeline than one that was seen.
//! * No clock of the server is looked at: `written_at` is for people.
//! * A request is one message, which is one transaction. It needs no session, so a pooler in transaction mode will do.

mod changes;
mod encoding;
mod problem;
mod seen;
mod session;
mod settings;
mod table;

pub use settings::{Settings, SettingsError};
pub use table::{CREATE_TABLE, TABLE};

use crate::{Fencing, Store};
use conch_election::{Content, Failure, FailureKind, Record, Stored, Token, Version, WriteError, Written};
use encoding::Row;
use futures::stream::BoxStream;
use problem::Problem;
use seen::Seen;
use session::{History, Session, first, history, number, optional, text};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use table::Table;
use tokio_postgres::SimpleQueryRow;
use tracing::{debug, info, warn};

/// The row of one election.
///
/// Cloning gives another handle to the same session and the same memory of what was seen.
#[derive(Clone, Debug)]
pub struct PostgresStore {
    shared: Arc<Shared>,
}

/// What a store over PostgreSQL needs to know besides where the servers are.
#[derive(Clone, Debug)]
pub struct Options {
    /// Schema of the table. Always named in requests: a table of the same name elsewhere is another register.
    pub schema: String,
    /// Create the table where there is none.
    pub create_table: bool,
    /// The servers give up what takes longer. The elector's own time-out of one attempt.
    pub patience: Duration,
    /// From one renewal to the next: a row that is silent for longer is looked at.
    pub renew_interval: Duration,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    table: Table,
    name: String,
    election: String,
    create_table: bool,
    patience: Duration,
    renew_interval: Duration,
    /// For the next request. Whoever uses it takes it out, and puts it back when an answer came.
    session: Mutex<Option<Session>>,
    seen: Seen,
    /// Writes under way.
    writing: AtomicUsize,
    /// A server was seen that does not flush what it confirms.
    loses_writes: AtomicBool,
    /// What failed last time, and how: logged already.
    failing: Mutex<BTreeMap<Operation, FailureKind>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Operation {
    Read,
    Write,
    Watch,
}

impl PostgresStore {
    /// A store over the row of `election` (`namespace/name`). Connects when it is first asked; time-outs and retries are the
    /// caller's, who drops a future that takes too long. Must be used inside a Tokio runtime.
    pub fn new(settings: Settings, election: impl Into<String>, options: Options) -> Self {
        let Options { schema, create_table, patience, renew_interval } = options;
        let election = election.into();
        let shared = Shared {
            table: Table::new(&schema, &election, patience),
            name: format!("{schema}.{TABLE} of PostgreSQL at {settings}, election {election}"),
            settings,
            election,
            create_table,
            patience,
            renew_interval,
            session: Mutex::default(),
            seen: Seen::default(),
            writing: AtomicUsize::default(),
            loses_writes: AtomicBool::default(),
            failing: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }
}

impl Store for PostgresStore {
    fn name(&self) -> String {
        self.shared.name()
    }

    /// [`Fencing::BestEffort`] once a server was seen that runs with `fsync = off`.
    fn fencing(&self) -> Fencing {
        if self.shared.loses_writes.load(Ordering::Relaxed) { Fencing::BestEffort } else { Fencing::Strict }
    }

    async fn read(&self) -> Result<Option<Stored>, Failure> {
        let shared = &self.shared;
        loop {
            let before = shared.seen.before();
            let found = shared.read().await.map_err(|problem| shared.failure(Operation::Read, &problem))?;
            shared.succeeded(Operation::Read);
            // Else the stream of changes has told of something newer meanwhile: ask again.
            if shared.seen.found(before, found.as_ref()) {
                return Ok(found);
            }
        }
    }

    async fn write(
        &self,
        record: &Record,
        expected: Option<&Version>,
        token: Option<Token>,
    ) -> Result<Written, WriteError> {
        let shared = &self.shared;
        let _writing = Writing::begin(&shared.writing);
        let message = shared.message(record, expected, token)?;
        let before = shared.seen.before();
        let stored = match shared.write(&message).await {
            Ok(stored) => stored,
            Err(problem) => return Err(shared.write_error(&problem)),
        };
        shared.succeeded(Operation::Write);
        let stored = stored.ok_or(WriteError::Conflict)?;
        if stored.content != Content::Record(record.clone()) {
            warn!(table = %shared.name, "something altered what was written to the row: is there another trigger?");
            return Err(WriteError::Failed(INVALID));
        }
        shared.seen.written(before, &stored);
        let Stored { version, incarnation, fence, .. } = stored;
        Ok(Written { version, incarnation, fence })
    }

    fn changes(&self) -> BoxStream<'static, Result<Option<Stored>, Failure>> {
        changes::stream(Arc::clone(&self.shared))
    }
}

const INVALID: Failure = Failure { kind: FailureKind::Invalid, retry_after: None };

impl Shared {
    fn name(&self) -> String {
        self.name.clone()
    }

    /// A new session with the primary.
    async fn open(&self) -> Result<Session, Problem> {
        let accept = |server: &session::Server| self.seen.accept(server.history);
        let session = session::open(&self.settings, &self.table, self.create_table, accept).await?;
        if !session.server.durable && !self.loses_writes.swap(true, Ordering::Relaxed) {
            warn!(
                table = %self.name,
                "the server runs with fsync = off: a crash loses what it confirmed, two pods may lead after it, and tokens may repeat"
            );
        }
        Ok(session)
    }

    /// The session that is open, or a new one.
    async fn session(&self) -> Result<Session, Problem> {
        let kept = self.kept().take().filter(|session| !session.is_closed());
        match kept {
            Some(session) => Ok(session),
            None => self.open().await,
        }
    }

    fn kept(&self) -> MutexGuard<'_, Option<Session>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session that failed, or whose answer was given up, is not used again.
    async fn read(&self) -> Result<Option<Stored>, Problem> {
        let session = self.session().await?;
        let found = self.look(&session).await?;
        self.kept().replace(session);
        Ok(found)
    }

    /// Looks at the row through this session.
    async fn look(&self, session: &Session) -> Result<Option<Stored>, Problem> {
        self.stored(&first(session.query(&self.table.read()).await?)?)
    }

    /// `None`: the row is not as the message wants it.
    async fn write(&self, message: &str) -> Result<Option<Stored>, Problem> {
        let session = self.session().await?;
        let rows = session.query(message).await?;
        let stored = match rows.first() {
            Some(row) => self.stored(row)?,
            None => None,
        };
        if let Some(stored) = &stored {
            // Not in the transaction of the write, which would fail with it where the queue of notifications is full.
            session.send(&self.table.notify(&stored.version.0));
        }
        self.kept().replace(session);
        Ok(stored)
    }

    /// Takes a row of [`Table::read`] or of a write.
    fn stored(&self, row: &SimpleQueryRow) -> Result<Option<Stored>, Problem> {
        let history = history(row)?;
        self.seen.accept(history)?;
        let newest: u64 = number(row, 3)?;
        Ok(parse(history, row)?.map(|row| encoding::decode(&self.election, &row, newest)))
    }

    /// What to send for `record`.
    fn message(
        &self,
        record: &Record,
        expected: Option<&Version>,
        token: Option<Token>,
    ) -> Result<String, WriteError> {
        let target = match expected {
            // A version that no row of this store has.
            Some(version) => Some(encoding::parse_version(version).ok_or(WriteError::Conflict)?),
            None => None,
        };
        let place = target.as_ref().map(|(place, _)| place);
        let columns = encoding::encode(&self.election, place, record, token).map_err(|reason| {
            warn!(table = %self.name, %reason, "the row is not written");
            WriteError::Failed(INVALID)
        })?;
        Ok(match &target {
            Some((place, xid)) => self.table.update(&columns, place, *xid),
            None => self.table.insert(&columns),
        })
    }

    fn is_writing(&self) -> bool {
        self.writing.load(Ordering::Relaxed) > 0
    }

    fn write_error(&self, problem: &Problem) -> WriteError {
        if problem.is_conflict() {
            self.succeeded(Operation::Write);
            return WriteError::Conflict;
        }
        WriteError::Failed(self.failure(Operation::Write, problem))
    }

    fn succeeded(&self, operation: Operation) {
        if self.failing().remove(&operation).is_some() {
            info!(table = %self.name, ?operation, "requests to PostgreSQL succeed again");
        }
    }

    /// Logs the first failure of a kind, and the others for those who look for them.
    fn failure(&self, operation: Operation, problem: &Problem) -> Failure {
        let failure = problem.failure();
        let (table, kind) = (&self.name, failure.kind);
        if self.failing().insert(operation, kind) == Some(kind) {
            debug!(%table, ?operation, ?kind, detail = %problem, "a request to PostgreSQL failed again");
        } else {
            warn!(%table, ?operation, ?kind, detail = %problem, "a request to PostgreSQL failed");
        }
        failure
    }

    fn failing(&self) -> MutexGuard<'_, BTreeMap<Operation, FailureKind>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A write under way, also if it is given up.
struct Writing<'s>(&'s AtomicUsize);

impl<'s> Writing<'s> {
    fn begin(count: &'s AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The row after the three columns of its server and the newest transaction id; `None`: there is none.
fn parse(History { system, timeline }: History, row: &SimpleQueryRow) -> Result<Option<Row>, Problem> {
    if optional(row, 4)?.is_none() {
        return Ok(None);
    }
    let owned = |index| optional(row, index).map(|text| text.map(str::to_owned));
    let maybe = |index| optional(row, index).map(|text| text.and_then(|text| text.parse().ok()));
    let place = encoding::Place { system, timeline, table: number(row, 4)?, incarnation: number(row, 5)? };
    Ok(Some(Row {
        place,
        xmin: number(row, 6)?,
        holder: owned(7)?,
        lease_ms: maybe(8)?,
        transitions: maybe(9)?,
        token: owned(10)?,
        written_at: owned(11)?,
        record: owned(12)?,
        fresh: owned(13)?,
        deleting: text(row, 14)? == "t",
        longest_lease_ms: maybe(15)?,
    }))
}
