//! A backup tool puts a Lease back: the same name, labels, annotations and spec, in another object. What it says is of
//! before, and a leader of which it knows nothing may be cut off from the API server and not through with its term.

use crate::{
    common::{
        conformance::Subject,
        samples::{begin, held, read, vacant},
    },
    lease::RealLease,
};
use conch_election::{Claim, Config, Content, Identity, Nonce, Record, Timing};
use conch_stores::{Store, clock, driver::Driver};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, timeout};

const LEASE: Duration = Duration::from_secs(3);
/// What it takes to lead a Lease that needs no wait, and to find that out about one that does, on a busy machine.
const SLACK: Duration = Duration::from_secs(2);

pub(crate) async fn what_was_put_back_is_unknown_until_a_candidate_writes_it(lease: &RealLease) {
    let store = lease.store();
    lease.make_fresh().await;
    assert_eq!(read(&store).await.content, Content::Fresh);
    lease.put_back().await;
    let found = read(&store).await;
    assert!(matches!(found.content, Content::Unknown(_)), "{found:?}");
    for record in [held(1, 1), released(), vacant(1, 3)] {
        let version = read(&store).await.version;
        store.write(&record, Some(&version), None).await.unwrap();
        assert_eq!(read(&store).await.content, Content::Record(record));
        lease.put_back().await;
        let found = read(&lease.store()).await;
        assert!(matches!(found.content, Content::Unknown(_)), "{found:?}");
    }
    lease.delete().await;
    // Made by a candidate and written by nobody since: it names no object, and says nothing that could be wrong.
    store.write(&vacant(1, 4), None, None).await.unwrap();
    lease.put_back().await;
    assert_eq!(read(&store).await.content, Content::Record(vacant(1, 4)));
}

pub(crate) async fn what_was_put_back_is_led_a_whole_lease_later(lease: &RealLease) {
    lease.make_fresh().await;
    let waited = first_lead(lease, 2).await;
    assert!(waited < LEASE, "the mark is the operator's: {waited:?}");
    lease.delete().await;

    lease.make_fresh().await;
    lease.put_back().await;
    let waited = first_lead(lease, 3).await;
    assert!((LEASE..LEASE + SLACK).contains(&waited), "{waited:?}");
    lease.delete().await;

    release(lease).await;
    let waited = first_lead(lease, 4).await;
    assert!(waited < LEASE, "its last holder released it: {waited:?}");
    lease.delete().await;

    release(lease).await;
    lease.put_back().await;
    let waited = first_lead(lease, 5).await;
    assert!((LEASE..LEASE + SLACK).contains(&waited), "{waited:?}");
}

fn released() -> Record {
    Record { claim: Claim::Released { term: held(1, 1).write }, ..held(1, 2) }
}

async fn release(lease: &RealLease) {
    let store = lease.store();
    let first = begin(&store, &held(1, 1)).await;
    store.write(&released(), Some(&first.version), None).await.unwrap();
}

/// How long a candidate that knows nothing yet takes to lead. It ends then, without a release.
async fn first_lead(lease: &RealLease, nonce: u128) -> Duration {
    let timing =
        Timing::new(LEASE, Duration::from_millis(500), Duration::from_millis(300), Duration::from_secs(1))
            .unwrap();
    let identity = Identity { pod: "p".to_owned(), pod_uid: format!("{nonce}"), nonce: Nonce(nonce) };
    let config = Config { identity, timing, longest_lease: LEASE, fencing_offset: 0 };
    let (driver, candidate) = Driver::new(lease.store(), config, clock::now, Arc::new(()));
    let began = Instant::now();
    candidate.set_willing(true);
    let mut changes = candidate.subscribe();
    let leads = async {
        while !candidate.leads() {
            changes.changed().await.unwrap();
        }
    };
    tokio::select! {
        ended = driver.run() => panic!("{ended:?}"),
        led = timeout(LEASE * 3, leads) => led.unwrap(),
    }
    began.elapsed()
}

impl RealLease {
    /// What Velero does with a backup of what is there now.
    async fn put_back(&self) {
        let now = serde_json::to_value(self.get().await).unwrap();
        let kept = |field: &str| now["metadata"].get(field).cloned().unwrap_or(Value::Null);
        self.delete().await;
        let metadata = json!({"labels": kept("labels"), "annotations": kept("annotations")});
        self.create(metadata, now.get("spec").cloned().unwrap_or(Value::Null)).await;
    }
}
