//! The guard: a process between the wrapper and its program that ends the program in time, whatever becomes of the wrapper.
//!
//! It knows the deadline and needs nobody to keep it: a wrapper that is stopped, stuck or dead puts no deadline off. It is
//! the parent of everything that the program starts, so it can end all of it, and knows when it has. If the guard itself is
//! killed, the kernel kills the program with it, and the wrapper what else there is.

use super::{
    StopTimes,
    channel::{Ended, Order, receive_files},
    timer::{Timer, boottime},
    tree,
};
use crate::args::{ExecArgs, GuardArgs};
use anyhow::{Context, Result, bail};
use rustix::process::{
    Pid, Signal, WaitStatus, getpid, getppid, kill_process, set_parent_process_death_signal,
};
use std::{
    ffi::OsString,
    io::{self, ErrorKind},
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
    signal::unix::{Signal as SignalStream, SignalKind, signal},
};

/// This program: the file may have been replaced or removed since it was started.
pub(super) const OWN_BINARY: &str = "/proc/self/exe";
pub(super) const OWN_NAME: &str = "conch-sidecar";

/// From one round of killing to the next: what was started meanwhile dies in a later one.
const KILL_INTERVAL: Duration = Duration::from_millis(5);

/// As of a shell: the command was not found, or cannot be executed.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;
/// As of a shell: killed by the signal with the number that is above it.
const KILLED: i32 = 128;

/// Guards one run of the program; returns when the program and everything that it started are dead.
pub async fn guard(args: GuardArgs) -> Result<()> {
    tree::adopt_orphans().context("failed to become the reaper of the program's processes")?;
    let socket = StdUnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let files = receive_files(&socket).context("failed to talk to the wrapper")?;
    let ignored = ignore_signals().context("failed to handle signals")?;
    let children = signal(SignalKind::child()).context("failed to listen for the ends of processes")?;
    let timer = Timer::new().context("failed to make a timer")?;
    socket.set_nonblocking(true)?;
    let (orders, mut reports) = UnixStream::from_std(socket)?.into_split();
    let stop = StopTimes::new(Duration::from_millis(args.stop_grace_ms));
    let deadline = Duration::from_nanos(args.deadline_ns);
    if boottime() >= deadline {
        report(&mut reports, Ended { code: 0, by_itself: false }).await; // there is nothing to end
        return Ok(());
    }
    let mut files = files.into_iter();
    let program = spawn(&args.command, files.next()).context("failed to start the program")?;
    let orders = BufReader::new(orders).lines();
    let mut guard = Guard {
        program,
        status: None,
        by_itself: false,
        phase: Phase::Running { deadline },
        times: stop,
        orders,
        children,
        timer,
    };
    guard.run().await?;
    let ended = Ended { code: guard.status.map_or(u8::MAX, exit_code), by_itself: guard.by_itself };
    drop((files, ignored)); // until here: the instance is locked, and signals end nothing
    report(&mut reports, ended).await;
    Ok(())
}

/// Becomes the program, after it has made sure that it dies with its guard. The kernel keeps that through `exec`, unless the
/// program changes its user.
pub fn exec(args: &ExecArgs) -> Result<u8> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("failed to tie the program to its guard")?;
    if getppid().and_then(|parent| u32::try_from(parent.as_raw_nonzero().get()).ok()) != Some(args.parent) {
        bail!("the guard is dead"); // it died before the kernel was told
    }
    let [program, arguments @ ..] = args.command.as_slice() else {
        bail!("there is no program to start");
    };
    let error = Command::new(program).args(arguments).exec();
    eprintln!("conch-sidecar: failed to start {}: {error}", program.display());
    Ok(if error.kind() == ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE })
}

struct Guard {
    program: Pid,
    /// How the program ended, once it has.
    status: Option<WaitStatus>,
    /// It ended before it was asked to.
    by_itself: bool,
    phase: Phase,
    times: StopTimes,
    orders: Lines<BufReader<OwnedReadHalf>>,
    children: SignalStream,
    timer: Timer,
}

/// All times are points on `CLOCK_BOOTTIME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running {
        deadline: Duration,
    },
    /// Was told to end.
    Ending {
        kill_at: Duration,
    },
    Killing {
        next: Duration,
    },
}

impl Guard {
    /// Returns when no process is left.
    async fn run(&mut self) -> Result<()> {
        let mut wrapper_lives = true;
        while self.reap()? {
            self.turn()?;
            let wake = match self.phase {
                Phase::Running { deadline } => deadline,
                Phase::Ending { kill_at } => kill_at,
                Phase::Killing { next } => next,
            };
            tokio::select! {
                woken = self.timer.sleep_until(wake) => woken.context("failed to wait")?,
                _ = self.children.recv() => {}
                order = self.orders.next_line(), if wrapper_lives => {
                    wrapper_lives = self.obey(order)?;
                }
            }
        }
        Ok(())
    }

    /// What time and the program's own end ask for.
    fn turn(&mut self) -> io::Result<()> {
        let now = boottime();
        match self.phase {
            Phase::Running { deadline } if now >= deadline || self.status.is_some() => self.end(now),
            Phase::Ending { kill_at } | Phase::Killing { next: kill_at } if now >= kill_at => {
                tree::signal_descendants(Signal::KILL)?;
                self.phase = Phase::Killing { next: now + KILL_INTERVAL };
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Asks the program to end; what it leaves behind, too.
    fn end(&mut self, now: Duration) -> io::Result<()> {
        let Phase::Running { deadline } = self.phase else { return Ok(()) };
        self.phase = Phase::Ending { kill_at: self.times.kill_at(now.min(deadline)) };
        if self.status.is_some() {
            tree::signal_descendants(Signal::TERM)?;
            return tree::signal_descendants(Signal::CONT);
        }
        self.signal(Signal::TERM);
        self.signal(Signal::CONT); // one that is stopped could not end
        Ok(())
    }

    /// Does what the wrapper says; `false`: the wrapper is dead.
    fn obey(&mut self, line: io::Result<Option<String>>) -> Result<bool> {
        let Ok(Some(line)) = line else {
            self.end(boottime())?;
            return Ok(false);
        };
        match (line.parse::<Order>()?, self.phase) {
            (Order::Until(later), Phase::Running { deadline }) => {
                self.phase = Phase::Running { deadline: deadline.max(later) };
            }
            (Order::Until(_), _) => {}
            (Order::End, _) => self.end(boottime())?,
            (Order::Signal(signal), _) => self.signal(signal),
        }
        Ok(true)
    }

    /// Signals the program itself, as the runtime of a container does.
    fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            let _ = kill_process(self.program, signal); // it may be another user's by now
        }
    }

    fn reap(&mut self) -> io::Result<bool> {
        tree::reap(|pid, status| {
            if pid == self.program {
                self.status = Some(status);
                self.by_itself = matches!(self.phase, Phase::Running { .. });
            }
        })
    }
}

/// Starts the program in a group of its own: what a terminal sends to this one's must come from the wrapper alone.
fn spawn(command: &[OsString], stdin: Option<OwnedFd>) -> io::Result<Pid> {
    let child = Command::new(OWN_BINARY)
        .arg0(OWN_NAME)
        .args(["exec", "--parent", &getpid().to_string(), "--"])
        .args(command)
        .stdin(stdin.map_or_else(Stdio::null, Stdio::from))
        .process_group(0)
        .spawn()?;
    Ok(Pid::from_child(&child))
}

/// Signals that somebody sends to every process of a name or of a terminal. They are the wrapper's to pass on.
fn ignore_signals() -> io::Result<Vec<SignalStream>> {
    super::signals::FORWARDED.iter().map(|(kind, _)| signal(*kind)).collect()
}

async fn report(reports: &mut OwnedWriteHalf, ended: Ended) {
    let _ = reports.write_all(format!("{ended}\n").as_bytes()).await; // the wrapper may be dead
}

fn exit_code(status: WaitStatus) -> u8 {
    let code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| KILLED + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}
