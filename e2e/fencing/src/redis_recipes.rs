//! What docs/fencing.md says of Redis.

use anyhow::{Result, ensure};
use redis::aio::MultiplexedConnection;

use crate::document::recipe;
use crate::resource::{NAME, Reply, eval, redis};
use crate::servers::{RedisServer, new_runtime};

/// Neighbours that a double takes for one number: 2⁵³ and one more.
const OLD: &str = "00009007199254740992";
const NEW: &str = "00009007199254740993";

async fn claim(leader: &mut MultiplexedConnection, token: &str) -> Result<Reply<String>> {
    eval(leader, recipe("redis-claim")?, &[token]).await
}

async fn write(leader: &mut MultiplexedConnection, token: &str, body: &str) -> Result<Reply<String>> {
    eval(leader, recipe("redis-write")?, &[token, body]).await
}

/// Runs a check on a server of its own that holds an empty set.
fn on_stage(check: impl AsyncFnOnce(&mut MultiplexedConnection) -> Result<()>) -> Result<()> {
    let server = RedisServer::start()?;
    new_runtime()?.block_on(async {
        let mut connection = redis(&server.address(0)).await?;
        redis::cmd("HSET").arg(NAME).arg("body").arg("[]").exec_async(&mut connection).await?;
        check(&mut connection).await
    })
}

/// The token rises and never falls, and only who raised it to its own token writes.
pub fn a_key_takes_writes_of_the_highest_token_alone() -> Result<()> {
    on_stage(async |redis| {
        let done = |text: &str| Reply::Done(text.to_owned());
        ensure!(write(redis, OLD, "never").await? == Reply::Stale, "a write without a claim was accepted");
        ensure!(claim(redis, OLD).await? == done("[]"));
        ensure!(write(redis, OLD, "a").await? == done("OK"));
        ensure!(claim(redis, OLD).await? == done("a"), "the same term may read again");
        ensure!(write(redis, NEW, "never").await? == Reply::Stale, "a write without a claim was accepted");
        ensure!(claim(redis, NEW).await? == done("a"));
        ensure!(write(redis, OLD, "late").await? == Reply::Stale, "a stale write was accepted");
        ensure!(claim(redis, OLD).await? == Reply::Stale, "a stale leader read");
        ensure!(write(redis, NEW, "b").await? == done("OK"));
        ensure!(claim(redis, NEW).await? == done("b"));
        Ok(())
    })
}

/// What is no token is neither taken nor remembered.
pub fn a_malformed_token_is_refused() -> Result<()> {
    on_stage(async |redis| {
        claim(redis, OLD).await?;
        for malformed in ["", "9", "0000900719925474099x", "000009007199254740994", "-0009007199254740994"] {
            let result = claim(redis, malformed).await;
            let said = result.err().map(|error| format!("{error:#}")).unwrap_or_default();
            ensure!(said.contains("TOKEN"), "{malformed:?}: {said:?}");
        }
        ensure!(write(redis, OLD, "a").await? == Reply::Done("OK".to_owned()));
        Ok(())
    })
}

/// The mistake that the document warns of: tokens compared as Lua's numbers.
pub fn tokens_as_numbers_of_lua_let_a_stale_leader_pass() -> Result<()> {
    on_stage(async |redis| {
        let numbers = "if tonumber(redis.call('HGET', KEYS[1], 'token')) > tonumber(ARGV[1]) then \
                       return redis.error_reply('STALE') end return redis.status_reply('OK')";
        claim(redis, NEW).await?;
        ensure!(claim(redis, OLD).await? == Reply::Stale);
        let passed = eval(redis, numbers, &[OLD]).await? == Reply::Done("OK".to_owned());
        ensure!(passed, "Lua's numbers hold tokens exactly: the document is wrong");
        Ok(())
    })
}
