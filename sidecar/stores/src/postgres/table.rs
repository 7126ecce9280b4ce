//! The SQL: one table, one row for each election, and each request one message that leaves nothing behind in its session.
//!
//! A message holds several statements, which PostgreSQL runs as one transaction. Nothing is prepared and every setting is
//! local to that transaction, so a pooler may give each message to another connection. Each message begins by setting
//! what other users of a shared connection may have left otherwise: `search_path` (all names are those of this file),
//! `synchronous_commit` (a confirmed write survives a crash), and the bounds of waiting.

use super::encoding::{Columns, Place, hexadecimal};
use postgres_protocol::escape::{escape_identifier, escape_literal};
use sha2::{Digest, Sha256};
use std::time::Duration;

/// Name of the table, in the schema that the sidecar is given.
pub const TABLE: &str = "conch_elections";

/// Creates the table in the schema `public`, as an administrator does it by hand.
pub const CREATE_TABLE: &str = "\
CREATE TABLE public.conch_elections (
    election         text PRIMARY KEY,
    incarnation      xid8 NOT NULL,
    holder           text,
    lease_ms         bigint,
    transitions      bigint,
    token            text,
    written_at       timestamptz,
    record           text,
    fresh            text,
    deleting         boolean NOT NULL DEFAULT false,
    longest_lease_ms bigint
) WITH (fillfactor = 50);

CREATE FUNCTION public.conch_elections_incarnation() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS
$$ BEGIN NEW.incarnation := pg_current_xact_id(); RETURN NEW; END $$;

CREATE TRIGGER conch_elections_incarnation BEFORE INSERT ON public.conch_elections
    FOR EACH ROW EXECUTE FUNCTION public.conch_elections_incarnation();";

/// Schema of [`CREATE_TABLE`].
const SCHEMA: &str = "public.";
/// Of `pg_advisory_xact_lock`, so that sidecars which start at one time create the table one after the other: "conch".
const CREATION_LOCK: u64 = 0x0063_6f6e_6368;

/// The timeline that the server writes now: each promotion begins another, higher one. A standby has none to write.
const TIMELINE: &str = "CASE WHEN pg_is_in_recovery() THEN NULL ELSE \
                        ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint END";
const SYSTEM: &str = "(SELECT system_identifier FROM pg_control_system())";
/// The whole row, as [`super::encoding::Row`] takes it.
const ROW: &str = "e.tableoid, e.incarnation, e.xmin, e.holder, e.lease_ms, e.transitions, e.token, \
                   extract(epoch FROM e.written_at), e.record, e.fresh, e.deleting, e.longest_lease_ms";

/// The statements about one election.
#[derive(Debug)]
pub(super) struct Table {
    /// Quoted, with the schema.
    name: String,
    schema: String,
    election: String,
    patience: Duration,
}

impl Table {
    /// `patience`: the server gives up what takes longer.
    pub(super) fn new(schema: &str, election: &str, patience: Duration) -> Self {
        let quoted = escape_identifier(schema);
        Self { name: format!("{quoted}.{TABLE}"), schema: quoted, election: election.to_owned(), patience }
    }

    /// What a new session has to show before it is used.
    pub(super) fn probe(&self) -> String {
        format!(
            "{} SELECT pg_is_in_recovery(), {SYSTEM}, {TIMELINE}, current_setting('fsync'), to_regclass({table}) IS NOT NULL, \
             EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass({table}) AND tgenabled IN ('O', 'A') \
             AND tgname = 'conch_elections_incarnation'), current_setting('transaction_read_only')",
            self.settings(),
            table = escape_literal(&self.name),
        )
    }

    /// One row, in any case: the state of the server, and the election's row or nulls.
    pub(super) fn read(&self) -> String {
        format!(
            "{} SELECT pg_is_in_recovery(), {SYSTEM}, {TIMELINE}, pg_snapshot_xmax(pg_current_snapshot()), {ROW} \
             FROM (VALUES (1)) AS one LEFT JOIN {} AS e ON e.election = {}",
            self.settings(),
            self.name,
            escape_literal(&self.election),
        )
    }

    /// Gives no row if there is one already.
    pub(super) fn insert(&self, columns: &Columns) -> String {
        format!(
            "{} INSERT INTO {} AS e (election, holder, lease_ms, transitions, token, written_at, record) \
             VALUES ({}, {}, {}, {}, {}, clock_timestamp(), {}) ON CONFLICT (election) DO NOTHING RETURNING {}",
            self.settings(),
            self.name,
            escape_literal(&self.election),
            nullable(columns.holder.as_deref()),
            number(columns.lease_ms),
            columns.transitions,
            nullable(columns.token.as_deref()),
            escape_literal(&columns.record),
            written(),
        )
    }

    /// Gives no row unless the row is the one of `place`, written last by `row_xid`, on the same timeline of the same
    /// server. That is what refuses a stale writer.
    pub(super) fn update(&self, columns: &Columns, place: &Place, row_xid: u64) -> String {
        format!(
            "{} UPDATE {} AS e SET holder = {}, lease_ms = {}, transitions = {}, token = {}, \
             written_at = clock_timestamp(), record = {}, fresh = NULL \
             WHERE e.election = {} AND e.xmin = '{}'::xid AND e.incarnation = '{}'::xid8 AND e.tableoid = '{}'::oid \
             AND {SYSTEM} = '{}'::bigint AND {TIMELINE} = {} RETURNING {}",
            self.settings(),
            self.name,
            nullable(columns.holder.as_deref()),
            number(columns.lease_ms),
            columns.transitions,
            nullable(columns.token.as_deref()),
            escape_literal(&columns.record),
            escape_literal(&self.election),
            row_xid & u64::from(u32::MAX),
            place.incarnation,
            place.table,
            place.system,
            place.timeline,
            written(),
        )
    }

    /// Creates the table. For a session that found none.
    pub(super) fn create(&self) -> String {
        let statements = CREATE_TABLE
            .replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS")
            .replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
            .replace("CREATE TRIGGER", "CREATE OR REPLACE TRIGGER")
            .replace(SCHEMA, &format!("{}.", self.schema));
        format!("{} SELECT pg_advisory_xact_lock({CREATION_LOCK}); {statements}", self.settings())
    }

    pub(super) fn listen(&self) -> String {
        format!("LISTEN {}", self.channel())
    }

    /// Tells everybody who listens that this version was written.
    pub(super) fn notify(&self, version: &str) -> String {
        format!("SELECT pg_catalog.pg_notify('{}', {})", self.channel(), escape_literal(version))
    }

    /// A name has at most 63 bytes.
    fn channel(&self) -> String {
        let digest = Sha256::digest(format!("{}\n{}", self.name, self.election).as_bytes());
        format!("conch_{}", hexadecimal(&digest))
    }

    /// For the transaction of this message. `lock_timeout` is the shorter one, so that a lock is named as the reason.
    fn settings(&self) -> String {
        let statement = self.patience.as_millis().max(1);
        let lock = (self.patience * 9 / 10).as_millis().max(1);
        format!(
            "SELECT pg_catalog.set_config('search_path', 'pg_catalog', true), \
             pg_catalog.set_config('synchronous_commit', 'on', true), \
             pg_catalog.set_config('statement_timeout', '{statement}', true), \
             pg_catalog.set_config('lock_timeout', '{lock}', true);"
        )
    }
}

/// What a write gives back, in the order of a read.
fn written() -> String {
    format!("pg_is_in_recovery(), {SYSTEM}, {TIMELINE}, pg_current_xact_id(), {ROW}")
}

fn nullable(text: Option<&str>) -> String {
    text.map_or_else(|| "NULL".to_owned(), escape_literal)
}

fn number(number: Option<u64>) -> String {
    number.map_or_else(|| "NULL".to_owned(), |number| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_the_statements_that_create_the_table() {
        let document = include_str!("../../../../docs/postgresql.md");
        let block = document.split("```sql name=postgresql-table\n").nth(1).unwrap();
        assert!(block.starts_with(CREATE_TABLE), "docs/postgresql.md has another table");
    }

    #[test]
    fn a_channel_is_a_name_of_its_own_for_each_election_and_schema() {
        let channel = |schema: &str, election: &str| Table::new(schema, election, Duration::ZERO).channel();
        let long = "x".repeat(500);
        let channels = [channel("a", "n/e"), channel("a", "n/f"), channel("b", "n/e"), channel("a", &long)];
        for (index, one) in channels.iter().enumerate() {
            assert!(one.len() <= 63 && !channels[index + 1..].contains(one), "{channels:?}");
        }
    }
}
