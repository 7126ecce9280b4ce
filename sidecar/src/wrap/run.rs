//! One run of the program, seen by the wrapper: its guard, and what is left to do if the guard does not do it.

use super::{
    StopTimes,
    channel::{Ended, Order, send_files},
    guard::{OWN_BINARY, OWN_NAME},
    timer::boottime,
    tree,
};
use anyhow::{Context, Result};
use rustix::process::Signal;
use std::{
    ffi::OsString,
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream as StdUnixStream, process::CommandExt},
    },
    process::{Command, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::{sleep, timeout},
};

/// From one look to the next, whether what was killed is dead.
const BURY_INTERVAL: Duration = Duration::from_millis(5);

/// A term, as far as a program needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Term {
    /// 20 digits.
    pub(super) token: String,
    /// Point on `CLOCK_BOOTTIME`.
    pub(super) deadline: Duration,
}

/// The program and its guard, until both are dead.
#[derive(Debug)]
pub(super) struct Run {
    token: String,
    /// The latest that the guard was told.
    deadline: Duration,
    /// When the guard was told to end the program.
    ended_at: Option<Duration>,
    times: StopTimes,
    orders: OwnedWriteHalf,
    reports: Lines<BufReader<OwnedReadHalf>>,
}

impl Run {
    /// Starts the guard, which starts the program. `lock` is held until both are dead.
    pub(super) fn start(
        term: Term,
        times: StopTimes,
        command: &[OsString],
        environment: &[(&str, &str)],
        lock: &File,
    ) -> Result<Self> {
        let Term { token, deadline } = term;
        let (ours, theirs) = StdUnixStream::pair().context("failed to make a channel to the guard")?;
        // Sent before the guard lives: it waits for this, and nothing else can come first.
        send_files(&ours, &[io::stdin().as_fd(), lock.as_fd()]).context("failed to hand files over")?;
        ours.set_nonblocking(true)?;
        Command::new(OWN_BINARY)
            .arg0(OWN_NAME)
            .args(["guard", "--stop-grace-ms", &times.stop_grace().as_millis().to_string()])
            .args(["--deadline-ns", &deadline.as_nanos().to_string(), "--"])
            .args(command)
            .envs(environment.iter().copied())
            .env(conch_crds::names::ENV_TOKEN, &token)
            .env_remove(conch_crds::names::sidecar_env::POSTGRES_URL) // a password that is not the program's
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .process_group(0)
            .spawn()
            .context("failed to start the guard of the program")?;
        let (reports, orders) = UnixStream::from_std(ours)?.into_split();
        let reports = BufReader::new(reports).lines();
        Ok(Self { token, deadline, ended_at: None, times, orders, reports })
    }

    /// Puts the deadline off, if this is a later one of the same term; ends the program if there is no such term.
    pub(super) async fn follow(&mut self, term: Option<Term>) {
        if self.ended_at.is_some() {
            return;
        }
        match term {
            Some(term) if term.token == self.token => {
                if term.deadline > self.deadline {
                    self.deadline = term.deadline;
                    self.tell(Order::Until(term.deadline)).await;
                }
            }
            _ => {
                tracing::info!(token = self.token, "the lead is lost: ends the program");
                self.ended_at = Some(boottime());
                self.tell(Order::End).await;
            }
        }
    }

    /// Passes a signal on.
    pub(super) async fn signal(&mut self, signal: Signal) {
        self.tell(Order::Signal(signal)).await;
    }

    async fn tell(&mut self, order: Order) {
        // A guard that takes nothing must not hold this process up, and one that is dead is seen where reports are read.
        let line = format!("{order}\n");
        let told = timeout(BURY_INTERVAL, self.orders.write_all(line.as_bytes())).await;
        if !matches!(told, Ok(Ok(()))) {
            tracing::warn!(%order, "the guard of the program takes no orders");
        }
    }

    /// Waits for the guard's report; `None`: the guard is dead. Cancel safe.
    pub(super) async fn report(&mut self) -> Option<Ended> {
        self.reports.next_line().await.ok()??.parse().ok()
    }

    /// When everything is to be killed, if the guard has not reported by then: its own time to kill is before.
    pub(super) fn last_resort(&self) -> Duration {
        let ended_at = self.ended_at.map_or(self.deadline, |at| at.min(self.deadline));
        self.times.last_resort(ended_at)
    }
}

/// Kills what is left, and returns when nothing is.
pub(super) async fn bury() -> io::Result<()> {
    while tree::reap(|_, _| {})? {
        tree::signal_descendants(Signal::KILL)?;
        sleep(BURY_INTERVAL).await;
    }
    Ok(())
}
