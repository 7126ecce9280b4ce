//! Records to write, and ways to look at what comes back.

use conch_election::{Claim, Content, Failure, Identity, Nonce, Record, Stored, Unknown, WriteId, Written};
use conch_stores::Store;
use futures::{StreamExt, stream::BoxStream};
use std::time::Duration;
use tokio::time::timeout;

/// A record by candidate `nonce`, which it acquired with its first write.
pub(crate) fn held(nonce: u128, sequence: u64) -> Record {
    let nonce = Nonce(nonce);
    Record {
        write: WriteId { nonce, sequence },
        transitions: 0,
        fencing_offset: 0,
        claim: Claim::Held {
            holder: Identity {
                pod: "payments-7c9-x2x".to_owned(),
                pod_uid: format!("4f1c2ad0-0000-4000-8000-{:012x}", nonce.0),
                nonce,
            },
            term: WriteId { nonce, sequence: 1 },
            lease: Duration::from_secs(15),
            reacquired: false,
        },
    }
}

/// A record that claims nothing, as a creation must.
pub(crate) fn vacant(nonce: u128, sequence: u64) -> Record {
    Record { claim: Claim::Vacant, ..held(nonce, sequence) }
}

/// Creates the register and writes this record to it.
pub(crate) async fn begin(store: &impl Store, record: &Record) -> Written {
    let creation = Record { claim: Claim::Vacant, ..record.clone() };
    let created = store.write(&creation, None, None).await.unwrap();
    store.write(record, Some(&created.version), None).await.unwrap()
}

pub(crate) async fn read(store: &impl Store) -> Stored {
    store.read().await.unwrap().unwrap()
}

pub(crate) fn unknown(stored: &Stored) -> &Unknown {
    match &stored.content {
        Content::Unknown(unknown) => unknown,
        content => panic!("{content:?}"),
    }
}

pub(crate) fn holds(stored: Option<&Stored>, record: &Record) -> bool {
    stored.is_some_and(|stored| stored.content == Content::Record(record.clone()))
}

pub(crate) type Changes = BoxStream<'static, Result<Option<Stored>, Failure>>;

pub(crate) async fn next(changes: &mut Changes, bound: Duration) -> Result<Option<Stored>, Failure> {
    timeout(bound, changes.next()).await.expect("no change in time").expect("the stream ended")
}

/// Waits for a state; failures on the way are no harm.
pub(crate) async fn until(changes: &mut Changes, bound: Duration, wanted: impl Fn(Option<&Stored>) -> bool) {
    let mut told = Vec::new();
    let arrived = timeout(bound, async {
        loop {
            let change = changes.next().await.expect("the stream ended");
            if change.as_ref().is_ok_and(|stored| wanted(stored.as_ref())) {
                break;
            }
            told.push(change);
        }
    });
    assert!(arrived.await.is_ok(), "not told within {bound:?}; instead: {told:#?}");
}
