//! What the store does when the way to the server breaks, when somebody stands in the way there, and when what it needs is
//! missing.

use crate::{
    common::{
        conformance::Subject,
        samples::{begin, held, holds, next, read, unknown, until, vacant},
    },
    relay::Way,
    server::{GUARDED, PASSWORD, Server},
    table::{Election, PATIENCE, ROLE, options, prepare},
};
use conch_election::{Content, Failure, FailureKind, WriteError};
use conch_stores::{
    Store,
    postgres::{CREATE_TABLE, Options, PostgresStore},
};
use futures::{StreamExt, future::join_all};
use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout};
use tracing_subscriber::fmt::MakeWriter;

const SOON: Duration = Duration::from_secs(2);
/// Far more than any request takes.
const LONG: Duration = Duration::from_secs(30);

fn kind(result: Result<conch_election::Written, WriteError>) -> FailureKind {
    match result {
        Err(WriteError::Failed(Failure { kind, .. })) => kind,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn a_request_that_was_given_up_costs_its_connection_and_not_the_next_one(
    election: &Election,
) {
    let store = election.store();
    let mut version = begin(&store, &held(1, 1)).await.version;
    for sequence in 2..5 {
        election.relay.set(Way::Silent);
        let before = election.relay.accepted();
        let record = held(1, sequence);
        let silent = timeout(Duration::from_millis(200), store.write(&record, Some(&version), None));
        assert!(silent.await.is_err(), "the connection was not silent");
        election.relay.set(Way::Up);
        let again = timeout(LONG, store.write(&record, Some(&version), None)).await;
        version = again.expect("the next request took the same connection").unwrap().version;
        assert_eq!(election.relay.accepted(), before + 1);
    }
}

pub(crate) async fn requests_go_over_one_connection_while_nothing_breaks(election: &Election) {
    let store = election.store();
    let mut version = begin(&store, &held(1, 1)).await.version;
    for sequence in 2..20 {
        version = store.write(&held(1, sequence), Some(&version), None).await.unwrap().version;
        read(&store).await;
    }
    assert_eq!(election.relay.accepted(), 1);
}

pub(crate) async fn a_write_whose_answer_was_lost_is_found_by_reading_back(election: &Election) {
    let store = election.store();
    let first = begin(&store, &held(1, 1)).await;
    election.relay.set(Way::AnswersLost);
    let lost = timeout(SOON, store.write(&held(1, 2), Some(&first.version), None)).await;
    assert!(lost.is_err(), "{lost:?}");
    election.relay.set(Way::Up);
    let found = read(&store).await;
    assert_eq!(found.content, Content::Record(held(1, 2)));
    assert_eq!(store.write(&held(1, 3), Some(&first.version), None).await, Err(WriteError::Conflict));
    store.write(&held(1, 3), Some(&found.version), None).await.unwrap();
}

pub(crate) async fn a_write_that_comes_late_is_refused_once_somebody_else_wrote(election: &Election) {
    let other_way = election.again().await;
    let (late, other) = (election.store(), other_way.store());
    let first = begin(&other, &held(2, 1)).await;
    // The session is open before the way becomes slow: only the write itself is late.
    read(&late).await;
    let pause = Duration::from_secs(1);
    election.relay.set(Way::Late(pause));
    let given_up = timeout(pause / 10, late.write(&held(1, 1), Some(&first.version), None)).await;
    assert!(given_up.is_err());
    other.write(&held(2, 2), Some(&first.version), None).await.unwrap();
    sleep(pause * 2).await;
    assert_eq!(read(&other).await.content, Content::Record(held(2, 2)), "a stale writer won");
    // Without anybody else it lands, late and whole.
    election.relay.set(Way::Up);
    let second = read(&late).await;
    election.relay.set(Way::Late(pause));
    assert!(timeout(pause / 10, late.write(&held(1, 2), Some(&second.version), None)).await.is_err());
    sleep(pause * 2).await;
    assert_eq!(read(&other).await.content, Content::Record(held(1, 2)));
}

pub(crate) async fn a_server_that_is_away_is_unavailable_and_changes_say_so_and_come_back(
    election: &Election,
) {
    election.relay.set(Way::Refused);
    let store = election.store();
    assert_eq!(store.read().await.unwrap_err().kind, FailureKind::Unavailable);
    assert_eq!(kind(store.write(&vacant(1, 1), None, None).await), FailureKind::Unavailable);
    let mut changes = store.changes();
    assert_eq!(next(&mut changes, SOON).await.unwrap_err().kind, FailureKind::Unavailable);
    // And not in a hot loop.
    let failures = timeout(Duration::from_secs(1), changes.by_ref().take(10).count()).await;
    assert!(failures.is_err());
    election.relay.set(Way::Up);
    election.make_fresh().await;
    until(&mut changes, LONG, |stored| stored.is_some_and(|stored| stored.content == Content::Fresh)).await;
}

pub(crate) async fn a_row_that_somebody_locks_is_a_time_out_and_nothing_is_left_waiting(election: &Election) {
    let store = election.store();
    let first = begin(&store, &held(1, 1)).await;
    let lock = "SELECT FROM public.conch_elections WHERE election = $1 FOR UPDATE";
    election.sql("BEGIN").await;
    election.hands.query(lock, &[&election.name]).await.unwrap();
    let began = Instant::now();
    let refused = kind(store.write(&held(1, 2), Some(&first.version), None).await);
    assert_eq!(refused, FailureKind::Timeout);
    assert!(began.elapsed() < PATIENCE + Duration::from_millis(500), "{:?}", began.elapsed());
    // Given up from our side as well, it ends on the server by itself: nothing comes when the lock is gone.
    assert!(timeout(SOON / 4, store.write(&held(1, 3), Some(&first.version), None)).await.is_err());
    sleep(PATIENCE + Duration::from_millis(500)).await;
    election.sql("COMMIT").await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(read(&store).await.content, Content::Record(held(1, 1)));
    store.write(&held(1, 4), Some(&first.version), None).await.unwrap();
}

/// What the role, or somebody who shares a pooler's connection, has set: none of it counts.
pub(crate) async fn settings_of_others_neither_lose_writes_nor_lead_to_another_table() {
    let server = Server::start("");
    prepare(&server).await;
    let election = Election::on(&server).await;
    let role = format!("careless_{}", std::process::id());
    let elsewhere = CREATE_TABLE.replace("public.", "elsewhere.");
    election
        .sql(&format!(
            "CREATE SCHEMA elsewhere; {elsewhere}
             CREATE FUNCTION elsewhere.pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS 'SELECT true';
             CREATE ROLE {role} LOGIN IN ROLE {ROLE};
             GRANT USAGE ON SCHEMA elsewhere TO {role}; GRANT ALL ON elsewhere.conch_elections TO {role};
             ALTER ROLE {role} SET search_path = elsewhere, pg_catalog;
             ALTER ROLE {role} SET synchronous_commit = off;
             ALTER ROLE {role} SET default_transaction_isolation = serializable;
             ALTER ROLE {role} SET statement_timeout = 100;
             ALTER ROLE {role} SET standard_conforming_strings = off;
             CREATE TABLE spy (election text, setting text);
             CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
             INSERT INTO public.spy VALUES (NEW.election, current_setting('synchronous_commit')); RETURN NULL; END $$;
             CREATE TRIGGER spy AFTER INSERT OR UPDATE ON public.conch_elections FOR EACH ROW
             EXECUTE FUNCTION public.spy();"
        ))
        .await;
    let (careless, other) = (election.store_as(&role, options()), election.store());
    begin(&careless, &held(1, 1)).await;
    assert_eq!(read(&other).await.content, Content::Record(held(1, 1)));
    let found = election.hands.query("SELECT FROM elsewhere.conch_elections", &[]).await.unwrap();
    assert!(found.is_empty());
    let spied =
        election.hands.query("SELECT setting FROM spy WHERE election = $1", &[&election.name]).await.unwrap();
    let settings: Vec<String> = spied.iter().map(|row| row.get(0)).collect();
    assert_eq!(settings, ["on", "on"], "a crash would lose what was confirmed");
}

pub(crate) async fn what_people_write_into_the_row_is_unknown_and_breaks_nothing(election: &Election) {
    let store = election.store();
    begin(&store, &held(1, 1)).await;
    for assignments in [
        "record = ''",
        "record = 'garbage'",
        r"record = E'\\x00 \'; DROP TABLE x'",
        "record = repeat('x', 1000000)",
        "record = left(record, 50)",
        "lease_ms = -9223372036854775808, longest_lease_ms = -1",
        "transitions = 9223372036854775807",
        "holder = '', lease_ms = 9223372036854775807",
    ] {
        election.update(assignments).await;
        let found = read(&store).await;
        unknown(&found);
        assert_eq!(found.longest_lease, None);
        store.write(&held(1, 2), Some(&found.version), None).await.unwrap();
        assert_eq!(read(&store).await.content, Content::Record(held(1, 2)), "after {assignments}");
    }
}

fn in_schema(schema: &str, create_table: bool) -> Options {
    Options { schema: schema.to_owned(), create_table, ..options() }
}

pub(crate) async fn a_table_is_created_once_and_only_where_that_is_wanted_and_allowed(election: &Election) {
    let schema = format!("it's \"mine\" {}", std::process::id());
    let quoted = schema.replace('"', "\"\"");
    election.sql(&format!("CREATE SCHEMA \"{quoted}\"; GRANT USAGE ON SCHEMA \"{quoted}\" TO {ROLE}")).await;
    let unwanted = election.store_as(ROLE, in_schema(&schema, false));
    assert_eq!(unwanted.read().await.unwrap_err().kind, FailureKind::Invalid);
    let forbidden = election.store_as(ROLE, in_schema(&schema, true));
    assert_eq!(forbidden.read().await.unwrap_err().kind, FailureKind::Denied);
    election.sql(&format!("GRANT CREATE ON SCHEMA \"{quoted}\" TO {ROLE}")).await;
    let stores: Vec<PostgresStore> =
        (0..6).map(|_| election.store_as(ROLE, in_schema(&schema, true))).collect();
    let found = join_all(stores.iter().map(Store::read)).await;
    assert!(found.iter().all(|found| *found == Ok(None)), "{found:?}");
    begin(&stores[0], &held(1, 1)).await;
    assert_eq!(read(&unwanted).await.content, Content::Record(held(1, 1)));
    assert_eq!(election.store().read().await, Ok(None), "another schema is another register");
    election.sql(&format!("DROP TABLE \"{quoted}\".conch_elections")).await;
    let mut failures = 0;
    while stores[0].read().await != Ok(None) {
        failures += 1;
        assert!(failures < 3, "it is not made anew");
    }
}

pub(crate) async fn a_table_without_the_trigger_is_refused(election: &Election) {
    let schema = format!("bare_{}", std::process::id());
    let bare = CREATE_TABLE.split("CREATE FUNCTION").next().unwrap().replace("public", &schema);
    election.sql(&format!("CREATE SCHEMA {schema}; {bare}")).await;
    let store = election.store_as("postgres", in_schema(&schema, false));
    assert_eq!(store.read().await.unwrap_err().kind, FailureKind::Invalid);
}

pub(crate) async fn without_rights_or_with_a_wrong_password_everything_is_denied(election: &Election) {
    let role = format!("reader_{}", std::process::id());
    election
        .sql(&format!(
            "CREATE ROLE {role} LOGIN; CREATE ROLE {role}_ro LOGIN IN ROLE {ROLE};
         ALTER ROLE {role}_ro SET default_transaction_read_only = on"
        ))
        .await;
    let denied = |store: PostgresStore| async move { store.read().await.unwrap_err().kind };
    assert_eq!(denied(election.store_as(&role, options())).await, FailureKind::Denied);
    assert_eq!(denied(election.store_as(&format!("{role}_ro"), options())).await, FailureKind::Denied);
    assert_eq!(denied(election.store_as(GUARDED, options())).await, FailureKind::Denied);
    assert_eq!(denied(election.store_as(&format!("{GUARDED}:wrong"), options())).await, FailureKind::Denied);
    election.sql(&format!("GRANT SELECT ON public.conch_elections TO {role}")).await;
    let reader = election.store_as(&role, options());
    assert_eq!(reader.read().await, Ok(None));
    assert_eq!(kind(reader.write(&vacant(1, 1), None, None).await), FailureKind::Denied);
    let right = election.store_as(&format!("{GUARDED}:{PASSWORD}"), options());
    begin(&right, &held(1, 1)).await;
}

/// All that is ever logged, at its most talkative.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'l> MakeWriter<'l> for Log {
    type Writer = Self;

    fn make_writer(&'l self) -> Self {
        self.clone()
    }
}

pub(crate) async fn the_password_is_never_logged_and_what_to_do_is(election: &Election) {
    let log = Log::default();
    let guard =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(log.clone()).finish();
    let _guard = tracing::subscriber::set_default(guard);
    let wrong = election.store_as(&format!("{GUARDED}:wrong-{PASSWORD}"), options());
    wrong.read().await.unwrap_err();
    let right = election.store_as(&format!("{GUARDED}:{PASSWORD}"), options());
    let mut changes = right.changes();
    begin(&right, &held(1, 1)).await;
    until(&mut changes, SOON, |stored| holds(stored, &held(1, 1))).await;
    election.relay.set(Way::Refused);
    election.relay.cut();
    right.read().await.unwrap_err();
    election.relay.set(Way::Up);
    let missing = election.store_as(ROLE, in_schema("nowhere", false));
    missing.read().await.unwrap_err();
    let said = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(!said.contains(PASSWORD), "{said}");
    for advice in ["check user and password", "--postgres-create-table", &election.name] {
        assert!(said.contains(advice), "{advice} is not in: {said}");
    }
}
