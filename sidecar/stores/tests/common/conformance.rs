//! One set of checks for every store. A store takes part with a [`Subject`] and one line: `conformance!(subject);`.

use super::{
    records::records,
    samples::{begin, held, holds, next, read, unknown, until, vacant},
};
use conch_election::{
    Claim, Content, Failure, FailureKind, Fence, Record, Token, Version, WriteError, Written,
};
use conch_stores::{Fencing, Store};
use futures::{
    StreamExt,
    future::{join, join_all},
};
use proptest::{prelude::Strategy, strategy::ValueTree, test_runner::TestRunner};
use std::{collections::HashSet, future::Future, time::Duration};
use tokio::time::{sleep, timeout};

/// How soon a change must be told of while nothing is broken.
const SOON: Duration = Duration::from_secs(2);
/// How soon after a break.
const AFTER_A_BREAK: Duration = Duration::from_secs(10);

/// A register under test: the ways of candidates to it, and the hands of people and tools that are no candidates.
pub(crate) trait Subject: Sync {
    type Store: Store;
    /// A candidate with a connection of its own.
    fn candidate(&self) -> impl Future<Output = Self::Store> + Send;
    /// Makes the register as the operator does where no candidate ever ran.
    fn make_fresh(&self) -> impl Future<Output = ()> + Send;
    /// Takes out what the holder wrote, by hand.
    fn clear(&self) -> impl Future<Output = ()> + Send;
    /// Writes what another tool writes that holds the register; each `renewal` is another one.
    fn hold_by(&self, holder: &str, renewal: u32) -> impl Future<Output = ()> + Send;
    /// Alters one part of what the holder wrote, and nothing else.
    fn alter(&self) -> impl Future<Output = ()> + Send;
    /// Writes without touching anything that a candidate wrote.
    fn touch(&self) -> impl Future<Output = ()> + Send;
    fn stamp_longest_lease(&self, lease: Duration) -> impl Future<Output = ()> + Send;
    /// Marks the register for deletion; it stays.
    fn mark_deleting(&self) -> impl Future<Output = ()> + Send;
    fn delete(&self) -> impl Future<Output = ()> + Send;
    /// Cuts every connection of every candidate, once.
    fn cut_connections(&self) -> impl Future<Output = ()> + Send;
    /// Removes what the test made.
    fn tidy(&self) -> impl Future<Output = ()> + Send;
}

/// Says that a test could not run here, in the form that is counted.
pub(crate) fn skipped(check: &str) {
    use std::io::Write as _;
    // Not by println, which is shown of failed tests only.
    let line = format!("SKIPPED {check}: the server that it needs is not there\n");
    std::io::stdout().write_all(line.as_bytes()).unwrap();
}

/// Makes one test of each check, in its own name; a check is a function of a [`Subject`]. Where the function `$subject`
/// makes none, the test says that it was skipped.
#[macro_export]
macro_rules! checks {
    ($module:ident with $subject:ident: $($check:ident),* $(,)?) => {$(
        #[tokio::test]
        async fn $check() {
            match $subject(stringify!($check)).await {
                Some(subject) => {
                    $module::$check(&subject).await;
                    $crate::common::conformance::Subject::tidy(&subject).await;
                }
                None => $crate::common::conformance::skipped(stringify!($check)),
            }
        }
    )*};
}

/// Makes tests of all checks that every store must pass.
#[macro_export]
macro_rules! conformance {
    ($subject:ident) => {
        checks!(conformance with $subject:
            a_register_that_was_never_written_is_none,
            a_write_that_creates_does_it_once,
            a_write_that_creates_claims_nothing,
            a_write_succeeds_from_the_current_version_only,
            a_version_that_never_was_is_refused,
            a_version_from_before_a_deletion_is_refused,
            no_version_comes_twice,
            fences_rise_through_deletion_and_creation,
            of_many_writers_from_one_version_one_wins,
            no_update_of_concurrent_writers_is_lost,
            every_record_comes_back_as_it_was_written,
            what_other_hands_write_is_unknown,
            an_altered_record_is_unknown,
            a_foreign_renewal_changes_the_fingerprint_and_a_label_does_not,
            a_foreign_label_changes_the_version_and_not_the_record,
            a_fresh_register_is_told_from_a_cleared_one,
            the_operators_stamps_are_read,
            a_write_that_was_given_up_lands_once_or_never,
            changes_begin_with_what_is,
            changes_tell_of_the_last_write_soon,
            reads_and_changes_never_go_back,
            changes_tell_of_deletion_and_creation,
            changes_go_on_after_their_connection_was_cut,
            requests_go_on_after_their_connection_was_cut,
        );
    };
}

pub(crate) async fn a_register_that_was_never_written_is_none(subject: &impl Subject) {
    assert_eq!(subject.candidate().await.read().await, Ok(None));
}

pub(crate) async fn a_write_that_creates_does_it_once(subject: &impl Subject) {
    let (one, other) = (subject.candidate().await, subject.candidate().await);
    let written = one.write(&vacant(1, 1), None, None).await.unwrap();
    let found = read(&one).await;
    assert_eq!(
        (found.version.clone(), found.incarnation.clone(), found.fence),
        (written.version, written.incarnation, written.fence)
    );
    assert_eq!(found.content, Content::Record(vacant(1, 1)));
    assert_eq!(other.write(&vacant(2, 1), None, None).await, Err(WriteError::Conflict));
    assert_eq!(one.write(&vacant(1, 2), None, None).await, Err(WriteError::Conflict));
    assert_eq!(read(&other).await, found);
}

pub(crate) async fn a_write_that_creates_claims_nothing(subject: &impl Subject) {
    let store = subject.candidate().await;
    let released = Record { claim: Claim::Released { term: held(1, 1).write }, ..held(1, 2) };
    for record in [held(1, 1), released] {
        let refused = store.write(&record, None, None).await;
        let invalid = Failure { kind: FailureKind::Invalid, retry_after: None };
        assert_eq!(refused, Err(WriteError::Failed(invalid)));
    }
    assert_eq!(store.read().await, Ok(None));
}

pub(crate) async fn a_write_succeeds_from_the_current_version_only(subject: &impl Subject) {
    let (one, other) = (subject.candidate().await, subject.candidate().await);
    let first = begin(&one, &held(1, 1)).await;
    let seen_by_other = read(&other).await.version;
    let second = one.write(&held(1, 2), Some(&first.version), Some(Token(7))).await.unwrap();
    assert_eq!(second.incarnation, first.incarnation);
    assert_eq!(one.write(&held(1, 3), Some(&first.version), None).await, Err(WriteError::Conflict));
    assert_eq!(other.write(&held(2, 1), Some(&seen_by_other), None).await, Err(WriteError::Conflict));
    assert_eq!(read(&other).await.content, Content::Record(held(1, 2)));
    let current = read(&other).await.version;
    other.write(&held(2, 2), Some(&current), None).await.unwrap();
    assert_eq!(read(&one).await.content, Content::Record(held(2, 2)));
}

pub(crate) async fn a_version_that_never_was_is_refused(subject: &impl Subject) {
    let store = subject.candidate().await;
    let never = Version("no such version".to_owned());
    assert_eq!(store.write(&held(1, 1), Some(&never), None).await, Err(WriteError::Conflict));
    assert_eq!(store.read().await, Ok(None));
    begin(&store, &held(1, 2)).await;
    assert_eq!(store.write(&held(1, 3), Some(&never), None).await, Err(WriteError::Conflict));
    assert_eq!(read(&store).await.content, Content::Record(held(1, 2)));
}

pub(crate) async fn a_version_from_before_a_deletion_is_refused(subject: &impl Subject) {
    let (one, other) = (subject.candidate().await, subject.candidate().await);
    let first = begin(&one, &held(1, 1)).await;
    subject.delete().await;
    assert_eq!(one.write(&held(1, 2), Some(&first.version), None).await, Err(WriteError::Conflict));
    assert_eq!(one.read().await, Ok(None), "a write from a version must not create");
    let second = begin(&other, &held(2, 1)).await;
    assert_ne!(second.incarnation, first.incarnation);
    assert_eq!(one.write(&held(1, 3), Some(&first.version), None).await, Err(WriteError::Conflict));
    assert_eq!(read(&one).await.content, Content::Record(held(2, 1)));
}

pub(crate) async fn no_version_comes_twice(subject: &impl Subject) {
    let store = subject.candidate().await;
    let mut seen: HashSet<Version> = HashSet::new();
    for round in 0..5 {
        let mut written = begin(&store, &held(1, round * 10)).await;
        for sequence in 1..4 {
            assert!(seen.insert(written.version.clone()), "{:?} came twice", written.version);
            let record = held(1, round * 10 + sequence);
            written = store.write(&record, Some(&written.version), None).await.unwrap();
        }
        assert!(seen.insert(written.version.clone()), "{:?} came twice", written.version);
        subject.touch().await;
        let touched = read(&store).await.version;
        assert!(seen.insert(touched.clone()), "{touched:?} came twice");
        subject.delete().await;
    }
}

pub(crate) async fn fences_rise_through_deletion_and_creation(subject: &impl Subject) {
    let store = subject.candidate().await;
    let mut fences: Vec<Option<Fence>> = Vec::new();
    for round in 0..5 {
        let written = begin(&store, &held(1, round * 10)).await;
        fences.push(written.fence);
        subject.touch().await;
        let touched = read(&store).await;
        fences.push(touched.fence);
        let written = store.write(&held(1, round * 10 + 1), Some(&touched.version), None).await.unwrap();
        fences.push(written.fence);
        subject.delete().await;
    }
    if store.fencing() == Fencing::Strict {
        assert!(fences.iter().all(Option::is_some), "{fences:?}");
        assert!(fences.is_sorted_by(|one, next| one < next), "{fences:?}");
    }
}

pub(crate) async fn of_many_writers_from_one_version_one_wins(subject: &impl Subject) {
    let stores = join_all((0..8).map(|_| subject.candidate())).await;
    let mut winner = begin(&stores[0], &held(0, 1)).await;
    for round in 2..8 {
        let attempts = stores.iter().zip(0_u32..).map(|(store, candidate)| async move {
            let found = read(store).await.version;
            (candidate, found)
        });
        let known = join_all(attempts).await;
        assert!(known.iter().all(|(_, version)| *version == winner.version));
        let writes = stores.iter().zip(known).map(|(store, (candidate, version))| async move {
            let record = held(candidate.into(), round);
            (record.clone(), store.write(&record, Some(&version), None).await)
        });
        let results = join_all(writes).await;
        let won: Vec<&(Record, Result<Written, WriteError>)> =
            results.iter().filter(|(_, result)| result.is_ok()).collect();
        let lost = results.iter().filter(|(_, result)| *result == Err(WriteError::Conflict)).count();
        assert_eq!((won.len(), lost), (1, stores.len() - 1), "{results:?}");
        assert_eq!(read(&stores[0]).await.content, Content::Record(won[0].0.clone()));
        winner = won[0].1.clone().unwrap();
    }
}

pub(crate) async fn no_update_of_concurrent_writers_is_lost(subject: &impl Subject) {
    const WRITERS: u32 = 6;
    const INCREMENTS: u32 = 8;
    let first = subject.candidate().await;
    begin(&first, &held(0, 1)).await;
    let stores = join_all((0..WRITERS).map(|_| subject.candidate())).await;
    let writers = stores.iter().zip(1_u32..).map(|(store, writer)| async move {
        let (mut done, mut sequence) = (0, 0);
        while done < INCREMENTS {
            let found = read(store).await;
            let Content::Record(record) = found.content else { panic!("{found:?}") };
            sequence += 1;
            let next = Record { transitions: record.transitions + 1, ..held(writer.into(), sequence) };
            match store.write(&next, Some(&found.version), None).await {
                Ok(_) => done += 1,
                Err(WriteError::Conflict) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    });
    join_all(writers).await;
    let Content::Record(record) = read(&first).await.content else { panic!("no record") };
    assert_eq!(record.transitions, WRITERS * INCREMENTS);
}

pub(crate) async fn every_record_comes_back_as_it_was_written(subject: &impl Subject) {
    let store = subject.candidate().await;
    let mut runner = TestRunner::deterministic();
    let mut version = store.write(&vacant(1, 1), None, None).await.unwrap().version;
    for _ in 0..40 {
        let record = records("[a-z0-9.-]{1,60}", "[a-f0-9-]{1,36}").new_tree(&mut runner).unwrap().current();
        let written = store.write(&record, Some(&version), Some(Token(u128::MAX))).await.unwrap();
        let found = read(&store).await;
        assert_eq!((found.content, &found.version), (Content::Record(record), &written.version));
        version = written.version;
    }
}

pub(crate) async fn what_other_hands_write_is_unknown(subject: &impl Subject) {
    let store = subject.candidate().await;
    let written = begin(&store, &held(1, 1)).await;
    subject.clear().await;
    let cleared = read(&store).await;
    assert_eq!(unknown(&cleared).holder, None);
    assert_eq!(store.write(&held(1, 2), Some(&written.version), None).await, Err(WriteError::Conflict));
    subject.hold_by("somebody", 1).await;
    let overwritten = read(&store).await;
    assert_eq!(unknown(&overwritten).holder.as_deref(), Some("somebody"));
    assert_ne!(unknown(&overwritten).fingerprint, unknown(&cleared).fingerprint);
    store.write(&held(1, 3), Some(&overwritten.version), None).await.unwrap();
    assert_eq!(read(&store).await.content, Content::Record(held(1, 3)));
}

pub(crate) async fn an_altered_record_is_unknown(subject: &impl Subject) {
    let store = subject.candidate().await;
    begin(&store, &held(1, 1)).await;
    subject.alter().await;
    let altered = read(&store).await;
    assert!(matches!(altered.content, Content::Unknown(_)), "{altered:?}");
}

pub(crate) async fn a_foreign_renewal_changes_the_fingerprint_and_a_label_does_not(subject: &impl Subject) {
    let store = subject.candidate().await;
    begin(&store, &held(1, 1)).await;
    subject.hold_by("somebody", 1).await;
    let first = read(&store).await;
    subject.hold_by("somebody", 2).await;
    let renewed = read(&store).await;
    assert_ne!(unknown(&first).fingerprint, unknown(&renewed).fingerprint);
    subject.touch().await;
    let touched = read(&store).await;
    assert_eq!(touched.content, renewed.content);
    assert_ne!(touched.version, renewed.version);
}

pub(crate) async fn a_foreign_label_changes_the_version_and_not_the_record(subject: &impl Subject) {
    let store = subject.candidate().await;
    let written = begin(&store, &held(1, 1)).await;
    subject.touch().await;
    let touched = read(&store).await;
    assert_eq!(touched.content, Content::Record(held(1, 1)));
    assert_eq!(touched.incarnation, written.incarnation);
    assert_ne!(touched.version, written.version);
    assert_eq!(store.write(&held(1, 2), Some(&written.version), None).await, Err(WriteError::Conflict));
    store.write(&held(1, 3), Some(&touched.version), None).await.unwrap();
}

pub(crate) async fn a_fresh_register_is_told_from_a_cleared_one(subject: &impl Subject) {
    let store = subject.candidate().await;
    subject.make_fresh().await;
    let fresh = read(&store).await;
    assert_eq!(fresh.content, Content::Fresh);
    store.write(&held(1, 1), Some(&fresh.version), None).await.unwrap();
    subject.clear().await;
    let cleared = read(&store).await;
    assert!(matches!(cleared.content, Content::Unknown(_)), "{cleared:?}");
}

pub(crate) async fn the_operators_stamps_are_read(subject: &impl Subject) {
    let store = subject.candidate().await;
    begin(&store, &held(1, 1)).await;
    let before = read(&store).await;
    assert_eq!((before.longest_lease, before.deleting), (None, false));
    subject.stamp_longest_lease(Duration::from_millis(45_500)).await;
    let stamped = read(&store).await;
    assert_eq!(stamped.longest_lease, Some(Duration::from_millis(45_500)));
    store.write(&held(1, 2), Some(&stamped.version), None).await.unwrap();
    assert_eq!(
        read(&store).await.longest_lease,
        Some(Duration::from_millis(45_500)),
        "a write keeps the stamp"
    );
    subject.mark_deleting().await;
    let marked = read(&store).await;
    assert!(marked.deleting);
    assert_eq!(marked.content, Content::Record(held(1, 2)));
}

pub(crate) async fn a_write_that_was_given_up_lands_once_or_never(subject: &impl Subject) {
    let (one, other) = (subject.candidate().await, subject.candidate().await);
    let mut version = begin(&one, &held(1, 1)).await.version;
    for attempt in 0..24_u64 {
        let before = read(&one).await;
        let given_up = held(1, 100 + attempt);
        let patience = Duration::from_micros(attempt * 150);
        let result = timeout(patience, one.write(&given_up, Some(&version), None)).await;
        // Another candidate goes on from what is there. From then on the write that was given up is refused for ever.
        let next = held(2, attempt);
        let landed = loop {
            let found = read(&other).await;
            assert!(
                found.content == Content::Record(given_up.clone()) || found == before,
                "neither before nor after: {found:?}"
            );
            match other.write(&next, Some(&found.version), None).await {
                Ok(written) => {
                    version = written.version;
                    break found != before;
                }
                Err(WriteError::Conflict) => {}
                Err(error) => panic!("{error:?}"),
            }
        };
        assert!(landed || !matches!(result, Ok(Ok(_))), "a confirmed write is not there");
        sleep(Duration::from_millis(5)).await;
        let after = read(&one).await;
        assert_eq!((after.content, &after.version), (Content::Record(next), &version));
    }
}

pub(crate) async fn changes_begin_with_what_is(subject: &impl Subject) {
    let store = subject.candidate().await;
    assert_eq!(next(&mut store.changes(), SOON).await, Ok(None));
    begin(&store, &held(1, 1)).await;
    assert_eq!(next(&mut store.changes(), SOON).await, Ok(Some(read(&store).await)));
}

pub(crate) async fn changes_tell_of_the_last_write_soon(subject: &impl Subject) {
    let (one, other) = (subject.candidate().await, subject.candidate().await);
    let mut changes = other.changes();
    assert_eq!(next(&mut changes, SOON).await, Ok(None));
    let mut version = one.write(&vacant(1, 0), None, None).await.unwrap().version;
    for sequence in 1..30 {
        version = one.write(&held(1, sequence), Some(&version), None).await.unwrap().version;
        if sequence % 5 == 0 {
            until(&mut changes, SOON, |stored| holds(stored, &held(1, sequence))).await;
        }
    }
    subject.touch().await;
    let touched = read(&one).await;
    until(&mut changes, SOON, |stored| stored == Some(&touched)).await;
    subject.hold_by("somebody", 1).await;
    until(&mut changes, SOON, |stored| {
        stored.is_some_and(|stored| stored.content.holder_name() == Some("somebody"))
    })
    .await;
}

pub(crate) async fn reads_and_changes_never_go_back(subject: &impl Subject) {
    const WRITES: u32 = 60;
    let (one, other) = (subject.candidate().await, subject.candidate().await);
    let mut version = begin(&one, &held(1, 1)).await.version;
    let writer = async {
        for transitions in 1..=WRITES {
            let record = Record { transitions, ..held(1, (transitions + 1).into()) };
            version = one.write(&record, Some(&version), None).await.unwrap().version;
        }
    };
    let reader = async {
        let mut changes = other.changes();
        let mut last = 0;
        while last < WRITES {
            let stored = tokio::select! {
                stored = other.read() => stored,
                stored = changes.next() => stored.expect("the stream ended"),
            };
            let Content::Record(record) = stored.unwrap().unwrap().content else { panic!("no record") };
            assert!(record.transitions >= last, "{} was told after {last}", record.transitions);
            last = record.transitions;
        }
    };
    timeout(AFTER_A_BREAK, join(writer, reader)).await.expect("the last write was not told");
}

pub(crate) async fn changes_tell_of_deletion_and_creation(subject: &impl Subject) {
    let (one, other) = (subject.candidate().await, subject.candidate().await);
    let mut changes = other.changes();
    assert_eq!(next(&mut changes, SOON).await, Ok(None));
    for round in 1..4 {
        begin(&one, &held(1, round)).await;
        until(&mut changes, SOON, |stored| holds(stored, &held(1, round))).await;
        subject.delete().await;
        until(&mut changes, SOON, |stored| stored.is_none()).await;
    }
    // Both at once: what comes last must be what is.
    begin(&one, &held(1, 10)).await;
    subject.delete().await;
    begin(&one, &held(1, 11)).await;
    until(&mut changes, SOON, |stored| holds(stored, &held(1, 11))).await;
    assert!(
        timeout(Duration::from_millis(300), changes.next()).await.is_err(),
        "nothing comes after the last change"
    );
}

pub(crate) async fn changes_go_on_after_their_connection_was_cut(subject: &impl Subject) {
    let (one, other) = (subject.candidate().await, subject.candidate().await);
    let mut changes = other.changes();
    let mut version = begin(&one, &held(1, 1)).await.version;
    until(&mut changes, SOON, |stored| holds(stored, &held(1, 1))).await;
    for sequence in 2..5 {
        subject.cut_connections().await;
        // The first request after a cut may find it.
        let found = loop {
            match one.read().await {
                Ok(found) => break found.unwrap(),
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        };
        assert_eq!(found.version, version);
        version = one.write(&held(1, sequence), Some(&version), None).await.unwrap().version;
        until(&mut changes, AFTER_A_BREAK, |stored| holds(stored, &held(1, sequence))).await;
    }
    subject.cut_connections().await;
    subject.delete().await;
    until(&mut changes, AFTER_A_BREAK, |stored| stored.is_none()).await;
}

pub(crate) async fn requests_go_on_after_their_connection_was_cut(subject: &impl Subject) {
    let store = subject.candidate().await;
    let mut version = begin(&store, &held(1, 1)).await.version;
    for sequence in 2..6 {
        subject.cut_connections().await;
        let mut failures: Vec<Failure> = Vec::new();
        let found = loop {
            match store.read().await {
                Ok(found) => break found.unwrap(),
                Err(failure) => failures.push(failure),
            }
            assert!(failures.len() < 3, "{failures:?}");
        };
        assert_eq!(found.version, version);
        version = store.write(&held(1, sequence), Some(&version), None).await.unwrap().version;
    }
}
