//! How changes come: by hints where they pass, and by looking where they do not.

use crate::{
    common::{
        conformance::Subject,
        samples::{begin, held, holds, read, until},
    },
    relay::Way,
    table::{Election, ROLE, options},
};
use conch_stores::{Store, postgres::Options};
use futures::StreamExt;
use std::{
    fmt::Write,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout};
use tracing_subscriber::{Layer, layer::Context, prelude::*};

/// A hint takes milliseconds, also on a busy machine; looking by itself takes three seconds.
const BY_HINT: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_secs(3);
const LONG: Duration = Duration::from_secs(30);

fn rare_renewals() -> Options {
    Options { renew_interval: Duration::from_mins(1), ..options() }
}

pub(crate) async fn a_follower_hears_of_a_write_at_once_and_looks_once(election: &Election) {
    let sent = Sent::default();
    let (follower, holder) = (election.store_as(ROLE, rare_renewals()), election.store());
    let mut version = begin(&holder, &held(1, 1)).await.version;
    let mut changes = follower.changes();
    until(&mut changes, LONG, |stored| holds(stored, &held(1, 1))).await;
    sleep(Duration::from_millis(200)).await; // what was written before it listened
    let _guard = tracing_subscriber::registry().with(sent.clone()).set_default();
    for sequence in 2..22 {
        version = holder.write(&held(1, sequence), Some(&version), None).await.unwrap().version;
        until(&mut changes, BY_HINT, |stored| holds(stored, &held(1, sequence))).await;
    }
    // One write and one look each, and no look more than was due.
    let requests = sent.count("sends a request");
    assert!((40..=42).contains(&requests), "{requests}");
}

pub(crate) async fn a_holder_does_not_look_at_what_it_wrote(election: &Election) {
    let sent = Sent::default();
    let holder = election.store_as(ROLE, rare_renewals());
    let mut changes = holder.changes();
    let mut version = begin(&holder, &held(1, 1)).await.version;
    until(&mut changes, LONG, |stored| holds(stored, &held(1, 1))).await;
    sleep(Duration::from_millis(200)).await;
    let _guard = tracing_subscriber::registry().with(sent.clone()).set_default();
    for sequence in 2..22 {
        version = holder.write(&held(1, sequence), Some(&version), None).await.unwrap().version;
        until(&mut changes, BY_HINT, |stored| holds(stored, &held(1, sequence))).await;
    }
    let requests = sent.count("sends a request");
    assert!((20..=22).contains(&requests), "{requests}");
}

pub(crate) async fn what_a_person_writes_is_seen_without_a_hint(election: &Election) {
    let store = election.store_as(ROLE, rare_renewals());
    begin(&store, &held(1, 1)).await;
    let mut changes = store.changes();
    until(&mut changes, LONG, |stored| holds(stored, &held(1, 1))).await;
    election.delete().await;
    until(&mut changes, POLL + BY_HINT, |stored| stored.is_none()).await;
}

pub(crate) async fn a_hint_that_lies_is_looked_at_and_told_to_nobody(election: &Election) {
    let store = election.store_as(ROLE, rare_renewals());
    begin(&store, &held(1, 1)).await;
    let mut changes = store.changes();
    until(&mut changes, LONG, |stored| holds(stored, &held(1, 1))).await;
    let channel = r#"'conch_' || left(encode(sha256(convert_to(
        '"public".conch_elections' || chr(10) || $1, 'UTF8')), 'hex'), 32)"#;
    let notify = format!("SELECT pg_notify({channel}, $2)");
    for payload in ["", "garbage", &"x".repeat(7_000)] {
        election.hands.query(&notify, &[&election.name, &payload]).await.unwrap();
    }
    assert!(timeout(Duration::from_millis(700), changes.next()).await.is_err(), "nothing has changed");
    assert_eq!(read(&store).await.content, conch_election::Content::Record(held(1, 1)));
}

/// The network of a follower goes without a word, and comes back.
pub(crate) async fn a_follower_whose_network_was_lost_hears_soon_after_it_is_back(election: &Election) {
    let other_way = election.again().await;
    let writer = other_way.store();
    let first = begin(&writer, &held(1, 1)).await;
    let mut changes = election.store().changes();
    until(&mut changes, LONG, |stored| holds(stored, &held(1, 1))).await;
    election.relay.set(Way::Silent);
    writer.write(&held(1, 2), Some(&first.version), None).await.unwrap();
    let lost = async {
        sleep(Duration::from_secs(8)).await;
        election.relay.set(Way::Up);
        Instant::now()
    };
    let heard = async {
        until(&mut changes, LONG, |stored| holds(stored, &held(1, 2))).await;
        Instant::now()
    };
    let (back, heard) = tokio::join!(lost, heard);
    println!("heard {:?} after the network worked", heard - back);
    // The attempt under way is given up after three seconds, and the next one follows at once.
    assert!(heard - back < Duration::from_millis(4_500), "{:?}", heard - back);
}

/// A measurement, printed. It fails only where requests are useless.
pub(crate) async fn requests_take_this_long(election: &Election) {
    let (one, other) = (election.store(), election.store());
    let mut version = begin(&one, &held(1, 1)).await.version;
    let mut changes = other.changes();
    until(&mut changes, LONG, |stored| stored.is_some()).await;
    let (mut reads, mut writes, mut told) = (Vec::new(), Vec::new(), Vec::new());
    for sequence in 2..200 {
        let started = Instant::now();
        read(&one).await;
        reads.push(started.elapsed());
        let started = Instant::now();
        version = one.write(&held(1, sequence), Some(&version), None).await.unwrap().version;
        writes.push(started.elapsed());
        until(&mut changes, LONG, |stored| stored.is_some_and(|stored| stored.version == version)).await;
        told.push(started.elapsed());
    }
    for (name, mut samples) in [("read", reads), ("write", writes), ("write sent to change told", told)] {
        samples.sort();
        let at = |percent: usize| samples[(samples.len() - 1) * percent / 100];
        println!("{name}: p50 {:?} p90 {:?} p99 {:?} max {:?}", at(50), at(90), at(99), at(100));
        assert!(at(50) < Duration::from_millis(500));
    }
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
