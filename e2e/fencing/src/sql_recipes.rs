//! What docs/fencing.md says of PostgreSQL, tried with two connections: an old leader's and a new one's.

use std::time::Duration;

use anyhow::{Context as _, Error, Result, ensure};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::document::recipe;
use crate::resource::{NAME, STALE_SQL, sql};
use crate::servers::{PostgresServer, new_runtime};

const OLD: &str = "00000000000000000009";
const NEW: &str = "00000000000000000010";
/// Long enough to see that a statement waits.
const WAITS: Duration = Duration::from_millis(300);
const LEVELS: [&str; 3] = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];

/// What became of a write of the old leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Late {
    Accepted,
    Refused,
    /// Error 40001.
    BeginAgain,
}

/// A database with the document's objects in it, an old and a new leader.
struct Stage {
    old: Client,
    new: Client,
}

impl Stage {
    async fn open(server: &PostgresServer, name: &str) -> Result<Self> {
        let address = server.new_database(name).await?;
        let stage = Self { old: sql(&address).await?, new: sql(&address).await? };
        stage.old.batch_execute(recipe("row-table")?).await?;
        stage.old.batch_execute(recipe("fence-function")?).await?;
        let plain = "CREATE TABLE plain (name text PRIMARY KEY, body jsonb NOT NULL)";
        stage.old.batch_execute(plain).await?;
        for table in ["ledger", "plain"] {
            let insert = format!("INSERT INTO {table} (name, body) VALUES ($1, '[]')");
            stage.old.execute(&insert, &[&NAME]).await?;
        }
        Ok(stage)
    }
}

/// Runs a check on a server of its own.
fn on_stage(check: impl AsyncFnOnce(&PostgresServer) -> Result<()>) -> Result<()> {
    let server = PostgresServer::start()?;
    new_runtime()?.block_on(check(&server))
}

async fn claim(leader: &Client, token: &str) -> Result<Option<Value>> {
    let row = leader.query_opt(recipe("row-claim")?, &[&NAME, &token]).await?;
    Ok(row.map(|row| row.try_get("body")).transpose()?)
}

async fn write(leader: &Client, token: &str, body: Value) -> Result<u64> {
    Ok(leader.execute(recipe("row-write")?, &[&NAME, &token, &body]).await?)
}

async fn fence(leader: &Client, token: &str) -> Result<u64> {
    Ok(leader.execute(recipe("fence-call")?, &[&NAME, &token]).await?)
}

async fn begin(leader: &Client, level: &str) -> Result<()> {
    Ok(leader.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}")).await?)
}

async fn commit(leader: &Client) -> Result<()> {
    Ok(leader.batch_execute("COMMIT").await?)
}

/// What an answer to the old leader means; an error that is no refusal is a failure of the test.
fn late(result: Result<u64>) -> Result<Late> {
    let error = match result {
        Ok(0) => return Ok(Late::Refused),
        Ok(_) => return Ok(Late::Accepted),
        Err(error) => error,
    };
    match code(&error) {
        Some(code) if *code == SqlState::T_R_SERIALIZATION_FAILURE => Ok(Late::BeginAgain),
        Some(code) if code.code() == STALE_SQL => Ok(Late::Refused),
        _ => Err(error),
    }
}

fn code(error: &Error) -> Option<&SqlState> {
    error.downcast_ref::<tokio_postgres::Error>()?.code()
}

/// The row's token rises and never falls, and only who raised it to its own token writes.
pub fn a_row_takes_writes_of_the_highest_token_alone() -> Result<()> {
    on_stage(async |server| {
        let Stage { old, new } = Stage::open(server, "row").await?;
        ensure!(write(&old, OLD, json!(["never"])).await? == 0, "a write without a claim was accepted");
        ensure!(claim(&old, OLD).await? == Some(json!([])));
        ensure!(write(&old, OLD, json!(["a"])).await? == 1);
        ensure!(claim(&old, OLD).await? == Some(json!(["a"])), "the same term may read again");
        ensure!(write(&new, NEW, json!(["never"])).await? == 0, "a write without a claim was accepted");
        ensure!(claim(&new, NEW).await? == Some(json!(["a"])));
        ensure!(write(&old, OLD, json!(["a", "late"])).await? == 0, "a stale write was accepted");
        ensure!(claim(&old, OLD).await?.is_none(), "a stale leader read");
        ensure!(write(&new, NEW, json!(["a", "b"])).await? == 1);
        ensure!(claim(&new, NEW).await? == Some(json!(["a", "b"])));
        for malformed in ["11", "0000000000000000001x", "000000000000000000011", "99999999999999999999 "] {
            match claim(&new, malformed).await {
                Ok(claimed) => ensure!(claimed.is_none(), "{malformed:?} was taken"),
                Err(error) => ensure!(code(&error) == Some(&SqlState::CHECK_VIOLATION), "{error:#}"),
            }
        }
        Ok(())
    })
}

/// The claim is not decided yet when the late write comes, at each isolation level.
pub fn a_stale_write_that_waits_for_the_row_is_refused_when_it_gets_it() -> Result<()> {
    on_stage(async |server| {
        for (level, expected) in LEVELS.into_iter().zip([Late::Refused, Late::BeginAgain, Late::BeginAgain]) {
            let Stage { old, new } = Stage::open(server, &database(level)).await?;
            claim(&old, OLD).await?;
            begin(&new, "READ COMMITTED").await?;
            claim(&new, NEW).await?.context("the new leader was refused")?;
            begin(&old, level).await?;
            let mut writing = Box::pin(write(&old, OLD, json!(["late"])));
            ensure!(
                timeout(WAITS, &mut writing).await.is_err(),
                "{level}: the write did not wait for the claim"
            );
            commit(&new).await?;
            let found = late(writing.await)?;
            ensure!(found == expected, "{level}: {found:?}");
            let _ = commit(&old).await;
            ensure!(claim(&new, NEW).await? == Some(json!([])), "{level}: something was written");
        }
        Ok(())
    })
}

/// The guard on the write alone: the new leader reads, the old one writes, the new one writes back what it read.
pub fn a_guard_without_raising_the_token_first_loses_what_was_acknowledged() -> Result<()> {
    on_stage(async |server| {
        let Stage { old, new } = Stage::open(server, "guard").await?;
        let guarded = "UPDATE ledger SET body = $3, token = $2 WHERE name = $1 AND token <= $2";
        ensure!(old.execute(guarded, &[&NAME, &OLD, &json!(["a"])]).await? == 1);
        let read = "SELECT body FROM ledger WHERE name = $1";
        let body: Value = new.query_one(read, &[&NAME]).await?.try_get(0)?;
        ensure!(old.execute(guarded, &[&NAME, &OLD, &json!(["a", "late"])]).await? == 1, "it was refused");
        ensure!(body == json!(["a"]));
        ensure!(new.execute(guarded, &[&NAME, &NEW, &json!(["a", "b"])]).await? == 1);
        let last: Value = new.query_one(read, &[&NAME]).await?.try_get(0)?;
        ensure!(last == json!(["a", "b"]), "the acknowledged write is still there: the document is wrong");
        Ok(())
    })
}

/// SELECT, compare, UPDATE in one transaction: the table in the document, line one.
pub fn a_look_and_then_a_write_is_no_guard() -> Result<()> {
    on_stage(async |server| {
        for (old, new, reader, expected) in [
            (LEVELS[0], LEVELS[0], LEVELS[0], Late::Accepted),
            (LEVELS[1], LEVELS[1], LEVELS[1], Late::Accepted),
            (LEVELS[2], LEVELS[0], LEVELS[0], Late::Accepted),
            (LEVELS[2], LEVELS[2], LEVELS[0], Late::Accepted),
            (LEVELS[2], LEVELS[2], LEVELS[2], Late::BeginAgain),
        ] {
            let found = look_then_write(server, [old, new, reader]).await?;
            ensure!(found == expected, "{old}, {new}, {reader}: {found:?}");
        }
        Ok(())
    })
}

/// The old leader looks; the new one raises the token and, in a second transaction, reads; the old one writes.
async fn look_then_write(
    server: &PostgresServer,
    [old_level, new_level, reader_level]: [&str; 3],
) -> Result<Late> {
    let Stage { old, new } =
        Stage::open(server, &database(&[old_level, new_level, reader_level].join("_"))).await?;
    fence(&old, OLD).await?;
    begin(&old, old_level).await?;
    let seen: String = old.query_one("SELECT token FROM conch_tokens", &[]).await?.try_get(0)?;
    ensure!(seen == OLD);
    begin(&new, new_level).await?;
    new.execute("UPDATE conch_tokens SET token = $1", &[&NEW]).await?;
    commit(&new).await?;
    begin(&new, reader_level).await?;
    new.query("SELECT (SELECT max(token) FROM conch_tokens), body FROM plain", &[]).await?;
    commit(&new).await?;
    let written = old.execute("UPDATE plain SET body = '[\"late\"]'", &[]).await;
    Ok(match late(written.map_err(Error::from))? {
        Late::Accepted => late(commit(&old).await.map(|()| 1))?,
        refused => refused,
    })
}

/// The function refuses what is stale, and lets transactions of one term run side by side.
pub fn the_function_lets_transactions_of_the_highest_token_alone_go_on() -> Result<()> {
    on_stage(async |server| {
        let Stage { old, new } = Stage::open(server, "function").await?;
        fence(&old, OLD).await?;
        fence(&new, NEW).await?;
        fence(&new, NEW).await?;
        let found = late(fence(&old, OLD).await)?;
        ensure!(found == Late::Refused, "{found:?}");
        begin(&new, LEVELS[0]).await?;
        fence(&new, NEW).await?;
        let beside = timeout(WAITS, fence(&old, NEW)).await;
        ensure!(beside.is_ok_and(|result| result.is_ok()), "transactions of one term wait for each other");
        commit(&new).await?;
        for malformed in ["11", "9", "99999999999999999999 "] {
            let result = fence(&new, malformed).await;
            ensure!(result.is_err(), "{malformed:?} was taken");
        }
        fence(&new, NEW).await?;
        Ok(())
    })
}

/// A transaction of the old term is open: the new term waits for it and sees what it did. Then the next one of the old
/// term, begun before the new term, is refused.
pub fn a_new_term_waits_for_open_transactions_of_the_old_one_and_refuses_the_next() -> Result<()> {
    on_stage(async |server| {
        for level in LEVELS {
            let Stage { old, new } = Stage::open(server, &database(level)).await?;
            fence(&old, OLD).await?;
            begin(&old, level).await?;
            fence(&old, OLD).await?;
            old.execute("UPDATE plain SET body = '[\"in time\"]'", &[]).await?;
            let mut raising = Box::pin(fence(&new, NEW));
            ensure!(timeout(WAITS, &mut raising).await.is_err(), "{level}: the new term did not wait");
            commit(&old).await?;
            raising.await?;
            let body: Value = new.query_one("SELECT body FROM plain", &[]).await?.try_get(0)?;
            ensure!(body == json!(["in time"]), "{level}: {body}");

            begin(&old, level).await?;
            // Its snapshot is of before the term that begins now.
            old.query("SELECT FROM plain", &[]).await?;
            fence(&new, "00000000000000000011").await?;
            let found = late(fence(&old, NEW).await)?;
            let expected = if level == LEVELS[0] { Late::Refused } else { Late::BeginAgain };
            ensure!(found == expected, "{level}: {found:?}");
        }
        Ok(())
    })
}

/// A leader is frozen inside a transaction: the server ends it, the successor goes on, and nothing of it was done.
pub fn a_transaction_that_is_frozen_is_ended_by_the_server() -> Result<()> {
    on_stage(async |server| {
        let Stage { old, new } = Stage::open(server, "frozen").await?;
        old.batch_execute("SET idle_in_transaction_session_timeout = '1s'").await?;
        begin(&old, LEVELS[0]).await?;
        fence(&old, OLD).await?;
        old.execute("UPDATE plain SET body = '[\"late\"]'", &[]).await?;
        let mut raising = Box::pin(fence(&new, NEW));
        ensure!(timeout(WAITS, &mut raising).await.is_err(), "the new term did not wait");
        timeout(Duration::from_secs(10), raising).await.context("the successor waits for ever")??;
        ensure!(commit(&old).await.is_err(), "the frozen transaction was committed");
        let body: Value = new.query_one("SELECT body FROM plain", &[]).await?.try_get(0)?;
        ensure!(body == json!([]), "{body}");
        Ok(())
    })
}

/// A name for a database, from words.
fn database(words: &str) -> String {
    format!("level_{}", words.to_lowercase().replace(' ', "_"))
}
