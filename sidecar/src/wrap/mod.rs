//! `conch-sidecar run`: a program that knows nothing of leading runs only while this process leads.
//!
//! Three processes share the work. The *wrapper* (this one) holds the election and the API. For each term it starts a
//! *guard*, which starts the *program*. The guard ends the program at its deadline without being told; the wrapper kills
//! everything if the guard does not. The lead is released once the program and all that it started are dead: the kernel
//! says so, by leaving the guard without a child.
//!
//! The program's last check of its deadline is the guard's; its last effect comes before it is dead. So TERM comes at the
//! deadline at the latest, and KILL before the policy's `stopGrace` is over on any clock, by a margin that is left for dying.

pub mod channel;
pub mod guard;
mod run;
mod signals;
pub mod timer;
pub mod tree;

use crate::{
    program::{Channel, Closed},
    sidecar::Sidecar,
    view::View,
};
use anyhow::{Context, Result, ensure};
use channel::Ended;
use conch_crds::names::ENV_URL;
use conch_stores::clock;
use run::{Run, Term, bury};
use rustix::process::Signal;
use signals::{Forwarded, asks_for_the_end};
use std::{
    ffi::OsString,
    fs::{self, File},
    path::Path,
    time::Duration,
};
use timer::boottime;
use tokio::{
    signal::unix::{Signal as SignalStream, SignalKind, signal},
    time::sleep,
};

/// The shortest stop grace with which a program can be ended in time on a busy machine.
pub const STOP_GRACE_MIN: Duration = Duration::from_millis(200);
/// What is left of the stop grace for dying after KILL: a quarter of it, but not more than this.
const KILL_MARGIN_MAX: Duration = Duration::from_millis(500);
/// The shortest pause between two looks at the deadline.
const LOOK_MIN: Duration = Duration::from_millis(20);
/// The exit code of a program that was killed together with its guard.
const KILLED: u8 = 137;

/// When a program whose time is over is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopTimes {
    stop_grace: Duration,
}

impl StopTimes {
    /// `stop_grace`: the longest time from the last check of a deadline to the last effect.
    pub fn new(stop_grace: Duration) -> Self {
        Self { stop_grace }
    }

    /// The policy's.
    pub fn stop_grace(self) -> Duration {
        self.stop_grace
    }

    /// When the guard kills, if TERM was due at `end`.
    pub fn kill_at(self, end: Duration) -> Duration {
        end + self.surely().saturating_sub(self.margin())
    }

    /// When the wrapper kills, if the guard did not.
    pub fn last_resort(self, end: Duration) -> Duration {
        end + self.surely().saturating_sub(self.margin() / 2)
    }

    /// So much of the stop grace is over at its end on a clock that a kernel lets run slow by 10 %, or on a raw one.
    fn surely(self) -> Duration {
        self.stop_grace * 89 / 100
    }

    fn margin(self) -> Duration {
        (self.stop_grace / 4).min(KILL_MARGIN_MAX)
    }
}

/// What is run while leading.
#[derive(Debug)]
pub struct Wrapper {
    command: Vec<OsString>,
    times: StopTimes,
    /// Of the API.
    url: String,
    /// Of the instance: held as long as the program may live.
    lock: Option<File>,
    signals: Forwarded,
    children: SignalStream,
    /// A signal asked for the end.
    told_to_end: bool,
}

impl Wrapper {
    /// Prepares to run this command. Nothing happens until [`Self::run`]. Must be called inside a tokio runtime.
    pub fn new(command: Vec<OsString>, stop_grace: Duration, port: u16) -> Result<Self> {
        ensure!(
            stop_grace >= STOP_GRACE_MIN,
            "the stop grace is {stop_grace:?}: it must be at least {STOP_GRACE_MIN:?}, or a program cannot be ended in time"
        );
        tree::adopt_orphans().context("failed to become the reaper of the program's processes")?;
        Ok(Self {
            command,
            times: StopTimes::new(stop_grace),
            url: format!("http://127.0.0.1:{port}"),
            lock: None,
            signals: Forwarded::new().context("failed to listen for signals")?,
            children: signal(SignalKind::child()).context("failed to listen for the ends of processes")?,
            told_to_end: false,
        })
    }

    /// Takes the lock of the instance, which is held as long as the program may live.
    pub fn hold_lock(&mut self, lock: File) {
        self.lock = Some(lock);
    }

    /// Waits for the next signal that asks for the end. For as long as no program runs.
    pub async fn told_to_end_at_once(&mut self) -> Signal {
        loop {
            let signal = self.signals.next().await;
            if asks_for_the_end(signal) {
                return signal;
            }
        }
    }

    /// Runs the program whenever this process leads, until it exits by itself or a signal asks for the end. Returns the exit
    /// code; then nothing that the program started is left, and the sidecar is told to end.
    pub async fn run(&mut self, sidecar: &Sidecar) -> Result<u8> {
        let code = loop {
            sidecar.open_stream();
            let Some(term) = self.wait_for_term(sidecar).await? else {
                sidecar.close_stream(Closed::ByProgram);
                break 0;
            };
            let Ended { code, by_itself } = self.run_for(sidecar, term).await?;
            // Everything is dead: that is what the end of a stream says.
            sidecar.close_stream(Closed::ByProgram);
            tracing::info!(code, by_itself, "the program has ended");
            if by_itself || self.told_to_end {
                break code;
            }
        };
        sidecar.signalled("the end of the program");
        Ok(code)
    }

    /// `None`: was told to end.
    async fn wait_for_term(&mut self, sidecar: &Sidecar) -> Result<Option<Term>> {
        let mut changes = sidecar.subscribe();
        while !self.told_to_end {
            changes.mark_unchanged();
            if let Some(term) = term(&sidecar.answer(Channel::Lead)) {
                return Ok(Some(term));
            }
            tokio::select! {
                Ok(()) = changes.changed() => {}
                _ = self.children.recv() => { tree::reap(|_, _| {})?; }
                signal = self.signals.next() => self.told_to_end |= asks_for_the_end(signal),
            }
        }
        Ok(None)
    }

    /// One run, until nothing of it is left.
    async fn run_for(&mut self, sidecar: &Sidecar, term: Term) -> Result<Ended> {
        tracing::info!(token = term.token, program = %self.command[0].display(), "leads: starts the program");
        let environment = [(ENV_URL, self.url.as_str())];
        let held = self.lock.as_ref().context("the instance has no lock")?;
        let mut run = Run::start(term, self.times, &self.command, &environment, held)?;
        let mut changes = sidecar.subscribe();
        let ended = loop {
            changes.mark_unchanged();
            let view = sidecar.answer(Channel::Lead);
            run.follow(self::term(&view)).await;
            let look = (Duration::from_millis(view.valid_for_ms) / 2).max(LOOK_MIN);
            tokio::select! {
                report = run.report() => break report.unwrap_or_else(|| {
                    tracing::error!("the guard of the program died: kills everything that the program started");
                    Ended { code: KILLED, by_itself: true }
                }),
                Ok(()) = changes.changed() => {}
                _ = self.children.recv() => { tree::reap(|_, _| {})?; }
                () = sleep(look) => {}
                signal = self.signals.next() => self.pass_on(sidecar, &mut run, signal).await,
            }
            if boottime() >= run.last_resort() {
                tracing::error!(
                    "the guard of the program is late: kills everything that the program started"
                );
                break Ended { code: KILLED, by_itself: false };
            }
        };
        bury().await.context("failed to end the program")?;
        Ok(ended)
    }

    async fn pass_on(&mut self, sidecar: &Sidecar, run: &mut Run, signal: Signal) {
        if asks_for_the_end(signal) && !std::mem::replace(&mut self.told_to_end, true) {
            // No other term begins, and this one goes on until the program has ended.
            sidecar.pre_stop(clock::now());
        }
        run.signal(signal).await;
    }
}

/// Copies the program that runs to `to`, in one step: whoever starts it never meets half a file, and one that runs already
/// goes on.
pub fn copy_self(to: &Path) -> Result<()> {
    let new = to.with_extension("new");
    fs::copy(guard::OWN_BINARY, &new).with_context(|| format!("failed to write {}", new.display()))?;
    fs::rename(&new, to).with_context(|| format!("failed to write {}", to.display()))
}

fn term(view: &View) -> Option<Term> {
    let deadline = view.deadline_boottime_ns.as_deref()?.parse().ok()?;
    Some(Term { token: view.token.clone()?, deadline: Duration::from_nanos(deadline) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_killed_within_the_stop_grace_on_a_clock_that_is_slewed_by_a_tenth() {
        for stop_grace_ms in [200, 500, 1_000, 3_000, 30_000, 600_000] {
            let stop_grace = Duration::from_millis(stop_grace_ms);
            let times = StopTimes::new(stop_grace);
            let (kill, last) = (times.kill_at(Duration::ZERO), times.last_resort(Duration::ZERO));
            assert!(kill < last && last * 10 / 9 < stop_grace, "{stop_grace:?}: {kill:?}, {last:?}");
            assert!(kill >= stop_grace / 2, "{stop_grace:?}: {kill:?}");
        }
    }
}
