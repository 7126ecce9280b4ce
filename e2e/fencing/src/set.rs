//! The set test: leaders that are stopped between their read and their write.

use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use tokio::runtime::Runtime;

use crate::Setting;
use crate::history::{Entry, Event, Outcome, Verdict};
use crate::pods::{Election, Pod, VALIDITY};
use crate::resource::{Guard, Resource};
use crate::servers::{PostgresServer, RedisServer, new_runtime};

const PODS: usize = 3;
/// What the successor must have appended before the paused leader goes on.
const APPENDED_BY_SUCCESSOR: usize = 3;
/// How long anything may take that is waited for.
const LIMIT: Duration = Duration::from_secs(30);
/// A write that was under way when its program was stopped is through by then.
const SETTLE: Duration = Duration::from_millis(30);

/// What a set test with one guard showed.
#[derive(Debug)]
pub struct Shown {
    guard: Guard,
    /// How many leaders were stopped between read and write.
    pub(crate) pauses: usize,
    /// How many of their late writes the database took.
    pub(crate) late_accepted: usize,
    late_refused: usize,
    pub(crate) verdict: Verdict,
}

struct Run {
    pods: Vec<Pod>,
    events: Receiver<(usize, Event)>,
    history: Vec<Event>,
    onlooker: Resource,
    runtime: Runtime,
}

/// The test in PostgreSQL, with every guard.
pub fn in_postgres(setting: &Setting) -> Result<Vec<Shown>> {
    let server = PostgresServer::start()?;
    let mut sets = Vec::new();
    for guard in [Guard::SqlNone, Guard::SqlRow, Guard::SqlFunction] {
        let name = format!("{guard:?}").to_lowercase();
        sets.push((guard, new_runtime()?.block_on(server.new_database(&name))?));
    }
    run(setting, &sets)
}

/// The test in Redis, with every guard.
pub fn in_redis(setting: &Setting) -> Result<Vec<Shown>> {
    let server = RedisServer::start()?;
    run(setting, &[(Guard::RedisNone, server.address(0)), (Guard::RedisScript, server.address(1))])
}

/// Runs the test with several guards at once, each with an election and a set of its own.
fn run(setting: &Setting, sets: &[(Guard, String)]) -> Result<Vec<Shown>> {
    thread::scope(|scope| {
        let runs: Vec<_> =
            sets.iter().map(|(guard, address)| scope.spawn(|| run_one(setting, *guard, address))).collect();
        let joined = runs.into_iter().map(|run| run.join().map_err(|_| anyhow!("a set test panicked"))?);
        joined.collect()
    })
}

fn run_one(setting: &Setting, guard: Guard, address: &str) -> Result<Shown> {
    let runtime = new_runtime()?;
    let onlooker = runtime.block_on(async {
        let mut resource = Resource::open(guard, address).await?;
        resource.create().await?;
        anyhow::Ok(resource)
    })?;
    let election = Election::create(setting)?;
    let (sender, events) = channel();
    let start = |number| election.start(setting, (guard, address), number, sender.clone());
    let pods = (0..PODS).map(start).collect::<Result<Vec<_>>>()?;
    drop(sender);
    let mut run = Run { pods, events, history: Vec::new(), onlooker, runtime };
    let mut late = Vec::new();
    for pause in 1..=setting.pauses {
        let outcome = run.pause_a_leader().with_context(|| format!("{guard:?}, pause {pause}"))?;
        late.push(outcome);
    }
    let count = |outcome| late.iter().filter(|found| **found == outcome).count();
    Ok(Shown {
        guard,
        pauses: setting.pauses,
        late_accepted: count(Outcome::Acknowledged),
        late_refused: count(Outcome::Refused),
        verdict: run.end()?,
    })
}

impl Run {
    /// Stops the pod of a leader that has read and not yet written, until another one has led and appended, and returns
    /// what became of its late write.
    fn pause_a_leader(&mut self) -> Result<Outcome> {
        self.wait_appended(2, None)?;
        let (paused, entry) = self.catch_between_read_and_write()?;
        let began = Instant::now();
        self.wait_appended(APPENDED_BY_SUCCESSOR, Some(paused))?;
        sleep(VALIDITY.saturating_sub(began.elapsed()));
        self.pods[paused].resume()?;
        loop {
            match self.next()? {
                (pod, Event::Ended(outcome, ended)) if pod == paused && ended == entry => return Ok(outcome),
                _ => {}
            }
        }
    }

    fn catch_between_read_and_write(&mut self) -> Result<(usize, Entry)> {
        loop {
            let (pod, Event::Read(entry)) = self.next()? else { continue };
            self.pods[pod].pause()?;
            sleep(SETTLE);
            // It was too late if the write is there already: then nothing is shown by this pause.
            let set = self.runtime.block_on(self.onlooker.peek())?;
            if !set.contains(&entry.element) {
                return Ok((pod, entry));
            }
            self.pods[pod].resume()?;
        }
    }

    /// Waits until this many elements more were acknowledged, by anyone but this pod.
    fn wait_appended(&mut self, mut elements: usize, but: Option<usize>) -> Result<()> {
        while elements > 0 {
            let (pod, event) = self.next()?;
            if Some(pod) != but && matches!(event, Event::Ended(Outcome::Acknowledged, _)) {
                elements -= 1;
            }
        }
        Ok(())
    }

    fn next(&mut self) -> Result<(usize, Event)> {
        let (pod, event) = self.events.recv_timeout(LIMIT).context("nobody appends any more")?;
        self.history.push(event.clone());
        Ok((pod, event))
    }

    /// Ends all programs, and only then looks at the set.
    fn end(mut self) -> Result<Verdict> {
        for pod in self.pods {
            pod.end()?;
        }
        self.history.extend(self.events.iter().map(|(_, event)| event));
        let set = self.runtime.block_on(self.onlooker.peek())?;
        Ok(Verdict::of(&self.history, &set))
    }
}

impl Shown {
    /// Where the set was and what guarded it.
    pub fn title(&self) -> &'static str {
        self.guard.title()
    }

    /// Holds what was seen against what must be seen: without a guard late writes do harm, or the test would prove
    /// nothing; with a guard each of them is refused, and the set is clean.
    pub fn check(&self) -> Result<()> {
        let Self { guard, pauses, late_accepted, late_refused, verdict } = self;
        if guard.fences() {
            ensure!(late_refused == pauses, "{guard:?}: {late_refused} of {pauses} late writes were refused");
            ensure!(verdict.is_clean(), "{guard:?}: the set is not what was acknowledged: {verdict:?}");
        } else {
            ensure!(
                late_accepted == pauses,
                "{guard:?}: {late_accepted} of {pauses} late writes were accepted"
            );
            let harm = verdict.lost.len() + verdict.duplicated.len();
            ensure!(
                harm > 0,
                "{guard:?}: nothing was lost or duplicated, so the test proves nothing: {verdict:?}"
            );
        }
        Ok(())
    }
}
