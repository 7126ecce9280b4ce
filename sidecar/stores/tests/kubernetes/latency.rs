//! A measurement, printed: how long requests and changes take. It fails only where they are useless.

use crate::{
    common::samples::{begin, held, read, until},
    lease::RealLease,
};
use conch_stores::Store;
use std::time::Duration;
use tokio::time::Instant;

const SAMPLES: u64 = 200;
/// One of them may come at a bad moment of the machine.
const LONG: Duration = Duration::from_secs(10);
/// An order of magnitude above what a loaded machine shows.
const USELESS: Duration = Duration::from_millis(500);

pub(crate) async fn requests_take_this_long(lease: &RealLease) {
    let (one, other) = (lease.store(), lease.store());
    let mut version = begin(&one, &held(1, 1)).await.version;
    let mut changes = other.changes();
    until(&mut changes, LONG, |stored| stored.is_some()).await;
    let (mut gets, mut puts, mut told) = (Vec::new(), Vec::new(), Vec::new());
    for sequence in 2..SAMPLES {
        let started = Instant::now();
        read(&one).await;
        gets.push(started.elapsed());
        let started = Instant::now();
        version = one.write(&held(1, sequence), Some(&version), None).await.unwrap().version;
        puts.push(started.elapsed());
        until(&mut changes, LONG, |stored| stored.is_some_and(|stored| stored.version == version)).await;
        told.push(started.elapsed());
    }
    for (name, mut samples) in [("GET", gets), ("PUT", puts), ("PUT sent to change told", told)] {
        samples.sort();
        let at = |percent: usize| samples[(samples.len() - 1) * percent / 100];
        println!("{name}: p50 {:?} p90 {:?} p99 {:?} max {:?}", at(50), at(90), at(99), at(100));
        assert!(at(50) < USELESS);
    }
}
