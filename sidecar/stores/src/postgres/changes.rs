//! The stream of changes of a row, over a session of its own: it listens for the hints that sidecars give each other after
//! their writes, and looks at the row after each of them; where none comes in time, it looks by itself. Hints are never
//! believed, and none is needed: through a pooler that keeps no sessions, or where a person writes, looking is all there is.

use super::{Operation, Shared, problem::Problem, session::Session};
use conch_election::{Content, Failure, Stored};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use std::{future::Future, mem, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info};

/// An answer that takes longer is given up, with its connection.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// First and longest time from one attempt to the next; each is spread over its upper half. As short as for an API server:
/// what a follower hears late delays the next leader by as much.
const DELAY_MIN: Duration = Duration::from_millis(250);
const DELAY_MAX: Duration = Duration::from_secs(3);
/// Where no hint comes, the row is looked at this often, or more often where renewals are.
const POLL_INTERVAL: Duration = Duration::from_secs(3);
/// The hint of one's own write may be faster than its answer.
const OWN_ANSWER_MAX: Duration = Duration::from_millis(250);
/// So many changes in a row without a hint: there are none.
const MISSED_HINTS: u32 = 3;

pub(super) fn stream(shared: Arc<Shared>) -> BoxStream<'static, Result<Option<Stored>, Failure>> {
    let changes = Changes {
        shared,
        session: None,
        delay: Delay::new(),
        due: Instant::now(),
        told: Told::Nothing,
        missed_hints: 0,
    };
    stream::unfold(changes, |mut changes| async move { Some((changes.next().await, changes)) }).boxed()
}

struct Changes {
    shared: Arc<Shared>,
    session: Option<Session>,
    delay: Delay,
    /// When to look at the row if no hint comes.
    due: Instant,
    /// What this stream told last.
    told: Told,
    missed_hints: u32,
}

/// The last word of a stream.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    /// None yet, or a failure.
    Nothing,
    /// What was found: a row or none.
    Found(Option<Box<Stored>>),
}

/// Why to look at the row, or that there is no need.
enum Cause {
    /// The session is new.
    New,
    /// Somebody gave a hint.
    Hint,
    /// Nobody did.
    Silence,
    /// Somebody gave a hint of what is known already.
    Known(Box<Stored>),
}

impl Changes {
    async fn next(&mut self) -> Result<Option<Stored>, Failure> {
        loop {
            let cause = self.wait().await?;
            let by_itself = matches!(cause, Cause::Silence);
            let found = match cause {
                Cause::Known(stored) => Some(*stored),
                Cause::New | Cause::Hint | Cause::Silence => match self.look().await? {
                    Some(found) => found,
                    // Something newer was told meanwhile: look again, at once.
                    None => continue,
                },
            };
            self.due = Instant::now() + poll_interval(self.shared.renew_interval);
            let told = Told::Found(found.clone().map(Box::new));
            if self.told != told {
                self.count_hints(by_itself, found.as_ref());
                self.told = told;
                return Ok(found);
            }
        }
    }

    async fn wait(&mut self) -> Result<Cause, Failure> {
        let Some(session) = &mut self.session else {
            self.delay.wait().await;
            return self.connect().await.map(|()| Cause::New);
        };
        let hint = tokio::select! {
            hint = session.notification() => hint,
            () = sleep_until(self.due) => return Ok(Cause::Silence),
        };
        let mut version = match hint {
            Ok(version) => version,
            Err(problem) => return Err(self.failed(&problem, Instant::now())),
        };
        while let Some(later) = session.arrived() {
            version = later;
        }
        let seen = &self.shared.seen;
        let next_answer = seen.next_answer();
        if seen.is_newest(&version).is_none() && self.shared.is_writing() {
            let _ = timeout(OWN_ANSWER_MAX, next_answer).await;
        }
        Ok(seen.is_newest(&version).map_or(Cause::Hint, |stored| Cause::Known(Box::new(stored))))
    }

    async fn connect(&mut self) -> Result<(), Failure> {
        let sent = Instant::now();
        match within(self.answer_max(), self.shared.open()).await {
            Ok(session) => {
                // Its answer comes before that of the next request. Where listening is refused, looking is enough.
                session.send(&self.shared.table.listen());
                self.session = Some(session);
                Ok(())
            }
            Err(problem) => Err(self.failed(&problem, sent)),
        }
    }

    /// `None`: something newer was told by another session meanwhile.
    async fn look(&mut self) -> Result<Option<Option<Stored>>, Failure> {
        let sent = Instant::now();
        let before = self.shared.seen.before();
        let answer = match &self.session {
            Some(session) => within(self.answer_max(), self.shared.look(session)).await,
            None => Err(Problem::Closed),
        };
        match answer {
            Ok(found) => {
                self.delay = Delay::new();
                self.shared.succeeded(Operation::Watch);
                let tell = self.shared.seen.found(before, found.as_ref());
                if !tell {
                    self.due = Instant::now();
                }
                Ok(tell.then_some(found))
            }
            Err(problem) => Err(self.failed(&problem, sent)),
        }
    }

    fn failed(&mut self, problem: &Problem, sent: Instant) -> Failure {
        self.session = None;
        self.told = Told::Nothing;
        self.delay.lengthen(sent);
        self.shared.failure(Operation::Watch, problem)
    }

    /// Says it once if sidecars write and no hint of it comes.
    fn count_hints(&mut self, by_itself: bool, found: Option<&Stored>) {
        if !by_itself {
            self.missed_hints = 0;
        } else if matches!(found.map(|stored| &stored.content), Some(Content::Record(_))) {
            self.missed_hints += 1;
            if self.missed_hints == MISSED_HINTS {
                let table = self.shared.name();
                info!(%table, "no hints of changes come (NOTIFY does not pass this pooler); the row is polled");
            } else {
                debug!("a change came without a hint");
            }
        }
    }

    fn answer_max(&self) -> Duration {
        ANSWER_MAX.min(self.shared.patience)
    }
}

/// Half as long again as renewals are apart, so that one may be late; spread, because many followers wait alike.
fn poll_interval(renew_interval: Duration) -> Duration {
    renew_interval.mul_f64(1.5 + fastrand::f64() / 2.0).min(POLL_INTERVAL)
}

async fn within<T>(limit: Duration, request: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    timeout(limit, request).await.unwrap_or(Err(Problem::TimedOut))
}

/// How long to leave the servers alone, counted from when the last attempt began: one without an answer was a pause itself.
struct Delay {
    since: Instant,
    length: Duration,
}

impl Delay {
    fn new() -> Self {
        Self { since: Instant::now(), length: Duration::ZERO }
    }

    fn lengthen(&mut self, since: Instant) {
        self.since = since;
        self.length = (mem::take(&mut self.length) * 2).clamp(DELAY_MIN, DELAY_MAX);
    }

    async fn wait(&self) {
        if !self.length.is_zero() {
            sleep_until(self.since + self.length.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        }
    }
}
