//! Servers that stop, freeze, crash and start again, several of them, and TLS.

use crate::{
    backup::{candidate, lead, promote},
    common::samples::{begin, held, holds, read, until},
    relay::Way,
    server::{GUARDED, PASSWORD, Server},
    table::{Election, PATIENCE, ROLE, options, prepare},
};
use conch_election::{Content, FailureKind, WriteError};
use conch_stores::{
    Store,
    postgres::{PostgresStore, Settings},
};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::PathBuf,
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout};

const LONG: Duration = Duration::from_secs(30);

async fn server() -> (Server, Election) {
    let server = Server::start("");
    prepare(&server).await;
    let election = Election::on(&server).await;
    (server, election)
}

/// Waits until the store answers again.
pub(crate) async fn answers(store: &PostgresStore) -> conch_election::Stored {
    let began = Instant::now();
    loop {
        match timeout(PATIENCE, store.read()).await {
            Ok(Ok(found)) => return found.unwrap(),
            _ => assert!(began.elapsed() < LONG, "it does not answer again"),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn what_was_confirmed_outlives_a_stop_and_a_crash() {
    let (server, election) = server().await;
    let store = election.store();
    let mut changes = election.store().changes();
    let mut written = begin(&store, &held(1, 1)).await;
    until(&mut changes, LONG, |stored| holds(stored, &held(1, 1))).await;
    for (sequence, signal) in [(2, "INT"), (3, "QUIT"), (4, "KILL")] {
        server.stop(signal);
        // A session that broke while it was idle is noticed by the request, or before it.
        let refused = store.read().await.unwrap_err();
        assert_eq!(refused.kind, FailureKind::Unavailable);
        server.serve();
        let found = answers(&store).await;
        assert_eq!((&found.version, &found.incarnation), (&written.version, &written.incarnation));
        let next = store.write(&held(1, sequence), Some(&written.version), None).await.unwrap();
        assert!(next.fence > written.fence);
        until(&mut changes, LONG, |stored| holds(stored, &held(1, sequence))).await;
        written = next;
    }
}

pub(crate) async fn a_frozen_server_answers_nothing_and_loses_nothing() {
    let (server, election) = server().await;
    let (store, other) = (election.store(), election.store());
    let first = begin(&store, &held(1, 1)).await;
    read(&other).await;
    server.signal("STOP");
    let short = Duration::from_millis(500);
    assert!(timeout(short, store.write(&held(1, 2), Some(&first.version), None)).await.is_err());
    // Over a new connection, which nobody takes.
    assert!(timeout(short, store.read()).await.is_err());
    assert!(timeout(short, other.write(&held(2, 2), Some(&first.version), None)).await.is_err());
    server.signal("CONT");
    let found = answers(&store).await;
    let contents = [held(1, 1), held(1, 2), held(2, 2)].map(Content::Record);
    assert!(contents.contains(&found.content), "{found:?}");
    sleep(Duration::from_millis(300)).await;
    let found = read(&store).await;
    store.write(&held(1, 3), Some(&found.version), None).await.unwrap();
    assert_eq!(other.write(&held(2, 3), Some(&found.version), None).await, Err(WriteError::Conflict));
}

pub(crate) async fn of_several_hosts_the_one_that_takes_writes_is_used_also_if_the_first_is_frozen() {
    let (primary, election) = server().await;
    let standby = primary.standby();
    standby.serve();
    let follower = Election { name: election.name.clone(), ..Election::on(&standby).await };
    let (frozen, up) = (&follower.relay.address, &election.relay.address);
    let store =
        election.store_at(&format!("postgresql://{ROLE}@{frozen},{up}/postgres?sslmode=disable"), options());
    begin(&store, &held(1, 1)).await;
    assert_eq!(follower.store().read().await.unwrap_err().kind, FailureKind::Unavailable);

    follower.relay.set(Way::Silent);
    election.relay.cut();
    sleep(Duration::from_millis(50)).await;
    let began = Instant::now();
    assert_eq!(answers(&store).await.content, Content::Record(held(1, 1)));
    assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
    follower.relay.set(Way::Up);

    // The leader of a pair that fails over stops at once, and somebody leads a lease later, with a higher token.
    let pair = Election { name: format!("{}-pair", election.name), ..Election::on(&primary).await };
    let url = format!("postgresql://{ROLE}@{up},{frozen}/postgres?sslmode=disable");
    let on_both = |nonce| candidate(pair.store_at(&url, options()), nonce);
    let ((one, _task), (two, _other_task)) = (on_both(1), on_both(2));
    let token = tokio::select! { token = lead(&one) => token, token = lead(&two) => token };
    primary.stop("QUIT");
    let promoted = Instant::now();
    promote(&standby).await;
    let next = loop {
        let (first, second) = (one.answer().promise, two.answer().promise);
        assert!(first.is_none() || second.is_none(), "two lead");
        if let Some(promise) = first.or(second).filter(|promise| promise.token != token) {
            break promise.token;
        }
        assert!(promoted.elapsed() < LONG, "nobody leads: {:?} {:?}", one.answer(), two.answer());
        sleep(Duration::from_millis(5)).await;
    };
    println!("leads again {:?} after the promotion", promoted.elapsed());
    assert!(next > token);
    assert!(promoted.elapsed() >= Duration::from_secs(4), "what the standby had was believed");
}

/// Makes an authority and a certificate for 127.0.0.1, where the server may read them.
fn certificates(server: &Server) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
    let owner = fs::metadata(server.path()).unwrap();
    for (name, text) in [("cert.pem", certificate.pem()), ("key.pem", key.serialize_pem())] {
        let path = server.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&path, Some(owner.uid()), None).unwrap();
    }
}

pub(crate) async fn over_tls_the_certificate_is_always_verified() {
    let mut server = Server::start("");
    prepare(&server).await;
    certificates(&server);
    server.stop("INT");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let file = |name: &str| server.path().join(name).display().to_string();
    let (certificate, key) = (file("cert.pem"), file("key.pem"));
    server.listen(port, &format!("-c ssl=on -c ssl_cert_file={certificate} -c ssl_key_file={key}"));
    server.serve();
    let store = |user: &str, mode: &str, authorities: Option<PathBuf>| {
        let url = format!("postgresql://{user}@127.0.0.1:{port}/postgres?sslmode={mode}");
        PostgresStore::new(Settings::new(&url, authorities).unwrap(), "test/tls", options())
    };
    let authority = Some(PathBuf::from(&certificate));
    for mode in ["require", "prefer"] {
        let refused = store(ROLE, mode, None).read().await.unwrap_err();
        assert_eq!(refused.kind, FailureKind::Unavailable, "a stranger's certificate was believed");
        assert_eq!(store(ROLE, mode, authority.clone()).read().await, Ok(None));
    }
    // With a password, whose exchange is bound to this very connection.
    let guarded = format!("{GUARDED}:{PASSWORD}");
    assert_eq!(store(&guarded, "require", authority.clone()).read().await, Ok(None));
    let encrypted = server.administrator().await;
    let sessions =
        "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE ssl AND usename = $1";
    let kept = store(ROLE, "require", authority);
    begin(&kept, &held(1, 1)).await;
    assert_eq!(encrypted.query_one(sessions, &[&ROLE]).await.unwrap().get::<_, i64>(0), 1);
}
