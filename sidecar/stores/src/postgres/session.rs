//! One session with the primary. It is used by one request at a time and thrown away when that one was given up, so that
//! nothing waits behind an answer that may never come.

use super::{
    problem::Problem,
    settings::{Settings, address},
    table::Table,
};
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use std::{future::poll_fn, str::FromStr};
use tokio::{sync::mpsc, task::AbortHandle};
use tokio_postgres::{
    AsyncMessage, Client, Config, Connection, SimpleQueryMessage, SimpleQueryRow, Socket, error::SqlState,
};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::{debug, info, trace};

/// Notifications that are kept for a reader who is busy. One is enough to look again.
const NOTIFICATIONS: usize = 16;

/// The history that a server writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct History {
    pub(super) system: i64,
    pub(super) timeline: u32,
}

/// What is said of a server when it is asked for the first time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Server {
    pub(super) history: History,
    /// What is confirmed survives a crash of its machine.
    pub(super) durable: bool,
}

/// An open session.
#[derive(Debug)]
pub(super) struct Session {
    link: Link,
    pub(super) server: Server,
}

/// An open connection. Dropping it closes it at once.
#[derive(Debug)]
struct Link {
    client: Client,
    connection: AbortHandle,
    notifications: mpsc::Receiver<String>,
}

/// A session with the first server that answers, takes writes, and has the table. All are asked at one time, so that one
/// that is frozen costs nothing.
pub(super) async fn open(
    settings: &Settings,
    table: &Table,
    create: bool,
    accept: impl Fn(&Server) -> Result<(), Problem>,
) -> Result<Session, Problem> {
    let tls = settings.tls().map_err(|error| Problem::Tls(chain(&error)))?;
    let mut attempts: FuturesUnordered<_> =
        settings.servers().iter().map(|server| Session::open(server, tls.clone(), table, create)).collect();
    let mut problems = Vec::new();
    while let Some(result) = attempts.next().await {
        match result.and_then(|session| accept(&session.server).map(|()| session)) {
            Ok(session) => return Ok(session),
            Err(problem) => problems.push(problem),
        }
    }
    Err(Problem::worst(problems))
}

impl Session {
    async fn open(
        server: &Config,
        tls: MakeRustlsConnect,
        table: &Table,
        create: bool,
    ) -> Result<Self, Problem> {
        let at = |problem: Problem| problem.at(address(server));
        let (client, connection) = server.connect(tls).await.map_err(|error| at(Problem::of(error)))?;
        let (sender, notifications) = mpsc::channel(NOTIFICATIONS);
        let connection = tokio::spawn(drive(connection, sender)).abort_handle();
        let link = Link { client, connection, notifications };
        let server = greet(&link.client, table, create).await.map_err(at)?;
        Ok(Self { link, server })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.link.client.is_closed()
    }

    /// The rows of the last statement of a message.
    pub(super) async fn query(&self, message: &str) -> Result<Vec<SimpleQueryRow>, Problem> {
        query(&self.link.client, message).await
    }

    /// Sends a message whose answer nobody waits for.
    pub(super) fn send(&self, message: &str) {
        // The first poll sends it.
        let _ = self.link.client.simple_query(message).now_or_never();
    }

    /// The next notification. Ends with an error when the connection does.
    pub(super) async fn notification(&mut self) -> Result<String, Problem> {
        self.link.notifications.recv().await.ok_or(Problem::Closed)
    }

    /// Takes what has arrived already.
    pub(super) fn arrived(&mut self) -> Option<String> {
        self.link.notifications.try_recv().ok()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Asks a server what it is, and makes the table if that is wanted.
async fn greet(client: &Client, table: &Table, create: bool) -> Result<Server, Problem> {
    let mut row = first(query(client, &table.probe()).await?)?;
    if create && text(&row, 0)? == "f" && text(&row, 4)? == "f" {
        query(client, &table.create()).await?;
        info!("created the table {}", super::table::TABLE);
        row = first(query(client, &table.probe()).await?)?;
    }
    let history = history(&row)?;
    if text(&row, 6)? == "on" {
        return Err(Problem::ReadOnly);
    }
    if text(&row, 4)? == "f" {
        return Err(Problem::NoTable);
    }
    if text(&row, 5)? == "f" {
        return Err(Problem::NoTrigger);
    }
    Ok(Server { history, durable: text(&row, 3)? != "off" })
}

/// The first three columns of every answer.
pub(super) fn history(row: &SimpleQueryRow) -> Result<History, Problem> {
    if text(row, 0)? != "f" {
        return Err(Problem::Standby);
    }
    Ok(History { system: number(row, 1)?, timeline: number(row, 2)? })
}

pub(super) fn first(rows: Vec<SimpleQueryRow>) -> Result<SimpleQueryRow, Problem> {
    rows.into_iter().next().ok_or(Problem::Malformed("an answer without a row"))
}

pub(super) fn optional(row: &SimpleQueryRow, index: usize) -> Result<Option<&str>, Problem> {
    row.try_get(index).map_err(|_| Problem::Malformed("an answer with too few columns"))
}

pub(super) fn text(row: &SimpleQueryRow, index: usize) -> Result<&str, Problem> {
    optional(row, index)?.ok_or(Problem::Malformed("a value is missing"))
}

pub(super) fn number<T: FromStr>(row: &SimpleQueryRow, index: usize) -> Result<T, Problem> {
    text(row, index)?.parse().map_err(|_| Problem::Malformed("a value is no number"))
}

async fn query(client: &Client, message: &str) -> Result<Vec<SimpleQueryRow>, Problem> {
    trace!("sends a request");
    let mut rows = Vec::new();
    for message in client.simple_query(message).await.map_err(Problem::of)? {
        match message {
            SimpleQueryMessage::RowDescription(_) => rows.clear(),
            SimpleQueryMessage::Row(row) => rows.push(row),
            _ => {}
        }
    }
    Ok(rows)
}

/// Moves what goes over the connection until it ends.
async fn drive<S>(mut connection: Connection<Socket, S>, notifications: mpsc::Sender<String>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    loop {
        match poll_fn(|context| connection.poll_message(context)).await {
            Some(Ok(AsyncMessage::Notification(notification))) => {
                // Full: the reader has enough reasons to look.
                let _ = notifications.try_send(notification.payload().to_owned());
            }
            Some(Ok(AsyncMessage::Notice(notice))) if *notice.code() == SqlState::DUPLICATE_TABLE => {}
            Some(Ok(AsyncMessage::Notice(notice))) => debug!(%notice, "the server gives notice"),
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                debug!(detail = %chain(&error), "a connection broke");
                return;
            }
            None => return,
        }
    }
}

/// An error with everything that caused it.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_message = cause.to_string();
        if !message.ends_with(&cause_message) {
            message = format!("{message}: {cause_message}");
        }
        source = cause.source();
    }
    message
}
