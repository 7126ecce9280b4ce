//! The row of one election on a real server, its candidates, and the hands of others.

use crate::{
    common::conformance::Subject,
    relay::Relay,
    server::{GUARDED, PASSWORD, Server, shared},
};
use conch_stores::postgres::{Options, PostgresStore, Settings};
use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};
use tokio::sync::OnceCell;
use tokio_postgres::Client;

/// Renewals are expected this often.
pub(crate) const RENEW_INTERVAL: Duration = Duration::from_millis(500);
/// What the server gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);
/// Of a candidate: it has the rights that the documentation names, and no others.
pub(crate) const ROLE: &str = "conch";

pub(crate) struct Election {
    pub(crate) name: String,
    pub(crate) relay: Relay,
    pub(crate) hands: Client,
}

/// An election on the server that the tests share.
pub(crate) async fn row(_name: &str) -> Option<Election> {
    static READY: OnceCell<()> = OnceCell::const_new();
    let server = shared()?;
    READY.get_or_init(|| prepare(server)).await;
    Some(Election::on(server).await)
}

/// Makes the table and the role as an administrator does, by the block "postgresql-table" of the document.
pub(crate) async fn prepare(server: &Server) {
    let hands = server.administrator().await;
    let document =
        include_str!("../../../../docs/postgresql.md").split("```sql name=postgresql-table\n").nth(1);
    let block = document.unwrap().split("```").next().unwrap();
    hands.batch_execute(block).await.unwrap();
    let roles = format!("CREATE ROLE {GUARDED} LOGIN PASSWORD '{PASSWORD}' IN ROLE {ROLE}");
    hands.batch_execute(&roles).await.unwrap();
}

pub(crate) fn options() -> Options {
    Options {
        schema: "public".to_owned(),
        create_table: false,
        patience: PATIENCE,
        renew_interval: RENEW_INTERVAL,
    }
}

impl Election {
    pub(crate) async fn on(server: &Server) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test/it's-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        Self { name, relay: Relay::before(server.socket()).await, hands: server.administrator().await }
    }

    /// Another way to the same row of the shared server.
    pub(crate) async fn again(&self) -> Self {
        let server = shared().expect("there is a server");
        Self { name: self.name.clone(), ..Self::on(server).await }
    }

    pub(crate) fn url(&self, user: &str) -> String {
        format!("postgresql://{user}@{}/postgres?sslmode=disable", self.relay.address)
    }

    pub(crate) fn store_as(&self, user: &str, options: Options) -> PostgresStore {
        self.store_at(&self.url(user), options)
    }

    pub(crate) fn store_at(&self, url: &str, options: Options) -> PostgresStore {
        PostgresStore::new(Settings::new(url, None).unwrap(), &self.name, options)
    }

    pub(crate) fn store(&self) -> PostgresStore {
        self.store_as(ROLE, options())
    }

    /// Changes the row by hand.
    pub(crate) async fn update(&self, assignments: &str) {
        let statement = format!("UPDATE public.conch_elections SET {assignments} WHERE election = $1");
        assert_eq!(self.hands.execute(&statement, &[&self.name]).await.unwrap(), 1);
    }

    pub(crate) async fn sql(&self, statements: &str) {
        self.hands.batch_execute(statements).await.unwrap();
    }
}

impl Subject for Election {
    type Store = PostgresStore;

    async fn candidate(&self) -> PostgresStore {
        self.store()
    }

    async fn make_fresh(&self) {
        let insert = "INSERT INTO public.conch_elections (election) VALUES ($1)";
        self.hands.execute(insert, &[&self.name]).await.unwrap();
        self.update(
            "fresh = concat_ws('/', (SELECT system_identifier FROM pg_control_system()),
             ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint, tableoid, incarnation)",
        )
        .await;
    }

    async fn clear(&self) {
        self.update("holder = NULL, lease_ms = NULL, transitions = NULL, token = NULL, record = NULL").await;
    }

    async fn hold_by(&self, holder: &str, renewal: u32) {
        self.update(&format!("holder = '{holder}', lease_ms = 30000, token = '{renewal}', record = NULL"))
            .await;
    }

    async fn alter(&self) {
        self.update("lease_ms = lease_ms - 1").await;
    }

    async fn touch(&self) {
        self.update("election = election").await;
    }

    async fn stamp_longest_lease(&self, lease: Duration) {
        self.update(&format!("longest_lease_ms = {}", lease.as_millis())).await;
    }

    async fn mark_deleting(&self) {
        self.update("deleting = true").await;
    }

    async fn delete(&self) {
        let delete = "DELETE FROM public.conch_elections WHERE election = $1";
        self.hands.execute(delete, &[&self.name]).await.unwrap();
    }

    async fn cut_connections(&self) {
        self.relay.cut();
    }

    async fn tidy(&self) {}
}
