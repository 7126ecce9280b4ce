//! The stream of changes of a Lease: one GET, then a watch that is opened again whenever it ends. In steady state
//! nothing is ever polled.

use super::{Operation, Shared, connection::Rejection, rhythm::Rhythm};
use conch_election::{Failure, Stored};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use kube::api::{DynamicObject, WatchEvent, WatchParams};
use std::{future::Future, mem, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, trace, warn};

/// The API server ends a watch after this many seconds.
const WATCH_SECONDS: u32 = 290;
/// A watch must tell what an answer to a request told so long ago, or it is dead.
const LAG_MAX: Duration = Duration::from_secs(2);
/// A GET, or the beginning of a watch, that takes longer is given up: the connection under it may have been made before the
/// network worked, and never will.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// First and longest time from one attempt to the next; each is spread over its upper half.
///
/// A follower counts a lease from when it heard of a renewal: what it hears late delays the next leader by as much, and by a
/// whole lease if it hears nothing. So it hears again within about three seconds of when its network works: the attempt
/// under way may be lost with its connection ([`ANSWER_MAX`]), and the next one follows at once, or one is due
/// ([`DELAY_MAX`]). For an API server that comes back to 5,000 sidecars this is, at most, one GET of one object and one
/// watch of each within those seconds, some 2,000 of either in one second: less than the kubelets of as many nodes ask,
/// which list a dozen kinds each, and they begin after 0.8 s.
const DELAY_MIN: Duration = Duration::from_millis(250);
const DELAY_MAX: Duration = Duration::from_secs(3);
/// A server that says how long it wants to be left alone is there, and is obeyed for longer.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(8);
/// Where watching is forbidden: a GET that often,
const POLL_INTERVAL: Duration = Duration::from_secs(3);
/// and an attempt to watch after so many of them.
const POLLS: u32 = 20;

pub(super) fn stream(shared: Arc<Shared>) -> BoxStream<'static, Result<Option<Stored>, Failure>> {
    let changes = Changes {
        rhythm: Rhythm::new(shared.renew_interval),
        shared,
        delay: Delay::new(),
        behind_since: None,
        watch_is_forbidden: false,
        state: State::Read,
    };
    stream::unfold(changes, |mut changes| async move { Some((changes.next().await, changes)) }).boxed()
}

struct Changes {
    shared: Arc<Shared>,
    delay: Delay,
    rhythm: Rhythm,
    /// Since when answers know more than the watch told.
    behind_since: Option<Instant>,
    /// Logged once, until watching is allowed again.
    watch_is_forbidden: bool,
    state: State,
}

type Events = BoxStream<'static, Result<WatchEvent<DynamicObject>, kube::Error>>;

/// What to do next.
enum State {
    /// GET the Lease.
    Read,
    /// Open a watch of what comes after this `resourceVersion`; an empty one means after now, beginning with what is.
    Connect { from: String },
    /// Take the next event.
    Follow { from: String, events: Events },
    /// GET the Lease now and then; `left` times, then try to watch again.
    Poll { left: u32 },
}

/// What came of one step.
enum Outcome {
    /// This is to be told.
    Tell(Option<Box<Stored>>),
    /// Nothing is.
    Nothing,
}

impl Changes {
    async fn next(&mut self) -> Result<Option<Stored>, Failure> {
        loop {
            let outcome = match mem::replace(&mut self.state, State::Read) {
                State::Read => {
                    self.delay.wait().await;
                    self.read().await?
                }
                State::Connect { from } => self.connect(from).await?,
                State::Follow { from, events } => self.follow(from, events).await,
                State::Poll { left } => self.poll(left).await?,
            };
            if let Outcome::Tell(change) = outcome {
                return Ok(change.map(|stored| *stored));
            }
        }
    }

    async fn read(&mut self) -> Result<Outcome, Failure> {
        let (before, sent) = (self.shared.seen.before(), Instant::now());
        let object = match within(ANSWER_MAX, self.shared.get()).await {
            Ok(object) => object,
            Err(rejection) => return Err(self.failed(Operation::Read, &rejection, sent)),
        };
        let from = object.as_ref().and_then(|object| object.metadata.resource_version.clone());
        self.state = State::Connect { from: from.unwrap_or_default() };
        let answered = self.shared.seen.answered(before, object);
        self.rhythm.answered(answered.stored.as_ref());
        // The watch from there brings what is newer.
        Ok(if answered.outdated { Outcome::Nothing } else { Outcome::Tell(answered.stored.map(Box::new)) })
    }

    /// Opens a watch. After a failure comes a GET: what it finds tells the reader that all is well again.
    async fn connect(&mut self, from: String) -> Result<Outcome, Failure> {
        let sent = Instant::now();
        match within(ANSWER_MAX, open(&self.shared, &from)).await {
            Ok(events) => {
                self.shared.succeeded(Operation::Watch);
                self.watch_is_forbidden = false;
                self.state = State::Follow { from, events };
            }
            Err(rejection) if rejection.is_forbidden() => {
                if !mem::replace(&mut self.watch_is_forbidden, true) {
                    let (lease, detail) = (&self.shared.lease, rejection.message());
                    warn!(%lease, %detail, "the Lease may not be watched, and is polled");
                }
                self.state = State::Poll { left: POLLS };
            }
            Err(rejection) if rejection.is_gone() => self.delay.lengthen(sent),
            Err(rejection) => {
                self.shared.connection.renew();
                return Err(self.failed(Operation::Watch, &rejection, sent));
            }
        }
        Ok(Outcome::Nothing)
    }

    fn failed(&mut self, operation: Operation, rejection: &Rejection, sent: Instant) -> Failure {
        let failure = self.shared.failure(operation, rejection);
        self.delay.lengthen(sent);
        self.delay.be_at_least(failure.retry_after.unwrap_or_default());
        failure
    }

    /// Takes one event. The end of a watch is no failure: the next one goes on where it stopped; after anything else that
    /// went wrong with it comes a GET.
    async fn follow(&mut self, from: String, mut events: Events) -> Outcome {
        let shared = Arc::clone(&self.shared);
        let lease = &shared.lease;
        let next_answer = shared.seen.next_answer();
        let event = tokio::select! {
            biased;
            event = events.next() => event,
            () = sleep(self.patience(&from)) => {
                self.fell_silent(&from);
                None
            }
            () = next_answer => {
                self.state = State::Follow { from, events };
                return Outcome::Nothing;
            }
        };
        match event {
            Some(Ok(WatchEvent::Error(status))) => {
                debug!(%lease, detail = %status.message, "the API server cannot go on with a watch");
                self.delay.lengthen(Instant::now());
                Outcome::Nothing
            }
            Some(Ok(event)) => {
                self.delay = Delay::new();
                self.behind_since = None;
                let (from, outcome) = self.take(event, from);
                self.state = State::Follow { from, events };
                outcome
            }
            Some(Err(error)) => {
                debug!(%lease, detail = %Rejection::from(error).message(), "a watch broke");
                // Whatever broke it may have broken all connections that were made before.
                shared.connection.renew();
                self.delay.lengthen(Instant::now());
                Outcome::Nothing
            }
            None => {
                debug!(%lease, "a watch ended");
                self.behind_since = None;
                self.delay.lengthen(Instant::now());
                self.delay.wait().await;
                self.state = State::Connect { from };
                Outcome::Nothing
            }
        }
    }

    /// How long the watch may be silent from now on.
    fn patience(&mut self, from: &str) -> Duration {
        if self.shared.seen.is_ahead_of(from) {
            LAG_MAX.saturating_sub(self.behind_since.get_or_insert_with(Instant::now).elapsed())
        } else {
            self.behind_since = None;
            self.rhythm.left()
        }
    }

    fn fell_silent(&mut self, from: &str) {
        let lease = &self.shared.lease;
        if self.shared.seen.is_ahead_of(from) {
            debug!(%lease, "a watch does not tell what is known");
        } else {
            debug!(%lease, "a watch fell silent");
            self.rhythm.missed();
            // What is idle beside it may be dead as well.
            self.shared.connection.renew();
        }
    }

    /// Takes note of an event; gives the `resourceVersion` to go on from.
    fn take(&mut self, event: WatchEvent<DynamicObject>, from: String) -> (String, Outcome) {
        let seen = &self.shared.seen;
        self.rhythm.alive();
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let from = object.metadata.resource_version.clone().unwrap_or(from);
                let Some(stored) = seen.happened(object) else { return (from, Outcome::Nothing) };
                self.rhythm.told(Some(&stored));
                (from, Outcome::Tell(Some(Box::new(stored))))
            }
            WatchEvent::Deleted(object) => {
                let is_news = seen.deleted(&object);
                let from = object.metadata.resource_version.unwrap_or(from);
                if !is_news {
                    return (from, Outcome::Nothing);
                }
                self.rhythm.told(None);
                (from, Outcome::Tell(None))
            }
            WatchEvent::Bookmark(bookmark) => (bookmark.metadata.resource_version, Outcome::Nothing),
            WatchEvent::Error(_) => (from, Outcome::Nothing),
        }
    }

    async fn poll(&mut self, left: u32) -> Result<Outcome, Failure> {
        sleep(POLL_INTERVAL).await;
        let outcome = self.read().await?;
        if left > 1 {
            self.state = State::Poll { left: left - 1 };
        }
        Ok(outcome)
    }
}

async fn open(shared: &Shared, from: &str) -> Result<Events, Rejection> {
    let parameters =
        WatchParams::default().fields(&format!("metadata.name={}", shared.lease)).timeout(WATCH_SECONDS);
    let client = shared.connection.client()?;
    let request = shared.requests().watch(&parameters, from).map_err(super::request_error)?;
    trace!(from, "opens a watch");
    Ok(client.request_events::<DynamicObject>(request).await?.boxed())
}

async fn within<T>(
    limit: Duration,
    request: impl Future<Output = Result<T, Rejection>>,
) -> Result<T, Rejection> {
    timeout(limit, request).await.unwrap_or(Err(Rejection::TimedOut))
}

/// How long to leave the API server alone: counted from when the last attempt began, because an attempt that got no answer
/// was a pause itself.
struct Delay {
    since: Instant,
    length: Duration,
}

impl Delay {
    fn new() -> Self {
        Self { since: Instant::now(), length: Duration::ZERO }
    }

    /// Something that began then, or worked until then, failed.
    fn lengthen(&mut self, since: Instant) {
        self.since = since;
        self.length = (self.length * 2).clamp(DELAY_MIN, DELAY_MAX);
    }

    fn be_at_least(&mut self, length: Duration) {
        self.length = self.length.max(length.min(RETRY_AFTER_MAX));
    }

    /// Spread, so that many candidates that lost their API server at one time do not come back at one time.
    async fn wait(&self) {
        if !self.length.is_zero() {
            sleep_until(self.since + self.length.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn the_delay_doubles_up_to_its_end_and_is_spread() {
        let mut delay = Delay::new();
        let started = Instant::now();
        delay.wait().await;
        assert_eq!(started.elapsed(), Duration::ZERO);
        for milliseconds in [250, 500, 1_000, 2_000, 3_000, 3_000] {
            let started = Instant::now();
            delay.lengthen(started);
            delay.wait().await;
            let (waited, most) = (started.elapsed(), Duration::from_millis(milliseconds));
            assert!(
                waited >= most / 2 && waited <= most + Duration::from_millis(1),
                "{waited:?} of {most:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_got_no_answer_was_the_pause() {
        let mut delay = Delay::new();
        for _ in 0..10 {
            let began = Instant::now();
            advance(ANSWER_MAX).await;
            delay.lengthen(began);
            let failed = Instant::now();
            delay.wait().await;
            assert!(failed.elapsed() <= Duration::from_millis(1), "{:?}", failed.elapsed());
        }
    }

    #[test]
    fn what_the_server_asks_for_lengthens_the_delay_within_reason() {
        let mut delay = Delay::new();
        delay.be_at_least(Duration::from_secs(3));
        assert_eq!(delay.length, Duration::from_secs(3));
        delay.be_at_least(Duration::ZERO);
        assert_eq!(delay.length, Duration::from_secs(3));
        delay.be_at_least(Duration::from_mins(50));
        assert_eq!(delay.length, RETRY_AFTER_MAX);
        delay.lengthen(Instant::now());
        assert_eq!(delay.length, DELAY_MAX, "that counts once");
    }
}
