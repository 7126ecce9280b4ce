//! The same through a pooler in transaction mode, which gives each transaction to another session of the server and lets no hint
//! pass.

use crate::{
    common::{
        conformance::Subject,
        samples::{begin, held, holds, until},
    },
    relay::{Relay, Way},
    server::{as_postgres, shared},
    table::{Election, ROLE, options, row},
};
use conch_stores::{Store, postgres::PostgresStore};
use std::{
    env, fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// An election whose candidates come through a pooler of their own.
pub(crate) struct Pooled {
    election: Election,
    _pooler: Pooler,
}

struct Pooler {
    directory: TempDir,
    process: Child,
}

fn program() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let folders = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join("pgbouncer")).find(|path| path.is_file())
}

impl Pooler {
    /// Two connections to the server for everybody, so that each is shared.
    fn start(server: &Path) -> Option<Self> {
        let program = program()?;
        let directory = tempfile::Builder::new().prefix("conch-pooler-").tempdir().unwrap();
        let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(server).unwrap());
        std::os::unix::fs::chown(directory.path(), Some(owner), None).unwrap();
        let (folder, file) = (directory.path().display(), directory.path().join("pooler.ini"));
        let settings = format!(
            "[databases]\npostgres = host={} user={ROLE}\n[pgbouncer]\nlisten_addr =\nunix_socket_dir = {folder}\n\
             auth_type = any\npool_mode = transaction\ndefault_pool_size = 2\nmax_client_conn = 200\nlogfile = {folder}/log\n",
            server.display()
        );
        fs::write(&file, settings).unwrap();
        let mut command = as_postgres(&program);
        command.arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let pooler = Self { process: command.spawn().unwrap(), directory };
        let began = Instant::now();
        // The socket is there before it is listened on.
        while UnixStream::connect(pooler.socket()).is_err() {
            assert!(began.elapsed() < Duration::from_secs(10), "the pooler does not start");
            thread::sleep(Duration::from_millis(10));
        }
        Some(pooler)
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join(".s.PGSQL.6432")
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) async fn pooled(name: &str) -> Option<Pooled> {
    let election = row(name).await?;
    let pooler = Pooler::start(shared()?.path())?;
    let relay = Relay::before(pooler.socket()).await;
    Some(Pooled { election: Election { relay, ..election }, _pooler: pooler })
}

/// A change is seen by looking, and the row says nothing of the pooler.
pub(crate) async fn a_candidate_behind_a_pooler_and_one_beside_it_see_each_other(pooled: &Pooled) {
    let direct = pooled.election.again().await;
    let beside = direct.store();
    let behind = pooled.candidate().await;
    let (mut seen_behind, mut seen_beside) = (behind.changes(), beside.changes());
    let mut version = begin(&behind, &held(1, 1)).await.version;
    for sequence in 2..6 {
        let writer = if sequence % 2 == 0 { &beside } else { &behind };
        version = writer.write(&held(1, sequence), Some(&version), None).await.unwrap().version;
        let soon = Duration::from_secs(2);
        until(&mut seen_beside, soon, |stored| holds(stored, &held(1, sequence))).await;
        until(&mut seen_behind, soon, |stored| holds(stored, &held(1, sequence))).await;
    }
}

pub(crate) async fn a_pooler_that_restarts_costs_a_request_and_nothing_else(pooled: &Pooled) {
    let store = pooled.candidate().await;
    let first = begin(&store, &held(1, 1)).await;
    pooled.election.relay.set(Way::Refused);
    pooled.election.relay.cut();
    assert!(store.read().await.is_err());
    pooled.election.relay.set(Way::Up);
    store.write(&held(1, 2), Some(&first.version), None).await.unwrap();
}

impl Subject for Pooled {
    type Store = PostgresStore;

    async fn candidate(&self) -> PostgresStore {
        self.election.store_as(ROLE, options())
    }

    async fn make_fresh(&self) {
        self.election.make_fresh().await;
    }

    async fn clear(&self) {
        self.election.clear().await;
    }

    async fn hold_by(&self, holder: &str, renewal: u32) {
        self.election.hold_by(holder, renewal).await;
    }

    async fn alter(&self) {
        self.election.alter().await;
    }

    async fn touch(&self) {
        self.election.touch().await;
    }

    async fn stamp_longest_lease(&self, lease: Duration) {
        self.election.stamp_longest_lease(lease).await;
    }

    async fn mark_deleting(&self) {
        self.election.mark_deleting().await;
    }

    async fn delete(&self) {
        self.election.delete().await;
    }

    async fn cut_connections(&self) {
        self.election.relay.cut();
    }

    async fn tidy(&self) {}
}
