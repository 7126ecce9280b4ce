//! Rows, tables and whole servers that come back from the past: what stands in them is not believed, and tokens go on rising or
//! the loss is noticed.

use crate::{
    common::{
        conformance::Subject,
        samples::{begin, held, holds, read, unknown, until},
    },
    relay::Relay,
    server::Server,
    servers::answers,
    table::{Election, ROLE, options, prepare},
};
use conch_election::{Claim, Config, Content, Identity, Nonce, Reason, Record, Timing, Version, WriteError};
use conch_stores::{
    Fencing, Store, clock,
    driver::{Candidate, Driver},
    postgres::{CREATE_TABLE, PostgresStore},
};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, timeout};

const LONG: Duration = Duration::from_secs(30);

/// What the holder of `held` signs when it stops.
fn released(nonce: u128, sequence: u64) -> Record {
    Record { claim: Claim::Released { term: held(nonce, 1).write }, ..held(nonce, sequence) }
}

async fn release(store: &PostgresStore) -> Version {
    let first = begin(store, &held(1, 1)).await;
    store.write(&released(1, 2), Some(&first.version), None).await.unwrap().version
}

/// Neither for those who saw it, nor for a process that sees nothing else.
async fn assert_unknown(election: &Election, before: &Version) {
    for store in [election.store(), election.store()] {
        let found = read(&store).await;
        unknown(&found);
        assert_ne!(found.version, *before);
        assert_eq!(store.write(&held(9, 1), Some(before), None).await, Err(WriteError::Conflict));
    }
}

pub(crate) async fn a_row_that_was_put_back_is_unknown_until_a_candidate_writes_it(election: &Election) {
    let store = election.store();
    let version = release(&store).await;
    let copy = format!("copy_{}", election.name.rsplit('-').next().unwrap());
    let of_this = format!("WHERE election = '{}'", election.name.replace('\'', "''"));
    election.sql(&format!("CREATE TABLE {copy} AS SELECT * FROM public.conch_elections {of_this}")).await;
    let fence = read(&store).await.fence;
    for put_back in [
        format!("INSERT INTO public.conch_elections SELECT * FROM {copy}"),
        // As pg_restore does it.
        format!(
            "COPY {copy} TO '/tmp/{copy}-{0}.copy'; COPY public.conch_elections FROM '/tmp/{copy}-{0}.copy'",
            std::process::id()
        ),
    ] {
        election.delete().await;
        election.sql(&put_back).await;
        assert_unknown(election, &version).await;
        assert!(read(&store).await.fence > fence);
    }
    let found = read(&store).await;
    store.write(&held(2, 1), Some(&found.version), None).await.unwrap();
    assert_eq!(read(&store).await.content, Content::Record(held(2, 1)));
    let _ = std::fs::remove_file(format!("/tmp/{copy}-{}.copy", std::process::id()));
}

pub(crate) async fn what_was_copied_from_another_election_is_unknown(election: &Election) {
    release(&election.store()).await;
    let other = Election { name: format!("{}-other", election.name), ..election.again().await };
    begin(&other.store(), &held(1, 1)).await;
    other
        .update(&format!(
            "(holder, lease_ms, transitions, record) = (SELECT holder, lease_ms, transitions, record \
             FROM public.conch_elections WHERE election = '{}')",
            election.name.replace('\'', "''")
        ))
        .await;
    unknown(&read(&other.store()).await);
}

pub(crate) async fn a_table_that_was_dropped_and_restored_is_unknown() {
    let server = Server::start("");
    prepare(&server).await;
    let election = Election::on(&server).await;
    let version = release(&election.store()).await;
    let fence = read(&election.store()).await.fence;
    // A whole restore puts the data in before it makes the triggers.
    let (table, trigger) = CREATE_TABLE.split_once("CREATE FUNCTION").unwrap();
    election
        .sql(&format!(
            "CREATE TABLE copy AS SELECT * FROM public.conch_elections; DROP TABLE public.conch_elections; {table}
             INSERT INTO public.conch_elections SELECT * FROM copy; DROP FUNCTION public.conch_elections_incarnation;
             CREATE FUNCTION {trigger} GRANT SELECT, INSERT, UPDATE ON public.conch_elections TO {ROLE}"
        ))
        .await;
    assert_unknown(&election, &version).await;
    assert!(read(&election.store()).await.fence > fence);
}

/// The database system goes back in time as a whole, as when the disk of its machine is set back.
pub(crate) async fn a_server_that_went_back_in_time_is_noticed_by_who_remembers() {
    let server = Server::start("");
    prepare(&server).await;
    let election = Election::on(&server).await;
    election.make_fresh().await;
    server.stop("INT");
    server.copy_data("yesterday");
    server.serve();

    let (leader, _task) = candidate(election.store(), 1);
    let token = lead(&leader).await;
    let (follower, _task) = candidate(election.store(), 2);
    sleep(Duration::from_secs(1)).await;
    server.stop("QUIT");
    server.restore_data("yesterday");
    server.serve();
    for candidate in [leader, follower] {
        let began = Instant::now();
        while candidate.answer().reason != Reason::HistoryLost {
            assert!(candidate.answer().promise.is_none_or(|promise| promise.token == token));
            assert!(began.elapsed() < LONG, "{:?}", candidate.answer());
            sleep(Duration::from_millis(20)).await;
        }
        assert!(candidate.answer().promise.is_none());
    }
}

/// The standby of an asynchronous pair is promoted without the last writes, and the old primary comes back.
pub(crate) async fn a_failover_that_lost_writes_is_unknown_to_everybody_and_tokens_rise() {
    let primary = Server::start("");
    prepare(&primary).await;
    let standby = primary.standby();
    let old = Election::on(&primary).await;
    let store = old.store();
    // The standby has a release. What it never gets: that somebody leads since then.
    let version = release(&store).await;
    standby.serve();
    caught_up(&primary, &standby).await;
    standby.stop("INT");
    let relay = Relay::before(standby.socket()).await;
    let both =
        format!("postgresql://{ROLE}@{},{}/postgres?sslmode=disable", old.relay.address, relay.address);
    let (lived_through, started_later) = (old.store_at(&both, options()), old.store_at(&both, options()));
    let lost = store.write(&held(2, 1), Some(&version), None).await.unwrap();
    assert_eq!(read(&lived_through).await.content, Content::Record(held(2, 1)));
    primary.stop("KILL");
    standby.serve();
    assert!(started_later.read().await.is_err(), "a standby is never read");
    promote(&standby).await;
    for store in [&lived_through, &started_later] {
        // A session that broke while it was idle may be noticed by a request.
        let found = answers(store).await;
        unknown(&found);
        assert_ne!(found.incarnation, lost.incarnation);
        assert!(found.fence > lost.fence, "tokens would repeat: {:?} after {:?}", found.fence, lost.fence);
        for past in [&version, &lost.version] {
            assert_eq!(store.write(&held(3, 1), Some(past), None).await, Err(WriteError::Conflict));
        }
    }
    let found = read(&started_later).await;
    let next = started_later.write(&held(3, 1), Some(&found.version), None).await.unwrap();
    assert!(next.fence > lost.fence);

    // Nobody stopped the old one from coming back: who saw the new one never looks at it again.
    primary.serve();
    standby.stop("INT");
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        assert!(lived_through.read().await.is_err(), "an old primary was believed");
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(read(&store).await.content, Content::Record(held(2, 1)), "who saw nothing else believes it");
    standby.serve();
    let mut changes = lived_through.changes();
    until(&mut changes, LONG, |stored| holds(stored, &held(3, 1))).await;
}

async fn caught_up(primary: &Server, standby: &Server) {
    let (primary, standby) = (primary.administrator().await, standby.administrator().await);
    let written: String = primary.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap().get(0);
    let began = Instant::now();
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'::pg_lsn");
    while !standby.query_one(&replayed, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(began.elapsed() < LONG, "the standby does not follow");
        sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn promote(standby: &Server) {
    let promoted = standby.administrator().await.query_one("SELECT pg_promote()", &[]).await.unwrap();
    assert!(promoted.get::<_, bool>(0));
}

pub(crate) async fn a_server_that_does_not_flush_promises_less() {
    let server = Server::start("-c fsync=off");
    prepare(&server).await;
    let election = Election::on(&server).await;
    let store = election.store();
    assert_eq!(store.fencing(), Fencing::Strict);
    begin(&store, &held(1, 1)).await;
    assert_eq!(store.fencing(), Fencing::BestEffort);
}

/// A running candidate, willing from the start; it dies with the task.
pub(crate) fn candidate(store: PostgresStore, nonce: u128) -> (Candidate, Task) {
    let seconds = Duration::from_secs;
    let timing =
        Timing::new(seconds(4), Duration::from_millis(500), Duration::from_millis(500), seconds(1)).unwrap();
    let identity =
        Identity { pod: format!("pod-{nonce}"), pod_uid: format!("uid-{nonce}"), nonce: Nonce(nonce) };
    let config = Config { identity, timing, longest_lease: timing.lease(), fencing_offset: 0 };
    let (driver, candidate) = Driver::new(store, config, clock::now, Arc::new(()));
    candidate.set_willing(true);
    (candidate, Task(tokio::spawn(async move { driver.run().await.unwrap() })))
}

/// Aborted when dropped.
pub(crate) struct Task(tokio::task::JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Waits until this candidate leads; returns the token.
pub(crate) async fn lead(candidate: &Candidate) -> conch_election::Token {
    let leads = async {
        loop {
            if let Some(promise) = candidate.answer().promise {
                break promise.token;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, leads).await.expect("nobody leads")
}
