//! The loop: ask, write down, wait. Or: hold a stream, write down what comes.

use std::fs::{self, File};
use std::future::Future;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::ask::{Answer, Connection, Form, Reply};
use crate::line::Line;
use crate::now;

/// Without an answer after this time, a careful program believes that it does not lead.
const PATIENCE: Duration = Duration::from_millis(500);
/// An answer without a deadline is believed until the next question, but at most for so many intervals.
const LONGEST_INTERVALS: u32 = 2;
/// From the end of a stream to the next attempt.
const PAUSE: Duration = Duration::from_millis(50);
/// Who closed the stream to give the lead away leaves it to others for so long.
const COOL_DOWN: Duration = Duration::from_secs(1);

/// How to learn whether this pod leads.
#[derive(Debug, Clone)]
pub enum Way {
    /// Ask, again and again.
    Poll {
        /// Where, e.g. `/v1/leader`.
        path: String,
        /// What is answered there.
        form: Form,
        /// From one question to the next.
        interval: Duration,
    },
    /// Hold `/v1/lead`.
    Stream,
}

/// How to probe.
#[derive(Debug, Clone)]
pub struct Options {
    /// `http://host:port` of the sidecar.
    pub url: String,
    /// How to learn whether this pod leads.
    pub way: Way,
    /// Where the log goes; standard output without it.
    pub directory: Option<PathBuf>,
    /// Name of the log file: the pod's name and UID.
    pub name: String,
    /// How long the program takes to stop when it is told to; it asks on meanwhile.
    pub exit_delay: Duration,
}

/// Probes until SIGTERM comes. SIGUSR2 makes the program resign; SIGUSR1 makes it close its stream.
///
/// # Errors
/// The URL is malformed, or the log cannot be written.
pub async fn run(options: &Options) -> anyhow::Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    let mut probe = Probe {
        connection: Connection::new(&options.url)?,
        log: open(options)?,
        resign: signal(SignalKind::user_defined2())?,
        close: signal(SignalKind::user_defined1())?,
        token: None,
    };
    probe.write(&Line::Start { at: now() })?;
    let stop = async {
        terminated.recv().await;
        sleep(options.exit_delay).await;
    };
    match &options.way {
        Way::Poll { path, form, interval } => probe.poll(path, *form, *interval, stop).await?,
        Way::Stream => probe.hold(stop).await?,
    }
    probe.write(&Line::Exit { at: now() })?;
    Ok(())
}

struct Probe {
    connection: Connection,
    log: Box<dyn Write>,
    resign: Signal,
    close: Signal,
    /// Of the latest term in which this pod was told that it leads.
    token: Option<u128>,
}

impl Probe {
    async fn poll(
        &mut self,
        path: &str,
        form: Form,
        pause: Duration,
        stop: impl Future<Output = ()>,
    ) -> io::Result<()> {
        tokio::pin!(stop);
        let mut ticks = interval(pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // An answer without a deadline is written down when the next question shows for how long it was believed.
        let mut held = None;
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                _ = self.resign.recv() => self.resign().await?,
                _ = ticks.tick() => {
                    let line = tokio::select! {
                        biased;
                        () = &mut stop => break,
                        line = ask(&mut self.connection, path, form, pause) => line,
                    };
                    match form {
                        Form::Deadline => self.write(&line)?,
                        Form::StatusAlone => {
                            let next = line.asked().unwrap_or_else(now);
                            self.write_held(held.replace(line), next)?;
                        }
                    }
                }
            }
        }
        self.write_held(held, now())
    }

    async fn hold(&mut self, stop: impl Future<Output = ()>) -> io::Result<()> {
        tokio::pin!(stop);
        loop {
            let pause = tokio::select! {
                biased;
                () = &mut stop => return Ok(()),
                pause = self.hold_one_stream() => pause?,
            };
            tokio::select! {
                biased;
                () = &mut stop => return Ok(()),
                () = sleep(pause) => {}
            }
        }
    }

    /// Returns how long to wait until the next stream.
    async fn hold_one_stream(&mut self) -> io::Result<Duration> {
        let asked = now();
        let Ok(mut events) = self.connection.stream("/v1/lead").await else {
            self.write(&Line::None { asked, answered: now() })?;
            return Ok(PAUSE);
        };
        loop {
            tokio::select! {
                biased;
                _ = self.close.recv() => {
                    self.write(&Line::Resigned { at: now() })?;
                    return Ok(COOL_DOWN);
                }
                _ = self.resign.recv() => self.resign().await?,
                answer = events.next() => {
                    let at = now();
                    let line = match answer {
                        Some(Answer::Yes { deadline, token, .. }) => Line::Yes { asked: at, answered: at, deadline, token },
                        Some(Answer::No) => Line::No { asked: at, answered: at },
                        Some(Answer::Bad) => Line::Bad { asked: at, answered: at },
                        None => {
                            self.write(&Line::None { asked: at, answered: at })?;
                            return Ok(PAUSE);
                        }
                    };
                    self.write(&line)?;
                }
            }
        }
    }

    /// The program stops acting, then says so.
    async fn resign(&mut self) -> io::Result<()> {
        let Some(token) = self.token else { return Ok(()) };
        self.write(&Line::Resigned { at: now() })?;
        let asked = now();
        let reply = timeout(PATIENCE, self.connection.resign(token)).await;
        if !matches!(reply, Ok(Ok(Reply { status: StatusCode::OK, .. }))) {
            self.connection.close();
            self.write(&Line::None { asked, answered: now() })?;
        }
        Ok(())
    }

    /// Writes an answer that was believed until the next question at the latest.
    fn write_held(&mut self, held: Option<Line>, next: u64) -> io::Result<()> {
        let Some(mut line) = held else { return Ok(()) };
        if let Line::Yes { deadline, .. } = &mut line {
            *deadline = next.min(*deadline);
        }
        self.write(&line)
    }

    /// One write for each line, so that what was written survives a kill at any moment.
    fn write(&mut self, line: &Line) -> io::Result<()> {
        if let Line::Yes { token, .. } = line {
            self.token = Some(*token);
        }
        self.log.write_all(format!("{line}\n").as_bytes())?;
        self.log.flush()
    }
}

async fn ask(connection: &mut Connection, path: &str, form: Form, pause: Duration) -> Line {
    let asked = now();
    let reply = timeout(PATIENCE, connection.get(path)).await;
    let answered = now();
    let Ok(Ok(reply)) = reply else {
        connection.close();
        return Line::None { asked, answered };
    };
    let after = |time: Duration| asked.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    match (form, reply.status) {
        (Form::Deadline, _) => match reply.answer() {
            Answer::Yes { valid_for, deadline, token } => {
                Line::Yes { asked, answered, deadline: after(valid_for).max(deadline), token }
            }
            Answer::No => Line::No { asked, answered },
            Answer::Bad => Line::Bad { asked, answered },
        },
        (Form::StatusAlone, StatusCode::OK) => {
            Line::Yes { asked, answered, deadline: after(LONGEST_INTERVALS * pause), token: 0 }
        }
        (Form::StatusAlone, StatusCode::SERVICE_UNAVAILABLE) => Line::No { asked, answered },
        (Form::StatusAlone, _) => Line::Bad { asked, answered },
    }
}

/// A new file for each run of the program: a restarted container must not append to a line that a kill cut short.
fn open(options: &Options) -> io::Result<Box<dyn Write>> {
    let Some(directory) = &options.directory else {
        return Ok(Box::new(io::stdout()));
    };
    fs::create_dir_all(directory)?;
    let path = directory.join(format!("{}.{}.log", options.name, now()));
    Ok(Box::new(File::create_new(path)?))
}
