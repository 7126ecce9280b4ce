//! The set that leaders append to, as a client sees it: with each of the guards, and with none.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use redis::aio::MultiplexedConnection;
use serde_json::Value;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Row};

use crate::document::recipe;

/// The one set of a test.
pub(crate) const NAME: &str = "invoices";
/// How a database that refuses is told from one that fails.
pub(crate) const STALE_SQL: &str = "CN412";
/// The same in Redis.
pub(crate) const STALE_REDIS: &str = "STALE";
/// A table as it is without any guard.
const PLAIN_TABLE: &str = "CREATE TABLE plain (name text PRIMARY KEY, body jsonb NOT NULL)";
const PLAIN_READ: &str = "SELECT body FROM plain WHERE name = $1";
const PLAIN_WRITE: &str = "UPDATE plain SET body = $2 WHERE name = $1";
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the set is, and what guards it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Guard {
    /// PostgreSQL, and nothing.
    SqlNone,
    /// PostgreSQL, and the token in the row.
    SqlRow,
    /// PostgreSQL, and the function.
    SqlFunction,
    /// Redis, and nothing.
    RedisNone,
    /// Redis, and the scripts.
    RedisScript,
}

impl Guard {
    /// Does it look at tokens?
    pub(crate) fn fences(self) -> bool {
        !matches!(self, Self::SqlNone | Self::RedisNone)
    }

    /// For people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::SqlNone => "PostgreSQL, no guard",
            Self::SqlRow => "PostgreSQL, token in the row",
            Self::SqlFunction => "PostgreSQL, function",
            Self::RedisNone => "Redis, no guard",
            Self::RedisScript => "Redis, scripts",
        }
    }

    fn is_sql(self) -> bool {
        matches!(self, Self::SqlNone | Self::SqlRow | Self::SqlFunction)
    }
}

/// What the database made of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply<T> {
    /// Done.
    Done(T),
    /// The token is stale.
    Stale,
}

/// A connection to the set.
pub(crate) enum Resource {
    /// PostgreSQL.
    Sql(Guard, Client),
    /// Redis.
    Redis(Guard, MultiplexedConnection),
}

impl Resource {
    /// Connects; `address` is what the server's `address()` says.
    pub(crate) async fn open(guard: Guard, address: &str) -> Result<Self> {
        Ok(if guard.is_sql() {
            Self::Sql(guard, sql(address).await?)
        } else {
            Self::Redis(guard, redis(address).await?)
        })
    }

    /// Makes an empty set.
    pub(crate) async fn create(&mut self) -> Result<()> {
        match self {
            Self::Sql(Guard::SqlRow, client) => {
                client.batch_execute(recipe("row-table")?).await?;
                client.execute("INSERT INTO ledger (name, body) VALUES ($1, '[]')", &[&NAME]).await?;
            }
            Self::Sql(guard, client) => {
                client.batch_execute(PLAIN_TABLE).await?;
                client.execute("INSERT INTO plain VALUES ($1, '[]')", &[&NAME]).await?;
                if *guard == Guard::SqlFunction {
                    client.batch_execute(recipe("fence-function")?).await?;
                }
            }
            Self::Redis(_, connection) => {
                redis::cmd("HSET").arg(NAME).arg("body").arg("[]").exec_async(connection).await?;
            }
        }
        Ok(())
    }

    /// Reads the set in order to change it.
    pub(crate) async fn read(&mut self, token: &str) -> Result<Reply<Vec<String>>> {
        timeout(PATIENCE, self.try_read(token)).await.context("the database does not answer")?
    }

    /// Writes back what was read, with one element more.
    pub(crate) async fn write(&mut self, token: &str, set: &[String]) -> Result<Reply<()>> {
        timeout(PATIENCE, self.try_write(token, set)).await.context("the database does not answer")?
    }

    /// The set, for an onlooker.
    pub(crate) async fn peek(&mut self) -> Result<Vec<String>> {
        match self {
            Self::Sql(Guard::SqlRow, client) => {
                elements(&client.query_one("SELECT body FROM ledger WHERE name = $1", &[&NAME]).await?)
            }
            Self::Sql(_, client) => elements(&client.query_one(PLAIN_READ, &[&NAME]).await?),
            Self::Redis(_, connection) => redis_elements(connection).await,
        }
    }

    async fn try_read(&mut self, token: &str) -> Result<Reply<Vec<String>>> {
        match self {
            Self::Sql(Guard::SqlRow, client) => {
                let row = client.query_opt(recipe("row-claim")?, &[&NAME, &token]).await?;
                row.map_or(Ok(Reply::Stale), |row| Ok(Reply::Done(elements(&row)?)))
            }
            Self::Sql(Guard::SqlFunction, client) => {
                let rows = fenced(client, token, PLAIN_READ, &[&NAME]).await?;
                rows.map(|rows| elements(rows.first().context("there is no set")?))
            }
            Self::Sql(_, client) => {
                Ok(Reply::Done(elements(&client.query_one(PLAIN_READ, &[&NAME]).await?)?))
            }
            Self::Redis(Guard::RedisScript, connection) => {
                let body = eval(connection, recipe("redis-claim")?, &[token]).await?;
                body.map(|body| Ok(serde_json::from_str(&body)?))
            }
            Self::Redis(_, connection) => Ok(Reply::Done(redis_elements(connection).await?)),
        }
    }

    async fn try_write(&mut self, token: &str, set: &[String]) -> Result<Reply<()>> {
        let body = Value::from(set);
        match self {
            Self::Sql(Guard::SqlRow, client) => {
                Ok(match client.execute(recipe("row-write")?, &[&NAME, &token, &body]).await? {
                    0 => Reply::Stale,
                    _ => Reply::Done(()),
                })
            }
            Self::Sql(Guard::SqlFunction, client) => {
                fenced(client, token, PLAIN_WRITE, &[&NAME, &body]).await?.map(|_| Ok(()))
            }
            Self::Sql(_, client) => {
                client.execute(PLAIN_WRITE, &[&NAME, &body]).await?;
                Ok(Reply::Done(()))
            }
            Self::Redis(Guard::RedisScript, connection) => {
                eval(connection, recipe("redis-write")?, &[token, &body.to_string()]).await?.map(|_| Ok(()))
            }
            Self::Redis(_, connection) => {
                let mut command = redis::cmd("HSET");
                command.arg(NAME).arg("body").arg(body.to_string()).exec_async(connection).await?;
                Ok(Reply::Done(()))
            }
        }
    }
}

impl<T> Reply<T> {
    fn map<U>(self, change: impl FnOnce(T) -> Result<U>) -> Result<Reply<U>> {
        Ok(match self {
            Self::Done(value) => Reply::Done(change(value)?),
            Self::Stale => Reply::Stale,
        })
    }
}

/// A connection to PostgreSQL.
pub(crate) async fn sql(address: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(address, NoTls).await?;
    // It ends with its client; what it says about a broken connection the client says too.
    tokio::spawn(async move { connection.await.is_ok() });
    Ok(client)
}

/// A connection to Redis.
pub(crate) async fn redis(address: &str) -> Result<MultiplexedConnection> {
    Ok(redis::Client::open(address)?.get_multiplexed_async_connection().await?)
}

/// One transaction behind the function.
async fn fenced(
    client: &mut Client,
    token: &str,
    statement: &str,
    arguments: &[&(dyn ToSql + Sync)],
) -> Result<Reply<Vec<Row>>> {
    let transaction = client.transaction().await?;
    match transaction.execute(recipe("fence-call")?, &[&NAME, &token]).await {
        Err(error) if error.code() == Some(&SqlState::from_code(STALE_SQL)) => return Ok(Reply::Stale),
        Err(error) => return Err(error.into()),
        Ok(_) => {}
    }
    let rows = transaction.query(statement, arguments).await?;
    transaction.commit().await?;
    Ok(Reply::Done(rows))
}

/// Runs a script of the document on the set's key.
pub(crate) async fn eval(
    connection: &mut MultiplexedConnection,
    script: &str,
    arguments: &[&str],
) -> Result<Reply<String>> {
    let mut command = redis::cmd("EVAL");
    command.arg(script).arg(1).arg(NAME).arg(arguments);
    match command.query_async(connection).await {
        Ok(value) => Ok(Reply::Done(value)),
        Err(error) if error.code() == Some(STALE_REDIS) => Ok(Reply::Stale),
        Err(error) => bail!(error),
    }
}

fn elements(row: &Row) -> Result<Vec<String>> {
    Ok(serde_json::from_value(row.try_get("body")?)?)
}

async fn redis_elements(connection: &mut MultiplexedConnection) -> Result<Vec<String>> {
    let body: String = redis::cmd("HGET").arg(NAME).arg("body").query_async(connection).await?;
    Ok(serde_json::from_str(&body)?)
}
