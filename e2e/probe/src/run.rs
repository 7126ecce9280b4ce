//! The loop: ask, write down, wait.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::ask::{Answer, Connection};
use crate::line::Line;
use crate::now;

/// Without an answer after this time, a careful program believes that it does not lead.
const PATIENCE: Duration = Duration::from_millis(500);

/// How to probe.
#[derive(Debug, Clone)]
pub struct Options {
    /// `http://host:port` of the sidecar.
    pub url: String,
    /// From one question to the next.
    pub interval: Duration,
    /// Where the log goes; standard output without it.
    pub directory: Option<PathBuf>,
    /// Name of the log file: the pod's name and UID.
    pub name: String,
    /// How long the program takes to stop when it is told to; it asks on meanwhile.
    pub exit_delay: Duration,
}

/// Asks until SIGTERM comes.
///
/// # Errors
/// The URL is malformed, or the log cannot be written.
pub async fn run(options: &Options) -> anyhow::Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    let mut connection = Connection::new(&options.url)?;
    let mut log = open(options)?;
    write(&mut log, &Line::Start { at: now() })?;
    let stop = async {
        terminated.recv().await;
        sleep(options.exit_delay).await;
    };
    tokio::pin!(stop);
    let mut ticks = interval(options.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let line = tokio::select! {
            biased;
            () = &mut stop => break,
            line = async { ticks.tick().await; ask(&mut connection).await } => line,
        };
        write(&mut log, &line)?;
    }
    write(&mut log, &Line::Exit { at: now() })?;
    Ok(())
}

async fn ask(connection: &mut Connection) -> Line {
    let asked = now();
    let reply = timeout(PATIENCE, connection.get("/v1/leader")).await;
    let answered = now();
    let Ok(Ok(reply)) = reply else {
        connection.close();
        return Line::None { asked, answered };
    };
    match reply.answer() {
        Answer::Yes { valid_for, deadline, token } => {
            let counted = asked.saturating_add(u64::try_from(valid_for.as_nanos()).unwrap_or(u64::MAX));
            Line::Yes { asked, answered, deadline: counted.max(deadline), token }
        }
        Answer::No => Line::No { asked, answered },
        Answer::Bad => Line::Bad { asked, answered },
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

/// One write for each line, so that what was written survives a kill at any moment.
fn write(log: &mut dyn Write, line: &Line) -> io::Result<()> {
    log.write_all(format!("{line}\n").as_bytes())?;
    log.flush()
}
