//! What a Lease's store does when the way to the API server breaks, and what it leaves alone.

use crate::{
    common::{
        conformance::Subject,
        samples::{begin, held, holds, next, read, until, vacant},
    },
    lease::{NAMESPACE, RealLease},
    proxy::Break,
};
use conch_crds::PodDeletion;
use conch_election::{Content, FailureKind, WriteError};
use conch_stores::Store;
use futures::StreamExt;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{Api, config::AuthInfo};
use serde_json::json;
use std::{
    fmt::Write,
    fs,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::{sleep, timeout};
use tracing_subscriber::{Layer, layer::Context, prelude::*};

const SOON: Duration = Duration::from_secs(2);
/// Far more than any request takes.
const LONG: Duration = Duration::from_secs(30);

pub(crate) async fn a_request_that_was_given_up_costs_its_connection_and_not_the_next_one(lease: &RealLease) {
    let store = lease.store();
    let mut version = begin(&store, &held(1, 1)).await.version;
    for sequence in 2..5 {
        lease.proxy.break_connections(Break::Silence);
        let before = lease.proxy.accepted();
        let record = held(1, sequence);
        let silent = timeout(Duration::from_millis(200), store.write(&record, Some(&version), None));
        assert!(silent.await.is_err(), "the connection was not silent");
        // Over the silent connection it would never be answered.
        let again = timeout(LONG, store.write(&record, Some(&version), None)).await;
        version = again.expect("the next request took the same connection").unwrap().version;
        assert_eq!(lease.proxy.accepted(), before + 1);
    }
}

pub(crate) async fn requests_go_over_one_connection_while_nothing_breaks(lease: &RealLease) {
    let store = lease.store();
    let mut version = begin(&store, &held(1, 1)).await.version;
    for sequence in 2..20 {
        version = store.write(&held(1, sequence), Some(&version), None).await.unwrap().version;
        read(&store).await;
    }
    assert_eq!(lease.proxy.accepted(), 1);
}

pub(crate) async fn a_server_that_is_away_is_unavailable_and_changes_say_so_and_come_back(lease: &RealLease) {
    let mut config = lease.config.clone();
    let free_port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    config.cluster_url = format!("https://127.0.0.1:{free_port}").parse().unwrap();
    let store = lease.store_with(config);
    assert_eq!(store.read().await.unwrap_err().kind, FailureKind::Unavailable);
    let Err(WriteError::Failed(failure)) = store.write(&vacant(1, 1), None, None).await else { panic!() };
    assert_eq!(failure.kind, FailureKind::Unavailable);
    let mut changes = store.changes();
    assert_eq!(next(&mut changes, SOON).await.unwrap_err().kind, FailureKind::Unavailable);
    // And not in a hot loop.
    let failures = timeout(Duration::from_secs(1), changes.by_ref().take(100).count()).await;
    assert!(failures.is_err());

    let address = ("127.0.0.1", free_port);
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let server = lease.proxy.address;
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut server = tokio::net::TcpStream::connect(server).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    lease.make_fresh().await;
    until(&mut changes, Duration::from_secs(15), |stored| {
        stored.is_some_and(|stored| stored.content == Content::Fresh)
    })
    .await;
}

pub(crate) async fn a_token_that_was_refused_is_read_again_at_once(lease: &RealLease) {
    lease.make_fresh().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "no token").unwrap();
    let mut config = lease.config.clone();
    config.auth_info =
        AuthInfo { token_file: Some(file.path().to_str().unwrap().to_owned()), ..AuthInfo::default() };
    let store = lease.store_with(config);
    assert_eq!(store.read().await.unwrap_err().kind, FailureKind::Denied);
    fs::write(file.path(), lease.token_of("default", &["get"]).await).unwrap();
    assert_eq!(read(&store).await.content, Content::Fresh);
}

pub(crate) async fn what_the_operator_writes_of_a_deleted_pod_is_known_at_once(lease: &RealLease) {
    let store = lease.store();
    let mut deletion = store.pod_deletion();
    let mut changes = store.changes();
    let driver = tokio::spawn(async move { while changes.next().await.is_some() {} });
    let first = begin(&store, &held(1, 1)).await;
    assert_eq!(*deletion.borrow_and_update(), None);
    let told = PodDeletion {
        pod_uid: "4f1c2ad0-0000-4000-8000-000000000001".to_owned(),
        grace_seconds: 30,
        sidecar_image: "conch:1".to_owned(),
    };
    let text = serde_json::to_string(&told).unwrap();
    lease.patch(json!({"metadata": {"annotations": {"conch.rs/pod-deletion": text}}})).await;
    timeout(SOON, deletion.changed()).await.unwrap().unwrap();
    assert_eq!(*deletion.borrow_and_update(), Some(told.clone()));
    // The holder keeps it; its successor, another pod, takes it down.
    assert_eq!(store.write(&held(1, 2), Some(&first.version), None).await, Err(WriteError::Conflict));
    let renewed = store.write(&held(1, 3), Some(&read(&store).await.version), None).await.unwrap();
    assert_eq!(*deletion.borrow_and_update(), Some(told));
    store.write(&held(2, 1), Some(&renewed.version), None).await.unwrap();
    timeout(SOON, deletion.changed()).await.unwrap().unwrap();
    assert_eq!(*deletion.borrow_and_update(), None);
    driver.abort();
}

pub(crate) async fn a_write_keeps_labels_owners_finalizers_and_foreign_annotations(lease: &RealLease) {
    // One that exists, or the garbage collector takes the Lease away.
    let accounts: Api<ServiceAccount> = Api::namespaced(lease.client.clone(), NAMESPACE);
    let uid = accounts.get("default").await.unwrap().metadata.uid;
    let owner = json!({"apiVersion": "v1", "kind": "ServiceAccount", "name": "default", "uid": uid});
    let metadata = json!({
        "labels": {"conch.rs/managed": "true"},
        "annotations": {"example.com/note": "mine"},
        "finalizers": ["example.com/hold"],
    });
    let uid = lease.create(metadata, json!({})).await;
    lease.patch(json!({"metadata": {"annotations": {"conch.rs/fresh": uid}}})).await;
    let store = lease.store();
    let fresh = read(&store).await;
    store.write(&held(1, 1), Some(&fresh.version), None).await.unwrap();
    let written = lease.get().await.metadata;
    assert_eq!(written.labels.unwrap()["conch.rs/managed"], "true");
    assert_eq!(written.finalizers.unwrap(), ["example.com/hold"]);
    let annotations = written.annotations.unwrap();
    assert_eq!(annotations["example.com/note"], "mine");
    assert!(!annotations.contains_key("conch.rs/fresh"));
    let managers = written.managed_fields.unwrap();
    assert!(managers.iter().any(|entry| entry.manager.as_deref() == Some(crate::lease::MANAGER)));

    // Made anew by a candidate, it has its owner again,
    lease.patch(json!({"metadata": {"finalizers": null, "ownerReferences": [owner]}})).await;
    read(&store).await;
    lease.delete().await;
    store.write(&vacant(1, 2), None, None).await.unwrap();
    let made = lease.get().await.metadata;
    assert_eq!(made.labels.unwrap()["conch.rs/managed"], "true");
    assert_eq!(made.owner_references.unwrap()[0].name, "default");
    assert!(!made.annotations.unwrap().contains_key("example.com/note"));

    // and the label even if it is made by one that never saw it before.
    lease.delete().await;
    lease.store().write(&vacant(2, 1), None, None).await.unwrap();
    assert_eq!(lease.get().await.metadata.labels.unwrap()["conch.rs/managed"], "true");
}

pub(crate) async fn a_follower_sends_nothing_while_the_holder_renews(lease: &RealLease) {
    let sent = Sent::default();
    let (follower, holder) = (lease.store(), lease.store());
    let mut version = begin(&holder, &held(1, 1)).await.version;
    let mut changes = follower.changes();
    let _guard = tracing_subscriber::registry().with(sent.clone()).set_default();
    until(&mut changes, SOON, |stored| stored.is_some()).await;
    // A GET and a watch; the write below is the holder's.
    for sequence in 2..30 {
        version = holder.write(&held(1, sequence), Some(&version), None).await.unwrap().version;
        until(&mut changes, SOON, |stored| stored.is_some_and(|stored| stored.version == version)).await;
        sleep(Duration::from_millis(20)).await;
    }
    let (requests, watches) = (sent.count("sends a request"), sent.count("opens a watch"));
    assert_eq!((requests, watches), (1 + 28, 1));
}

pub(crate) async fn a_watch_that_fell_silent_is_replaced_once_a_request_knows_more(lease: &RealLease) {
    // One that does not miss a renewal for so long.
    let (one, other) = (lease.store(), lease.store_of_rare_renewals());
    let first = begin(&one, &held(1, 1)).await;
    let mut changes = other.changes();
    until(&mut changes, SOON, |stored| holds(stored, &held(1, 1))).await;
    lease.proxy.break_connections(Break::Silence);
    let given_up = timeout(Duration::from_millis(200), one.read()).await;
    assert!(given_up.is_err());
    one.write(&held(1, 2), Some(&first.version), None).await.unwrap();
    assert!(timeout(Duration::from_secs(1), changes.next()).await.is_err(), "the watch was not silent");
    read(&other).await;
    // Before a bookmark would be overdue, after a minute and a half.
    until(&mut changes, LONG, |stored| holds(stored, &held(1, 2))).await;
}

/// Counts what goes out by the messages of the log.
#[derive(Clone, Default)]
struct Sent(Arc<Mutex<Vec<String>>>);

impl Sent {
    fn count(&self, message: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|logged| logged.contains(message)).count()
    }
}

impl<S: tracing::Subscriber> Layer<S> for Sent {
    fn on_event(&self, event: &tracing::Event<'_>, _context: Context<'_, S>) {
        if event.metadata().target().starts_with("conch_stores") {
            let mut text = String::new();
            event.record(&mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
                let _ = write!(text, "{field}={value:?} ");
            });
            self.0.lock().unwrap().push(text);
        }
    }
}
