//! Joins watches, queue, passes and marks.

use super::{
    ElectionKey, Key,
    apply::{ApplyError, Effect, Touched, Writer},
    knowledge::Copies,
    mark::Mark,
    metrics::{Metrics, PassKind, PassLabels, PassOutcome},
    observe::{
        ObjectKind, Observed, Touches,
        index::Index,
        view::Identity,
        watch::{self, React, SharedIndex},
    },
    plan::{self, Plan, Write},
    publish::Publisher,
    queue::Queue,
};
use crate::{certs::WithSources, inject::SidecarImage};
use conch_crds::ElectionStatus;
use futures::{StreamExt, future, stream::FuturesUnordered};
use kube::Client;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, watch as latest},
    task::JoinSet,
    time::{interval, sleep},
};

/// Passes at one time.
const WORKERS: usize = 8;
/// Changes come in groups; one pass serves them all.
const ELECTION_DELAY: Duration = Duration::from_millis(10);
/// The counts of a policy may lag behind.
const POLICY_DELAY: Duration = Duration::from_secs(1);
/// What a pass wrote comes back by the watch within this time; a pass before that would write it again.
const ECHO: Duration = Duration::from_millis(20);
/// A watch that is further behind is not waited for.
const ECHO_MAX: Duration = Duration::from_secs(10);
/// Everything is looked at again after this time, in case an event was missed.
const RESYNC: Duration = Duration::from_mins(10);
/// How often the gauges are read.
const GAUGES: Duration = Duration::from_secs(10);
/// How soon a failed pass is repeated: doubled with each failure in a row,
const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// up to this.
const BACKOFF_MAX: Duration = Duration::from_mins(1);

/// What the controller is told.
pub struct Settings {
    /// What is injected now.
    pub sidecar_image: SidecarImage,
    /// Name of this pod, for Events.
    pub instance: Option<String>,
    /// Does this operator lead? Asked right before each write.
    pub may_write: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Told whenever the answer may have changed.
    pub leadership: latest::Receiver<()>,
}

/// The controller.
pub struct Controller {
    client: Client,
    index: SharedIndex,
    queue: Arc<Queue<Key>>,
    writer: Writer,
    publisher: Publisher,
    metrics: Metrics,
    leadership: latest::Receiver<()>,
    /// A pass was due while this operator did not lead.
    missed: AtomicBool,
    memory: Mutex<Memory>,
}

/// What is remembered between passes.
#[derive(Default)]
struct Memory {
    failures: HashMap<Key, u32>,
    foreign: HashMap<ElectionKey, BTreeMap<ObjectKind, Instant>>,
    touched: HashMap<String, Touch>,
    written: HashMap<ElectionKey, Written>,
}

/// How often a workload was touched in vain, when last, and what the API server said if it refused.
struct Touch {
    times: u32,
    last: Instant,
    refused: Option<String>,
}

/// The status that was written last, until the watch brings it back. What was said as Events is remembered in the status
/// alone: whoever decides by an older one says it again.
struct Written {
    uid: String,
    status: ElectionStatus,
    version: String,
    at: Instant,
}

/// A part of the controller ended, which it never should.
#[derive(Debug, thiserror::Error)]
#[error("a part of the controller ended")]
pub struct Ended;

impl Controller {
    /// Nothing happens until [`Controller::run`].
    pub fn new(client: Client, settings: Settings, metrics: Metrics) -> Self {
        Self {
            index: Arc::new(Mutex::new(Index::new(settings.sidecar_image))),
            queue: Arc::default(),
            writer: Writer::new(client.clone(), settings.may_write),
            publisher: Publisher::new(client.clone(), settings.instance),
            client,
            metrics,
            leadership: settings.leadership,
            missed: AtomicBool::new(true),
            memory: Mutex::default(),
        }
    }

    /// What the controller knows, for admission.
    pub fn copies(&self) -> Copies {
        Copies(Arc::clone(&self.index))
    }

    /// Runs until it is dropped; then every part of it ends. `synced` is called once everything was listed.
    pub async fn run(self, synced: impl FnOnce() + Send + 'static) -> Ended {
        let (marks, mut marks_due) = mpsc::unbounded_channel();
        let react = self.react(marks);
        let mut tasks = JoinSet::new();
        for watch in watch::all(&self.client, &self.index, &react) {
            tasks.spawn(watch);
        }
        let controller = Arc::new(self);
        let marker = Arc::clone(&controller);
        tasks.spawn(async move { marker.write_marks(&mut marks_due).await });
        let follower = Arc::clone(&controller);
        tasks.spawn(async move {
            follower.wait_for_sync().await;
            synced();
            let workers = (0..WORKERS).map(|_| follower.work());
            future::join3(future::join_all(workers), follower.follow_leadership(), follower.resync()).await;
        });
        // None of them returns; a panic ends the process.
        if let Some(Err(error)) = tasks.join_next().await
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
        Ended
    }

    fn react(&self, marks: mpsc::UnboundedSender<(Mark, Instant)>) -> React {
        let queue = Arc::clone(&self.queue);
        Arc::new(move |reaction| {
            for mark in reaction.marks {
                // The receiver lives as long as the watches.
                let _ = marks.send((mark, Instant::now()));
            }
            for key in reaction.keys {
                let delay = delay(&key);
                queue.add(key, delay);
            }
        })
    }

    async fn wait_for_sync(&self) {
        let mut tick = interval(Duration::from_millis(20));
        while !self.index().is_synced() {
            tick.tick().await;
        }
        tracing::info!(keys = self.index().keys().len(), "knows everything there is");
    }

    /// Marks are written all at once, past the queue.
    async fn write_marks(&self, due: &mut mpsc::UnboundedReceiver<(Mark, Instant)>) {
        let mut writing = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some((mark, since)) = due.recv() => writing.push(self.write_mark(mark, since)),
                Some(()) = writing.next() => {}
                else => return,
            }
        }
    }

    async fn write_mark(&self, mark: Mark, since: Instant) {
        match self.writer.mark(&mark).await {
            Ok(()) => {
                self.metrics.mark_seconds.observe(since.elapsed().as_secs_f64());
                tracing::debug!(
                    namespace = mark.namespace,
                    lease = mark.lease,
                    "marked that the leader's pod is being deleted"
                );
            }
            // The pass that comes for the same event tries again.
            Err(ApplyError::NotLeading | ApplyError::NamespaceEnding | ApplyError::Gone) => {}
            Err(error) => {
                let (namespace, lease) = (mark.namespace, mark.lease);
                tracing::warn!(namespace, lease, error = %WithSources(&error), "failed to mark a Lease");
            }
        }
    }

    /// Passes that were due while this operator did not lead are made up for by looking at everything, as soon as it does.
    async fn follow_leadership(&self) {
        let mut leadership = self.leadership.clone();
        loop {
            let leads = self.writer.may_write();
            self.metrics.leading.set(i64::from(leads));
            if leads && self.missed.swap(false, Ordering::Relaxed) {
                self.look_at_everything();
            }
            if leadership.changed().await.is_err() {
                // Nobody will tell any more: what is true now stays true.
                future::pending::<()>().await;
            }
        }
    }

    async fn resync(&self) {
        let mut tick = interval(GAUGES);
        let mut last = Instant::now();
        loop {
            tick.tick().await;
            let (elections, led) = self.index().leases();
            // A lead that lapses by time alone is not told.
            self.metrics.leading.set(i64::from(self.writer.may_write()));
            self.metrics.elections.set(elections);
            self.metrics.elections_led.set(led);
            self.metrics.queue.set(self.queue.len().try_into().unwrap_or(i64::MAX));
            if last.elapsed() >= RESYNC {
                last = Instant::now();
                self.look_at_everything();
            }
        }
    }

    fn look_at_everything(&self) {
        for key in self.index().keys() {
            self.queue.add(key, Duration::ZERO);
        }
    }

    async fn work(&self) {
        loop {
            let key = self.queue.next().await;
            if self.writer.may_write() {
                self.pass(&key).await;
            } else {
                self.missed.store(true, Ordering::Relaxed);
                self.look_on(&key);
            }
            self.queue.done(&key);
        }
    }

    /// What counts by when it was first seen is seen in time by every replica: its webhook tells new pods of it, and it may
    /// lead next.
    fn look_on(&self, key: &Key) {
        if let Key::Election(election) = key {
            self.index().observe(election, Instant::now());
        }
    }

    async fn pass(&self, key: &Key) {
        let start = Instant::now();
        let Some((kind, plan)) = self.decide(key) else { return };
        let next = plan.next;
        let writes = plan.writes.len();
        let result = self.apply(key, plan).await;
        self.metrics.pass_seconds.observe(start.elapsed().as_secs_f64());
        let outcome = match &result {
            Ok(()) if writes == 0 => PassOutcome::Unchanged,
            Ok(()) => PassOutcome::Changed,
            Err(ApplyError::Stale | ApplyError::Gone) => PassOutcome::Stale,
            Err(_) => PassOutcome::Failed,
        };
        self.metrics.passes.get_or_create(&PassLabels { kind, outcome }).inc();
        match result {
            Ok(()) => {
                self.memory().failures.remove(key);
                if let Some(next) = next {
                    self.queue.add(key.clone(), next);
                }
            }
            Err(error) => self.retry(key, &error),
        }
        if writes > 0 {
            sleep(ECHO).await;
        }
    }

    /// `None`: there is nothing to decide about.
    fn decide(&self, key: &Key) -> Option<(PassKind, Plan)> {
        match key {
            Key::Election(election) => {
                let mut observed = self.index().observe(election, Instant::now());
                self.recall(election, &mut observed);
                Some((PassKind::Election, plan::plan(&observed)))
            }
            Key::Policy(policy) => {
                let observed = self.index().observe_policy(policy)?;
                Some((PassKind::Policy, plan::plan_policy(&observed)))
            }
        }
    }

    /// Adds what this process remembers of earlier passes.
    fn recall(&self, key: &ElectionKey, observed: &mut Observed) {
        let mut memory = self.memory();
        if let Some(foreign) = memory.foreign.get_mut(key) {
            foreign.retain(|_, at| at.elapsed() < plan::RETRY);
            observed.foreign = foreign.keys().copied().collect();
        }
        if memory.written.get(key).is_some_and(|written| written.is_known(observed)) {
            memory.written.remove(key);
        }
        if let Some(written) = memory.written.get(key)
            && let Some(election) = &mut observed.election
        {
            election.status.clone_from(&written.status);
        }
        let touches = observed.claims.iter().chain(&observed.left_over).filter_map(|workload| {
            let Touch { times, last, refused } = memory.touched.get(&workload.identity.uid)?;
            let touches = Touches { times: *times, ago: last.elapsed(), refused: refused.clone() };
            Some((workload.identity.uid.clone(), touches))
        });
        observed.touched = touches.collect();
    }

    async fn apply(&self, key: &Key, plan: Plan) -> Result<(), ApplyError> {
        let (touches, others): (Vec<_>, Vec<_>) =
            plan.writes.into_iter().partition(|write| matches!(write, Write::Touch { .. }));
        self.write(key, others).await?;
        // The status that was just written remembers that these were said.
        for notice in &plan.notices {
            self.publisher.publish(notice).await;
        }
        self.write(key, touches).await
    }

    async fn write(&self, key: &Key, writes: Vec<Write>) -> Result<(), ApplyError> {
        for write in writes {
            let uid = match &write {
                Write::ElectionStatus { election, .. } => election.uid.clone(),
                _ => String::new(),
            };
            let Effect { notice, touched, status } = self.writer.write(write).await?;
            self.metrics.writes.inc();
            if let Some((status, version)) = status
                && let Key::Election(election) = key
            {
                let written = Written { uid, status, version, at: Instant::now() };
                self.memory().written.insert(election.clone(), written);
            }
            if let Some(touched) = touched {
                self.remember(key, touched);
            }
            if let Some(notice) = notice {
                self.publisher.publish(&notice).await;
            }
        }
        Ok(())
    }

    fn remember(&self, key: &Key, Touched { workload, refused }: Touched) {
        if let Some(refused) = &refused {
            let Identity { namespace, name, .. } = &workload;
            tracing::warn!(namespace, name, refused, "the API server refuses a touch that changes nothing");
            // The next pass says so in the status.
            self.queue.add(key.clone(), Duration::ZERO);
        }
        let mut memory = self.memory();
        memory.touched.retain(|_, touch| touch.last.elapsed() < 2 * plan::TOUCH_RETRY_MAX);
        let times = memory.touched.get(&workload.uid).map_or(0, |touch| touch.times) + 1;
        memory.touched.insert(workload.uid, Touch { times, last: Instant::now(), refused });
    }

    fn retry(&self, key: &Key, error: &ApplyError) {
        match (error, key) {
            (ApplyError::NotLeading, _) => return self.missed.store(true, Ordering::Relaxed),
            (ApplyError::NamespaceEnding, _) => return,
            (ApplyError::Stale | ApplyError::Gone, _) => return self.queue.add(key.clone(), BACKOFF_MIN),
            (ApplyError::Foreign(kind), Key::Election(election)) => {
                let mut memory = self.memory();
                memory.foreign.entry(election.clone()).or_default().insert(*kind, Instant::now());
                return self.queue.add(key.clone(), Duration::ZERO);
            }
            _ => {}
        }
        let mut memory = self.memory();
        let failures = memory.failures.entry(key.clone()).or_default();
        *failures = failures.saturating_add(1);
        let delay = (BACKOFF_MIN * 2_u32.saturating_pow((*failures - 1).min(16))).min(BACKOFF_MAX);
        tracing::warn!(?key, error = %WithSources(error), failures = *failures, ?delay, "a pass failed");
        self.queue.add(key.clone(), delay);
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Written {
    /// Does the watch know of it, or something later?
    fn is_known(&self, observed: &Observed) -> bool {
        let number = |version: &str| version.parse::<u128>().ok();
        let seen = observed.election_version.as_deref().unwrap_or_default();
        let is_later = number(seen).zip(number(&self.version)).is_some_and(|(seen, written)| seen >= written);
        let is_another = observed.election.as_ref().is_none_or(|election| election.identity.uid != self.uid);
        is_later || is_another || seen == self.version || self.at.elapsed() > ECHO_MAX
    }
}

fn delay(key: &Key) -> Duration {
    match key {
        Key::Election(_) => ELECTION_DELAY,
        Key::Policy(_) => POLICY_DELAY,
    }
}
