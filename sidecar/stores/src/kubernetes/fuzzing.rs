//! What must hold of any Lease, whoever wrote it. Fuzzers look for one of which it does not.

use super::encoding::{Unwritable, creation, decode, pod_deletion, replacement};
use conch_election::{Claim, Content, Identity, LEASE_MAX, Nonce, Record, Stored, Token, Unknown, WriteId};
use jiff::Timestamp;
use kube::{api::DynamicObject, core::WatchEvent};
use std::time::Duration;

/// Reads the bytes as an answer of the API server about a Lease, or as an event of its watch, and panics unless
///
/// * the same object, sent once more, is read as the same,
/// * what it says of a term is believed of one object alone,
/// * durations are within reason, and a record that is believed can be written as it was read,
/// * any candidate can write over it, except in a Lease of Coordinated Leader Election, and is read as it wrote.
pub fn lease(bytes: &[u8]) {
    if let Ok(object) = serde_json::from_slice(bytes) {
        check(&object);
    }
    match serde_json::from_slice::<WatchEvent<DynamicObject>>(bytes) {
        Ok(WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object)) => {
            check(&object);
        }
        Ok(WatchEvent::Bookmark(_) | WatchEvent::Error(_)) | Err(_) => {}
    }
}

fn check(object: &DynamicObject) {
    let stored = decode(object);
    assert_eq!(decode(&sent(object)), stored, "the same object is read in two ways");
    let lease = match &stored.content {
        Content::Record(Record { claim: Claim::Held { lease, .. }, .. }) => Some(*lease),
        Content::Unknown(Unknown { lease, .. }) => *lease,
        Content::Record(_) | Content::Fresh => None,
    };
    for duration in lease.into_iter().chain(stored.longest_lease) {
        assert!(!duration.is_zero() && duration <= LEASE_MAX, "waits for {duration:?}");
    }
    check_elsewhere(object);
    let mut records = records();
    if let Content::Record(record) = &stored.content {
        records.push(record.clone());
    }
    for record in &records {
        check_write(object, &stored, record);
    }
}

/// What is said of a term is said of one object: a backup tool that puts it into another one says nothing.
fn check_elsewhere(object: &DynamicObject) {
    let mut other = object.clone();
    other.metadata.uid.get_or_insert_default().push_str("-2");
    let of_any_object = |content: &Content| match content {
        Content::Record(record) => record.claim == Claim::Vacant,
        Content::Unknown(_) => true,
        Content::Fresh => false,
    };
    let (here, there) = (decode(object).content, decode(&other).content);
    assert!(of_any_object(&here) || of_any_object(&there), "believed in two objects: {here:?}, {there:?}");
}

fn check_write(object: &DynamicObject, before: &Stored, record: &Record) {
    let (token, now) = (Some(Token(81_000)), Timestamp::UNIX_EPOCH);
    let created =
        creation("shop", "conch-payments", Some(object), record, token, now).map(|object| sent(&object));
    match created {
        Ok(created) => {
            let content = Content::Record(record.clone());
            assert_eq!(decode(&created).content, content, "created, and not read as it was written");
        }
        Err(reason) => {
            assert_eq!(reason, Unwritable::Record);
            assert_ne!(record.claim, Claim::Vacant, "a creation that claims nothing is refused");
        }
    }
    match replacement(object, record, token, now).map(|object| sent(&object)) {
        Ok(replaced) => {
            let after = decode(&replaced);
            let content = Content::Record(record.clone());
            assert_eq!(
                after,
                Stored { content, ..before.clone() },
                "written over, and not read as it was written"
            );
            if let (Claim::Held { holder, .. }, Some(deletion)) = (&record.claim, pod_deletion(&replaced)) {
                assert_eq!(deletion.pod_uid, holder.pod_uid, "the deletion of another pod stays");
            }
        }
        Err(Unwritable::NoUid) => {
            assert!(before.incarnation.0.is_empty(), "the API server gives each one a uid");
        }
        Err(reason) => {
            assert_eq!(reason, Unwritable::Coordinated);
            assert!(matches!(before.content, Content::Unknown(_)), "believed, and cannot be written");
        }
    }
}

/// As the API server sends it back.
fn sent(object: &DynamicObject) -> DynamicObject {
    let text = serde_json::to_vec(object).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_else(|error| unreachable!("{object:?} is no JSON: {error}"))
}

/// One record of each kind.
fn records() -> Vec<Record> {
    let nonce = Nonce(0xabc);
    let term = WriteId { nonce, sequence: 2 };
    let holder = Identity { pod: "payments-7c9-x2x".to_owned(), pod_uid: "4f1c-8d".to_owned(), nonce };
    let held = Claim::Held { holder, term, lease: Duration::from_secs(15), reacquired: false };
    [held, Claim::Released { term }, Claim::Vacant]
        .map(|claim| Record {
            write: WriteId { nonce, sequence: 9 },
            transitions: 3,
            fencing_offset: 0,
            claim,
        })
        .into()
}
