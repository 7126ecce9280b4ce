//! How late a follower hears of the leader's last renewal when its network comes late, goes, or looks as if it were there.
//! By as much, and no more, the next leader is late.

use crate::{
    common::samples::{Changes, begin, held, holds, until},
    lease::{RENEW_INTERVAL, RealLease},
    proxy::Break,
};
use conch_stores::Store;
use futures::future::join;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The attempt that began just before the network worked is given up after three seconds, and the next one follows at
/// once; the rest is what a busy machine may take. Were the attempt given five seconds, or a pause after it, it would be
/// more.
const HEARS_WITHIN: Duration = Duration::from_millis(4_500);
/// Far more than any of this takes: something else is wrong then.
const LONG: Duration = Duration::from_mins(1);

pub(crate) async fn a_follower_whose_network_comes_late_hears_soon(lease: &RealLease) {
    begin(&lease.direct_store(), &held(1, 1)).await;
    lease.proxy.swallow(true);
    let mut changes = lease.store().changes();
    let late = hears_after_its_network_works(lease, &mut changes, 1).await;
    println!("heard {late:?} after the network worked");
    assert!(late < HEARS_WITHIN, "{late:?}");
}

pub(crate) async fn a_follower_whose_connections_were_lost_hears_soon_after_its_network_is_back(
    lease: &RealLease,
) {
    let holder = lease.direct_store();
    let first = begin(&holder, &held(1, 1)).await;
    let mut changes = lease.store().changes();
    until(&mut changes, LONG, |stored| holds(stored, &held(1, 1))).await;
    lease.proxy.break_connections(Break::Silence);
    lease.proxy.swallow(true);
    holder.write(&held(1, 2), Some(&first.version), None).await.unwrap();
    let late = hears_after_its_network_works(lease, &mut changes, 2).await;
    println!("heard {late:?} after the network worked");
    assert!(late < HEARS_WITHIN, "{late:?}");
}

/// The relay works again when the follower has just begun its third attempt in vain, the worst moment.
async fn hears_after_its_network_works(lease: &RealLease, changes: &mut Changes, sequence: u64) -> Duration {
    let before = lease.proxy.accepted();
    let mend = async {
        while lease.proxy.accepted() < before + 3 {
            sleep(Duration::from_millis(5)).await;
        }
        lease.proxy.swallow(false);
        Instant::now()
    };
    let hear = async {
        until(changes, LONG, |stored| holds(stored, &held(1, sequence))).await;
        Instant::now()
    };
    let (mended, heard) = join(mend, hear).await;
    heard - mended
}

pub(crate) async fn a_watch_that_fell_silent_is_replaced_when_a_renewal_is_overdue(lease: &RealLease) {
    let holder = lease.direct_store();
    let mut version = begin(&holder, &held(1, 1)).await.version;
    let mut changes = lease.store().changes();
    until(&mut changes, LONG, |stored| holds(stored, &held(1, 1))).await;
    version = holder.write(&held(1, 2), Some(&version), None).await.unwrap().version;
    until(&mut changes, LONG, |stored| holds(stored, &held(1, 2))).await;
    let before = lease.proxy.accepted();
    lease.proxy.break_connections(Break::Silence);
    let lost = Instant::now();
    holder.write(&held(1, 3), Some(&version), None).await.unwrap();
    until(&mut changes, LONG, |stored| holds(stored, &held(1, 3))).await;
    println!("heard {:?} after the watch fell silent", lost.elapsed());
    // Twice an interval, and a new connection; a minute and a half if only bookmarks were expected.
    assert!(lost.elapsed() < RENEW_INTERVAL * 2 + Duration::from_secs(2), "{:?}", lost.elapsed());
    assert_eq!(lease.proxy.accepted(), before + 1, "over one new connection");
}
